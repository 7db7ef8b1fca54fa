"""Mistakes that the user can mend: one line on standard error, exit status 2."""

import errno
import os
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

DISK_TROUBLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
WORKER_LOST = 75    # EX_TEMPFAIL of sysexits.h: the same command may well succeed another time


class UserError(Exception):
    """A wrong flag, path or file. The message names it, says what was expected and what to do.

    at_once: whether the process is to end as `leave` does it.
    """
    at_once = False


class WorkerLost(Exception):
    """Another worker of the run is gone, or silent; this one cannot go on without it. The message says which."""


_leaving = threading.Lock()


def leave(message: str, status: int = WORKER_LOST) -> NoReturn:
    """Ends this process at once, from any thread: one line on standard error, and the status.

    Nothing is torn down: TensorFlow's runtime waits for ever for workers that are gone, or crashes while they go.
    """
    _leaving.acquire()      # for good: what another thread has to say is as true, but one line is enough
    print(_line(message), file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(status)


def reason(error: OSError) -> str:
    """The system's own words for an OSError, without its number: 'No such file or directory'."""
    return error.strerror or str(error)


def run(main: Callable[[], None]) -> None:
    """Runs a script's main function and turns what a user can cause into an exit status.

    A UserError, or a disk that is full or fails, becomes one line on standard error and status 2; a WorkerLost the same
    with status 75; Ctrl-C status 130; a reader of our output that went away (`| head`) status 141, as the shell reports a
    SIGPIPE.
    """
    try:
        main()
        sys.stdout.flush()
    except UserError as error:
        if error.at_once:
            leave(str(error), 2)
        _fail(str(error))
    except WorkerLost as error:
        leave(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Python flushes standard output once more at exit and would complain again: give it somewhere to flush to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        if error.errno not in DISK_TROUBLE:
            raise
        _fail(f'cannot write {error.filename or "to the disk"}: {reason(error)}')


def _fail(message: str) -> NoReturn:
    print(_line(message), file=sys.stderr)
    sys.exit(2)


def _line(message: str) -> str:
    return f'{os.path.basename(sys.argv[0])}: {" ".join(message.split())}'
