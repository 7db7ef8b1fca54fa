"""Learns a byte-level byte-pair encoding from text: the contents of `encoder.json` and `vocab.bpe`.

Sennrich et al. 2016 ("Neural Machine Translation of Rare Words with Subword Units"), algorithm 1, on bytes as in Radford
et al. 2019, section 2.2: over and over, merge the pair of neighbours that occurs most often, within pieces only.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from heapq import heappop, heappush

from tqdm import tqdm

from vocabulary.pieces import PIECE
from vocabulary.spelling import BYTE_CHARACTERS, END_OF_TEXT, spell, well_formed

SMALLEST_VOCABULARY = len(BYTE_CHARACTERS) + 1      # the bytes and END_OF_TEXT
NOTHING = -1        # the symbol around pieces and where a merge has left a gap

Pair = tuple[int, int]


def learn_vocabulary(texts: Iterable[str], n_vocab: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Learns at most `n_vocab` tokens; returns (token -> id, merges), as `encoder.Encoder` takes them.

    Ids: the 256 byte characters in GPT-2's order, what each merge makes, END_OF_TEXT last. There are fewer than n_vocab
    when, before that, no pair occurs twice any more. END_OF_TEXT within a text separates, as the end of a text does.
    Of pairs equally frequent, the one whose parts have the lower ids (left, then right) is merged first, so the result
    depends on the text alone. Shows progress on a terminal if it takes long. Raises ValueError for n_vocab below 257.

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
    # No two merges make the same token: where a token's bytes stand with no merge across their ends, they have been
    # merged the same way everywhere. So every token here is new.
    return {token: id for id, token in enumerate([*tokens, END_OF_TEXT])}, merges


def count_pieces(texts: Iterable[str]) -> Counter[str]:
    """How often each piece occurs: ['to be', ' be'] -> {'to': 1, ' be': 2}."""
    counts = Counter()
    for text in tqdm(texts, desc='counting words', unit=' texts', delay=2, disable=None):
        for document in well_formed(text).split(END_OF_TEXT):
            counts.update(PIECE.findall(document))
    return counts


class _Symbols:
    """The pieces as ids, and the frequency of every pair of neighbours, kept up to date from merge to merge.

    Each distinct piece is there once, with its frequency as its weight. All pieces stand in one row, NOTHING between
    them, which is a doubly linked list: a merge visits only the places where its pair occurs, and how long a piece is
    does not matter.
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
        # Of the left symbol, some out of date. In order: a pair's places all come from one pass, over its newer part.
        self.places: dict[Pair, list[int]] = defaultdict(list)
        self.heap: list[tuple[int, int, int]] = []                  # (-frequency, left, right); some are out of date
        self.new_pairs: list[Pair] = []
        for i in range(1, len(self.symbols) - 1):
            self._add(i, i + 1)
        self._push_new_pairs()

    def most_frequent(self) -> Pair | None:
        """The pair that occurs most often, the lowest ids of equals; None if no pair occurs twice."""
        while self.heap:
            negative, left, right = heappop(self.heap)
            frequency = self.frequencies[left, right]
            if frequency == -negative:
                return left, right
            # Merges of other pairs have used up some of this one since it went into the heap. It cannot have grown: a
            # merge adds only pairs with the symbol it makes.
            if frequency > 1:
                heappush(self.heap, (-frequency, left, right))
        return None

    def merge(self, pair: Pair, symbol: int) -> None:
        """Puts `symbol` for the pair wherever it occurs, leftmost first (aaa -> Xa), and recounts the neighbours."""
        for i in self.places.pop(pair):
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
        """Counts the neighbours at places i and j."""
        pair = self.symbols[i], self.symbols[j]
        if NOTHING not in pair:
            if pair not in self.places:
                self.new_pairs.append(pair)
            self.frequencies[pair] += self.weights[i]
            self.places[pair].append(i)

    def _remove(self, i: int, j: int) -> None:
        """Takes the neighbours at places i and j out of the count."""
        self.frequencies[self.symbols[i], self.symbols[j]] -= self.weights[i]

    def _push_new_pairs(self) -> None:
        """Enters into the heap the pairs that occur twice, and forgets where the others are: they stay rare."""
        for pair in self.new_pairs:
            if self.frequencies[pair] > 1:
                heappush(self.heap, (-self.frequencies[pair], *pair))
            else:
                del self.places[pair]
        self.new_pairs.clear()
