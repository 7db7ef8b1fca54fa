"""Chunks of tokens: arrays in memory or in files, or several joined."""

import dataclasses

import numpy as np

from corpus.token_files import TokenArray


class Joined:
    """Parts of arrays of tokens as one, with a separator between them; a slice is copied when it is taken.

        Joined([([1, 2, 3], 0, 2), ([4], 0, 1)], 9)[:] -> [1, 2, 9, 4]

    parts: (array, start, stop), of 1-D arrays of one dtype.
    """

    def __init__(self, parts: list[tuple['Chunk', int, int]], separator: int):
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


Chunk = np.ndarray | TokenArray | Joined      # 1-D; what they share is a length, a dtype and slices


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Chunks, and how often a token of each is drawn, compared with one of weight 1. weights: None if all are alike."""
    chunks: list[Chunk]
    weights: list[float] | None = None
