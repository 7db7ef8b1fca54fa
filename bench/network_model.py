#!/usr/bin/env python3
"""A model of the time of a training step with several workers.

    bench/network_model.py

prints the predicted steps of each size of GPT-2 on networks that are not here. Each worker holds the complete model;
after each batch the gradients are summed by a ring all-reduce (Patarasuk & Yuan 2009, "Bandwidth optimal all-reduce
algorithms for clusters of workstations"), one bucket at a time, as src/workers/collectives.py does. The computation's
time is an input. The reduction does not overlap with computation, unless `overlap` is given.
"""

import dataclasses
import math
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), 'src'))

from command import models, tensorflow_setup
from network.hparams import HParams, default_hparams

WORKERS, GIGABITS = (8, 64, 512), (10, 100, 400)
LATENCY = 20e-6             # seconds from one worker to the next; TCP through a switch or two
FLOPS = 50e12               # per second and worker, sustained
BATCH, SEQUENCE = 8, 1024   # of each worker
BACKWARD = 2 / 3            # the backward pass's share of a step's computation


def published(name: str) -> HParams:
    """The sizes of a published GPT-2, '124M' to '1558M'; all have the same head size."""
    smallest, (n_layer, n_embd) = default_hparams(), models.SIZES[name]
    return dataclasses.replace(smallest, n_layer=n_layer, n_embd=n_embd, n_head=n_embd // smallest.head_size)


def reduction_seconds(nbytes: float, workers: int, *, bandwidth: float, latency: float, buckets: int = 1) -> float:
    """The time of a ring all-reduce of nbytes, in a number of buckets, one at a time.

    A bucket takes 2 (workers - 1) rounds, in each of which every worker sends 1/workers of it to the next one and
    receives as much from the previous one. bandwidth: bytes per second, each way; latency: seconds until a piece begins
    to arrive.
    """
    rounds = 2 * (workers - 1)
    return rounds * (buckets * latency + nbytes / workers / bandwidth)


def step_seconds(compute: float, reduction: float, overlap: float = 0.0) -> float:
    """A step in which the reduction can run during `overlap` seconds of the computation."""
    return compute + max(reduction - overlap, 0.0)


def training_flops(hparams: HParams, batch: int, sequence: int) -> float:
    """FLOPs of a step's matmuls: forward, and twice as many backward; attention without its masked half."""
    size = hparams
    weights = 12 * size.n_layer * size.n_embd ** 2 + size.n_vocab * size.n_embd
    attention = 2 * size.n_layer * size.n_embd * sequence / 2
    return 3 * 2 * batch * sequence * (weights + attention)


def gradient_buckets(hparams: HParams, dtype: str) -> list[int]:
    """Bytes of each bucket in which a model's gradients are sent as 'float32' or 'bfloat16' (training/optimizer.py)."""
    import tensorflow.compat.v1 as tf

    from workers.collectives import buckets
    sizes = [math.prod(shape) for shape in reversed(hparams.shapes().values())] + [2]   # 2: the loss, a request to stop
    dtypes = [tf.as_dtype(dtype)] * (len(sizes) - 1) + [tf.float32]
    return [sum((stop - start) * dtypes[i].size for i, start, stop in bucket) for bucket in buckets(sizes, dtypes)]


def paper_tables() -> str:
    """Markdown: the step of each size of GPT-2 on each network, and the share of computation in it."""
    title = (f'{FLOPS / 1e12:g} TFLOP/s sustained by each worker, {BATCH} x {SEQUENCE:,} tokens for each, '
             f'{LATENCY * 1e6:g} µs to the next one; seconds of a step (and the share of computation in it)')
    overlapping = 'the same if the reduction could run during all of the backward pass'
    return '\n'.join([title, '', *_table(0.0), '', overlapping, '', *_table(BACKWARD)])


def _table(overlap: float) -> list[str]:
    """overlap: the share of the computation during which the reduction can run."""
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
            steps = [step_seconds(compute, reduction, overlap * compute) for reduction in reductions]
            cells = ' | '.join(f'{step:.2f} ({compute / step:.2f})' for step in steps)
            lines.append(f'| {name}, {dtype} | {sum(sizes) / 1e6:.0f} | {len(sizes)} | {compute:.2f} | {cells} |')
    return lines


if __name__ == '__main__':
    tensorflow_setup.load_tensorflow()
    print(paper_tables())
