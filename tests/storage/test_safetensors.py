"""storage/safetensors.py: writes what the safetensors package writes, byte for byte."""

import io

import numpy as np
import pytest

from optional import HUGGINGFACE, needs
from storage.safetensors import write_safetensors

numpy_format = needs('safetensors.numpy', HUGGINGFACE)


@pytest.mark.parametrize('length', range(1, 9))     # of a name: the header is padded to a multiple of 8 bytes
def test_the_file_is_what_the_package_writes(length):
    weights = {'a' * length: np.arange(3, dtype=np.float32), 'b': np.ones([2, 2], np.float32), 'c': np.float32(7)}
    file = io.BytesIO()
    write_safetensors(file, {name: list(np.shape(array)) for name, array in weights.items()}, weights.values())
    assert file.getvalue() == numpy_format.save({name: np.asarray(array) for name, array in weights.items()},
                                                metadata={'format': 'pt'})
