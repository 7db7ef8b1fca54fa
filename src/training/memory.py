"""How much memory a training step needs, by formula, and what reduces it."""

import dataclasses
import math
from collections.abc import Iterator
from typing import NamedTuple

from network.block_sizes import HEAD_ROWS, QUERY_BLOCK
from network.hparams import HParams
from training.settings import Settings

FLOAT = 4                   # bytes of a number: float32, whatever the --precision of the matrix multiplications
PROCESS = 680e6             # bytes of Python, TensorFlow and the graph: so much that no row of MEASURED is above the formula
COMPILED = 70e6             # of what XLA compiles, where nothing is recomputed
UNUSED = 0.09               # of what stays for good: room beside it that the allocator holds and does not find a use for
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


def step_of(settings: Settings, hparams: HParams) -> Step:
    """The step of a run with these settings."""
    return Step(hparams, settings.batch_size, settings.seq_length, settings.accumulate_gradients,
                settings.memory_saving_gradients, settings.clip_norm, settings.optimizer,
                settings.only_train_transformer_layers)


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


def size_of(hparams: HParams) -> int:
    """How many parameters a model has."""
    return sum(_sizes(hparams).values())


def _sizes(hparams: HParams) -> dict[str, int]:
    return {name: math.prod(shape) for name, shape in hparams.shapes().items()}


def memory(step: Step) -> dict[str, float]:
    """What a step holds when it holds most, part by part, in bytes. DEVELOPERS.md tells how training came to need no more.

    For each token a block keeps ten times n_embd numbers for its gradient: its input, queries, keys and values, what
    attention gives, the middle of the residual stream, and the four of the mlp. When they are recomputed, it is its input.

    Most is held at the head, after the forward pass: three arrays as large as a run of logits, and wte's gradient, or its
    sum and the next run's part; or else in a block, with what its gradient passes through. The other gradients go as they
    come.
    """
    size, rows = step.hparams, step.batch_size * step.seq_length
    n, trained = size.n_embd, trained_parameters(step)
    embedding = FLOAT * size.n_vocab * n
    kept = FLOAT * rows * n * size.n_layer * (1 if step.memory_saving else 10)
    logits = 3 * FLOAT * min(rows, HEAD_ROWS) * size.n_vocab + (embedding if rows > HEAD_ROWS else 0)
    scores = 3 * FLOAT * step.batch_size * size.n_head * min(step.seq_length, QUERY_BLOCK) * step.seq_length
    head = max(logits, FLOAT * rows * n * (26 if step.memory_saving else 16) + scores)
    stays = {'weights': FLOAT * size_of(size),
             'optimizer': 0 if step.optimizer == 'sgd' else 2 * FLOAT * trained,
             'sums of gradients': FLOAT * trained if step.accumulate > 1 else 0}
    return {'process': PROCESS + (0 if step.memory_saving else COMPILED) + UNUSED * sum(stays.values()),
            **stays,
            'activations': kept,
            'head': head,
            'gradients': _gradients(step, embedding, kept)}


def _gradients(step: Step, embedding: float, activations: float) -> float:
    """Bytes of gradients at the peak: wte's, or all of them where they are needed together.

    For a clipped norm they take the room that activations leave, one after the other; with sums of gradients they do not.
    """
    together = FLOAT * trained_parameters(step)
    if step.accumulate > 1:
        return together
    return max(embedding, together - activations) if step.clip_norm else embedding


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
