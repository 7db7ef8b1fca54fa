"""Merges the symbols of many parts of a text in parallel, with numpy.

Each part is a column of symbols. Each step makes the next merge of every column. Symbols are not moved: the merged symbol
replaces the upper one of the pair, the lower one becomes GONE, and `above` and `below` link each row to its neighbours.
When no merges are left, the remaining symbols of a column, from top to bottom, are the part's tokens.

    with the merges 'b a', 'a ba':    a b a b -> a ba . b -> aba . . b    (a column, written as a line)
"""

import itertools
from collections.abc import Sequence

import numpy as np

WIDTH = 2048                # columns merged together: their arrays fit the processor's cache
GONE = np.uint64(2 ** 32 - 1)        # a symbol that is in no pair
MOST_ROWS = 2 ** 7          # of a column
SLOTS_PER_PAIR = 4          # of the hash table, at least
NO_KEY = np.uint64(2 ** 64 - 1)
FACTOR = np.uint64(0x9e3779b97f4a7c15)      # Knuth, The Art of Computer Programming 3, 6.4: 2^64 over the golden ratio


class PairRanks:
    """A hash table of the ranks of all pairs that merge; a call looks up arrays of pairs.

    ranks[left][right]: a pair's rank, 0 to n_pairs - 1. no_rank: n_pairs, which the call returns for any other pair. The
    few pairs whose slot is taken are in sorted arrays, the overflow.
    """

    def __init__(self, ranks: Sequence[dict[int, int]]):
        used = [left for left, row in enumerate(ranks) if row]
        rows = [ranks[left] for left in used]
        lefts = np.repeat(np.array(used, np.uint64), list(map(len, rows)))
        rights = np.fromiter(itertools.chain.from_iterable(rows), np.uint64)
        pair_ranks = np.fromiter(itertools.chain.from_iterable(map(dict.values, rows)), np.int32)
        self.no_rank = len(pair_ranks)
        self._shift = np.uint64(64 - max(SLOTS_PER_PAIR * self.no_rank, 1).bit_length())
        keys, slots = self._hash(lefts, rights)
        _, first = np.unique(slots, return_index=True)
        self._keys = np.full(2 ** (64 - int(self._shift)), NO_KEY)
        self._ranks = np.full(len(self._keys), self.no_rank, np.int32)
        self._keys[slots[first]], self._ranks[slots[first]] = keys[first], pair_ranks[first]
        self._overflows = np.zeros(len(self._keys), bool)
        self._overflows[np.delete(slots, first)] = True
        keys, pair_ranks = np.delete(keys, first), np.delete(pair_ranks, first)
        order = np.argsort(keys)
        self.overflow_keys, self._overflow_ranks = np.append(keys[order], NO_KEY), np.append(pair_ranks[order], self.no_rank)

    def _hash(self, lefts, rights):     # uint64 [n], [n] -> keys, slots
        keys = lefts << np.uint64(32) | rights
        return keys, (keys * FACTOR >> self._shift).astype(np.intp)

    def __call__(self, lefts, rights):      # uint64 [n], [n] -> int32 [n]
        keys, slots = self._hash(lefts, rights)
        ranks = np.where(self._keys.take(slots) == keys, self._ranks.take(slots), np.int32(self.no_rank))
        overflowing = np.flatnonzero(self._overflows.take(slots))
        positions = np.searchsorted(self.overflow_keys, keys[overflowing])
        known = self.overflow_keys[positions] == keys[overflowing]
        ranks[overflowing[known]] = self._overflow_ranks[positions[known]]
        return ranks


def merge_many(parts: Sequence[bytes], byte_ids: np.ndarray, ranks: PairRanks, merged_ids: np.ndarray, dtype: np.dtype
               ) -> list[bytes]:
    """Merges each part, of 1 to MOST_ROWS - 2 bytes, as merge.merge does; returns the ids as bytes of an array of `dtype`.

    byte_ids [256]: of single bytes; merged_ids [n_pairs]: by rank; both uint64. Sort the parts by length: the longest of
    WIDTH parts sets the rows of all of them.
    """
    merged = []
    for start in range(0, len(parts), WIDTH):
        columns = _fill(parts[start:start + WIDTH], byte_ids)
        _merge_columns(columns, ranks, merged_ids)
        kept = columns.T != GONE
        ids = columns.T[kept].astype(dtype).tobytes()
        ends = (kept.sum(axis=1).cumsum() * dtype.itemsize).tolist()
        merged += [ids[first:last] for first, last in itertools.pairwise([0, *ends])]
    return merged


def _fill(parts: Sequence[bytes], byte_ids):
    """The parts as columns, uint64 [rows, parts], GONE below each part; the last row is always GONE."""
    lengths = np.array([len(part) for part in parts])
    columns = np.full([len(parts), lengths.max() + 1], GONE)
    columns[np.arange(columns.shape[1]) < lengths[:, None]] = byte_ids[np.frombuffer(b''.join(parts), np.uint8)]
    return np.ascontiguousarray(columns.T)


def _merge_columns(columns, ranks: PairRanks, merged_ids) -> None:
    """Merges in place. `order` of a pair is its rank * MOST_ROWS + its row: a column's next merge is the lowest."""
    rows, width = columns.shape
    row_numbers = np.arange(rows, dtype=np.int32)[:, None]
    order = np.full([rows, width], ranks.no_rank * MOST_ROWS, np.int32)
    order[:-1] = ranks(columns[:-1].reshape(-1), columns[1:].reshape(-1)).reshape(rows - 1, width) * MOST_ROWS + row_numbers[:-1]
    below = np.repeat(np.minimum(row_numbers + 1, rows - 1), width, axis=1)
    above = np.repeat(row_numbers - 1, width, axis=1)
    above[0] = rows - 1         # the last row, which is empty, comes before the first one as well
    columns, order, below, above = (array.reshape(-1) for array in (columns, order, below, above))
    while True:
        lowest = order.reshape(rows, width).min(axis=0)
        active = np.flatnonzero(lowest < ranks.no_rank * MOST_ROWS)
        if not active.size:
            return
        rank, row = np.divmod(lowest.take(active), MOST_ROWS)
        upper = row * width + active                # positions in the flat arrays
        lower = below.take(upper) * width + active
        row_before, row_after = above.take(upper), below.take(lower)
        before, after = row_before * width + active, row_after * width + active
        symbols = merged_ids.take(rank)
        columns[upper], columns[lower] = symbols, GONE
        order[lower] = ranks.no_rank * MOST_ROWS
        below[upper], above[after] = row_after, row
        lefts, rights = np.concatenate([columns.take(before), symbols]), np.concatenate([symbols, columns.take(after)])
        order[before], order[upper] = ranks(lefts, rights).reshape(2, -1) * MOST_ROWS + np.array([row_before, row], np.int32)
