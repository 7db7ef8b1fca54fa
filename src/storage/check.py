"""Whether a checkpoint is complete and fits a model, found out before TensorFlow is imported."""

import os

from command import models
from command.errors import UserError, reason
from storage.bundle import AGAIN, FLOAT32, read_index


def check_checkpoint(prefix: str, weights: dict[str, list[int]]) -> None:
    """Raises UserError unless a checkpoint holds these weights (name -> shape), as float32, in files of the right size.

    The numbers themselves are not read.
    """
    stored, n_shards = read_index(prefix)
    check_shapes(prefix, {name: tensor.shape for name, tensor in stored.items()}, weights)
    for name in weights:
        if stored[name].kind != FLOAT32:
            raise UserError(f'cannot read the checkpoint {prefix}: {name} is not float32 there')
    for shard in range(n_shards):
        path = f'{prefix}.data-{shard:05}-of-{n_shards:05}'
        expected = max((tensor.start + tensor.size for tensor in stored.values() if tensor.shard == shard), default=0)
        try:
            with open(path, 'rb') as file:
                size = file.seek(0, os.SEEK_END)
        except OSError as error:
            raise UserError(f'cannot read the checkpoint {prefix}: {path}: {reason(error)}') from None
        if size < expected:
            raise UserError(f'cannot read the checkpoint {prefix}: {path} is cut off: it has {size:,} bytes of {expected:,}; {AGAIN}')


def check_shapes(prefix: str, stored: dict[str, list[int]], weights: dict[str, list[int]]) -> None:
    """Raises UserError unless what a checkpoint holds (name -> shape) has these weights in these shapes, and no more blocks."""
    other = f'{prefix} is a checkpoint of another model, it looks like {_model_of(stored)}:'
    for name, shape in weights.items():
        if name not in stored:
            raise UserError(f'{other} it holds no {name}')
        if stored[name] != shape:
            raise UserError(f'{other} {name} is {stored[name]} there, {shape} here')
    blocks = {name.split('/')[1] for name in stored if name.startswith('model/h')}
    if extra := blocks - {name.split('/')[1] for name in weights}:
        raise UserError(f'{other} it holds model/{min(extra)} too')


def _model_of(stored: dict[str, list[int]]) -> str:
    """The model that a checkpoint's shapes are those of: '355M', or its sizes."""
    n_layer = len({name.split('/')[1] for name in stored if name.startswith('model/h')})
    n_embd = stored['model/wte'][-1] if stored.get('model/wte') else 0
    for name, sizes in models.SIZES.items():
        if (n_layer, n_embd) == sizes:
            return name
    return f'a model with n_layer {n_layer} and n_embd {n_embd}'
