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
ADAPTER = 'adapter.json'            # of a run of adapters (see storage.adapters)
EVENTS = 'events.out.tfevents'     # how the names of TensorBoard's files begin
VALIDATION = 'validation'          # the subdirectory with those of the validation loss


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
        for path in (aside, os.path.join(aside, VALIDATION)):
            os.makedirs(path, exist_ok=True)
        for path in _files(directory):
            os.replace(path, os.path.join(aside, os.path.relpath(path, directory)))


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
            os.makedirs(os.path.join(directory, VALIDATION), exist_ok=True)
            for path in reversed(files):
                os.replace(path, os.path.join(directory, os.path.relpath(path, aside)))
            print(f'{directory}: the run that --overwrite was to replace is back, because the new one had no checkpoint yet',
                  flush=True)
    for path in (os.path.join(directory, VALIDATION), os.path.join(aside, VALIDATION), aside):
        _remove_if_empty(path)


@contextlib.contextmanager
def _errors_named(directory: str) -> Iterator[None]:
    """Turns an OSError into a UserError about a directory."""
    try:
        yield
    except OSError as error:
        raise UserError(f'cannot write to {directory}: {reason(error)}') from None


def _files(directory: str) -> list[str]:
    """The files of a run in a directory, the file `checkpoint` first. Cached tokens, the lock and others' files are not."""
    names = ('checkpoint', 'counter', SETTINGS, METRICS, 'loss.png', ADAPTER, *SETTING_FILES, SPECIAL_TOKENS)
    paths = [*(os.path.join(directory, name) for name in names), *checkpoint_files(directory),
             *(path for pattern in ('metrics-*.jsonl', f'{EVENTS}*', os.path.join(VALIDATION, f'{EVENTS}*'))
               for path in glob.glob(os.path.join(glob.escape(directory), pattern)))]
    return [path for path in paths if os.path.isfile(path)]
