"""The time of a training step with several workers, on paper.

Workers hold the whole model; after each batch their gradients are summed by a ring all-reduce (Patarasuk & Yuan 2009,
"Bandwidth optimal all-reduce algorithms for clusters of workstations"), one bucket after the other, as src/distributed.py
has it. Computation is a parameter. Nothing here is counted as going on beside anything else, unless `beside` says so.
"""

import dataclasses
import math

from command import models
from network.hparams import HParams, default_hparams

WORKERS, GIGABITS = (8, 64, 512), (10, 100, 400)
LATENCY = 20e-6             # seconds from one worker to the next; TCP through a switch or two
FLOPS = 50e12               # each second of one worker, sustained
BATCH, SEQUENCE = 8, 1024   # of each worker
BACKWARD = 2 / 3            # of the computation of a step


def published(name: str) -> HParams:
    """The sizes of a published GPT-2, '124M' to '1558M'; all have heads of as many features."""
    smallest, (n_layer, n_embd) = default_hparams(), models.SIZES[name]
    return dataclasses.replace(smallest, n_layer=n_layer, n_embd=n_embd, n_head=n_embd // smallest.head_size)


def reduction_seconds(nbytes: float, workers: int, *, bandwidth: float, latency: float, buckets: int = 1) -> float:
    """How long a ring all-reduce of nbytes takes, in as many buckets, one after the other.

    A bucket goes round in 2 (workers - 1) turns: in each one every worker sends its neighbour a piece, the workers-th part,
    and has one from the other side. bandwidth: bytes per second, each way; latency: seconds until a piece begins to arrive.
    """
    turns = 2 * (workers - 1)
    return turns * (buckets * latency + nbytes / workers / bandwidth)


def step_seconds(compute: float, reduction: float, beside: float = 0.0) -> float:
    """A step of which `beside` seconds of the computation can hide the reduction."""
    return compute + max(reduction - beside, 0.0)


def training_flops(hparams: HParams, batch: int, sequence: int) -> float:
    """Of one step's matmuls, forward and twice that backward; attention only where it is not masked."""
    size = hparams
    weights = 12 * size.n_layer * size.n_embd ** 2 + size.n_vocab * size.n_embd
    attention = 2 * size.n_layer * size.n_embd * sequence / 2
    return 3 * 2 * batch * sequence * (weights + attention)


def gradient_buckets(hparams: HParams, dtype: str) -> list[int]:
    """Bytes of each bucket in which a model's gradients travel as 'float32' or 'bfloat16', as src/optimize.py hands them on."""
    import tensorflow.compat.v1 as tf  # late, as everywhere

    from workers.collectives import buckets
    sizes = [math.prod(shape) for shape in reversed(hparams.shapes().values())] + [2]       # the loss, and whether to stop
    dtypes = [tf.as_dtype(dtype)] * (len(sizes) - 1) + [tf.float32]
    return [sum((stop - start) * dtypes[i].size for i, start, stop in bucket) for bucket in buckets(sizes, dtypes)]


def paper_tables() -> str:
    """Markdown: the step of each size of GPT-2 on each network, and how much of it is computation."""
    title = (f'{FLOPS / 1e12:g} TFLOP/s sustained by each worker, {BATCH} x {SEQUENCE:,} tokens for each, {LATENCY * 1e6:g} µs to '
             'the next one; seconds of a step (and the share of computation in it)')
    beside = 'the same if the reduction could go on beside all of the backward pass'
    return '\n'.join([title, '', *_table(0.0), '', beside, '', *_table(BACKWARD)])


def _table(beside: float) -> list[str]:
    """beside: the share of the computation that can hide the reduction."""
    networks = [(workers, gigabits) for gigabits in GIGABITS for workers in WORKERS]
    heads = ['', 'gradients, MB', 'buckets', 'computation, s',
             *(f'{workers} at {gigabits} Gbit/s' for workers, gigabits in networks)]
    lines = [f'| {" | ".join(heads)} |', '|---' * len(heads) + '|']
    for name in models.PUBLISHED:
        compute = training_flops(published(name), BATCH, SEQUENCE) / FLOPS
        for dtype in ('float32', 'bfloat16'):
            sizes = gradient_buckets(published(name), dtype)
            reductions = [reduction_seconds(sum(sizes), workers, bandwidth=gigabits * 1e9 / 8, latency=LATENCY,
                                            buckets=len(sizes)) for workers, gigabits in networks]
            steps = [step_seconds(compute, reduction, beside * compute) for reduction in reductions]
            cells = ' | '.join(f'{step:.2f} ({compute / step:.2f})' for step in steps)
            lines.append(f'| {name}, {dtype} | {sum(sizes) / 1e6:.0f} | {len(sizes)} | {compute:.2f} | {cells} |')
    return lines
