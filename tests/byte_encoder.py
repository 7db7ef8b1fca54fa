"""A fake encoder whose tokens are bytes, and helpers for the tests of corpora."""

import numpy as np
import pytest

from command.errors import UserError
from corpus.data_sets import DataSet
from corpus.find_files import find_files
from corpus.read_text import TextFormat
from corpus.token_files import token_dtype
from load_dataset import load_dataset, save_sets
from vocabulary.special import ONLY_END_OF_TEXT

END = 256


class ByteEncoder:
    n_vocab = 257
    end_of_text = END
    special_tokens = ONLY_END_OF_TEXT

    def encode_with_special(self, text):
        ids = []
        for part in text.split('<|endoftext|>'):
            ids += [*part.encode(), END]
        return ids[:-1]

    def encode_array(self, text):
        return np.array(self.encode_with_special(text), token_dtype(self.n_vocab))


class WideEncoder(ByteEncoder):
    n_vocab = 65537


ENC = ByteEncoder()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def load(path, combine=50000, enc=ENC, **kwargs):
    return [chunk[:].tolist() for chunk in load_dataset(enc, str(path), combine, **kwargs)]


def save(output, path, combine=50000, enc=ENC, processes=1, **format):
    totals = save_sets(output, enc, str(path), [DataSet(find_files(path))], combine, TextFormat(**format), processes)
    return sum(totals.chunks), totals


def error_of(function, *args, **kwargs):
    with pytest.raises(UserError) as info:
        function(*args, **kwargs)
    return str(info.value)
