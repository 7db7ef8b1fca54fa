"""Mistakes that the user can mend: one line on standard error, exit status 2."""

import errno
import os
import sys
from collections.abc import Callable

DISK_TROUBLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


class UserError(Exception):
    """A wrong flag, path or file. The message names it, says what was expected and what to do."""


def reason(error: OSError) -> str:
    """The system's own words for an OSError, without its number: 'No such file or directory'."""
    return error.strerror or str(error)


def run(main: Callable[[], None]) -> None:
    """Runs a script's main function and turns what a user can cause into an exit status.

    A UserError, or a disk that is full or fails, becomes one line on standard error and status 2; Ctrl-C status 130; a
    reader of our output that went away (`| head`) status 141, as the shell reports a SIGPIPE.
    """
    try:
        main()
        sys.stdout.flush()
    except UserError as error:
        _fail(str(error))
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


def _fail(message: str) -> None:
    print(f'{os.path.basename(sys.argv[0])}: {" ".join(message.split())}', file=sys.stderr)
    sys.exit(2)
