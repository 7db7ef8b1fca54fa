"""What a training run would do, told before it starts: its corpus, its model, and the memory that it takes, by formula.

Neither TensorFlow nor the weights are loaded. Memory is a process's resident memory on a CPU, in bytes; what a GPU takes
was not measured.
"""

import math

from corpus.find_files import file_size, find_files
from storage.lock import training_process
from training.memory import (
    MARGIN,
    MEASURED,
    SMALL,
    Step,
    memory,
    parameters,
    remedies,
    size_of,
    step_of,
    trained_parameters,
)
from training.prepare import Job


def plan(job: Job, available: int | None) -> str:
    """The plan of a run as text. available: bytes of memory, if known."""
    step = step_of(job.settings, job.model.hparams)
    return '\n'.join([*_corpus(job), *_model(job, step),
                      *_memory(step, available, job.settings.worker_count, job.settings.local_workers or 1), *_measured(step)])


def _corpus(job: Job) -> list[str]:
    settings = job.settings
    found = find_files(settings.dataset)
    of_step = settings.worker_count * settings.batch_size * settings.accumulate_gradients * settings.seq_length
    of_epoch = job.train.total_size / of_step
    lines = [f'corpus: {settings.dataset}', _row('files', len(found)), _row('bytes', sum(map(file_size, found))),
             _row('tokens', job.train.total_size),
             *([_row('workers', settings.worker_count, 'share each step')] if settings.worker_count > 1 else []), _row('tokens in a step', of_step),
             _row('steps in an epoch', math.ceil(of_epoch))]
    if settings.max_steps:
        lines.append(_row('epochs', f'{settings.max_steps / of_epoch:.1f}', f'in --max_steps {settings.max_steps}'))
    if settings.epochs:
        lines.append(_row('steps', math.ceil(settings.epochs * of_epoch), f'in --epochs {settings.epochs:g}'))
    return lines


def _model(job: Job, step: Step) -> list[str]:
    parts = parameters(job.model.hparams)
    lines = [f'model: {job.model.directory}', *(_row(part, count) for part, count in parts.items()),
             _row('parameters', sum(parts.values())),
             _row('trained', trained_parameters(step), f'with {job.settings.optimizer}, from {job.checkpoint or "worker 0"}')]
    if owner := training_process(job.settings.run_directory):
        lines.append(f'  another process (number {owner}) trains in {job.settings.run_directory} now: a run would be refused until it ends')
    if why := job.finished():
        lines.append(f'  this run is at its end after {job.state.step} steps already: {why}')
    elif job.state.step:
        lines.append(f'  this run goes on after {job.state.step} steps')
    return lines


def _memory(step: Step, available: int | None, workers: int = 1, here: int = 1) -> list[str]:
    """workers: in all; here: on this machine, whose memory they share."""
    needed = here * sum(memory(step).values())
    lines = ['memory of a training step on a CPU, in float32, by formula:',
             *(_gigabytes(part, size) for part, size in memory(step).items() if size),
             _gigabytes('in all', needed / here, 'for each worker, and some more for sums' if workers > 1 else '')]
    if here > 1:
        lines.append(_gigabytes(f'{here} workers on this machine', needed))
    if available is None:
        return [*lines, '  how much is available, this system does not tell']
    lines.append(_gigabytes('available', available, _verdict(needed, available)))
    if needed * MARGIN > available:
        lines.append('what takes less, each with all above it:')
        for flag, smaller in remedies(step):
            less = here * sum(memory(smaller).values())
            lines.append(_gigabytes(flag, less, _verdict(less, available)))
            if less * MARGIN <= available:
                break
    return lines


def _verdict(needed: float, available: int) -> str:
    if needed > available:
        return 'too much'
    return 'fits' if needed * MARGIN <= available else 'may just fit'


def _measured(step: Step) -> list[str]:
    """The measured figures of models of about this size."""
    size = size_of(step.hparams)
    nearest = min((measured.step.hparams for measured in MEASURED),
                  key=lambda hparams: abs(math.log(size_of(hparams) / size)))
    name = '124M' if nearest == SMALL else '355M'
    lines = [_gigabytes(f'{name} {measured.flags}', measured.peak * 1e9) for measured in MEASURED
             if measured.step.hparams == nearest]
    return ['measured (bench/README.md; one sequence of 1,024 tokens where nothing else is said):', *lines]


def _row(name: str, value: int | str, remark: str = '') -> str:
    text = f'{value:,}' if isinstance(value, int) else value
    return f'  {name:40} {text:>15}  {remark}'.rstrip()


def _gigabytes(name: str, size: float, remark: str = '') -> str:
    return _row(name, f'{size / 1e9:.2f} GB', remark)
