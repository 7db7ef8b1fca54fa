"""The rows of metrics.jsonl: read, averaged, and those of one branch."""

import contextlib
import glob
import json
import os
import re

from command import atomic_files
from command.errors import UserError
from storage import run_directory, run_state
from storage.checkpoints import checkpoint_step, list_checkpoints
from storage.run_state import RunState

DECAY = 0.99


class Average:
    """Exponentially weighted mean of the values added, without a bias towards zero at the start.

    state: [total, weight] to continue from, changed in place.
    """

    def __init__(self, state: list | None = None):
        self._state = [0.0, 0.0] if state is None else state

    def add(self, value: float) -> float:
        total, weight = self._state
        self._state[:] = [total * DECAY + value, weight * DECAY + 1.0]
        return self._state[0] / self._state[1]


def read_metrics(path: str) -> list[dict]:
    """The rows of a metrics.jsonl, without lines that were cut off; none if there is no file."""
    rows = []
    if os.path.exists(path):
        with open(path, encoding='utf-8', errors='replace') as file:
            for line in file:
                try:
                    row = json.loads(line)
                except ValueError:
                    continue
                if isinstance(row, dict) and 'step' in row:
                    rows.append(row)
    return rows


def text_of(rows: list[dict]) -> str:
    """The content of a file of rows."""
    return ''.join(json.dumps(row) + '\n' for row in rows)


def rows_until(directory: str, state: RunState) -> list[dict]:
    """The rows of a run's branch that led to a checkpoint with this state.

    After --restore_from an earlier step, a run has several branches, which are the same up to that step. Those that were given
    up are in metrics-STEP.jsonl, where STEP is their last checkpoint. A checkpoint's branch is the one whose losses have its
    running average; if none has, as where the checkpoint came without its state, metrics.jsonl.
    """
    branches = [_until(state, read_metrics(path)) for path in (_current(directory), *_given_up(directory))]
    return next((rows for rows in branches if _leads_to(state, rows)), branches[0])


def start_branch(directory: str, state: RunState) -> tuple[list[dict], int]:
    """The rows with which a run continues from a checkpoint with this state, and how many of them metrics.jsonl begins with.

    Keeps the other rows of metrics.jsonl in metrics-STEP.jsonl, if there is a checkpoint to return to. The caller writes
    metrics.jsonl, and then calls `remove_outdated`. Raises UserError.
    """
    old, rows = read_metrics(_current(directory)), rows_until(directory, state)
    common = 0
    for before, now in zip(old, rows):
        if before != now:
            break
        common += 1
    if common < len(old):
        _keep(directory, old, old[common]['step'])
    return rows, common


def remove_outdated(directory: str, rows: list[dict]) -> None:
    """Removes the files of branches whose last checkpoint is gone, and of the one that goes on with these rows."""
    for path in _given_up(directory):
        branch = read_metrics(path)
        if branch == rows[:len(branch)] or not os.path.exists(os.path.join(directory, f'model-{_step(path)}.index')):
            with contextlib.suppress(OSError):
                os.remove(path)


def _keep(directory: str, old: list[dict], step: int) -> None:
    """Writes the rows of a branch, up to its last checkpoint from this step on, into a file of their own."""
    for prefix in reversed(list_checkpoints(directory)):
        with contextlib.suppress(UserError):        # a damaged state belongs to no branch
            state = run_state.read_alone(prefix)
            if state and state.step >= step and _leads_to(state, rows := _until(state, old)):
                path = os.path.join(directory, f'metrics-{checkpoint_step(prefix)}.jsonl')
                atomic_files.write_text(path, text_of(rows))
                return


def _current(directory: str) -> str:
    return os.path.join(directory, run_directory.METRICS)


def _given_up(directory: str) -> list[str]:
    """The files with the rows of branches that were given up."""
    return [path for path in glob.glob(os.path.join(glob.escape(directory), 'metrics-*.jsonl')) if _step(path)]


def _step(path: str) -> str | None:
    name = re.fullmatch(r'metrics-(\d+)\.jsonl', os.path.basename(path))
    return name and name[1]


def _until(state: RunState, rows: list[dict]) -> list[dict]:
    """The rows up to the step of a state, which its checkpoint holds."""
    return [row for row in rows if row['step'] <= (state.validated if 'val_loss' in row else state.step)]


def _leads_to(state: RunState, rows: list[dict]) -> bool:
    average = [0.0, 0.0]
    for row in rows:
        if 'loss' in row:
            Average(average).add(row['loss'])
    return average == state.average
