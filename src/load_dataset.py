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
from corpus.chunks import Chunk, Corpus
from corpus.data_sets import DataSet, find_texts, in_words
from corpus.encode import TASK, Totals, cut_chunks, encode_files
from corpus.find_files import find_files
from corpus.read_text import TextFormat, check_text_column, read_documents
from corpus.records import Skipped
from corpus.token_files import token_dtype, write_chunks


def read_texts(path: str | list[str], encoding: str = 'utf-8', **format) -> Iterator[str]:
    """The documents of a corpus, one after the other, in non-empty pieces cut by `pieces.cut`.

    path: one (see find_files), or several. format: the other fields of a TextFormat. Raises UserError as `load_dataset`
    does, and for an .npz, which holds tokens, not text.
    """
    format, paths = TextFormat(encoding, **format), [path] if isinstance(path, str) else path
    files = find_texts(paths)
    if tokens := [file for file in files if file.endswith('.npz')]:
        raise UserError(f'{tokens[0]} holds tokens; expected text')
    check_text_column(format, files)
    empty, skipped = True, Skipped(format.skip_bad_records)
    events = itertools.chain.from_iterable(read_documents(file, format, skipped=skipped) for file in files)
    for text, _ in cut_chunks(events, 1, TASK):
        empty = False
        yield text
    if empty:
        raise _empty(in_words(paths), files, skipped)
    skipped.report()


def load_dataset(enc, path: str, combine: int, encoding: str | None = 'utf-8', processes: int = 1, **format) -> list[Chunk]:
    """Chunks of token ids, each 1-D, of the files that `path` stands for (see find_files).

    An .npz gives its arrays, as TokenArrays if they are not compressed. Any other file is text, in which <|endoftext|>
    stands for that token; for chunks see encode_files. format: the other fields of a TextFormat. Raises UserError that
    names the file and what is wrong with it, also if the corpus has no tokens.
    """
    format = TextFormat('utf-8' if encoding is None else encoding, **format)
    return load_sets(enc, path, [DataSet(find_files(path))], combine, format, processes).chunks


def load_sets(enc, name: str, sets: list[DataSet], combine: int, format: TextFormat, processes: int = 1) -> Corpus:
    """As load_dataset, of data sets, which share no chunk. name: what an error calls them."""
    totals = Totals()
    chunks = []
    for tokens, begins in _encode_sets(enc, name, sets, combine, format, processes, totals):
        if begins:
            chunks.append([tokens])
        else:
            chunks[-1].append(tokens)
    return corpus_of([chunk[0] if len(chunk) == 1 else np.concatenate(chunk) for chunk in chunks], sets, totals.chunks)


def save_sets(output: str, enc, name: str, sets: list[DataSet], combine: int, format: TextFormat, processes: int = 1
              ) -> Totals:
    """Encodes data sets into an .npz, in bounded memory.

    On an error `output` stays as it was. Raises UserError as `load_sets`, and if it cannot be written.
    """
    totals = Totals()
    pieces = _encode_sets(enc, name, sets, combine, format, processes, totals)
    try:
        with replacing(output) as file, contextlib.closing(pieces):
            write_chunks(file, pieces, token_dtype(enc.n_vocab), os.path.dirname(output) or '.')
    except OSError as error:
        raise UserError(f'cannot write {output}: {reason(error)}') from None
    return totals


def corpus_of(chunks: list[Chunk], sets: list[DataSet], counts: list[int]) -> Corpus:
    """The chunks with the weights of their data sets. counts: how many chunks each set has."""
    weights = [data_set.weight for data_set, count in zip(sets, counts) for _ in range(count)]
    return Corpus(chunks, weights if len(sets) > 1 else None)


def _encode_sets(enc, name: str, sets: list[DataSet], combine: int, format: TextFormat, processes: int, totals: Totals
                 ) -> Iterator[tuple[Chunk, bool]]:
    """Pieces (tokens, whether a chunk begins with them) of the sets. Adds to totals; reports skipped records at the end."""
    totals.skipped.allowed = format.skip_bad_records
    for data_set in sets:
        totals.chunks.append(0)
        with contextlib.closing(encode_files(enc, data_set.files, combine, format, processes, totals)) as pieces:
            for tokens, begins in pieces:
                totals.chunks[-1] += begins
                yield tokens, begins
        if not totals.chunks[-1]:
            raise _empty(name, data_set.files, totals.skipped)
    totals.skipped.report()


def _empty(name: str, files: list[str], skipped: Skipped) -> UserError:
    return UserError(f'the corpus {name} is empty: 0 tokens in {in_words(files)}' + (f'; {skipped}' if skipped.count else ''))


class Sampler:
    """Draws samples of a corpus: every offset in a chunk at which a sample can start is equally likely.

    chunks: a sample lies within one. seed: an int, a SeedSequence, or None for another order in every run. weights: of
    each chunk, if any: an offset is drawn so many times as often as one of weight 1. `total_size` is the corpus's size
    in tokens; `rng` the random number generator, from which each sample takes one number.
    """

    def __init__(self, chunks: list[Chunk], seed=None, weights: list[float] | None = None):
        self.chunks = chunks
        self.sizes = np.array([len(chunk) for chunk in chunks], np.int64)
        self.total_size = int(self.sizes.sum())
        self.rng = np.random.default_rng(seed)
        self._weights = None if weights is None else np.array(weights, np.float64)
        self._tables = {}

    def check(self, length: int) -> None:
        """Raises UserError if no chunk has `length` (1 or more) tokens; call it before anything slow."""
        self._starts(length)

    def _starts(self, length: int) -> np.ndarray:
        """How many starts of a sample of `length` tokens the chunks have, times their weights, cumulative.

        Chunks of 3, 1 and 2 tokens and length 2: there are 2, 0 and 1 starts, so [2, 2, 3]. Raises as `check`.
        """
        if length not in self._tables:
            if length > (longest := self.sizes.max(initial=0)):
                raise UserError(f'the corpus is too short: {length} tokens are needed in one piece, and its longest '
                                f'chunk has {longest}; give a smaller --seq_length, or more text')
            starts = np.maximum(self.sizes - length + 1, 0)
            self._tables[length] = (starts if self._weights is None else starts * self._weights).cumsum()
        return self._tables[length]

    def sample(self, length: int) -> np.ndarray:
        """A random sample of `length` tokens, [length], which the caller may write to.

        Raises as `check`, and UserError if the file that it lies in cannot be read.
        """
        starts = self._starts(length)
        number = self.rng.integers(starts[-1]) if self._weights is None else self.rng.random() * starts[-1]
        index = np.searchsorted(starts, number, side='right')   # 'right' skips the chunks that are too short
        start = number - (starts[index - 1] if index else 0)
        if self._weights is not None:
            start = min(int(start / self._weights[index]), self.sizes[index] - length)      # the quotient may be rounded up
        return np.array(self.chunks[index][start:start + length])
