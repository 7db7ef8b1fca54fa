"""What to do with a run that has ended, as commands to copy."""

import os
import shlex
import shutil
import sys

from command.models import CHECKPOINT_DIR
from training.settings import Settings
from workers.local import remove_flags

STARTS_AGAIN = {'--restore_from': 1, '--overwrite': 0}      # flags with which the same command would not continue the run


def next_steps(settings: Settings, step: int, ended: str | None) -> str:
    """Commands that sample from a run which ends after `step` steps, and that continue it.

    ended: why it is over, beginning with the flag that says so; None if it was stopped.
    """
    directory = [] if settings.checkpoint_dir == CHECKPOINT_DIR else ['--checkpoint_dir', settings.checkpoint_dir]
    sample = [*_script(os.path.join('src', 'interactive_conditional_samples.py')), '--run_name', settings.run_name, *directory,
              '--top_k', str(settings.top_k)]
    lines = ['Sample from it:', f'  {shlex.join(sample)}'] if step else []
    limit = ended.split()[0] if ended else None
    if limit != '--patience':       # after which nothing is gained by more steps
        larger = [limit, f'{2 * getattr(settings, limit.removeprefix("--"))}'] if limit else []
        same = 'the same command again' + (f' with {" ".join(larger)}' if limit else '')
        own = [*remove_flags(sys.argv[1:], STARTS_AGAIN | ({limit: 1} if limit else {})), *larger]
        lines += ['Continue it:', f'  {same if settings.worker_count > 1 else shlex.join([*_script("train.py"), *own])}']
    return '\n'.join(lines)


def _script(name: str) -> list[str]:
    """The command that starts a script of the project: with this Python, if `env` would take another one."""
    path = os.path.join(os.path.dirname(sys.argv[0]), name)
    found = shutil.which('python3')
    same = found and os.path.dirname(os.path.abspath(found)) == os.path.dirname(os.path.abspath(sys.executable))
    if same:
        return [path if os.path.dirname(sys.argv[0]) else os.path.join('.', path)]
    return [min(sys.executable, os.path.relpath(sys.executable), key=len), path]
