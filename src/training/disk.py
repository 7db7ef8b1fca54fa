"""How much disk space a run takes."""

import dataclasses
import math
import os

from storage.checkpoints import list_checkpoints
from training.job import Job
from training.memory import FLOAT, Step, memory, trained_parameters


@dataclasses.dataclass(frozen=True)
class Disk:
    """Bytes that a run takes at most. checkpoints: how many there are at a time, that being written included; None: no limit.

    existing: bytes of the files in the run's directory now, which the run continues or replaces.
    """
    checkpoint: int
    checkpoints: int | None
    corpus: int
    existing: int

    @property
    def total(self) -> int:
        return self.checkpoint * (self.checkpoints or 1) + self.corpus

    @property
    def needed(self) -> int:
        """Bytes that must be free: a checkpoint at least, as an older one is removed only after it."""
        return max(self.total - self.existing, self.checkpoint)


def disk(job: Job, step: Step, steps: int | None) -> Disk:
    """What a run takes that makes so many more steps; None if they have no limit."""
    parts, directory = memory(step), job.settings.run_directory
    checkpoints, existing = 0, 0
    if os.path.isdir(directory) and not job.settings.overwrite:     # which keeps the old run until there is a new one
        checkpoints = len(list_checkpoints(directory))
        existing = sum(entry.stat().st_size for entry in os.scandir(directory) if entry.is_file())
    saved = FLOAT * trained_parameters(step) if step.lora_rank else parts['weights']
    return Disk(round(saved + parts['optimizer']), _at_a_time(job, steps, checkpoints), job.encoded_bytes, existing)


def _at_a_time(job: Job, steps: int | None, existing: int) -> int | None:
    """How many checkpoints there are at most. existing: before the start."""
    settings = job.settings
    if steps is None or settings.save_secs or settings.keep_best:       # which save at other steps than those of --save_every
        saves = steps
    else:
        saves = math.ceil(steps / settings.save_every) if settings.save_every else 1
    most = settings.keep + settings.keep_best + 1 if settings.keep else math.inf
    count = min(math.inf if saves is None else existing + saves, most)
    return None if count == math.inf else count
