"""The checkpoints in a directory: listing them, finding the one that is meant, removing old and unfinished ones."""

import glob
import os
import re
import shutil

from command.errors import UserError
from command.models import list_models
from storage.run_state import RunState, read


def latest_checkpoint(directory: str) -> str | None:
    """Prefix of the newest checkpoint in a model or run directory, as its `checkpoint` file names it; None without one.

    Reads the file without TensorFlow. A path that is not there any more (a directory that was moved) is looked for
    beside the file.
    """
    try:
        with open(os.path.join(directory, 'checkpoint'), encoding='utf-8', errors='replace') as file:
            named = re.search(r'^model_checkpoint_path: "(.*)"$', file.read(), re.MULTILINE)
    except OSError:
        return None
    if not named:
        return None
    prefixes = [os.path.join(directory, os.path.basename(named[1])), os.path.join(directory, named[1])]
    return next((prefix for prefix in prefixes if os.path.isfile(prefix + '.index')), None)


def list_checkpoints(directory: str) -> list[str]:
    """Prefixes of all the checkpoints in a directory, by step."""
    names = (name.removesuffix('.index') for name in os.listdir(directory)
             if name.endswith('.index') and os.path.isfile(os.path.join(directory, name)))
    return [os.path.join(directory, name) for name in sorted(names, key=lambda name: (checkpoint_step(name), name))]


def checkpoint_step(prefix: str) -> int:
    """'checkpoint/run1/model-500' -> 500; 0 for the checkpoint of a model, which bears no step."""
    step = re.search(r'-(\d+)$', prefix)
    return int(step[1]) if step else 0


def find_checkpoint(path: str) -> str:
    """The checkpoint that a user means by a directory, a prefix, or an .index file: its prefix.

    Raises UserError that names the checkpoints that are there.
    """
    if os.path.isdir(path):
        prefix, directory = latest_checkpoint(path), path
    else:
        prefix, directory = path.removesuffix('.index'), os.path.dirname(path) or '.'
    if prefix and os.path.isfile(prefix + '.index'):
        return prefix
    here = list_checkpoints(directory) if os.path.isdir(directory) else []
    known = f'checkpoints there: {", ".join(here)}' if here else f'{directory} holds no checkpoints'
    if here and os.path.isdir(path):
        known = f'{os.path.join(path, "checkpoint")} is missing, or does not name one that is there; {known}'
    raise UserError(f'no checkpoint {path!r}; {known}')


def find_start(name: str, run_directory: str, checkpoint_dir: str = 'checkpoint') -> str:
    """The checkpoint that a user means by a step of a run, a path (see find_checkpoint), or a run's name: its prefix.

    Raises UserError that lists what is there.
    """
    if name.isdecimal():
        return find_checkpoint(os.path.join(run_directory, f'model-{name}'))
    if os.path.exists(name) or os.path.exists(f'{name}.index'):
        return find_checkpoint(name)
    if os.path.isdir(run := os.path.join(checkpoint_dir, name)):
        return find_checkpoint(run)
    own = list_checkpoints(run_directory) if os.path.isdir(run_directory) else []
    runs = list_models(checkpoint_dir)
    raise UserError(f'no checkpoint {name!r}; this run has {", ".join(own) or "none"}; runs in {checkpoint_dir}: '
                    f'{", ".join(runs) or "none"}')


def clean(directory: str) -> None:
    """Removes what an interrupted save left: unfinished files, and parts of a checkpoint that was never whole."""
    for pattern in ('*.part', '*.tempstate*', 'model-*_temp'):
        for path in glob.glob(os.path.join(glob.escape(directory), pattern)):
            shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)
    for path in checkpoint_files(directory):
        prefix = _prefix(path)
        whole = os.path.exists(f'{prefix}.index') and os.path.exists(f'{prefix}.data-00000-of-00001')
        if not whole and not os.path.exists(f'{prefix}.json'):
            os.remove(path)


def checkpoint_files(directory: str) -> list[str]:
    """All files of the checkpoints model-STEP of a run."""
    return [path for path in glob.glob(os.path.join(glob.escape(directory), 'model-*'))
            if re.fullmatch(r'model-\d+\..+', os.path.basename(path))]


def _prefix(path: str) -> str:
    return re.match(r'(.*model-\d+)\.', path)[1]


def remove_checkpoint(prefix: str) -> None:
    """Removes the files of one checkpoint, in an order that leaves something to be cleaned, or removed, if it is cut short.

    The state first: without it the rest is a checkpoint of its own still. Then the index: without both it is a leftover.
    """
    for path in sorted(glob.glob(f'{glob.escape(prefix)}.*'),
                       key=lambda path: (not path.endswith('.json'), not path.endswith('.index'))):
        os.remove(path)


def outdated(directory: str, keep: int, spared: set[int]) -> list[str]:
    """Prefixes of checkpoints to remove, so that `keep` stay: those last written and the newest, whose step is spared.

    Other spared steps do not count. keep 0 keeps all.
    """
    prefixes = [path.removesuffix('.index') for path in checkpoint_files(directory) if path.endswith('.index')]
    prefixes = [prefix for prefix in prefixes if checkpoint_step(prefix) not in spared]
    # Not by step: after a return to an earlier checkpoint, the higher numbers belong to what was given up.
    prefixes.sort(key=lambda prefix: (os.stat(f'{prefix}.index').st_mtime_ns, checkpoint_step(prefix)))
    return prefixes[:max(len(prefixes) - (keep - 1), 0)] if keep else []


def newest_sound(directory: str) -> tuple[str | None, RunState | None]:
    """The checkpoint a run goes on from, and its state: the one its `checkpoint` file names, or the one before it.

    A damaged one is said in a line and passed over. (None, None) for a directory without checkpoints. Raises UserError
    if none of its checkpoints is sound.
    """
    here = sorted({path[:path.index('.', path.rindex('model-'))] for path in checkpoint_files(directory)},
                  key=checkpoint_step)
    if not here:
        return None, None
    named = latest_checkpoint(directory) or here[-1]
    damaged = []
    for prefix in [named, *reversed(here[:here.index(named)])] if named in here else reversed(here):
        try:
            return prefix, read(prefix)
        except UserError as error:
            damaged.append(str(error))
            print(f'{error}: passing over this checkpoint', flush=True)
    raise UserError(f'no sound checkpoint in {directory}: {"; ".join(damaged)}; --restore_from fresh --overwrite starts '
                    'the run again')
