"""Hugging Face's safetensors format, written one tensor at a time, so that a model need not fit into memory."""

import json
import struct
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np


def write_safetensors(file: BinaryIO, shapes: dict[str, list[int]], tensors: Iterable[np.ndarray]) -> None:
    """Writes tensors, as float32, as safetensors does, byte for byte: sorted by name, and marked as PyTorch's.

    shapes: of each name, sorted; tensors: in that order, each read when its turn comes.
    """
    header, start = {'__metadata__': {'format': 'pt'}}, 0
    for name, shape in shapes.items():
        end = start + 4 * int(np.prod(shape))
        header[name] = {'dtype': 'F32', 'shape': shape, 'data_offsets': [start, end]}
        start = end
    text = json.dumps(header, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)         # so that the numbers are aligned
    file.write(struct.pack('<Q', len(text)) + text)
    file.writelines(np.ascontiguousarray(tensor, '<f4').data for tensor in tensors)
