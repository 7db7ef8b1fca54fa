"""Byte-pair merges of many parts of a text in parallel, with numpy: the result of vocabulary.merge for each of them.

Each part is a column of symbols. In each step, every column makes the merge that is next in it. Symbols are not moved: the
merged symbol replaces the upper one of the pair, the lower one is marked as GONE, and `above` and `below` link each row to
its neighbours. When no merges are left, the remaining symbols of a column, from top to bottom, are the part's tokens.

    with the merges 'b a', 'a ba':    a b a b -> a ba . b -> aba . . b    (a column, written as a line)
"""

import itertools
from collections.abc import Sequence

import numpy as np

SIDE_BY_SIDE = 2048         # columns: their arrays fit the processor's cache
GONE = np.uint64(2 ** 32 - 1)        # a symbol that is in no pair
ROWS = 2 ** 7               # more than the rows of a column
ROOM = 4                    # places of the hash table for each pair, at least
NO_KEY = np.uint64(2 ** 64 - 1)
FACTOR = np.uint64(0x9e3779b97f4a7c15)      # Knuth, The Art of Computer Programming 3, 6.4: 2^64 over the golden ratio


class PairRanks:
    """A hash table of the ranks of all pairs that merge, which looks up arrays of pairs.

    ranks: ranks[left][right] is the rank of a pair, 0 to n_pairs - 1; never: n_pairs, what stands for a pair without one. The
    few pairs whose place is taken stand in a sorted array.
    """

    def __init__(self, ranks: Sequence[dict[int, int]]):
        used = [left for left, row in enumerate(ranks) if row]
        rows = [ranks[left] for left in used]
        lefts = np.repeat(np.array(used, np.uint64), list(map(len, rows)))
        rights = np.fromiter(itertools.chain.from_iterable(rows), np.uint64)
        of_pairs = np.fromiter(itertools.chain.from_iterable(map(dict.values, rows)), np.int32)
        self.never = len(of_pairs)
        self._shift = np.uint64(64 - max(ROOM * self.never, 1).bit_length())
        keys, places = self._find(lefts, rights)
        _, first = np.unique(places, return_index=True)
        self._keys = np.full(2 ** (64 - int(self._shift)), NO_KEY)
        self._ranks = np.full(len(self._keys), self.never, np.int32)
        self._keys[places[first]], self._ranks[places[first]] = keys[first], of_pairs[first]
        self._crowded = np.zeros(len(self._keys), bool)
        self._crowded[np.delete(places, first)] = True
        keys, of_pairs = np.delete(keys, first), np.delete(of_pairs, first)
        order = np.argsort(keys)
        self._other_keys, self._other_ranks = np.append(keys[order], NO_KEY), np.append(of_pairs[order], self.never)

    def _find(self, lefts, rights):     # uint64 [n], [n] -> keys, places in the table
        keys = lefts << np.uint64(32) | rights
        return keys, (keys * FACTOR >> self._shift).astype(np.intp)

    def __call__(self, lefts, rights):      # uint64 [n], [n] -> int32 [n]
        keys, places = self._find(lefts, rights)
        ranks = np.where(self._keys.take(places) == keys, self._ranks.take(places), np.int32(self.never))
        crowded = np.flatnonzero(self._crowded.take(places))
        other = np.searchsorted(self._other_keys, keys[crowded])
        found = self._other_keys[other] == keys[crowded]
        ranks[crowded[found]] = self._other_ranks[other[found]]
        return ranks


def merge_many(parts: Sequence[bytes], byte_ids: np.ndarray, ranks: PairRanks, made: np.ndarray, dtype: np.dtype) -> list[bytes]:
    """For each part, of 1 to ROWS - 2 bytes, what encoder.merge gives for it: ids, as the bytes of an array of `dtype`.

    byte_ids [256]: of single bytes; made [n_pairs]: what the pair of a rank becomes; both uint64. Parts of one length should
    stand together: a column has as many rows as the longest beside it.
    """
    merged = []
    for start in range(0, len(parts), SIDE_BY_SIDE):
        columns = _fill(parts[start:start + SIDE_BY_SIDE], byte_ids)
        _merge_columns(columns, ranks, made)
        kept = columns.T != GONE
        ids = columns.T[kept].astype(dtype).tobytes()
        ends = (kept.sum(axis=1).cumsum() * dtype.itemsize).tolist()
        merged += [ids[first:last] for first, last in itertools.pairwise([0, *ends])]
    return merged


def _fill(parts: Sequence[bytes], byte_ids):
    """The parts as columns, uint64 [rows, parts], with GONE below, in the last row in any case."""
    lengths = np.array([len(part) for part in parts])
    columns = np.full([len(parts), lengths.max() + 1], GONE)
    columns[np.arange(columns.shape[1]) < lengths[:, None]] = byte_ids[np.frombuffer(b''.join(parts), np.uint8)]
    return np.ascontiguousarray(columns.T)


def _merge_columns(columns, ranks: PairRanks, made) -> None:
    """Merges in place. A column's next merge is the least of its `steps`: the rank of a pair, then the row of its first."""
    rows, width = columns.shape
    row_numbers = np.arange(rows, dtype=np.int32)[:, None]
    steps = np.full([rows, width], ranks.never * ROWS, np.int32)
    steps[:-1] = ranks(columns[:-1].reshape(-1), columns[1:].reshape(-1)).reshape(rows - 1, width) * ROWS + row_numbers[:-1]
    below = np.repeat(np.minimum(row_numbers + 1, rows - 1), width, axis=1)
    above = np.repeat(row_numbers - 1, width, axis=1)
    above[0] = rows - 1         # the last row, in which nothing is, is around a column at both ends
    columns, steps, below, above = (array.reshape(-1) for array in (columns, steps, below, above))
    while True:
        least = steps.reshape(rows, width).min(axis=0)
        active = np.flatnonzero(least < ranks.never * ROWS)
        if not active.size:
            return
        rank, row = np.divmod(least.take(active), ROWS)
        first = row * width + active                # places within the arrays
        second = below.take(first) * width + active
        next_row, row_before = below.take(second), above.take(first)
        now = made.take(rank)
        following, before = next_row * width + active, row_before * width + active
        columns[first], columns[second] = now, GONE
        steps[second] = ranks.never * ROWS
        below[first], above[following] = next_row, row
        lefts, rights = np.concatenate([columns.take(before), now]), np.concatenate([now, columns.take(following)])
        steps[before], steps[first] = ranks(lefts, rights).reshape(2, -1) * ROWS + np.array([row_before, row], np.int32)
