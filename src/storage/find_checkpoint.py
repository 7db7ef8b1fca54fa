"""Finds the checkpoint that a name means: the best, the newest, a step, a path."""

import dataclasses
import json
import os
import sys

from command.did_you_mean import did_you_mean
from command.errors import UserError
from command.models import BEST, LATEST, list_models, split_path
from storage import run_state
from storage.checkpoints import ASIDE, latest_checkpoint, list_checkpoints
from storage.run_directory import SETTINGS


@dataclasses.dataclass(frozen=True)
class Best:
    """The checkpoint with the lowest validation loss of a run, by its prefix, and that loss in nats per token."""
    prefix: str
    loss: float


def find_checkpoint(path: str, *, prefer_best: bool = True) -> str:
    """Prefix of the checkpoint that a path names (see models.split_path).

    A directory alone stands for its best checkpoint if it is a run with --keep_best, unless prefer_best is False; else for its
    newest. A line on stderr says when the best is taken, and why. Raises UserError that lists the checkpoints in the directory.
    """
    directory, named = split_path(path)
    if named == BEST:
        best = best_checkpoint(directory)
        _note(f'{path} is {best.prefix}, which has the lowest validation loss of the run, {best.loss:.4f}')
        return best.prefix
    if named is None and prefer_best and _keeps_best(directory):
        return _best_or_newest(directory)
    if named in (None, LATEST):
        return _newest(directory)
    prefix = os.path.join(os.path.dirname(path), f'model-{named}' if named.isdecimal() else named)
    if not os.path.isfile(f'{prefix}.index'):
        raise _missing(prefix)
    return prefix


def _best_or_newest(directory: str) -> str:
    """Prefix of the best checkpoint of a run with --keep_best, or of its newest if it has no best one; prints which, and why."""
    newest = _newest(directory)
    try:
        best = best_checkpoint(directory)
    except UserError as error:
        _note(f'taking the newest checkpoint, {newest}: {error}')
        return newest
    if best.prefix != newest:
        _note(f'taking {best.prefix}, which has the lowest validation loss of the run, {best.loss:.4f} (--keep_best); '
              f'{os.path.join(directory, LATEST)} is the newest, {os.path.basename(newest)}')
    return best.prefix


def best_checkpoint(directory: str) -> Best:
    """The best checkpoint of a run, by the state of its newest one. Raises UserError that says why there is none."""
    newest = _newest(directory)
    known = f'checkpoints there: {", ".join(list_checkpoints(directory))}'
    state = run_state.read_alone(newest)
    if state is None:
        raise UserError(f'{newest}.json, which names the best checkpoint of {directory}, is missing; {known}')
    if state.best_loss is None:
        raise UserError(f'{directory} has no best checkpoint: its validation loss was not measured (--val_every); {known}')
    if not state.best_step:
        raise UserError(f'{directory} has no best checkpoint: the lowest validation loss, {state.best_loss:.4f}, was measured '
                        f'before its first step; {known}')
    best = Best(os.path.join(directory, f'model-{state.best_step}'), state.best_loss)
    if not os.path.isfile(f'{best.prefix}.index') or _is_of_another_branch(best):
        raise UserError(f'{directory} has no best checkpoint: the lowest validation loss, {best.loss:.4f}, was that of step '
                        f'{state.best_step}, which was not kept (--keep_best keeps it); {known}')
    return best


def _is_of_another_branch(best: Best) -> bool:
    """Whether the file of the best step is from a part of the run that was given up by --restore_from an earlier step."""
    own = run_state.read_alone(best.prefix)
    return own is not None and own.validated == own.step and own.best_loss != best.loss


def _keeps_best(directory: str) -> bool:
    """Whether the last start of a run had --keep_best, by its settings.json."""
    try:
        with open(os.path.join(directory, SETTINGS), encoding='utf-8') as file:
            return json.load(file)['flags']['keep_best'] is True
    except (OSError, ValueError, TypeError, KeyError):
        return False


def find_start(name: str, run_directory: str, checkpoint_dir: str = 'checkpoint') -> str:
    """Prefix of the checkpoint given by a step of this run, a path, a run's name, or `best` (see find_checkpoint).

    This run, without a checkpoint behind its name, stands for its newest. Raises UserError that lists the checkpoints of this
    run and the other runs.
    """
    if name.isdecimal():
        return find_checkpoint(os.path.join(run_directory, f'model-{name}'))
    for path in (os.path.join(parent, name) for parent in ('', checkpoint_dir, run_directory)):
        directory, named = split_path(path)
        if os.path.isdir(path) or named is not None and os.path.isdir(directory) and list_checkpoints(directory):
            is_this_run = os.path.realpath(directory) == os.path.realpath(run_directory)
            return find_checkpoint(path, prefer_best=not is_this_run)
    own = list_checkpoints(run_directory) if os.path.isdir(run_directory) else []
    runs = list_models(checkpoint_dir)
    near = did_you_mean(name, [*runs, 'latest', 'fresh', BEST])
    raise UserError(f'no checkpoint {name!r}{near or ";"} this run has {", ".join(own) or "none"}; runs in {checkpoint_dir}: '
                    f'{", ".join(runs) or "none"}')


def _newest(directory: str) -> str:
    prefix = latest_checkpoint(directory)
    if prefix is None:
        raise _missing(directory)
    return prefix


def _missing(path: str) -> UserError:
    """The error for a directory without checkpoints, or for the prefix of one that is not there."""
    directory = path if os.path.isdir(path) else os.path.dirname(path) or '.'
    here = list_checkpoints(directory) if os.path.isdir(directory) else []
    known = f'checkpoints there: {", ".join(here)}' if here else f'{directory} holds no checkpoints'
    if os.path.isdir(aside := os.path.join(directory, ASIDE)):
        known += f'; {aside} holds the run before --overwrite, which the next ./train.py puts back'
    if here and os.path.isdir(path):
        known = f'{os.path.join(path, "checkpoint")} is missing, or does not name one that is there; {known}'
    return UserError(f'no checkpoint {path!r}; {known}')


def _note(text: str) -> None:
    print(f'note: {text}', file=sys.stderr, flush=True)
