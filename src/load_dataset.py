"""Loads files as chunks of token ids, and draws samples from them.

A chunk is one document or several with the end-of-text token between them; a sample lies within one chunk. Chunks are
arrays in memory, or TokenArrays, which stay in a file.
"""

import contextlib
import itertools
import os
from collections.abc import Iterator

import numpy as np

from command.atomic_files import replacing
from command.errors import UserError, reason
from corpus.encode import TASK, Totals, cut_chunks, encode_files
from corpus.find_files import find_files
from corpus.read_text import TextFormat, read_documents
from corpus.token_files import TokenArray, token_dtype, write_chunks


def read_texts(path: str, encoding: str = 'utf-8', **format) -> Iterator[str]:
    """The documents of a corpus (see find_files), one after the other, in non-empty pieces cut by `pieces.cut`.

    format: the other fields of a TextFormat. Raises UserError as `load_dataset` does, and for an .npz, which holds
    tokens, not text.
    """
    format, files = TextFormat(encoding, **format), find_files(path)
    if tokens := [file for file in files if file.endswith('.npz')]:
        raise UserError(f'{tokens[0]} holds tokens; expected text')
    empty = True
    events = itertools.chain.from_iterable(read_documents(file, format) for file in files)
    for text, _ in cut_chunks(events, 1, TASK):
        empty = False
        yield text
    if empty:
        raise _empty(path, files)


def load_dataset(enc, path: str, combine: int, encoding: str | None = 'utf-8', processes: int = 1, **format
                 ) -> list[np.ndarray | TokenArray]:
    """Chunks of token ids, each 1-D, of the files that `path` stands for (see find_files).

    An .npz gives its arrays, as TokenArrays if they are not compressed. Any other file is text, in which <|endoftext|>
    stands for that token; for chunks see encode_files. format: the other fields of a TextFormat. Raises UserError that
    names the file and what is wrong with it, also if the corpus has no tokens.
    """
    return load_files(enc, path, find_files(path), combine, TextFormat('utf-8' if encoding is None else encoding, **format), processes)


def load_files(enc, path: str, files: list[str], combine: int, format: TextFormat, processes: int = 1
               ) -> list[np.ndarray | TokenArray]:
    """As load_dataset, of the files that find_files(path) gave."""
    chunks = []
    for tokens, begins in encode_files(enc, files, combine, format, processes):
        if begins:
            chunks.append([tokens])
        else:
            chunks[-1].append(tokens)
    if not chunks:
        raise _empty(path, files)
    return [chunk[0] if len(chunk) == 1 else np.concatenate(chunk) for chunk in chunks]


def save_files(output: str, enc, path: str, files: list[str], combine: int, format: TextFormat, processes: int = 1
               ) -> tuple[int, Totals]:
    """Encodes the files that find_files(path) gave into an .npz, in bounded memory.

    Returns the number of chunks, and totals. On an error `output` stays as it was. Raises UserError as `load_dataset`,
    and if it cannot be written.
    """
    totals = Totals()
    pieces = encode_files(enc, files, combine, format, processes, totals)
    try:
        with replacing(output) as file, contextlib.closing(pieces):
            chunks = write_chunks(file, pieces, token_dtype(enc.n_vocab), os.path.dirname(output) or '.')
            if not chunks:
                raise _empty(path, files)
    except OSError as error:
        raise UserError(f'cannot write {output}: {reason(error)}') from None
    return chunks, totals


def _empty(path: str, files: list[str]) -> UserError:
    matched = ', '.join(files[:3]) + (f' and {len(files) - 3} more' if len(files) > 3 else '')
    return UserError(f'the corpus {path} is empty: 0 tokens in {matched}')


class Sampler:
    """Draws samples of a corpus: every offset in a chunk at which a sample can start is equally likely.

    chunks: 1-D arrays, or what has their length and slices (TokenArray, Joined); a sample lies within one. seed: an
    int, a SeedSequence, or None for another order in every run. `total_size` is the corpus's size in tokens; `rng` the
    random number generator, from which each sample takes one number.
    """

    def __init__(self, chunks: list[np.ndarray | TokenArray], seed=None):
        self.chunks = chunks
        self.sizes = np.array([len(chunk) for chunk in chunks], np.int64)
        self.total_size = int(self.sizes.sum())
        self.rng = np.random.default_rng(seed)
        self._tables = {}

    def check(self, length: int) -> None:
        """Raises UserError if no chunk has `length` (1 or more) tokens; call it before anything slow."""
        self._starts(length)

    def _starts(self, length: int) -> np.ndarray:
        """How many starts of a sample of `length` tokens the chunks have, cumulative.

        Chunks of 3, 1 and 2 tokens and length 2: there are 2, 0 and 1 starts, so [2, 2, 3]. Raises as `check`.
        """
        if length not in self._tables:
            if length > (longest := self.sizes.max(initial=0)):
                raise UserError(f'the corpus is too short: {length} tokens are needed in one piece, and its longest '
                                f'chunk has {longest}; give a smaller --seq_length, or more text')
            self._tables[length] = np.maximum(self.sizes - length + 1, 0).cumsum()
        return self._tables[length]

    def sample(self, length: int) -> np.ndarray:
        """A random sample of `length` tokens, [length], which the caller may write to.

        Raises as `check`, and UserError if the file that it lies in cannot be read.
        """
        starts = self._starts(length)
        number = self.rng.integers(starts[-1])
        index = np.searchsorted(starts, number, side='right')   # 'right' skips the chunks that are too short
        start = number - (starts[index - 1] if index else 0)
        return np.array(self.chunks[index][start:start + length])
