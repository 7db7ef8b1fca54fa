"""Learns a vocabulary from text: the tokens of encoder.json, the merges.

Sennrich et al. 2016 ("Neural Machine Translation of Rare Words with Subword Units"), algorithm 1, on bytes as in Radford
et al. 2019, section 2.2: repeatedly merge the pair of neighbouring symbols that occurs most often, within pieces only.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from heapq import heappop, heappush

from tqdm import tqdm

from vocabulary.pieces import PIECE
from vocabulary.spelling import BYTE_CHARACTERS, END_OF_TEXT, spell, well_formed

SMALLEST_VOCABULARY = len(BYTE_CHARACTERS) + 1      # the bytes and END_OF_TEXT
NOTHING = -1        # a symbol that is in no pair: it separates pieces, and fills the gap that a merge leaves

Pair = tuple[int, int]


def learn_vocabulary(texts: Iterable[str], n_vocab: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Learns up to `n_vocab` tokens; returns (token -> id, merges), for encoder.Encoder.

    Ids: the 256 byte characters in GPT-2's order, then the result of each merge, then END_OF_TEXT. There are fewer than
    n_vocab tokens if no pair is left that occurs twice. END_OF_TEXT in a text ends a document. Of equally frequent pairs,
    the one with the lower ids (left, then right) is merged first, so the order of the texts makes no difference. Shows
    progress on a terminal after two seconds. Raises ValueError for n_vocab below 257.

        learn_vocabulary(['low low lower'], 260) -> merges l o, lo w, Ġ low
    """
    if n_vocab < SMALLEST_VOCABULARY:
        raise ValueError(f'n_vocab must be {SMALLEST_VOCABULARY} or more, not {n_vocab}')
    tokens = list(BYTE_CHARACTERS.values())
    merges = []
    symbols = _Symbols(count_pieces(texts))
    with tqdm(total=n_vocab - SMALLEST_VOCABULARY, desc='learning merges', unit='', delay=2, disable=None) as progress:
        while len(tokens) < n_vocab - 1 and (pair := symbols.most_frequent()):
            symbols.merge(pair, len(tokens))
            left, right = (tokens[id] for id in pair)
            merges.append((left, right))
            tokens.append(left + right)
            progress.update()
    # Every token is new: wherever its bytes stand and no merge crosses their ends, they were merged in the same way.
    return {token: id for id, token in enumerate([*tokens, END_OF_TEXT])}, merges


def count_pieces(texts: Iterable[str]) -> Counter[str]:
    """How often each piece occurs: ['to be', ' be'] -> {'to': 1, ' be': 2}."""
    counts = Counter()
    for text in tqdm(texts, desc='counting words', unit=' texts', delay=2, disable=None):
        for document in well_formed(text).split(END_OF_TEXT):
            counts.update(PIECE.findall(document))
    return counts


class _Symbols:
    """The pieces as symbols (ids), and the frequency of every pair of neighbours, updated by each merge.

    Each distinct piece is stored once, weighted by its frequency. All pieces form one doubly linked list, separated by
    NOTHING: a merge visits only the positions of its pair, however long the pieces are.
    """

    def __init__(self, pieces: dict[str, int]):
        ids = {character: id for id, character in enumerate(BYTE_CHARACTERS.values())}
        self.symbols = [NOTHING]
        self.weights = [0]
        for piece, count in pieces.items():
            piece_ids = [ids[character] for character in spell(piece)]
            self.symbols += [*piece_ids, NOTHING]
            self.weights += [count] * (len(piece_ids) + 1)
        self.before = list(range(-1, len(self.symbols) - 1))
        self.after = list(range(1, len(self.symbols) + 1))

        self.frequencies: dict[Pair, int] = defaultdict(int)
        # Of the left symbol; some are out of date. Ascending: one pass, over the pair's newer part, adds all of them.
        self.positions: dict[Pair, list[int]] = defaultdict(list)
        self.heap: list[tuple[int, int, int]] = []                  # (-frequency, left, right); some are out of date
        self.new_pairs: list[Pair] = []
        for i in range(1, len(self.symbols) - 1):
            self._add(i, i + 1)
        self._push_new_pairs()

    def most_frequent(self) -> Pair | None:
        """The pair that occurs most often, of equals the one with the lowest ids; None if no pair occurs twice."""
        while self.heap:
            negative, left, right = heappop(self.heap)
            frequency = self.frequencies[left, right]
            if frequency == -negative:
                return left, right
            # Merges of other pairs have made this one rarer since it entered the heap. None can have made it more
            # frequent: a merge only adds pairs that contain its new symbol.
            if frequency > 1:
                heappush(self.heap, (-frequency, left, right))
        return None

    def merge(self, pair: Pair, symbol: int) -> None:
        """Replaces each occurrence of the pair by `symbol`, leftmost first (aaa -> Xa), and updates the frequencies."""
        for i in self.positions.pop(pair):
            j = self.after[i]
            if (self.symbols[i], self.symbols[j]) != pair:
                continue
            left, right = self.before[i], self.after[j]
            self._remove(left, i)
            self._remove(j, right)
            self.symbols[i] = symbol
            self.symbols[j] = NOTHING
            self.after[i] = right
            self.before[right] = i
            self._add(left, i)
            self._add(i, right)
        self._push_new_pairs()

    def _add(self, i: int, j: int) -> None:
        """Counts the neighbours at positions i and j."""
        pair = self.symbols[i], self.symbols[j]
        if NOTHING not in pair:
            if pair not in self.positions:
                self.new_pairs.append(pair)
            self.frequencies[pair] += self.weights[i]
            self.positions[pair].append(i)

    def _remove(self, i: int, j: int) -> None:
        self.frequencies[self.symbols[i], self.symbols[j]] -= self.weights[i]

    def _push_new_pairs(self) -> None:
        """Adds new pairs that occur twice to the heap, and drops the positions of the others: they stay rare."""
        for pair in self.new_pairs:
            if self.frequencies[pair] > 1:
                heappush(self.heap, (-self.frequencies[pair], *pair))
            else:
                del self.positions[pair]
        self.new_pairs.clear()
