"""Merges the symbols of one part of a text; finds bytes never merged."""

from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise

import numpy as np

from vocabulary.spelling import CHARACTER_BYTES

LONGEST_SIMPLE = 64         # symbols: for more, the heap of `merge_long` gains more than it costs
NOTHING = -1                # a symbol that is in no pair


def merge(symbols: Iterable[int], ranks: Sequence[dict[int, int]], merged_ids: Sequence[int]) -> list[int]:
    """Merges neighbours, lowest rank first and of equal ranks the leftmost, until no two neighbours have a rank.

    Symbols are token ids. ranks[left][right]: a pair's rank, by the order of learning. merged_ids[rank]: the token that the
    pair becomes. With the tokens a, b, ba, aba and the merges 'b a', 'a ba':

        merge([0, 1, 0, 1], [{2: 1}, {0: 0}, {}, {}, {}], [2, 3]) -> a b a b -> a ba b -> aba b = [3, 1]
    """
    symbols = list(symbols)
    if len(symbols) > LONGEST_SIMPLE:
        return merge_long(symbols, ranks, merged_ids)
    no_rank = len(merged_ids)
    pair_ranks = [ranks[left].get(right, no_rank) for left, right in pairwise(symbols)]
    while pair_ranks and (lowest := min(pair_ranks)) != no_rank:
        i = pair_ranks.index(lowest)
        symbols[i] = symbol = merged_ids[lowest]
        del symbols[i + 1], pair_ranks[i]
        if i > 0:
            pair_ranks[i - 1] = ranks[symbols[i - 1]].get(symbol, no_rank)
        if i < len(pair_ranks):
            pair_ranks[i] = ranks[symbol].get(symbols[i + 1], no_rank)
    return symbols


def merge_long(symbols: Iterable[int], ranks: Sequence[dict[int, int]], merged_ids: Sequence[int]) -> list[int]:
    """The result of `merge` in O(n log n) for n symbols, with a doubly linked list of symbols and a heap of pairs.

    A pair that another merge has broken up stays in the heap and is skipped when it comes out. ranks[NOTHING] must be {}.
    """
    symbols = [*symbols, NOTHING]       # ends the list on the right and, as symbols[-1], on the left
    size = len(symbols)
    before = list(range(-1, size - 1))
    after = list(range(1, size + 1))

    # rank * size + position sorts as (rank, position) does, but an int is faster to compare than a tuple.
    heap = [ranks[left][right] * size + i for i, (left, right) in enumerate(pairwise(symbols)) if right in ranks[left]]
    heapify(heap)
    while heap:
        rank, i = divmod(heappop(heap), size)
        j = after[i]
        if ranks[symbols[i]].get(symbols[j]) != rank:
            continue
        symbols[i] = merged_ids[rank]
        symbols[j] = NOTHING
        after[i] = after[j]
        before[after[j]] = i
        for left, right in ((before[i], i), (i, after[i])):
            new_rank = ranks[symbols[left]].get(symbols[right])
            if new_rank is not None:
                heappush(heap, new_rank * size + left)
    return [symbol for symbol in symbols if symbol != NOTHING]


def separable_bytes(tokens: Iterable[str]) -> np.ndarray:
    """At 256 * first + second: 1 if no token has these two bytes next to each other, else 0; uint8 [65536].

    No merge crosses such a boundary, as its result would be a token with both bytes, so a text can be cut there. Always 0
    if the second byte continues a character: it is faster to look up complete characters.
    """
    spelled = np.frombuffer(' '.join(tokens).encode('utf-16-le'), '<u2')       # ' ' spells no byte
    byte = np.zeros(max(CHARACTER_BYTES) + 1, np.uint16)
    byte[list(CHARACTER_BYTES)] = list(CHARACTER_BYTES.values())
    first, second = spelled[:-1], spelled[1:]
    within = (first != ord(' ')) & (second != ord(' '))
    separable = np.ones([256, 256], np.uint8)
    separable[byte[first[within]], byte[second[within]]] = 0
    separable[:, 0x80:0xc0] = 0
    return separable.reshape(-1)
