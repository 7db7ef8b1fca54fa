"""Errors that the user can fix: one line on stderr, and an exit status."""

import errno
import io
import os
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
SURROGATES = 'surrogates not allowed'       # Python's reason: a surrogate stands for a byte that is not UTF-8
WORKER_LOST = 75    # EX_TEMPFAIL of sysexits.h: the same command may succeed another time


class UserError(Exception):
    """A wrong flag, path or file. The message names it and says what was expected and what to do.

    in_all_workers: whether every worker of the run raises it, at the same step. skip_cleanup: whether to end the process by
    exit_now.
    """
    skip_cleanup = False

    def __init__(self, message: str, *, in_all_workers: bool = False):
        super().__init__(message)
        self.in_all_workers = in_all_workers


class WorkerLost(Exception):
    """Another worker of the run died or does not answer, and none can continue alone. The message names it."""


_exiting = threading.Lock()


def exit_now(message: str, status: int = WORKER_LOST) -> NoReturn:
    """Ends this process immediately, from any thread: one line on stderr, and the status.

    Without any cleanup, in which TensorFlow's runtime waits without a limit for workers that are lost, or crashes.
    """
    _exiting.acquire()      # never released: a second thread with a message waits here until the process ends
    print(_line(message), file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(status)


def reason(error: OSError) -> str:
    """The system's text for an OSError, without its number: 'No such file or directory'."""
    return error.strerror or str(error)


def check_utf8(name: str) -> str:
    """The name of a file or directory that TensorFlow reads or writes. Raises UserError if it is not UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UserError(_not_utf8(name)) from None
    return name


def _not_utf8(name: str) -> str:
    return f'the name {name[:200]!r} is not UTF-8, which TensorFlow needs: choose another one'


def run(main: Callable[[], None]) -> None:
    """Runs a script's main function and turns errors that a user can cause into an exit status.

    UserError, a disk that is full or fails, or a name that TensorFlow cannot use: one line on stderr and status 2.
    WorkerLost: the same with status 75. Ctrl-C: status 130, and on a terminal a new line, or the shell's
    prompt would follow the ^C. Output to a closed pipe (`| head`): status 141, as the shell reports a SIGPIPE.
    """
    _escape_output()
    try:
        main()
        print(end='', flush=True)
    except UserError as error:
        if error.skip_cleanup:
            exit_now(str(error), 2)
        fail(str(error))
    except WorkerLost as error:
        exit_now(str(error))
    except KeyboardInterrupt:
        if sys.stderr and sys.stderr.isatty():
            print(file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # Python flushes standard output again at exit, which would fail again: replace it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except UnicodeEncodeError as error:
        if error.reason != SURROGATES:
            raise
        fail(_not_utf8(error.object))
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        fail(f'cannot write {error.filename or "to the disk"}: {reason(error)}')


def _escape_output() -> None:
    """Makes stdout and stderr print what their encoding lacks as an escape such as \\u2019, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')


def fail(message: str) -> NoReturn:
    """Ends this process: one line on stderr, and status 2."""
    print(_line(message), file=sys.stderr)
    sys.exit(2)


def _line(message: str) -> str:
    return f'{os.path.basename(sys.argv[0])}: {" ".join(message.split())}'
