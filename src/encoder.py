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
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator

import numpy as np

from command.models import find_model
from vocabulary.files import read_vocabulary
from vocabulary.merge import merge, never_together
from vocabulary.merge_many import PairRanks, merge_many
from vocabulary.pieces import blocks, split
from vocabulary.spelling import BYTE_CHARACTERS, CHARACTER_BYTES, END_OF_TEXT, well_formed

CACHE_SIZE = 2 ** 17        # entries of the table, and as many old ones
LONGEST_CACHED = 48         # bytes: longer parts seldom come twice, and would leave the table's size unbounded
BLOCKS_AT_ONCE = 16         # whose unknown parts are worked out together, at most
FEWEST_AT_ONCE = 200        # parts that `merge_many` works out sooner than `merge` one by one
LONGEST_AT_ONCE = 32        # bytes: the few that are longer would keep all others waiting
ONE_AT_A_TIME = threading.Lock()    # of the threads that encode: what is unknown in a table is for nobody else to see


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
    """The encoder of a model directory. Raises UserError as vocabulary.files.read_vocabulary does."""
    return Encoder(*read_vocabulary(directory))
