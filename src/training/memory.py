"""How much memory a training step needs, by formula, and what reduces it."""

import dataclasses
import math
from collections.abc import Iterator

from command.errors import UserError
from command.machine import total_memory, visible_gpus
from corpus.token_files import token_dtype
from network.block_sizes import head_rows, query_block
from network.hparams import HParams
from network.lora import Lora
from training.settings import Settings, is_trained

FLOAT = 4                   # bytes of a number in float32
HALF = ('bfloat16', 'float16')      # of two bytes: the weights as the products need them, and some activations
HALF_ACTIVATIONS = 0.6      # of the bytes of activations in float32: 2 of 10 numbers stay in float32
BYTES = {'float32': 4, 'bfloat16': 2, 'int8': 1}    # of a number of a frozen matrix, by --base_weights
PROCESS = 755e6             # bytes of Python, TensorFlow and the graph, rounded up so that no run of MEASURED takes more
CUDA = 600e6                # bytes of a GPU that its driver and libraries take; not measured
COMPILED = 70e6             # bytes of code that XLA compiles, which it does if nothing is recomputed
ADAPTED_BLOCK = 6e6         # bytes of the ops that adapters add to the graph of a block, rounded up in the same way
ACTIVATIONS = 11            # numbers that a block keeps for each token and feature: 10, and what the allocator loses between them
UNUSED = 0.09               # memory that the allocator holds but cannot use, as a share of what is allocated for good
MARGIN = 1.2                # a step fits for certain if so many times the formula's result is available
FAR = 4                     # a step certainly does not fit if the formula's result is so many times what the machine has


@dataclasses.dataclass(frozen=True)
class Step:
    """What the memory of a training step depends on: the model, and flags under their names, with their defaults."""
    hparams: HParams
    batch_size: int = 1
    seq_length: int = 1024
    accumulate_gradients: int = 1
    memory_saving_gradients: bool = False
    clip_norm: float = 0
    optimizer: str = 'adam'
    only_train_transformer_layers: bool = False
    train_layers: int = 0
    lora_rank: int = 0
    base_weights: str = 'float32'
    dropout: float = 0
    precision: str = 'float32'

    def flags(self) -> str:
        """The flags that are not at their defaults: '--batch_size 4'."""
        return ' '.join(flag_text(field.name, getattr(self, field.name)) for field in dataclasses.fields(self)[1:]
                        if getattr(self, field.name) != field.default)


def flag_text(name: str, value) -> str:
    return f'--{name}' if value is True else f'--{name} {value}'


def step_of(settings: Settings, hparams: HParams) -> Step:
    """The step of a run with these settings."""
    return Step(hparams, **{field.name: getattr(settings, field.name) for field in dataclasses.fields(Step)[1:]})


SMALL, MEDIUM = (HParams(50257, 1024, *size) for size in ((768, 12, 12), (1024, 16, 24)))
# Peak memory of a step in GB, as measured on a CPU (bench/README.md).
MEASURED = {
    Step(SMALL): 3.41,
    Step(SMALL, seq_length=512): 2.97,
    Step(SMALL, seq_length=256): 2.78,
    Step(SMALL, batch_size=4): 4.61,
    Step(SMALL, memory_saving_gradients=True): 3.00,
    Step(SMALL, accumulate_gradients=2): 4.11,
    Step(SMALL, clip_norm=1): 3.46,
    Step(SMALL, optimizer='sgd'): 2.30,
    Step(SMALL, optimizer='adafactor'): 2.37,
    Step(SMALL, only_train_transformer_layers=True): 2.76,
    Step(SMALL, train_layers=4): 1.92,
    Step(SMALL, lora_rank=8): 2.04,
    Step(SMALL, lora_rank=8, memory_saving_gradients=True): 1.51,
    Step(SMALL, lora_rank=8, base_weights='bfloat16'): 1.88,
    Step(SMALL, lora_rank=8, base_weights='int8'): 1.77,
    Step(MEDIUM): 7.19,
    Step(MEDIUM, memory_saving_gradients=True): 6.13,
    Step(MEDIUM, memory_saving_gradients=True, clip_norm=1): 7.18,
    Step(MEDIUM, lora_rank=8, memory_saving_gradients=True): 2.77,
    Step(MEDIUM, lora_rank=8, memory_saving_gradients=True, base_weights='int8'): 1.84,
}
# Flags that take less memory, in the order in which to try them; docs/memory.md explains each. None: a quarter of it.
REMEDIES = {'lora_rank': 8, 'base_weights': 'int8', 'batch_size': 1, 'memory_saving_gradients': True, 'accumulate_gradients': 1,
            'clip_norm': 0, 'optimizer': 'adafactor', 'only_train_transformer_layers': True, 'seq_length': None}
WORTHWHILE = 0.97           # a flag is named if it leaves at most this share of the memory
# Flags that cannot be given together.
EXCLUSIVE = ('lora_rank', 'train_layers', 'only_train_transformer_layers')


def parameters(hparams: HParams) -> dict[str, int]:
    """How many parameters each part of a model has."""
    parts = {'token embeddings': '/wte', 'position embeddings': '/wpe', 'attention': '/attn/', 'mlp': '/mlp/',
             'normalisation': '/ln_'}
    return {part: sum(math.prod(shape) for name, shape in hparams.shapes().items() if mark in name)
            for part, mark in parts.items()}


def trained_parameters(step: Step) -> int:
    """How many of a model's parameters the optimizer updates."""
    return sum(map(math.prod, trained_shapes(step).values()))


def trained_shapes(step: Step) -> dict[str, list[int]]:
    """Name -> shape of the weights that the optimizer updates."""
    factors = Lora(step.lora_rank, 1).shapes(step.hparams) if step.lora_rank else {}
    return {name: shape for name, shape in (step.hparams.shapes() | factors).items()
            if is_trained(name, step, step.hparams.n_layer)}


def optimizer_numbers(step: Step) -> int:
    """How many numbers the optimizer keeps beside the weights."""
    if step.optimizer == 'adafactor':       # a row and a column of each matrix
        return sum(sum(shape[-2:]) for shape in trained_shapes(step).values())
    return 0 if step.optimizer == 'sgd' else 2 * trained_parameters(step)


def memory(step: Step, gpu: int | None = None) -> dict[str, float]:
    """Bytes of each part of a step's memory at its peak. DEVELOPERS.md explains how training came to need no more.

    gpu: bytes of memory of the GPU that the step is on; None for a CPU. A GPU has no part in the process, and larger blocks.

    For its gradient a block keeps 10 * n_embd numbers for each token: its input, queries, keys and values, the output of
    attention, the middle of the residual stream, and 4 * n_embd of the mlp. With recomputation it keeps its input only.

    The peak is either at the head, after the forward pass, with three arrays as large as a block of logits, and wte's
    gradient or its sum and the next part; or within a block, with what its gradient passes through. All other gradients
    are freed as soon as they are used. With adapters, only these have gradients; nothing more is kept. Blocks below the lowest
    one that is trained keep nothing. Adafactor squares a gradient to average it. Of dropout no mask is kept; a block's attention
    passes through two more arrays. With a --precision of two bytes, the rounded weights are kept from the forward pass on, and of
    the 10 numbers 8 are rounded; the head and the attention are counted as in float32.
    """
    size, rows, recompute = step.hparams, step.batch_size * step.seq_length, step.memory_saving_gradients
    n, trained = size.n_embd, trained_parameters(step)
    largest = FLOAT * max(map(math.prod, trained_shapes(step).values()))
    kept = 1 if recompute else ACTIVATIONS * (HALF_ACTIVATIONS if step.precision in HALF else 1)
    activations = FLOAT * rows * n * (step.train_layers or size.n_layer) * kept
    chunk = head_rows(gpu, size.n_vocab)
    logits = 3 * FLOAT * min(rows, chunk) * size.n_vocab + (largest if rows > chunk else 0)
    queries = min(step.seq_length, query_block(gpu, step.batch_size, size.n_head, step.seq_length))
    block = FLOAT * step.batch_size * size.n_head * queries * step.seq_length
    scores = (5 if step.dropout else 3) * block
    adapters = trained if step.lora_rank else 0
    permanent = {'weights': _weights(step) + FLOAT * adapters,
                 'optimizer': FLOAT * optimizer_numbers(step),
                 'sums of gradients': FLOAT * trained if step.accumulate_gradients > 1 else 0}
    graph = (0 if recompute else COMPILED) + (ADAPTED_BLOCK * size.n_layer if step.lora_rank else 0)
    process = {'process': PROCESS + graph + UNUSED * sum(permanent.values())} if gpu is None else {'driver and libraries': CUDA}
    return {**process,
            **permanent,
            **({f'weights in {step.precision}': _rounded_weights(step)} if step.precision in HALF else {}),
            'activations': activations,
            'head': max(logits, FLOAT * rows * n * (26 if recompute else 16) + scores) + _turned_back(step),
            'gradients': _gradients(step, largest, activations) + (largest if step.optimizer == 'adafactor' else 0)}


def _weights(step: Step) -> int:
    """Bytes of the model's weights. Adapters leave the matrices that they are added to frozen, and maybe in a smaller type."""
    numbers = sum(parameters(step.hparams).values())
    if not step.lora_rank:
        return FLOAT * numbers
    matrices = sum(math.prod(shape) for name, shape in step.hparams.shapes().items() if name.endswith('/w'))
    return FLOAT * (numbers - matrices) + BYTES[step.base_weights] * matrices


def _rounded_weights(step: Step) -> int:
    """Bytes of the token embeddings and matrices in two bytes a number; frozen matrices are rounded when they are needed."""
    size = step.hparams
    matrices = 0 if step.lora_rank else 12 * size.n_embd ** 2 * (step.train_layers or size.n_layer)
    return 2 * (matrices + size.n_vocab * size.n_embd)


def _turned_back(step: Step) -> int:
    """Bytes of matrices that are stored in another type than that of the products, and converted for them.

    Twice those of an mlp, rounded up so that no run that was measured takes more.
    """
    same = step.base_weights == ('float32' if step.precision == 'tf32' else step.precision)
    return 0 if same or not step.lora_rank else 2 * FLOAT * 8 * step.hparams.n_embd ** 2


def _gradients(step: Step, largest: float, activations: float) -> float:
    """Bytes of gradients at the peak: the largest one, wte's if that is trained, or all where they are needed together.

    To clip their norm, or in float16 to find out whether one overflowed, they take over the memory of the activations one by
    one; not so if they are summed.
    """
    together = FLOAT * trained_parameters(step)
    if step.accumulate_gradients > 1:
        return together
    return max(largest, together - activations) if step.clip_norm or step.precision == 'float16' else largest


def total(step: Step, gpu: int | None = None) -> float:
    """Bytes of a step's memory at its peak; gpu: as for memory."""
    return sum(memory(step, gpu).values())


def remedies(step: Step, gpu: int | None = None) -> Iterator[tuple[str, Step]]:
    """Those of REMEDIES that make this step smaller, as flags, and the step with each and all before it."""
    for name, value in REMEDIES.items():
        if name in EXCLUSIVE and any(getattr(step, other) for other in EXCLUSIVE if other != name):
            continue
        value = step.seq_length // 4 if value is None else value
        smaller = dataclasses.replace(step, **{name: value})
        if total(smaller, gpu) <= WORTHWHILE * total(step, gpu) and smaller.seq_length > 1:
            step = smaller
            yield flag_text(name, value), step


def advice(step: Step, gpu: int | None, began: str | None) -> str:
    """What to try if memory ran out. began: the name of the run if it has made steps, which --lora_rank would not continue."""
    flags = ', '.join(flag for flag, _ in remedies(step, gpu))
    new_run = f' (--lora_rank in another run, with --restore_from {began})' if began and '--lora_rank' in flags else ''
    return f'try, in this order, each with those before it: {flags}{new_run}' if flags else 'use a smaller model'


def check(settings: Settings, hparams: HParams) -> None:
    """Raises UserError for a run that this machine certainly has no memory for, which would take all of it before it failed.

    The tokens of batches, and the texts of samples, are always in the machine's own memory. A step may be on a GPU: without one,
    it is refused if it needs FAR times the memory that there is.
    """
    existing = total_memory()
    if existing is None:
        return
    here = settings.local_workers or 1
    for flags, needed in _token_memory(settings, hparams).items():
        if here * needed > existing:
            raise UserError(f'{flags}: {_gigabytes(here * needed)} are needed for the tokens alone, this machine has '
                            f'{_gigabytes(existing)}: give smaller numbers')
    if settings.dry_run:        # whose plan names flags that take less
        return
    for flags, needed in _step_memory(settings, hparams).items():
        if here * needed > FAR * existing and not visible_gpus():
            raise UserError(f'{flags}: about {_gigabytes(here * needed)} are needed, this machine has {_gigabytes(existing)} and '
                            'no GPU: give smaller numbers (--dry_run prints how much a run needs)')


def _gigabytes(size: float) -> str:
    return f'{size / 1e9:,.1f} GB'


def _token_memory(settings: Settings, hparams: HParams) -> dict[str, int]:
    """Flags, with values, and the bytes that the tokens or texts which they ask for take at least."""
    size, sequence = settings.batch_size, settings.seq_length * token_dtype(hparams.n_vocab).itemsize
    batches = settings.accumulate_gradients + settings.worker_count - 1     # a worker draws the rows of the others too
    needed = {_values(settings, 'batch_size', 'seq_length', 'accumulate_gradients'): size * batches * sequence}
    if settings.val_every:
        needed[_values(settings, 'val_batch_size', 'val_batch_count')] = (
            settings.val_batch_size * settings.val_batch_count * sequence)
    if settings.sample_every:
        needed[_values(settings, 'sample_num', 'sample_length')] = settings.sample_num * settings.sample_length
    return needed


def _step_memory(settings: Settings, hparams: HParams) -> dict[str, float]:
    """Flags, with values, and the bytes of a training step, and at least of a validation batch and of samples made together."""
    row, together = FLOAT * hparams.n_embd, min(settings.batch_size, settings.sample_num)
    needed = {_values(settings, 'batch_size', 'seq_length', 'local_workers'): total(step_of(settings, hparams))}
    if settings.val_every:      # the residual stream and the middle of an mlp
        needed[_values(settings, 'val_batch_size', 'seq_length')] = 5 * row * settings.val_batch_size * settings.seq_length
    if settings.sample_every:   # keys and values
        needed[_values(settings, 'batch_size', 'sample_num', 'sample_length')] = (
            2 * row * hparams.n_layer * together * settings.sample_length)
    return needed


def _values(settings: Settings, *flags: str) -> str:
    """'--batch_size 4, --seq_length 1024', without flags that are not given."""
    return ', '.join(flag_text(flag, value) for flag in flags if (value := getattr(settings, flag)) is not None)
