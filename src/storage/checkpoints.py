"""Lists and removes the checkpoints in a directory; finds the newest one."""

import glob
import os
import re
import shutil

from command.errors import UserError
from storage.check import is_sound
from storage.run_state import OtherCheckpoint, RunState, read

ASIDE = '.overwritten'      # a run's subdirectory: the run that --overwrite replaces, until the new one has a checkpoint
# What an interrupted save, removal or write leaves: files, and directories that TensorFlow makes.
UNFINISHED = re.compile(r'model-\d+(_temp|\..*(\.part|\.tempstate\d*))|'
                        r'(checkpoint|counter|(settings|hparams|encoder|special_tokens|adapter)\.json|vocab\.bpe|metrics(-\d+)?\.jsonl|'
                        r'(val_)?dataset\.(npz|json))\.part')


def latest_checkpoint(directory: str) -> str | None:
    """Prefix of the checkpoint that the `checkpoint` file of a model or run directory names; None without one.

    If the directory was moved, and the path in the file no longer exists, the checkpoint is looked for next to the file.
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
    """Prefixes of all checkpoints in a directory, by step."""
    names = (name.removesuffix('.index') for name in os.listdir(directory)
             if name.endswith('.index') and os.path.isfile(os.path.join(directory, name)))
    return [os.path.join(directory, name) for name in sorted(names, key=lambda name: (checkpoint_step(name), name))]


def checkpoint_step(prefix: str) -> int:
    """'checkpoint/run1/model-500' -> 500; 0 for a model's checkpoint, which has no step."""
    step = re.search(r'-(\d+)$', prefix)
    return int(step[1]) if step else 0


def newest_sound(directory: str) -> tuple[str | None, RunState | None]:
    """The checkpoint a run continues from, and its state: the one its `checkpoint` file names, or the last undamaged before it.

    If all are damaged, the last whose weights are sound. The state is None where only the weights can be used. Prints a line
    for each that is skipped or is without its state. (None, None) for a directory without checkpoints. Raises UserError if
    none can be used.
    """
    prefixes = sorted({_prefix(path) for path in checkpoint_files(directory)}, key=checkpoint_step)
    if not prefixes:
        return None, None
    named = latest_checkpoint(directory)
    if named in prefixes:
        prefixes = prefixes[:prefixes.index(named) + 1]
    errors = []
    for prefix in reversed(prefixes):
        try:
            return prefix, read_state(prefix)
        except UserError as error:
            errors.append(str(error))
            print(f'{error}: skipping this checkpoint', flush=True)
    for prefix in reversed(prefixes):
        if is_sound(prefix):
            print(f'the weights of {prefix} are sound', flush=True)
            return prefix, None
    raise UserError(f'every checkpoint in {directory} is damaged: {"; ".join(errors)}; copy an undamaged one there, or start '
                    'another run with another --run_name')


def read_state(prefix: str) -> RunState | None:
    """The state of a checkpoint; None, after a line about it, if it has none of its own but sound weights. Raises as `read`."""
    try:
        state = read(prefix)
    except OtherCheckpoint:
        if not is_sound(prefix):
            raise
        print(f'{prefix}.json is not the state of {prefix}: another program has written over the checkpoint', flush=True)
        return None
    if state is None:
        print(f'{prefix}.json, the state of the run, is missing', flush=True)
    return state


def checkpoint_files(directory: str) -> list[str]:
    """All files of a run's checkpoints model-STEP."""
    return [path for path in glob.glob(os.path.join(glob.escape(directory), 'model-*'))
            if re.fullmatch(r'model-\d+\..+', os.path.basename(path))]


def _prefix(path: str) -> str:
    """'checkpoint/run1/model-500.index' -> 'checkpoint/run1/model-500'."""
    return re.match(r'(.*model-\d+)\.', path)[1]


def outdated(directory: str, keep: int, spared: set[int]) -> list[str]:
    """Prefixes of the checkpoints to remove so that `keep` stay: the newest, which `spared` includes, and the last written.

    spared: steps to keep in any case; those beyond the newest are not counted. keep: 0 keeps all.
    """
    prefixes = [path.removesuffix('.index') for path in checkpoint_files(directory) if path.endswith('.index')]
    prefixes = [prefix for prefix in prefixes if checkpoint_step(prefix) not in spared]
    # Not by step: after a return to an earlier checkpoint, the higher steps belong to the abandoned part of the run.
    prefixes.sort(key=lambda prefix: (os.stat(f'{prefix}.index').st_mtime_ns, checkpoint_step(prefix)))
    return prefixes[:max(len(prefixes) - (keep - 1), 0)] if keep else []


def remove_checkpoint(prefix: str) -> None:
    """Removes the files of one checkpoint, in an order that can be interrupted and completed by `clean` or another call.

    First the state, without which the rest is still a valid checkpoint; then the index, without which `clean` removes the rest.
    """
    for path in sorted(glob.glob(f'{glob.escape(prefix)}.*'),
                       key=lambda path: (not path.endswith('.json'), not path.endswith('.index'))):
        os.remove(path)


def clean(directory: str) -> None:
    """Removes what an interrupted save or removal left: unfinished files, and incomplete checkpoints."""
    for name in filter(UNFINISHED.fullmatch, os.listdir(directory)):
        path = os.path.join(directory, name)
        if not os.path.isdir(path):
            os.remove(path)
        elif name.startswith('model-'):
            shutil.rmtree(path)
    for path in checkpoint_files(directory):
        prefix = _prefix(path)
        complete = os.path.exists(f'{prefix}.index') and os.path.exists(f'{prefix}.data-00000-of-00001')
        if not complete and not os.path.exists(f'{prefix}.json'):
            os.remove(path)
