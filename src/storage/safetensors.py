"""Writes Hugging Face's safetensors format, one tensor at a time."""

import json
import struct
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np


def write_safetensors(file: BinaryIO, shapes: dict[str, list[int]], tensors: Iterable[np.ndarray]) -> None:
    """Writes tensors as float32, marked as PyTorch's, byte for byte as the safetensors package does.

    shapes: name -> shape, sorted by name; tensors: in the same order, consumed one by one, so a model need not fit in memory.
    """
    header, start = {'__metadata__': {'format': 'pt'}}, 0
    for name, shape in shapes.items():
        end = start + 4 * int(np.prod(shape))
        header[name] = {'dtype': 'F32', 'shape': shape, 'data_offsets': [start, end]}
        start = end
    text = json.dumps(header, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)         # aligns the numbers
    file.write(struct.pack('<Q', len(text)) + text)
    file.writelines(np.ascontiguousarray(tensor, '<f4').data for tensor in tensors)
