"""Locks on a run's directory, and on the cached files of its corpus.

They are flock's, which some file systems lack (Lustre, Weka, some NFS). There, two processes in the same directory are not told
apart; this is printed once.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from typing import TextIO

from command.errors import UserError, reason
from command.notes import print_once

PROBE_SECONDS = 0.1     # longer than `training_process` holds the lock that it probes
ATTEMPTS = 5            # to lock a file that a process whose start failed removes in that moment


def lock(directory: str) -> TextIO:
    """Locks a run directory, which is created if missing, for this process.

    Returns the lock file: closing it, or the end of the process, releases the lock. Raises UserError if the directory is not
    writable, or another process has locked it.
    """
    for _ in range(ATTEMPTS):
        file = _lock(directory)
        if is_locked(directory):
            return file
        file.close()        # a lock on a file that was removed after it was opened protects nothing
    raise UserError(f'cannot lock {directory}: {os.path.join(directory, "lock")} is removed again and again')


def _lock(directory: str) -> TextIO:
    """The lock file, locked. Raises as `lock`."""
    try:
        os.makedirs(directory, exist_ok=True)
        file = open(os.path.join(directory, 'lock'), 'a+', encoding='utf-8')   # noqa: SIM115  (open as long as the run)
    except OSError as error:
        raise UserError(f'cannot write to {directory}: {reason(error)}') from None
    if _flock(file, exclusive=True) is False:
        time.sleep(PROBE_SECONDS)
        if _flock(file, exclusive=True) is False:
            with file:
                owner = _owner(file)
            raise UserError(f'another process (number {owner}) trains in {directory}: give another --run_name, or wait for it '
                            'to end')
    file.truncate(0)
    file.write(f'{os.getpid()}\n')
    file.flush()
    return file


def is_locked(directory: str) -> bool:
    """Whether the lock file of a run directory is this process's, which it is not if the directory was moved or removed."""
    try:
        with open(os.path.join(directory, 'lock'), encoding='utf-8') as file:
            return _owner(file) == str(os.getpid())
    except OSError:
        return False


def training_process(directory: str) -> str | None:
    """The ID of the process that has locked a run directory; None without one, and without locks.

    Writes nothing. Probes with a shared lock, held for less than PROBE_SECONDS.
    """
    try:
        file = open(os.path.join(directory, 'lock'), encoding='utf-8')      # noqa: SIM115  (closed below)
    except OSError:
        return None         # no run was ever started there, or this user may not read it
    with file:
        return _owner(file) if _flock(file, exclusive=False) is False else None


def _flock(file: TextIO, *, exclusive: bool, wait: bool = False) -> bool | None:
    """Locks a file. Returns whether it succeeded; None, which is printed, where there are no locks, as on Windows."""
    try:
        import fcntl
        fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | (0 if wait else fcntl.LOCK_NB))
        return True
    except BlockingIOError:
        return False
    except (OSError, ImportError) as error:
        cause = reason(error) if isinstance(error, OSError) else 'this system has no flock'
        print_once('lock', f'{os.path.dirname(file.name)} cannot be locked ({cause}): two processes that train in the same '
                           'directory there are not noticed, and harm each other')
        return None


def _owner(file: TextIO) -> str:
    file.seek(0)
    return file.read().strip() or 'unknown'


@contextlib.contextmanager
def one_at_a_time(path: str) -> Iterator[bool]:
    """Waits until no other process is in this context with the same path. Yields whether that is certain.

    Raises UserError if the path's directory is not writable.
    """
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        file = open(f'{path}.lock', 'a', encoding='utf-8')      # noqa: SIM115
    except OSError as error:
        raise UserError(f'cannot write to {os.path.dirname(path)}: {reason(error)}') from None
    with file:
        yield bool(_flock(file, exclusive=True, wait=True))
