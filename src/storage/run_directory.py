"""A run's directory: the names of its records, and how it is cleared."""

import contextlib
import glob
import os
import shutil

from storage.checkpoints import checkpoint_files

SETTINGS = 'settings.json'
METRICS = 'metrics.jsonl'


def clear(directory: str) -> None:
    """Removes a run's checkpoints and records, for --overwrite."""
    for name in ('checkpoint', 'counter', SETTINGS, METRICS, 'loss.png'):
        if os.path.exists(path := os.path.join(directory, name)):
            os.remove(path)
    for path in [*checkpoint_files(directory), *glob.glob(os.path.join(glob.escape(directory), 'events.out.tfevents*'))]:
        os.remove(path)


def remove(directory: str) -> None:
    """Removes a run directory, and the directories above it if that leaves them empty."""
    shutil.rmtree(directory, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.removedirs(os.path.dirname(directory))
