"""Checks that a checkpoint is complete, finite, and of the right model."""

import os
from collections.abc import Iterable

import google_crc32c
import numpy as np

from command import models
from command.errors import UserError, reason
from command.read_files import check_kind
from storage.bundle import FLOAT32, REMEDY, Entry, data_file, mask, read_index

BLOCK = 2 ** 22     # numbers read at a time
CHUNK = 1 << 20


def check_checkpoint(prefix: str, weights: dict[str, list[int]]) -> None:
    """Raises UserError unless a checkpoint has these weights (name -> shape) as float32, complete, none NaN or infinite.

    Reads all weights once, in blocks, which leaves them in the system's cache for TensorFlow.
    """
    stored, n_shards = read_index(prefix)
    check_shapes(prefix, {name: entry.shape for name, entry in stored.items()}, weights)
    for name in weights:
        if stored[name].dtype != FLOAT32:
            raise UserError(f'cannot read the checkpoint {prefix}: it does not hold {name} as float32')
    for shard in range(n_shards):
        path = data_file(prefix, shard, n_shards)
        expected = max((entry.offset + entry.size for entry in stored.values() if entry.shard == shard), default=0)
        try:
            with open(path, 'rb') as file:
                size = file.seek(0, os.SEEK_END)
        except OSError as error:
            raise UserError(f'cannot read the checkpoint {prefix}: {path}: {reason(error)}') from None
        if size < expected:
            check_kind(path)
            raise UserError(f'cannot read the checkpoint {prefix}: {path} is cut off: it has {size:,} bytes of {expected:,}; '
                            f'{REMEDY}')
    _check_finite(prefix, {name: stored[name] for name in weights}, n_shards)


def _check_finite(prefix: str, entries: dict[str, Entry], n_shards: int) -> None:
    """Raises UserError that names the first weight, by its place in the files, with a number that is NaN or infinite."""
    buffer = np.empty(BLOCK, '<f4')
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].shard, item[1].offset)):
        path = data_file(prefix, entry.shard, n_shards)
        try:
            with open(path, 'rb') as file:
                file.seek(entry.offset)
                for start in range(0, entry.size // 4, BLOCK):
                    block = buffer[:entry.size // 4 - start]
                    if file.readinto(block) and not is_finite(block):
                        raise UserError(f'the checkpoint {prefix} is of no use: its weight {name} holds NaN or infinite '
                                        f'numbers; take an earlier checkpoint (train.py: --restore_from), or {REMEDY}')
        except OSError as error:
            raise UserError(f'cannot read the checkpoint {prefix}: {path}: {reason(error)}') from None


def is_untrained(prefix: str, weights: Iterable[str]) -> bool:
    """Whether a complete checkpoint has the weights of a new model: all gains 1, all biases 0, which one update changes."""
    stored, n_shards = read_index(prefix)
    for name in weights:
        entry, value = stored[name], {'g': 1, 'b': 0}.get(name.rpartition('/')[2])
        if value is not None:
            with open(data_file(prefix, entry.shard, n_shards), 'rb') as file:
                file.seek(entry.offset)
                if (np.frombuffer(file.read(entry.size), '<f4') != value).any():
                    return False
    return True


def is_finite(array: np.ndarray) -> bool:
    """Whether no number is NaN or infinite. Needs no memory: minimum and maximum show both."""
    with np.errstate(invalid='ignore'):     # numpy warns of NaN in some types
        return array.size == 0 or bool(np.isfinite(array.min()) and np.isfinite(array.max()))


def is_sound(prefix: str) -> bool:
    """Whether a checkpoint's files are complete and match the checksums that TensorFlow stores of each tensor. Reads them all.

    Tensors of other types than float32, like strings, have checksums of another kind; they are not compared.
    """
    try:
        stored, n_shards = read_index(prefix)
        shards = [open(data_file(prefix, shard, n_shards), 'rb') for shard in range(n_shards)]    # noqa: SIM115
    except (UserError, OSError):
        return False
    try:
        return all(_matches(entry, shards[entry.shard]) for entry in stored.values() if entry.dtype == FLOAT32)
    except (LookupError, OSError):
        return False
    finally:
        for file in shards:
            file.close()


def _matches(entry: Entry, file) -> bool:
    """Whether the bytes of a tensor match its checksum; True for one without a checksum, whose parts are entries themselves."""
    file.seek(entry.offset)
    crc, left = 0, entry.size
    while left and (piece := file.read(min(left, CHUNK))):
        crc, left = google_crc32c.extend(crc, piece), left - len(piece)
    return not left and entry.checksum in (None, mask(crc))


def check_shapes(prefix: str, stored: dict[str, list[int]], weights: dict[str, list[int]]) -> None:
    """Raises UserError unless the shapes stored in a checkpoint include these weights', and no further blocks.

    Both are name -> shape.
    """
    problem = f'{prefix} is a checkpoint of another model, it looks like {_model_of(stored)}:'
    for name, shape in weights.items():
        if name not in stored:
            raise UserError(f'{problem} it holds no {name}')
        if stored[name] != shape:
            raise UserError(f'{problem} {name} is {stored[name]} there, {shape} here')
    blocks = {name.split('/')[1] for name in stored if name.startswith('model/h')}
    if extra := blocks - {name.split('/')[1] for name in weights}:
        raise UserError(f'{problem} it holds model/{min(extra)} too')


def _model_of(stored: dict[str, list[int]]) -> str:
    """The model with these shapes: '355M', or its sizes if it was not published."""
    n_layer = len({name.split('/')[1] for name in stored if name.startswith('model/h')})
    n_embd = stored['model/wte'][-1] if stored.get('model/wte') else 0
    for name, sizes in models.SIZES.items():
        if (n_layer, n_embd) == sizes:
            return name
    return f'a model with n_layer {n_layer} and n_embd {n_embd}'
