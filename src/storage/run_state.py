"""A run's state, and its files' checksums, in a JSON file per checkpoint.

`model-STEP.json` is written after TensorFlow's files of that checkpoint and before the `checkpoint` file names it, so a
checkpoint that is named there is complete. The 2019 tools write no such file and ignore it.
"""

import dataclasses
import hashlib
import json
import os

from command import atomic_files
from command.errors import UserError

SUFFIXES = ('.index', '.data-00000-of-00001', '.meta')


@dataclasses.dataclass
class RunState:
    """How far a run has come. Random generators are numpy's states, as JSON holds them."""
    step: int = 0                       # updates made
    tokens: int = 0                     # tokens trained on in these updates
    average: list = dataclasses.field(default_factory=lambda: [0.0, 0.0])    # the running average's total and weight
    generators: dict = dataclasses.field(default_factory=dict)
    validated: int = -1                 # step of the last validation
    sampled: int = -1                   # step of the last samples
    best_loss: float | None = None      # lowest validation loss
    best_step: int = -1                 # its step
    not_better: int = 0                 # validations since then
    warned: bool = False                # that the corpus has been repeated often
    first_loss: float | None = None     # loss of the first step
    loss_scale: float = 2.0 ** 15       # of the next step in float16 (see training.loss_scale)
    good_steps: int = 0                 # steps since the scale changed
    skipped: int = 0                    # steps whose gradient overflowed
    far_off: int = 0                    # steps in a row up to this one whose loss is far above (see training.ruin)


class OtherCheckpoint(UserError):
    """A checkpoint's files are damaged, or another program has written over them: their checksums are not the state's."""


def write(prefix: str, state: RunState) -> None:
    """Writes the state of the checkpoint `prefix`, with checksums of the checkpoint's files and of the state itself."""
    content = {'state': dataclasses.asdict(state),
               'files': {suffix: atomic_files.sha256(prefix + suffix) for suffix in SUFFIXES if os.path.exists(prefix + suffix)}}
    atomic_files.write_text(f'{prefix}.json', json.dumps(content | {'sha256': _digest(content)}, indent=1) + '\n')


def read(prefix: str) -> RunState | None:
    """The state of a checkpoint; None without one, as for a model's checkpoint.

    Raises UserError that names the file if it is damaged, or if the checkpoint's index or data is missing or does not match its
    checksum; for that, OtherCheckpoint. The graph in .meta is not compared: no tool needs it to restore weights.
    """
    state, files = _load(prefix) or (None, {})
    for suffix, expected in files.items():
        if suffix == '.meta':
            continue
        try:
            actual = atomic_files.sha256(prefix + suffix)
        except OSError:
            raise UserError(f'{prefix}{suffix} is missing') from None
        if actual != expected:
            raise OtherCheckpoint(f'{prefix}{suffix} is damaged: its checksum does not match')
    return state


def read_alone(prefix: str) -> RunState | None:
    """As `read`, without reading the checkpoint's own files, which takes seconds for a large model."""
    state, _ = _load(prefix) or (None, {})
    return state


def _load(prefix: str) -> tuple[RunState, dict[str, str]] | None:
    """The state of a checkpoint, and suffix -> checksum of its files; None without one. Raises UserError if it is damaged."""
    path = f'{prefix}.json'
    if not os.path.exists(path):
        return None
    try:
        with open(path, encoding='utf-8') as file:
            content = json.load(file)
        digest = content.pop('sha256')
        loaded = RunState(**content['state']), dict(content['files'])
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise UserError(f'{path} is damaged') from None
    if digest != _digest(content):
        raise UserError(f'{path} is damaged')
    return loaded


def _digest(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
