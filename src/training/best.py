"""What a run prints at its end: which checkpoint is its best, and how to use it."""

import shlex

from command.errors import UserError
from command.models import BEST, CHECKPOINT_DIR
from storage.checkpoints import latest_checkpoint
from storage.find_checkpoint import best_checkpoint
from training.settings import Settings


def best_line(settings: Settings) -> str | None:
    """The best checkpoint of a run, and a command that samples from it. Without one: why, with --keep_best; else None."""
    if latest_checkpoint(settings.run_directory) is None:
        return None
    try:
        best = best_checkpoint(settings.run_directory)
    except UserError as error:
        return str(error) if settings.keep_best else None
    where = [] if settings.checkpoint_dir == CHECKPOINT_DIR else ['--checkpoint_dir', settings.checkpoint_dir]
    command = ['src/interactive_conditional_samples.py', '--run_name', f'{settings.run_name}/{BEST}', *where]
    return (f'The best checkpoint is {best.prefix}, with a validation loss of {best.loss:.4f}; to sample from it: '
            f'{shlex.join(command)}')
