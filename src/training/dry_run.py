"""The plan that --dry_run prints: corpus, model, memory by formula.

Neither TensorFlow nor the weights are loaded. Memory is the resident memory of a process on a CPU, in bytes; what a GPU
takes was not measured.
"""

import math

from corpus.data_sets import find_data_sets, in_words
from corpus.find_files import file_size
from storage.lock import training_process
from training import memory
from training.memory import MARGIN, MEASURED, SMALL, Step, total
from training.prepare import Job


def plan(job: Job, available: int | None) -> str:
    """The plan of a run as text. available: bytes of memory, if known."""
    step, settings = memory.step_of(job.settings, job.model.hparams), job.settings
    return '\n'.join([*_corpus(job), *_model(job, step),
                      *_memory(step, available, settings.worker_count, settings.local_workers or 1), *_measured(step)])


def _corpus(job: Job) -> list[str]:
    settings = job.settings
    files = [file for data_set in find_data_sets(settings.dataset) for file in data_set.files]
    step_tokens = settings.worker_count * settings.batch_size * settings.accumulate_gradients * settings.seq_length
    epoch_steps = job.train.total_size / step_tokens
    lines = [f'corpus: {in_words(settings.dataset)}', _row('files', len(files)), _row('bytes', sum(map(file_size, files))),
             _row('tokens', job.train.total_size)]
    if settings.worker_count > 1:
        lines.append(_row('workers', settings.worker_count, 'share each step'))
    lines += [_row('tokens in a step', step_tokens), _row('steps in an epoch', math.ceil(epoch_steps))]
    if settings.max_steps:
        lines.append(_row('epochs', f'{settings.max_steps / epoch_steps:.1f}', f'in --max_steps {settings.max_steps}'))
    if settings.epochs:
        lines.append(_row('steps', math.ceil(settings.epochs * epoch_steps), f'in --epochs {settings.epochs:g}'))
    return lines


def _model(job: Job, step: Step) -> list[str]:
    parts = memory.parameters(job.model.hparams)
    lines = [f'model: {job.model.directory}', *(_row(part, count) for part, count in parts.items()),
             _row('parameters', sum(parts.values())),
             _row('trained', memory.trained_parameters(step),
                  f'with {job.settings.optimizer}, from {job.checkpoint or "worker 0"}')]
    if owner := training_process(job.settings.run_directory):
        lines.append(f'  another process (number {owner}) trains in {job.settings.run_directory}: no run can start until it ends')
    if why := job.finished():
        lines.append(f'  this run has already ended after {job.state.step} steps: {why}')
    elif job.state.step:
        lines.append(f'  this run continues after {job.state.step} steps')
    return lines


def _memory(step: Step, available: int | None, workers: int = 1, local_workers: int = 1) -> list[str]:
    """workers: of the run; local_workers: those on this machine, which share its memory."""
    needed = local_workers * total(step)
    lines = ['memory of a training step on a CPU, in float32, by formula:',
             *(_gigabytes(part, size) for part, size in memory.memory(step).items() if size),
             _gigabytes('total', total(step), 'for each worker, and some more for sums' if workers > 1 else '')]
    if local_workers > 1:
        lines.append(_gigabytes(f'{local_workers} workers on this machine', needed))
    if available is None:
        return [*lines, '  this system does not report how much is available']
    lines.append(_gigabytes('available', available, _verdict(needed, available)))
    if needed * MARGIN > available:
        lines.append('flags that take less, each with all those above it:')
        for flag, smaller in memory.remedies(step):
            needed = local_workers * total(smaller)
            lines.append(_gigabytes(flag, needed, _verdict(needed, available)))
            if needed * MARGIN <= available:
                break
    return lines


def _verdict(needed: float, available: int) -> str:
    if needed > available:
        return 'too much'
    return 'fits' if needed * MARGIN <= available else 'may just fit'


def _measured(step: Step) -> list[str]:
    """The measured figures of the model whose size is closest."""
    def size(hparams):
        return math.log(sum(memory.parameters(hparams).values()))

    nearest = min((measured.hparams for measured in MEASURED), key=lambda hparams: abs(size(hparams) - size(step.hparams)))
    name = '124M' if nearest == SMALL else '355M'
    return ['measured (bench/README.md; one sequence of 1,024 tokens unless flags say otherwise):',
            *(_gigabytes(f'{name} {measured.flags()}', peak * 1e9) for measured, peak in MEASURED.items()
              if measured.hparams == nearest)]


def _row(name: str, value: int | str, remark: str = '') -> str:
    text = f'{value:,}' if isinstance(value, int) else value
    return f'  {name:40} {text:>15}  {remark}'.rstrip()


def _gigabytes(name: str, size: float, remark: str = '') -> str:
    return _row(name, f'{size / 1e9:.2f} GB', remark)
