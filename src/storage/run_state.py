"""What a run's checkpoint holds beside the weights: a JSON file with the run's state and the files' checksums.

`model-STEP.json` is written after TensorFlow's files of that checkpoint and before the `checkpoint` file names it, so one
that is named is complete. The 2019 tools do not know the file, and a checkpoint of theirs has none.
"""

import dataclasses
import hashlib
import json
import os

from command import whole_files
from command.errors import UserError

SUFFIXES = ('.index', '.data-00000-of-00001', '.meta')


@dataclasses.dataclass
class RunState:
    """Where a run stands. Random generators are numpy's states, as JSON holds them."""
    step: int = 0                       # updates made
    tokens: int = 0                     # tokens trained on, in all of them
    average: list = dataclasses.field(default_factory=lambda: [0.0, 0.0])    # the running average's total and weight
    generators: dict = dataclasses.field(default_factory=dict)
    validated: int = -1                 # step of the last validation
    sampled: int = -1                   # step of the last samples
    best_loss: float | None = None      # lowest validation loss, and the step that had it
    best_step: int = -1
    not_better: int = 0                 # validations since then
    warned: bool = False                # that the corpus has been seen often


def write(prefix: str, state: RunState) -> None:
    """Writes the state beside the checkpoint `prefix`, with checksums of the checkpoint's files and of itself."""
    content = {'state': dataclasses.asdict(state),
               'files': {suffix: whole_files.sha256(prefix + suffix) for suffix in SUFFIXES if os.path.exists(prefix + suffix)}}
    whole_files.write_text(f'{prefix}.json', json.dumps(content | {'sha256': _digest(content)}, indent=1) + '\n')


def read(prefix: str) -> RunState | None:
    """The state of a checkpoint; None for one that has none, such as a model's.

    Raises UserError that names the file if one of the checkpoint's files is missing or not as it was written.
    """
    path = f'{prefix}.json'
    if not os.path.exists(path):
        return None
    try:
        with open(path, encoding='utf-8') as file:
            content = json.load(file)
        digest = content.pop('sha256')
        state = RunState(**content['state'])
        expected_files = dict(content['files'])
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        digest = state = None
    if state is None or digest != _digest(content):
        raise UserError(f'{path} is damaged')
    for suffix, expected in expected_files.items():
        try:
            found = whole_files.sha256(prefix + suffix)
        except OSError:
            raise UserError(f'{prefix}{suffix} is missing') from None
        if found != expected:
            raise UserError(f'{prefix}{suffix} is damaged: it is not as it was written')
    return state


def _digest(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
