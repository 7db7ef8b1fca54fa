"""A run's directory: made, given back after a failed start, overwritten."""

import contextlib
import glob
import os
from collections.abc import Iterator
from typing import TextIO

from command.errors import UserError, reason
from command.models import SETTING_FILES, SPECIAL_TOKENS
from storage.checkpoints import ASIDE, checkpoint_files
from storage.lock import lock

SETTINGS = 'settings.json'
METRICS = 'metrics.jsonl'


def make(directory: str, undo: contextlib.ExitStack) -> None:
    """Makes a directory and those above it that are missing. `undo` removes those that it made and that are empty then.

    Raises OSError.
    """
    missing = []
    while directory and not os.path.lexists(directory):
        missing.append(directory)
        directory = os.path.dirname(directory)
    for path in reversed(missing):
        with contextlib.suppress(FileExistsError):      # another process was faster
            os.mkdir(path)
            undo.callback(_remove_if_empty, path)


def _remove_if_empty(directory: str) -> None:
    with contextlib.suppress(OSError):
        os.rmdir(directory)


def take(directory: str, undo: contextlib.ExitStack) -> TextIO:
    """Makes a run's directory, and locks it for this process. `undo` gives back what that added. Returns and raises as `lock`."""
    path = os.path.join(directory, 'lock')
    with contextlib.suppress(OSError):      # `lock` tries again, and reports why
        make(directory, undo)
    new = not os.path.lexists(path)
    held = undo.enter_context(lock(directory))
    if new:
        undo.callback(_remove, path)        # while it is locked: who opened it before finds out that it is gone
    return held


def remove_if_new(path: str, undo: contextlib.ExitStack) -> None:
    """`undo` removes a file that does not exist yet, if it does then."""
    if not os.path.lexists(path):
        undo.callback(_remove, path)


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.remove(path)


def set_aside(directory: str) -> None:
    """Moves the checkpoints and records of a run into its subdirectory ASIDE, for --overwrite.

    It can be interrupted at any moment: until the new run has a checkpoint, `settle` undoes it. The file `checkpoint` moves
    first, so if it is there, it is the new run's. Raises UserError.
    """
    aside = os.path.join(directory, ASIDE)
    with _errors_named(aside):
        os.makedirs(aside, exist_ok=True)
        for path in _files(directory):
            os.replace(path, os.path.join(aside, os.path.basename(path)))


def settle(directory: str) -> None:
    """Ends what `set_aside` began: removes the old run if the new one has a checkpoint, else moves the old one back.

    It may be called at any time, and again after an interruption. Raises UserError.
    """
    aside = os.path.join(directory, ASIDE)
    files = _files(aside)
    with _errors_named(aside):
        if os.path.exists(os.path.join(directory, 'checkpoint')):
            for path in files:
                os.remove(path)
        elif files:
            for path in reversed(files):
                os.replace(path, os.path.join(directory, os.path.basename(path)))
            print(f'{directory}: the run that --overwrite was to replace is back, because the new one had no checkpoint yet',
                  flush=True)
    _remove_if_empty(aside)


@contextlib.contextmanager
def _errors_named(directory: str) -> Iterator[None]:
    """Turns an OSError into a UserError about a directory."""
    try:
        yield
    except OSError as error:
        raise UserError(f'cannot write to {directory}: {reason(error)}') from None


def _files(directory: str) -> list[str]:
    """The files of a run in a directory, the file `checkpoint` first. Cached tokens, the lock and others' files are not."""
    names = ('checkpoint', 'counter', SETTINGS, METRICS, 'loss.png', *SETTING_FILES, SPECIAL_TOKENS)
    paths = [*(os.path.join(directory, name) for name in names), *checkpoint_files(directory),
             *glob.glob(os.path.join(glob.escape(directory), 'events.out.tfevents*'))]
    return [path for path in paths if os.path.isfile(path)]
