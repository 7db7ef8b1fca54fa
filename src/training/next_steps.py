"""What a run prints at its end: its best checkpoint, commands to copy."""

import os
import shlex
import shutil
import sys

from command.errors import UserError
from command.models import BEST, CHECKPOINT_DIR
from storage.checkpoints import latest_checkpoint
from storage.find_checkpoint import best_checkpoint
from training.settings import Settings
from workers.local import remove_flags

STARTS_AGAIN = {'--restore_from': 1, '--overwrite': 0}      # flags with which the same command would not continue the run


def best_line(settings: Settings) -> str | None:
    """Which checkpoint of a run is its best. Without one: why, with --keep_best; else None."""
    return _best(settings)[0]


def next_steps(settings: Settings, step: int, ended: str | None) -> str:
    """The best checkpoint of a run which ends after `step` steps, and commands that sample from it and that continue it.

    ended: why it is over, beginning with the flag that says so; None if it was stopped.
    """
    best, name = _best(settings)
    directory = [] if settings.checkpoint_dir == CHECKPOINT_DIR else ['--checkpoint_dir', settings.checkpoint_dir]
    sample = [*_script(os.path.join('src', 'interactive_conditional_samples.py')), '--run_name', name, *directory,
              '--top_k', str(settings.top_k)]
    lines = [best] if best else []
    lines += ['Sample from it:', f'  {shlex.join(sample)}'] if step else []
    limit = ended.split()[0] if ended else None
    if limit != '--patience':       # after which nothing is gained by more steps
        larger = [limit, f'{2 * getattr(settings, limit.removeprefix("--"))}'] if limit else []
        same = 'the same command again' + (f' with {" ".join(larger)}' if limit else '')
        own = [*remove_flags(sys.argv[1:], STARTS_AGAIN | ({limit: 1} if limit else {})), *larger]
        lines += ['Continue it:', f'  {same if settings.worker_count > 1 else shlex.join([*_script("train.py"), *own])}']
    return '\n'.join(lines)


def _best(settings: Settings) -> tuple[str | None, str]:
    """The line of `best_line`, and the name that sampling scripts know the run by: with its best checkpoint if it has one."""
    if latest_checkpoint(settings.run_directory) is None:
        return None, settings.run_name
    try:
        best = best_checkpoint(settings.run_directory)
    except UserError as error:
        return str(error) if settings.keep_best else None, settings.run_name
    line = f'The best checkpoint is {best.prefix} (validation loss {best.loss:.4f})'
    return line, f'{settings.run_name}/{BEST}'


def _script(name: str) -> list[str]:
    """The command that starts a script of the project: with this Python, if `env` would take another one."""
    path = os.path.join(os.path.dirname(sys.argv[0]), name)
    found = shutil.which('python3')
    same = found and os.path.dirname(os.path.abspath(found)) == os.path.dirname(os.path.abspath(sys.executable))
    if same:
        return [path if os.path.dirname(sys.argv[0]) else os.path.join('.', path)]
    return [min(sys.executable, os.path.relpath(sys.executable), key=len), path]
