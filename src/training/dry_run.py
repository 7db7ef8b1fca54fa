"""The plan that --dry_run prints: corpus, model, memory, disk, time.

Neither TensorFlow nor the weights are loaded, except for --measure_steps. Memory is the resident memory of a process on a CPU,
or that of a GPU, in bytes; what a GPU takes was not measured.
"""

import math

from command.atomic_files import free_space
from corpus.data_sets import find_data_sets, in_words
from corpus.find_files import file_size
from storage.lock import training_process
from training import memory
from training.disk import Disk, disk
from training.job import Job
from training.memory import MARGIN, MEASURED, SMALL, Step, total
from training.not_downloaded import NotDownloaded


def plan(job: Job, available: int | None, gpu: int | None = None) -> str:
    """The plan of a run as text. available: bytes of memory, if known; gpu: bytes of the GPU that the run is on, if any."""
    step, settings = memory.step_of(job.settings, job.model.hparams), job.settings
    if gpu is None:
        needed = [*_memory(step, available, settings.worker_count, settings.local_workers or 1), *_measured(step)]
    else:
        needed = _gpu_memory(step, gpu, settings.gpu_memory is not None, settings.worker_count)
    return '\n'.join([*_corpus(job), *_model(job, step), *_run(job), *needed,
                      *_disk(disk(job, step, steps_left(job)), free_space(settings.run_directory), settings.keep)])


def measured_time(job: Job, seconds: float) -> str:
    """What the plan says about time, from the seconds of a step."""
    left = steps_left(job)
    steps = 1000 if left is None else left
    return '\n'.join([f'time, by the median of {job.settings.measure_steps} steps on this machine:',
                      _row('seconds in a step', f'{seconds:.3g}'),
                      _row('tokens in a second', f'{step_tokens(job) / seconds:,.0f}'),
                      _row(f'{steps:,} steps', duration(steps * seconds), 'without validation, samples and saving')])


def duration(seconds: float) -> str:
    """3.2 -> '3 s', 200 -> '3 min', 9000 -> '2 h 30 min', 90000 -> '25 h 0 min'."""
    if seconds < 100:
        return f'{seconds:.0f} s'
    hours, minutes = divmod(round(seconds / 60), 60)
    return f'{hours:,} h {minutes} min' if hours else f'{minutes} min'


def step_tokens(job: Job) -> int:
    """Tokens of all batches of a step."""
    settings = job.settings
    return settings.worker_count * settings.batch_size * settings.accumulate_gradients * settings.seq_length


def steps_left(job: Job) -> int | None:
    """Steps until --max_steps or --epochs ends the run, whichever comes first; None without them."""
    settings, state = job.settings, job.state
    left = []
    if settings.max_steps:
        left.append(settings.max_steps - state.step)
    if settings.epochs:
        left.append(math.ceil((settings.epochs * job.train.total_size - state.tokens) / step_tokens(job)))
    return max(min(left), 0) if left else None


def _corpus(job: Job) -> list[str]:
    settings = job.settings
    files = [file for data_set in find_data_sets(settings.dataset) for file in data_set.files]
    guessed = isinstance(job.model, NotDownloaded) and job.model.estimates and not all(file.endswith('.npz') for file in files)
    estimate = 'an estimate by its bytes: of English prose, code has up to twice as many' if guessed else ''
    lines = [f'corpus: {in_words(settings.dataset)}', _row('files', len(files)), _row('bytes', sum(map(file_size, files))),
             _row('tokens', job.train.total_size, estimate)]
    if settings.worker_count > 1:
        lines.append(_row('workers', settings.worker_count, 'share each step'))
    tokens = step_tokens(job)
    return [*lines, _row('tokens in a step', tokens), _row('steps in an epoch', math.ceil(job.train.total_size / tokens))]


def _run(job: Job) -> list[str]:
    """How many steps the run makes, and what ends it."""
    settings, left = job.settings, steps_left(job)
    limits = [f'--{name} {getattr(settings, name):g}' for name in ('max_steps', 'epochs') if getattr(settings, name)]
    lines = ['run:', _row('steps', 'no limit' if left is None else left,
                          ', '.join(limits) or 'Ctrl-C ends it, or --max_steps or --epochs')]
    if left is not None:
        lines.append(_row('epochs', f'{left * step_tokens(job) / job.train.total_size:.1f}'))
    if settings.patience:
        lines.append(f'  it ends earlier after {settings.patience} validations without a new lowest loss')
    return lines


def _model(job: Job, step: Step) -> list[str]:
    parts = memory.parameters(job.model.hparams)
    missing = isinstance(job.model, NotDownloaded)
    where = (f'{job.model.name}, which is not downloaded: ./download_model.py {job.model.name} fetches it'
             if missing else job.model.directory)
    start = job.checkpoint or ('the published weights' if missing else 'worker 0')
    lines = [f'model: {where}', *(_row(part, count) for part, count in parts.items()),
             _row('parameters', sum(parts.values())),
             _row('trained', memory.trained_parameters(step),
                  f'with {job.settings.optimizer}, from {start}')]
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
    lines = [f'memory of a training step on a CPU, in {step.precision}, by formula:', *_parts(step, None, workers)]
    if local_workers > 1:
        lines.append(_gigabytes(f'{local_workers} workers on this machine', needed))
    if available is None:
        return [*lines, '  this system does not report how much is available']
    return [*lines, _gigabytes('available', available, _verdict(needed, available)),
            *_remedies(step, available, None, local_workers)]


def _gpu_memory(step: Step, gpu: int, named: bool, workers: int) -> list[str]:
    """As _memory, for a run whose workers each have a GPU of so many bytes. named: whether a flag says so."""
    source = '--gpu_memory' if named else 'of the GPU that the driver lists; --gpu_memory 0 plans for the CPU'
    return [f'memory of a training step on a GPU, in {step.precision}, by formula, not measured on one:',
            *_parts(step, gpu, workers), _gigabytes('available', gpu, f'{_verdict(total(step, gpu), gpu)} ({source})'),
            *_remedies(step, gpu, gpu)]


def _parts(step: Step, gpu: int | None, workers: int) -> list[str]:
    return [*(_gigabytes(part, size) for part, size in memory.memory(step, gpu).items() if size),
            _gigabytes('total', total(step, gpu), 'for each worker, and some more for sums' if workers > 1 else '')]


def _remedies(step: Step, available: int, gpu: int | None, sharing: int = 1) -> list[str]:
    """The flags that take less until it fits, if it may not. sharing: processes that share what is available."""
    lines, needed = [], sharing * total(step, gpu)
    flags = memory.remedies(step, gpu)
    while needed * MARGIN > available and (following := next(flags, None)):
        flag, smaller = following
        needed = sharing * total(smaller, gpu)
        lines.append(_gigabytes(flag, needed, _verdict(needed, available)))
    return lines and ['flags that take less, each with all those above it:', *lines]


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


def _disk(disk: Disk, free: int, keep: int) -> list[str]:
    """free: bytes of the run directory's file system."""
    count = 'no limit' if disk.checkpoints is None else disk.checkpoints
    kept = f'by --keep {keep}, and the one that is being written' if keep else '--keep 0 keeps all'
    lines = ['disk:', _gigabytes('a checkpoint', disk.checkpoint), _row('checkpoints at a time, at most', count, kept),
             _gigabytes('encoded corpus', disk.corpus),
             _gigabytes('total', disk.total, 'and more with each checkpoint' if disk.checkpoints is None else '')]
    if disk.existing:
        lines.append(_gigabytes('of it there already, at most', disk.existing))
    verdict = 'fits' if disk.needed <= free else 'too much: try a smaller --keep, or another --checkpoint_dir'
    return [*lines, _gigabytes('available', free, verdict)]


def _row(name: str, value: int | str, remark: str = '') -> str:
    text = f'{value:,}' if isinstance(value, int) else value
    return f'  {name:40} {text:>15}  {remark}'.rstrip()


def _gigabytes(name: str, size: float, remark: str = '') -> str:
    return _row(name, f'{size / 1e9:.2f} GB', remark)
