"""Byte-pair merges of one part of a text, and which bytes no merge ever joins."""

from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise

import numpy as np

from vocabulary.spelling import CHARACTER_BYTES

LONGEST_SIMPLE = 64         # symbols above which the heap of `merge_long` gains more than it costs
NOTHING = -1                # a symbol that is in no pair


def merge(symbols: Iterable[int], ranks: Sequence[dict[int, int]], made: Sequence[int]) -> list[int]:
    """Merges neighbours, the pair of lowest rank first and of equals the leftmost, until no neighbours have a rank.

    Symbols are ids of tokens. ranks[left][right] is the rank of a pair, in the order of learning, and made[rank] what the
    two become. With the tokens a, b, ba, aba and the merges 'b a', 'a ba':

        merge([0, 1, 0, 1], [{2: 1}, {0: 0}, {}, {}, {}], [2, 3]) -> a b a b -> a ba b -> aba b = [3, 1]
    """
    symbols = list(symbols)
    if len(symbols) > LONGEST_SIMPLE:
        return merge_long(symbols, ranks, made)
    never = len(made)
    pair_ranks = [ranks[left].get(right, never) for left, right in pairwise(symbols)]
    while pair_ranks and (lowest := min(pair_ranks)) != never:
        i = pair_ranks.index(lowest)
        symbols[i] = symbol = made[lowest]
        del symbols[i + 1], pair_ranks[i]
        if i > 0:
            pair_ranks[i - 1] = ranks[symbols[i - 1]].get(symbol, never)
        if i < len(pair_ranks):
            pair_ranks[i] = ranks[symbol].get(symbols[i + 1], never)
    return symbols


def merge_long(symbols: Iterable[int], ranks: Sequence[dict[int, int]], made: Sequence[int]) -> list[int]:
    """What `merge` gives, in O(n log n) for n symbols: they are a doubly linked list, the pairs with a rank a heap.

    Pairs that a merge has broken up stay in the heap and are passed over when they come out. ranks[NOTHING] must be empty.
    """
    symbols = [*symbols, NOTHING]       # it ends the list on the right and, as symbols[-1], on the left
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
        symbols[i] = made[rank]
        symbols[j] = NOTHING
        after[i] = after[j]
        before[after[j]] = i
        for left, right in ((before[i], i), (i, after[i])):
            new_rank = ranks[symbols[left]].get(symbols[right])
            if new_rank is not None:
                heappush(heap, new_rank * size + left)
    return [symbol for symbol in symbols if symbol != NOTHING]


def never_together(tokens: Iterable[str]) -> np.ndarray:
    """For any two bytes, at 256 * first + second, 1 if they stand side by side in none of these tokens, else 0; uint8.

    A merge across such a place would make a token in which they do, so there is none, in whatever order the merges were
    learned. Always 0 if the second goes on with a character: it is faster to look up whole characters.
    """
    spelled = np.frombuffer(' '.join(tokens).encode('utf-16-le'), '<u2')       # ' ' spells no byte
    byte = np.zeros(max(CHARACTER_BYTES) + 1, np.uint16)
    byte[list(CHARACTER_BYTES)] = list(CHARACTER_BYTES.values())
    first, second = spelled[:-1], spelled[1:]
    within = (first != ord(' ')) & (second != ord(' '))
    apart = np.ones([256, 256], np.uint8)
    apart[byte[first[within]], byte[second[within]]] = 0
    apart[:, 0x80:0xc0] = 0
    return apart.reshape(-1)
