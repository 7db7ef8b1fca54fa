"""Who may write to a run's directory, and to the files of its corpus."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from typing import TextIO

from command.errors import UserError, reason

GLANCE = 0.1            # seconds after which nobody who only looked at a lock still has it


def lock(directory: str) -> TextIO:
    """Takes a run directory for this process: an open file, which gives it back when it is closed or the process dies.

    Makes the directory. Raises UserError if it cannot be written to, or another process has it.
    """
    path = os.path.join(directory, 'lock')
    try:
        os.makedirs(directory, exist_ok=True)
        file = open(path, 'a+', encoding='utf-8')   # noqa: SIM115  (open as long as the run)
    except OSError as error:
        raise UserError(f'cannot write to {directory}: {reason(error)}') from None
    if not _locked(file, fcntl.LOCK_EX):
        time.sleep(GLANCE)
        if not _locked(file, fcntl.LOCK_EX):
            with file:
                owner = _owner(file)
            raise UserError(f'another process (number {owner}) trains in {directory}: give another --run_name, or wait for it '
                            'to end')
    file.truncate(0)
    file.write(f'{os.getpid()}\n')
    file.flush()
    return file


def trainer(directory: str) -> str | None:
    """The number of the process that trains in a run directory now, as `lock` noted it; None without one.

    Nothing is taken or written: that the lock could be shared is tried, for less than GLANCE.
    """
    try:
        file = open(os.path.join(directory, 'lock'), encoding='utf-8')      # noqa: SIM115  (closed below)
    except OSError:
        return None         # nobody ever trained there, or it is not for us to know
    with file:
        return None if _locked(file, fcntl.LOCK_SH) else _owner(file)


def _locked(file: TextIO, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _owner(file: TextIO) -> str:
    file.seek(0)
    return file.read().strip() or 'unknown'


@contextlib.contextmanager
def one_at_a_time(path: str) -> Iterator[None]:
    """Waits until no other process is in here with the same path. Raises UserError if its directory cannot be written to."""
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        file = open(f'{path}.lock', 'a', encoding='utf-8')      # noqa: SIM115
    except OSError as error:
        raise UserError(f'cannot write to {os.path.dirname(path)}: {reason(error)}') from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
