"""GPT-2's byte-level byte-pair encoding: text <-> token ids.

Radford et al. 2019 ("Language Models are Unsupervised Multitask Learners"), section 2.2, after Sennrich et al. 2016
("Neural Machine Translation of Rare Words with Subword Units"). A text is cut into pieces (words, numbers, punctuation,
white space); the UTF-8 bytes of each piece start as one symbol each; then neighbours are merged, always the pair that
was learned first, until no neighbours are left that were ever learned as a pair. What remains are the tokens:

    ' merges' = Ġ m e r g e s -> Ġ m er g e s -> Ġ m er g es -> Ġm er g es -> Ġm er ges -> Ġmer ges = [4017, 3212]

That is `merge`, below, on the pieces that `pieces.PIECE` finds. What makes it fast is that texts repeat themselves: a table
remembers the ids of parts; that `pieces.split` finds these parts without looking at one after the other; and that parts which
are new are merged side by side (`merge_many`).

Two files hold what was learned. `encoder.json` gives every token's id. `vocab.bpe` lists the merges in the order in
which they were learned, a pair to a line. Both write bytes as printable characters (see `byte_characters`).
"""

import bisect
import functools
import json
import os
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise

import numpy as np

from errors import UserError, reason
from merge_many import PairRanks, merge_many
from model_dir import find_model
from pieces import blocks, split

END_OF_TEXT = '<|endoftext|>'
CACHE_SIZE = 2 ** 17        # entries of the table, and as many old ones
LONGEST_CACHED = 48         # bytes: longer parts seldom come twice, and would leave the table's size unbounded
BLOCKS_AT_ONCE = 16         # whose unknown parts are worked out together, at most
FEWEST_AT_ONCE = 200        # parts that `merge_many` works out sooner than `merge` one by one
LONGEST_AT_ONCE = 32        # bytes: the few that are longer would keep all others waiting
LONGEST_SIMPLE = 64         # symbols above which the heap of `merge_long` gains more than it costs
NOTHING = -1                # a symbol that is in no pair
ONE_AT_A_TIME = threading.Lock()    # of the threads that encode: what is unknown in a table is for nobody else to see


def byte_characters() -> dict[int, str]:
    """The printable character that stands for each of the 256 bytes, in the order of their ids.

    Bytes that Latin-1 shows as a visible character stand for themselves; the others (controls, spaces, the soft
    hyphen) take the characters from U+0100 on, in turn: 'a' -> 'a', 'é' -> 'Ã©', ' ' -> 'Ġ', newline -> 'Ċ'.
    """
    visible = [byte for byte in range(256) if chr(byte).isprintable() and not chr(byte).isspace()]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + n) for n, byte in enumerate(hidden)}


BYTE_CHARACTERS = byte_characters()
CHARACTER_BYTES = {ord(character): byte for byte, character in BYTE_CHARACTERS.items()}      # for str.translate


def spell(piece: str) -> str:
    """One character for each UTF-8 byte: ' café' -> 'ĠcafÃ©'. Raises UnicodeEncodeError for a lone surrogate."""
    return piece.encode().decode('latin-1').translate(BYTE_CHARACTERS)


def well_formed(text: str) -> str:
    """Joins pairs of surrogates and turns lone ones, which UTF-8 cannot hold, into U+FFFD: 'a\\ud83d' -> 'a\\ufffd'."""
    return text.encode('utf-16-le', 'surrogatepass').decode('utf-16-le', 'replace')


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


class _Table(dict):
    """A part of a text (see `split`) -> its token ids, packed in bytes.

    A part that is asked for and is not there is noted as unknown, and given a bytearray, which `fill` fills: many parts are
    worked out in less time together than one by one.

    When CACHE_SIZE entries are there, they become the old ones, and the old ones before them are forgotten. Of the old
    ones, those asked for come back: so common parts stay, and nobody keeps count.
    """

    def __init__(self, work_out: Callable[[list[bytes]], Iterable[tuple[bytes, bytes]]]):
        super().__init__()
        self.work_out = work_out
        self.old = {}
        self.unknown = {}       # part -> its bytearray

    def __missing__(self, part: bytes) -> bytes | bytearray:
        ids = self.old.get(part)
        if ids is None:
            ids = self.unknown.setdefault(part, bytearray())
        if len(part) <= LONGEST_CACHED:
            if len(self) >= CACHE_SIZE:
                self.old = dict(self)
                self.clear()
            self[part] = ids
        return ids

    def fill(self) -> None:
        """Works out what is unknown. If it is interrupted, all of it still is."""
        for part, ids in self.work_out(list(self.unknown)):
            array = self.unknown[part]
            array[:] = ids
            if self.get(part) is array:     # from now on what takes less room
                self[part] = ids
        self.unknown.clear()


class Encoder:
    """Text to token ids and back, with the vocabulary of one model.

    ids: every token, spelled in byte characters, and its id, 0 to n_vocab - 1; the 256 byte characters, what each merge
    makes and END_OF_TEXT are among them. merges: pairs of tokens, first learned first; both of a pair are byte
    characters or made by an earlier merge. `load_encoder` checks this for files.

    n_vocab: tokens in the vocabulary; end_of_text: the id of END_OF_TEXT; dtype: the smallest that holds every id.
    Processes made by fork may go on with an encoder, each with its own tables.
    """

    def __init__(self, ids: dict[str, int], merges: Collection[tuple[str, str]]):
        self.n_vocab = len(ids)
        self.end_of_text = ids[END_OF_TEXT]
        self.dtype = np.dtype(np.uint16 if self.n_vocab <= 2 ** 16 else np.uint32)
        self._bytes = {id: token.translate(CHARACTER_BYTES).encode('latin-1') for token, id in ids.items()}
        self._packed = [id.to_bytes(self.dtype.itemsize, sys.byteorder) for id in range(self.n_vocab)]
        self._byte_ids = [ids[BYTE_CHARACTERS[byte]] for byte in range(256)]
        self._made = [ids[left + right] for left, right in merges]
        self._ranks = [{} for _ in range(self.n_vocab)] + [{}]      # the last one is that of NOTHING
        for rank, (left, right) in enumerate(merges):
            self._ranks[ids[left]][ids[right]] = rank
        self._apart = never_together(ids)
        self._table = _Table(self._pack_parts)

    def encode(self, text: str) -> list[int]:
        """'Hello world' -> [15496, 995]. END_OF_TEXT is text like any other here; lone surrogates become U+FFFD."""
        return np.frombuffer(self._pack([text]), self.dtype).tolist()

    def encode_with_special(self, text: str) -> list[int]:
        """As `encode`, but each literal END_OF_TEXT becomes its one id: 'a<|endoftext|>b' -> [64, 50256, 65]."""
        return self.encode_array(text).tolist()

    def encode_array(self, text: str) -> np.ndarray:
        """The ids of `encode_with_special` as a read-only array [n_tokens] of `dtype`."""
        return np.frombuffer(self._pack(text.split(END_OF_TEXT)), self.dtype)

    def _pack(self, texts: list[str]) -> bytes:
        """The ids of texts with that of END_OF_TEXT between them, as the bytes of an array of `dtype`."""
        try:
            with ONE_AT_A_TIME:
                return self._packed[self.end_of_text].join([self._pack_text(text) for text in texts])
        except UnicodeEncodeError:
            return self._pack([well_formed(text) for text in texts])

    def _pack_text(self, text: str) -> bytes:
        done, waiting = [], []      # waiting: of blocks, the ids of each part, some of which are yet unknown
        for block in blocks(text):
            waiting.append(list(map(self._table.__getitem__, split(block, self._apart))))
            if not self._table.unknown or len(waiting) == BLOCKS_AT_ONCE:
                done += self._known(waiting)
        return b''.join([*done, *self._known(waiting)])

    def _known(self, waiting: list[list]) -> list[bytes]:
        if self._table.unknown:
            self._table.fill()
        ids = [b''.join(of_parts) for of_parts in waiting]
        waiting.clear()
        return ids

    def _pack_parts(self, parts: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
        """Each part, and its ids packed in the same way; in any order."""
        parts = sorted(parts, key=len)
        many = bisect.bisect_right(parts, LONGEST_AT_ONCE, key=len) if len(parts) >= FEWEST_AT_ONCE else 0
        if many:
            yield from zip(parts, merge_many(parts[:many], *self._arrays, self.dtype))
        for part in parts[many:]:
            yield part, self._pack_part(part)

    @functools.cached_property
    def _arrays(self) -> tuple:     # made when many parts are first unknown, as a short text never needs them
        return np.array(self._byte_ids, np.uint64), PairRanks(self._ranks), np.array(self._made, np.uint64)

    def _pack_part(self, part: bytes) -> bytes:
        symbols = [self._byte_ids[byte] for byte in part]
        return b''.join([self._packed[id] for id in merge(symbols, self._ranks, self._made)])

    def decode(self, ids: Iterable[int]) -> str:
        """[15496, 995] -> 'Hello world'; bytes that are not UTF-8, such as half a character, become U+FFFD.

        Raises ValueError for an id that is not in the vocabulary.
        """
        return self.decode_bytes(ids).decode('utf-8', 'replace')

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """What `decode` decodes: a character's bytes may lie in several tokens."""
        try:
            return b''.join([self._bytes[id] for id in ids])
        except KeyError as error:
            raise ValueError(f'no token has the id {error.args[0]}; ids go from 0 to {self.n_vocab - 1}') from None


def get_encoder(model_name: str, models_dir: str = 'models') -> Encoder:
    """The encoder of a model, found by name. Raises UserError for an unknown model or a broken file."""
    return load_encoder(find_model(model_name, models_dir))


def load_encoder(directory: str) -> Encoder:
    """Reads `encoder.json` and `vocab.bpe` of a model directory.

    Raises UserError that names the file, and the line where it has lines, for anything that could make an encoder that
    fails later or gives wrong ids.
    """
    ids = _load_ids(os.path.join(directory, 'encoder.json'))
    return Encoder(ids, _load_merges(os.path.join(directory, 'vocab.bpe'), ids))


def _load_ids(path: str) -> dict[str, int]:
    """Reads `encoder.json`: token -> id."""
    text = _read(path)
    try:
        ids = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f'{path} is not JSON: {error}') from None
    if not isinstance(ids, dict) or not all(type(id) is int for id in ids.values()):
        raise UserError(f'{path} must hold an object that gives each token its id, a whole number')
    if sorted(ids.values()) != list(range(len(ids))):
        raise UserError(f'{path} holds {len(ids)} tokens, so their ids must be 0 to {len(ids) - 1}, each once')
    if missing := [token for token in (*BYTE_CHARACTERS.values(), END_OF_TEXT) if token not in ids]:
        raise UserError(f'{path} lacks the token {missing[0]!r}')
    if foreign := set().union(*ids).difference(BYTE_CHARACTERS.values()):
        raise UserError(f'{path}: tokens are spelled in the 256 characters that stand for bytes; {min(foreign)!r} is none')
    return ids


def _load_merges(path: str, ids: dict[str, int]) -> list[tuple[str, str]]:
    """Reads `vocab.bpe`: a line with the version, then a merge to a line, its two parts separated by a space."""
    version, *lines = _read(path).rstrip().split('\n')
    if not version.startswith('#version:'):
        raise UserError(f"{path} line 1: expected '#version: 0.2', not {version!r}")
    merges = {}         # pair -> its line
    made = set(BYTE_CHARACTERS.values())
    for number, line in enumerate(lines, start=2):
        pair = tuple(line.split())
        if len(pair) != 2:
            raise UserError(f'{path} line {number}: expected two tokens, not {line!r}')
        for part in pair:
            # An order in which parts come after what is made of them cannot have been learned, and would be ambiguous.
            if part not in made:
                raise UserError(f'{path} line {number}: {part!r} is neither a byte nor made by an earlier line')
        if pair in merges:
            raise UserError(f'{path} line {number}: {line!r} is on line {merges[pair]} already')
        token = ''.join(pair)
        if token not in ids:
            raise UserError(f'{path} line {number}: {token!r} is not in encoder.json beside it')
        merges[pair] = number
        made.add(token)
    # What comes after END_OF_TEXT may have been added later, as a token of its own.
    if lost := [token for token, id in ids.items() if id < ids[END_OF_TEXT] and token not in made]:
        raise UserError(f'{path} ends after {len(merges)} merges, none of which makes {lost[0]!r} of encoder.json beside it: is it '
                        'cut off?')
    return list(merges)


def _read(path: str) -> str:
    """The text of a UTF-8 file. Raises UserError."""
    try:
        with open(path, 'rb') as file:
            return file.read().decode()
    except OSError as error:
        raise UserError(f'cannot read {path}: {reason(error)}') from None
    except UnicodeDecodeError as error:
        line = error.object.count(b'\n', 0, error.start) + 1
        raise UserError(f'{path} line {line} is not UTF-8: {error.reason}') from None
