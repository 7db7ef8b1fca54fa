"""GPT-2's byte-level byte-pair encoding: text <-> token ids.

Radford et al. 2019 ("Language Models are Unsupervised Multitask Learners"), section 2.2, after Sennrich et al. 2016
("Neural Machine Translation of Rare Words with Subword Units"). `pieces` cuts a text into words, numbers, punctuation and
white space. Each piece starts as the symbols of its UTF-8 bytes. `merge` then joins neighbouring symbols, always the pair
that was learned first, until no two neighbours are a learned pair. The remaining symbols are the tokens:

    ' merges' = Ġ m e r g e s -> Ġ m er g e s -> Ġ m er g es -> Ġm er g es -> Ġm er ges -> Ġmer ges = [4017, 3212]

Three things make it fast: a cache of encoded parts, because texts repeat themselves; `pieces.split`, which cuts a block of
text with numpy; and `merge_many`, which merges many new parts in parallel.
"""

import bisect
import functools
import itertools
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import numpy as np

from command.models import directory_of, find_model
from vocabulary.files import read_vocabulary
from vocabulary.merge import merge, separable_bytes
from vocabulary.merge_many import PairRanks, merge_many
from vocabulary.pieces import blocks, split
from vocabulary.special import ONLY_END_OF_TEXT, SpecialTokens
from vocabulary.spelling import BYTE_CHARACTERS, CHARACTER_BYTES, spell, well_formed

CACHE_SIZE = 2 ** 17        # parts in each of the cache's two generations
LONGEST_CACHED = 48         # bytes: longer parts rarely repeat, and would leave the cache's memory unbounded
MOST_BLOCKS = 16            # blocks of text whose new parts are encoded together, at most
FEWEST_PARALLEL = 200       # parts: for fewer, `merge` one by one is faster than `merge_many`
LONGEST_PARALLEL = 32       # bytes: a longer part would make all others in `merge_many` wait for it
LOCK = threading.Lock()     # one thread encodes at a time: another one must not see parts whose ids are still missing


class _Cache(dict):
    """Part of a text (see `pieces.split`) -> its token ids, as the bytes of an array.

    Looking up a new part returns an empty bytearray and makes the part pending. `fill` encodes all pending parts into
    their bytearrays, together, which is faster than one by one.

    Two generations: a full table becomes the old one, the previous old one is dropped, a hit in the old one is promoted.
    No usage counters are needed.
    """

    def __init__(self, encode_parts: Callable[[list[bytes]], Iterable[tuple[bytes, bytes]]]):
        super().__init__()
        self.encode_parts = encode_parts
        self.old = {}
        self.pending = {}       # part -> its bytearray

    def __missing__(self, part: bytes) -> bytes | bytearray:
        ids = self.old.get(part)
        if ids is None:
            ids = self.pending.setdefault(part, bytearray())
        if len(part) <= LONGEST_CACHED:
            if len(self) >= CACHE_SIZE:
                self.old = dict(self)
                self.clear()
            self[part] = ids
        return ids

    def fill(self) -> None:
        """Encodes the pending parts. After an interruption all of them are still pending."""
        for part, ids in self.encode_parts(list(self.pending)):
            array = self.pending[part]
            array[:] = ids
            if self.get(part) is array:
                self[part] = ids        # takes less memory than the bytearray
        self.pending.clear()


class Encoder:
    """Text to token ids and back, with the vocabulary of one model.

    ids: token, spelled in byte characters -> id, 0 to n_vocab - 1. They include the 256 byte characters, the result of
    each merge, and the special tokens. merges: pairs of tokens in the order of learning; each token of a pair is a byte
    character or the result of an earlier merge. special: <|endoftext|> alone, unless the model has others. `load_encoder`
    checks this for files.

    n_vocab: tokens in the vocabulary; end_of_text: the id of the token that ends a text; special_tokens: as given; dtype:
    the smallest that holds every id.
    After a fork, parent and child can both use the encoder; each has its own cache.
    """

    def __init__(self, ids: dict[str, int], merges: Collection[tuple[str, str]],
                 special: SpecialTokens = ONLY_END_OF_TEXT):
        self.encoder, self.byte_encoder = ids, BYTE_CHARACTERS
        self.n_vocab = len(ids)
        self.special_tokens = special
        self.end_of_text = ids[spell(special.end_of_text)]
        self.dtype = np.dtype(np.uint16 if self.n_vocab <= 2 ** 16 else np.uint32)
        self._bytes = {id: token.translate(CHARACTER_BYTES).encode('latin-1') for token, id in ids.items()}
        self._packed = [id.to_bytes(self.dtype.itemsize, sys.byteorder) for id in range(self.n_vocab)]
        self._packed_special = {text: self._packed[ids[spell(text)]] for text in special.texts}
        self._byte_ids = [ids[BYTE_CHARACTERS[byte]] for byte in range(256)]
        self._merged_ids = [ids[left + right] for left, right in merges]
        self._ranks = [{} for _ in range(self.n_vocab)] + [{}]      # the last one is ranks[NOTHING], for merge_long
        for rank, (left, right) in enumerate(merges):
            self._ranks[ids[left]][ids[right]] = rank
        self._separable = separable_bytes(ids)
        self._cache = _Cache(self._pack_parts)

    def encode(self, text: str) -> list[int]:
        """'Hello world' -> [15496, 995]. Special tokens are ordinary text here; lone surrogates become U+FFFD."""
        return np.frombuffer(self._pack([text]), self.dtype).tolist()

    def encode_with_special(self, text: str) -> list[int]:
        """Like `encode`, but the text of a special token becomes its one id: 'a<|endoftext|>b' -> [64, 50256, 65]."""
        return self.encode_array(text).tolist()

    def encode_array(self, text: str) -> np.ndarray:
        """The ids of `encode_with_special` as a read-only array [n_tokens] of `dtype`."""
        return np.frombuffer(self._pack(*self.special_tokens.split(text)), self.dtype)

    def _pack(self, texts: list[str], special: Sequence[str] = ()) -> bytes:
        """The ids of the texts, with those of the special tokens between them, as the bytes of an array of `dtype`."""
        try:
            with LOCK:
                packed = [self._pack_text(text) for text in texts]
        except UnicodeEncodeError:
            return self._pack([well_formed(text) for text in texts], special)
        between = [*(self._packed_special[text] for text in special), b'']
        return b''.join(itertools.chain.from_iterable(zip(packed, between)))

    def _pack_text(self, text: str) -> bytes:
        packed, waiting = [], []        # waiting: for each block, the ids of its parts; those of pending parts are empty
        for block in blocks(text):
            waiting.append(list(map(self._cache.__getitem__, split(block, self._separable))))
            if not self._cache.pending or len(waiting) == MOST_BLOCKS:
                packed += self._pack_blocks(waiting)
                waiting = []
        return b''.join(packed + self._pack_blocks(waiting))

    def _pack_blocks(self, waiting: list[list[bytes | bytearray]]) -> list[bytes]:
        if self._cache.pending:
            self._cache.fill()
        return [b''.join(ids_of_parts) for ids_of_parts in waiting]

    def _pack_parts(self, parts: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
        """Yields each part with its packed ids, in any order."""
        parts = sorted(parts, key=len)
        parallel = bisect.bisect_right(parts, LONGEST_PARALLEL, key=len) if len(parts) >= FEWEST_PARALLEL else 0
        if parallel:
            yield from zip(parts, merge_many(parts[:parallel], *self._arrays, self.dtype))
        for part in parts[parallel:]:
            symbols = [self._byte_ids[byte] for byte in part]
            yield part, b''.join([self._packed[id] for id in merge(symbols, self._ranks, self._merged_ids)])

    @functools.cached_property
    def _arrays(self) -> tuple[np.ndarray, PairRanks, np.ndarray]:
        """For `merge_many`. Made on first use: a short text never needs them."""
        return np.array(self._byte_ids, np.uint64), PairRanks(self._ranks), np.array(self._merged_ids, np.uint64)

    def decode(self, ids: Iterable[int]) -> str:
        """[15496, 995] -> 'Hello world'; bytes that are not UTF-8, such as half a character, become U+FFFD.

        Raises ValueError for an id that is not in the vocabulary.
        """
        return self.decode_bytes(ids).decode('utf-8', 'replace')

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Like `decode`, but returns UTF-8: the bytes of one character may be spread over several tokens."""
        try:
            return b''.join([self._bytes[id] for id in ids])
        except KeyError as error:
            raise ValueError(f'no token has the id {error.args[0]}; ids go from 0 to {self.n_vocab - 1}') from None


    # The rest is what code of 2019 uses besides encode and decode: encoder, byte_encoder and the following.

    @functools.cached_property
    def decoder(self) -> dict[int, str]:
        """`encoder` the other way round: id -> token, spelled in byte characters."""
        return {id: token for token, id in self.encoder.items()}

    @functools.cached_property
    def byte_decoder(self) -> dict[str, int]:
        return {character: byte for byte, character in self.byte_encoder.items()}

    def bpe(self, token: str) -> str:
        """Merges one piece of text, spelled in byte characters: 'Ġmerges' -> 'Ġmer ges'."""
        symbols = [self._byte_ids[self.byte_decoder[character]] for character in token]
        return ' '.join(self.decoder[id] for id in merge(symbols, self._ranks, self._merged_ids))


def bytes_to_unicode() -> dict[int, str]:
    """Byte -> the character it is spelled as in the vocabulary files, as in 2019."""
    return dict(BYTE_CHARACTERS)


def get_encoder(model_name: str, models_dir: str = 'models') -> Encoder:
    """The encoder of a model, found by name. Raises UserError for an unknown model or a broken file."""
    return load_encoder(directory_of(find_model(model_name, models_dir)))


def load_encoder(directory: str) -> Encoder:
    """The encoder of a model directory. Raises UserError like vocabulary.files.read_vocabulary."""
    return Encoder(*read_vocabulary(directory))
