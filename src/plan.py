"""What a training run would do, told before it starts: its corpus, its model, and the memory that it takes, by formula.

Neither TensorFlow nor the weights are loaded. Memory is a process's resident memory on a CPU, in bytes; what a GPU takes
was not measured.
"""

import argparse
import dataclasses
import math
import os
from collections.abc import Iterator
from typing import NamedTuple

import run_dir
from corpus_files import file_size, find_files
from hparams import HParams
from job import Job, finished

FLOAT = 4                   # bytes of a number: float32, whatever the --precision of the matrix multiplications
PROCESS = 500e6             # bytes of Python, TensorFlow and the graph
COMPILED = 70e6             # of what XLA compiles, where nothing is recomputed
UNUSED = 0.09               # of what stays for good: room beside it that the allocator holds and does not find a use for
QUERY_BLOCK, HEAD_ROWS = 256, 512       # as in fused.py, which cannot be imported without TensorFlow
MARGIN = 1.2                # the formula is within a fifth of each of MEASURED


@dataclasses.dataclass(frozen=True)
class Step:
    """What the memory of a training step depends on. only_layers: leaves the embeddings alone."""
    hparams: HParams
    batch_size: int = 1
    seq_length: int = 1024
    accumulate: int = 1
    memory_saving: bool = False
    clip_norm: float = 0.0
    optimizer: str = 'adam'
    only_layers: bool = False


class Measured(NamedTuple):
    """Peak memory of a step as bench/README.md has it, in GB."""
    flags: str
    step: Step
    peak: float


SMALL, MEDIUM = (HParams(50257, 1024, *size) for size in ((768, 12, 12), (1024, 16, 24)))
MEASURED = [
    Measured('', Step(SMALL), 3.32),
    Measured('--seq_length 512', Step(SMALL, seq_length=512), 2.90),
    Measured('--seq_length 256', Step(SMALL, seq_length=256), 2.65),
    Measured('--batch_size 4', Step(SMALL, batch_size=4), 4.50),
    Measured('--memory_saving_gradients', Step(SMALL, memory_saving=True), 2.79),
    Measured('--accumulate_gradients 2', Step(SMALL, accumulate=2), 4.15),
    Measured('--clip_norm 1', Step(SMALL, clip_norm=1.0), 3.31),
    Measured('--optimizer sgd', Step(SMALL, optimizer='sgd'), 2.26),
    Measured('--only_train_transformer_layers', Step(SMALL, only_layers=True), 2.93),
    Measured('', Step(MEDIUM), 7.10),
    Measured('--memory_saving_gradients', Step(MEDIUM, memory_saving=True), 6.06),
    Measured('--memory_saving_gradients --clip_norm 1', Step(MEDIUM, memory_saving=True, clip_norm=1.0), 7.02),
]


def parameters(hparams: HParams) -> dict[str, int]:
    """How many parameters each part of a model has."""
    parts = {'token embeddings': '/wte', 'position embeddings': '/wpe', 'attention': '/attn/', 'mlp': '/mlp/',
             'normalisation': '/ln_'}
    sizes = _sizes(hparams)
    return {part: sum(size for name, size in sizes.items() if mark in name) for part, mark in parts.items()}


def trained_parameters(step: Step) -> int:
    """How many of a model's parameters the optimizer changes."""
    return sum(size for name, size in _sizes(step.hparams).items() if '/h' in name or not step.only_layers)


def _sizes(hparams: HParams) -> dict[str, int]:
    return {name: math.prod(shape) for name, shape in hparams.shapes().items()}


def memory(step: Step) -> dict[str, float]:
    """What a step holds when it holds most, part by part, in bytes. DEVELOPERS.md tells how training came to need no more.

    For each token a block keeps ten times n_embd numbers for its gradient: its input, queries, keys and values, what
    attention gives, the middle of the residual stream, and the four of the mlp. When they are recomputed, it is its input.

    Most is held at the head, after the forward pass: three arrays as large as a run of logits, and wte's gradient, or its
    sum and the next run's part; or else in a block, with what its gradient passes through. The other gradients go as they
    come; where all are needed at once, they find the room that activations and head have left.
    """
    size, rows = step.hparams, step.batch_size * step.seq_length
    n, trained = size.n_embd, trained_parameters(step)
    embedding = FLOAT * size.n_vocab * n
    kept = FLOAT * rows * n * size.n_layer * (1 if step.memory_saving else 10)
    logits = 3 * FLOAT * min(rows, HEAD_ROWS) * size.n_vocab + (embedding if rows > HEAD_ROWS else 0)
    scores = 3 * FLOAT * step.batch_size * size.n_head * min(step.seq_length, QUERY_BLOCK) * step.seq_length
    head = max(logits, FLOAT * rows * n * (26 if step.memory_saving else 16) + scores)
    at_once = FLOAT * trained if step.accumulate > 1 or step.clip_norm else 0
    stays = {'weights': FLOAT * sum(_sizes(size).values()),
             'optimizer': 0 if step.optimizer == 'sgd' else 2 * FLOAT * trained,
             'sums of gradients': FLOAT * trained if step.accumulate > 1 else 0}
    return {'process': PROCESS + (0 if step.memory_saving else COMPILED) + UNUSED * sum(stays.values()),
            **stays,
            'activations': kept,
            'head': head,
            'gradients': max(embedding, at_once - kept - head)}


def available_memory() -> int | None:
    """Bytes that a new process may have before others lose theirs; None where the system does not tell."""
    try:
        with open('/proc/meminfo', encoding='ascii') as file:
            values = dict(line.split(':') for line in file)
        return int(values['MemAvailable'].split()[0]) * 1024
    except (OSError, KeyError):     # not Linux, or an old one
        if {'SC_PHYS_PAGES', 'SC_PAGE_SIZE'} <= os.sysconf_names.keys():
            return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
        return None


def remedies(step: Step) -> Iterator[tuple[str, Step]]:
    """Flags that may make a step fit, each together with those before it, in the order in which to try them."""
    for flag, applies, change in [
        ('--batch_size 1', step.batch_size > 1, {'batch_size': 1}),
        ('--memory_saving_gradients', not step.memory_saving, {'memory_saving': True}),
        ('--accumulate_gradients 1', step.accumulate > 1, {'accumulate': 1}),
        ('--clip_norm 0', step.clip_norm > 0, {'clip_norm': 0.0}),
        ('--optimizer sgd', step.optimizer != 'sgd', {'optimizer': 'sgd'}),
        ('--only_train_transformer_layers', not step.only_layers, {'only_layers': True}),
        (f'--seq_length {step.seq_length // 4}', step.seq_length >= 8, {'seq_length': step.seq_length // 4}),
    ]:
        before = sum(memory(step).values())
        if applies and sum(memory(dataclasses.replace(step, **change)).values()) < before:
            step = dataclasses.replace(step, **change)
            yield flag, step


def plan(args: argparse.Namespace, job: Job, available: int | None) -> str:
    """The plan of a run as text. available: bytes of memory, if known."""
    step = Step(job.hparams, args.batch_size, job.seq_length, args.accumulate_gradients, job.memory_saving, args.clip_norm,
                args.optimizer, args.only_train_transformer_layers)
    return '\n'.join([*_corpus(args, job), *_model(args, job, step),
                      *_memory(step, available, job.workers, args.local_workers or 1), *_measured(step)])


def _corpus(args: argparse.Namespace, job: Job) -> list[str]:
    found = find_files(args.dataset)
    of_step = job.workers * args.batch_size * args.accumulate_gradients * job.seq_length
    of_epoch = job.train.total_size / of_step
    lines = [f'corpus: {args.dataset}', _row('files', len(found)), _row('bytes', sum(map(file_size, found))),
             _row('tokens', job.train.total_size),
             *([_row('workers', job.workers, 'share each step')] if job.workers > 1 else []), _row('tokens in a step', of_step),
             _row('steps in an epoch', math.ceil(of_epoch))]
    if args.max_steps:
        lines.append(_row('epochs', f'{args.max_steps / of_epoch:.1f}', f'in --max_steps {args.max_steps}'))
    if args.epochs:
        lines.append(_row('steps', math.ceil(args.epochs * of_epoch), f'in --epochs {args.epochs:g}'))
    return lines


def _model(args: argparse.Namespace, job: Job, step: Step) -> list[str]:
    parts = parameters(job.hparams)
    lines = [f'model: {job.model_directory}', *(_row(part, count) for part, count in parts.items()),
             _row('parameters', sum(parts.values())),
             _row('trained', trained_parameters(step), f'with {args.optimizer}, from {job.checkpoint or "worker 0"}')]
    if owner := run_dir.trainer(job.run_directory):
        lines.append(f'  another process (number {owner}) trains in {job.run_directory} now: a run would be refused until it ends')
    if why := finished(args, job.state, job.train.total_size):
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
    size = sum(_sizes(step.hparams).values())
    nearest = min((measured.step.hparams for measured in MEASURED),
                  key=lambda hparams: abs(math.log(sum(_sizes(hparams).values()) / size)))
    name = '124M' if nearest == SMALL else '355M'
    lines = [_gigabytes(f'{name} {measured.flags}', measured.peak * 1e9) for measured in MEASURED
             if measured.step.hparams == nearest]
    return ['measured (bench/README.md; one sequence of 1,024 tokens where nothing else is said):', *lines]


def _row(name: str, value: int | str, remark: str = '') -> str:
    text = f'{value:,}' if isinstance(value, int) else value
    return f'  {name:40} {text:>15}  {remark}'.rstrip()


def _gigabytes(name: str, size: float, remark: str = '') -> str:
    return _row(name, f'{size / 1e9:.2f} GB', remark)
