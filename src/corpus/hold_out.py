"""Splits a corpus into documents for training and for validation."""

import numpy as np

from command.errors import UserError
from corpus.token_files import PIECE, TokenArray


class Joined:
    """Parts of arrays of tokens as one, with a separator between them; a slice is copied when it is taken.

        Joined([([1, 2, 3], 0, 2), ([4], 0, 1)], 9)[:] -> [1, 2, 9, 4]

    parts: (array, start, stop), of 1-D arrays of one dtype.
    """

    def __init__(self, parts: list[tuple[np.ndarray | TokenArray, int, int]], separator: int):
        self.parts, self.dtype = parts, parts[0][0].dtype
        self._separator = np.array([separator], self.dtype)
        self._ends = np.cumsum([stop - start + 1 for _, start, stop in parts])   # of each part with its separator

    def __len__(self) -> int:
        return int(self._ends[-1]) - 1

    def __getitem__(self, where: slice) -> np.ndarray:
        start, stop, _ = where.indices(len(self))
        found = [self._separator[:0]]
        for index in range(self._ends.searchsorted(start, 'right'), self._ends.searchsorted(stop, 'left') + 1):
            array, first, last = self.parts[index]
            end = int(self._ends[index]) - 1        # of the part: position `end` here is `last` in the array
            found.append(array[max(last - end + start, first):max(min(last - end + stop, last), first)])
            if end < stop:
                found.append(self._separator)
        return np.concatenate(found)


def hold_out(chunks: list[np.ndarray | TokenArray], end_of_text: int, share: float
             ) -> tuple[list[Joined], list[Joined]]:
    """Chunks to train on, and a chunk of the documents that are held out: a random `share` of them, at least one.

    The choice is the same every time. Documents are what end_of_text separates; they are not copied. Raises UserError
    if there is only one.
    """
    documents = [_documents(chunk, end_of_text) for chunk in chunks]
    total = sum(map(len, documents))
    if total < 2:
        raise UserError('--val_split needs a corpus of two documents or more (files, or texts with <|endoftext|> '
                        'between them); give --val_dataset instead')
    count = min(max(round(share * total), 1), total - 1)
    chosen = np.zeros(total, bool)
    chosen[np.random.default_rng(1).permutation(total)[:count]] = True
    train, held_out = [], []
    chosen = np.split(chosen, np.cumsum([len(bounds) for bounds in documents]))
    for chunk, bounds, out in zip(chunks, documents, chosen):
        held_out += _runs(chunk, bounds[out])
        if stay := _runs(chunk, bounds[~out]):
            train.append(Joined(stay, end_of_text))
    return train, [Joined(held_out, end_of_text)]


def _documents(chunk: np.ndarray | TokenArray, end_of_text: int) -> np.ndarray:
    """Start and stop of each document that is not empty, [documents, 2]: 1 2 9 9 3, split at 9 -> [[0, 2], [4, 5]]."""
    ends = [np.empty(0, np.intp)]
    for start in range(0, len(chunk), PIECE):
        ends.append(start + np.flatnonzero(chunk[start:start + PIECE] == end_of_text))
    ends = np.concatenate(ends)
    bounds = np.stack([np.append(0, ends + 1), np.append(ends, len(chunk))], axis=1)
    return bounds[bounds[:, 0] < bounds[:, 1]]


def _runs(chunk: np.ndarray | TokenArray, bounds: np.ndarray) -> list[tuple[np.ndarray | TokenArray, int, int]]:
    """The documents of a chunk with these bounds, as parts of it; neighbours become one part."""
    runs = np.split(bounds, np.flatnonzero(bounds[1:, 0] != bounds[:-1, 1] + 1) + 1) if len(bounds) else []
    return [(chunk, int(run[0, 0]), int(run[-1, 1])) for run in runs]
