"""Locks on a run's directory, and on the cached files of its corpus."""

import contextlib
import os
import time
from collections.abc import Iterator
from typing import TextIO

from command.errors import UserError, reason

PROBE_SECONDS = 0.1     # longer than `training_process` holds the lock that it probes


def lock(directory: str) -> TextIO:
    """Locks a run directory, which is created if missing, for this process.

    Returns the lock file: closing it, or the end of the process, releases the lock. Raises UserError if the directory is not
    writable, or another process has locked it.
    """
    path = os.path.join(directory, 'lock')
    try:
        os.makedirs(directory, exist_ok=True)
        file = open(path, 'a+', encoding='utf-8')   # noqa: SIM115  (open as long as the run)
    except OSError as error:
        raise UserError(f'cannot write to {directory}: {reason(error)}') from None
    if not _locked(file, exclusive=True):
        time.sleep(PROBE_SECONDS)
        if not _locked(file, exclusive=True):
            with file:
                owner = _owner(file)
            raise UserError(f'another process (number {owner}) trains in {directory}: give another --run_name, or wait for it '
                            'to end')
    file.truncate(0)
    file.write(f'{os.getpid()}\n')
    file.flush()
    return file


def training_process(directory: str) -> str | None:
    """The ID of the process that has locked a run directory; None without one.

    Writes nothing. Probes with a shared lock, held for less than PROBE_SECONDS.
    """
    try:
        file = open(os.path.join(directory, 'lock'), encoding='utf-8')      # noqa: SIM115  (closed below)
    except OSError:
        return None         # no run was ever started there, or this user may not read it
    with file:
        return None if _locked(file, exclusive=False) else _owner(file)


def _locked(file: TextIO, *, exclusive: bool, wait: bool = False) -> bool:
    """Locks a file. Returns whether it succeeded, as it always does where there are no locks, on Windows."""
    try:
        import fcntl
        fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | (0 if wait else fcntl.LOCK_NB))
    except ImportError:
        return True
    except BlockingIOError:
        return False
    return True


def _owner(file: TextIO) -> str:
    file.seek(0)
    return file.read().strip() or 'unknown'


@contextlib.contextmanager
def one_at_a_time(path: str) -> Iterator[None]:
    """Waits until no other process is in this context with the same path.

    Raises UserError if the path's directory is not writable.
    """
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        file = open(f'{path}.lock', 'a', encoding='utf-8')      # noqa: SIM115
    except OSError as error:
        raise UserError(f'cannot write to {os.path.dirname(path)}: {reason(error)}') from None
    with file:
        _locked(file, exclusive=True, wait=True)
        yield
