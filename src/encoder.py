"""GPT-2's byte-level byte-pair encoding: text <-> token ids.

Radford et al. 2019 ("Language Models are Unsupervised Multitask Learners"), section 2.2, after Sennrich et al. 2016
("Neural Machine Translation of Rare Words with Subword Units"). A text is cut into pieces (words, numbers, punctuation,
white space); the UTF-8 bytes of each piece start as one symbol each; then neighbours are merged, always the pair that
was learned first, until no neighbours are left that were ever learned as a pair. What remains are the tokens:

    ' merges' = Ġ m e r g e s -> Ġ m er g e s -> Ġ m er g es -> Ġm er g es -> Ġm er ges -> Ġmer ges = [4017, 3212]

Two files hold what was learned. `encoder.json` gives every token's id. `vocab.bpe` lists the merges in the order in
which they were learned, a pair to a line. Both write bytes as printable characters (see `byte_characters`).
"""

import json
import os
from collections.abc import Collection, Iterable
from heapq import heapify, heappop, heappush
from itertools import chain, pairwise

import regex

from errors import UserError, reason
from model_dir import find_model

END_OF_TEXT = '<|endoftext|>'
CACHE_SIZE = 2 ** 16        # pieces remembered: 10 MB of English words, 30 MB of Chinese; twice as many gain nothing
LONGEST_CACHED = 64         # characters: longer pieces seldom come twice, and would leave the cache's bytes unbounded

# No merge crosses from one piece to the next. Every character of a text is in exactly one piece. Letters, numbers and
# white space are what the `regex` package's Unicode tables say, so characters of newer Unicode versions may be cut
# differently by other tools.
PIECE = regex.compile(r'''
      '(?:[stmd]|re|ve|ll)                          # what follows a word in a contraction: it's, we're
    | [ ]?(?:\p{L}+|\p{N}+|[^\s\p{L}\p{N}]+)        # letters, numbers or the rest, each with one space before it
    | \s+(?!\S)                                     # white space, except a last space that the next piece will take
    | \s+
''', regex.VERBOSE)


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


def merge(symbols: Iterable[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    """Merges neighbours, the pair of lowest rank first and of equals the leftmost, until no neighbours have a rank.

        merge('abab', {('b', 'a'): 0, ('a', 'ba'): 1}) -> a b a b -> a ba b -> aba b -> ['aba', 'b']

    The symbols are a doubly linked list, the pairs that may be merged a heap, so that n symbols take O(n log n). Pairs
    that a merge has broken up stay in the heap and are passed over when they come out.
    """
    symbols = [*symbols, '']        # '' is in no pair: it ends the list on the right and, as symbols[-1], on the left
    size = len(symbols)
    before = list(range(-1, size - 1))
    after = list(range(1, size + 1))

    # rank * size + position sorts as (rank, position) does, but an int is faster to compare than a tuple.
    heap = [ranks[pair] * size + i for i, pair in enumerate(pairwise(symbols)) if pair in ranks]
    heapify(heap)
    while heap:
        rank, i = divmod(heappop(heap), size)
        j = after[i]
        if ranks.get((symbols[i], symbols[j])) != rank:
            continue
        symbols[i] += symbols[j]
        symbols[j] = ''
        after[i] = after[j]
        before[after[j]] = i
        for left, right in ((before[i], i), (i, after[i])):
            new_rank = ranks.get((symbols[left], symbols[right]))
            if new_rank is not None:
                heappush(heap, new_rank * size + left)
    return [symbol for symbol in symbols if symbol]


class _Pieces(dict):
    """piece -> its token ids, worked out when first asked for; empties itself when full."""

    def __init__(self, ids: dict[str, int], ranks: dict[tuple[str, str], int]):
        super().__init__()
        self.ids = ids
        self.ranks = ranks

    def __missing__(self, piece: str) -> tuple[int, ...]:
        tokens = tuple(self.ids[token] for token in merge(spell(piece), self.ranks))
        if len(piece) <= LONGEST_CACHED:
            # Starting over costs less than keeping count of what is used: the common pieces are back at once.
            if len(self) >= CACHE_SIZE:
                self.clear()
            self[piece] = tokens
        return tokens


class Encoder:
    """Text to token ids and back, with the vocabulary of one model.

    ids: every token, spelled in byte characters, and its id, 0 to n_vocab - 1; the 256 byte characters, what each merge
    makes and END_OF_TEXT are among them. merges: pairs of tokens, first learned first; both of a pair are byte
    characters or made by an earlier merge. `load_encoder` checks this for files.

    n_vocab: tokens in the vocabulary; end_of_text: the id of END_OF_TEXT.
    """

    def __init__(self, ids: dict[str, int], merges: Collection[tuple[str, str]]):
        self.n_vocab = len(ids)
        self.end_of_text = ids[END_OF_TEXT]
        self._pieces = _Pieces(ids, {pair: rank for rank, pair in enumerate(merges)})
        self._bytes = {id: token.translate(CHARACTER_BYTES).encode('latin-1') for token, id in ids.items()}

    def encode(self, text: str) -> list[int]:
        """'Hello world' -> [15496, 995]. END_OF_TEXT is text like any other here; lone surrogates become U+FFFD."""
        try:
            return list(chain.from_iterable(map(self._pieces.__getitem__, PIECE.findall(text))))
        except UnicodeEncodeError:
            return self.encode(well_formed(text))

    def encode_with_special(self, text: str) -> list[int]:
        """As `encode`, but each literal END_OF_TEXT becomes its one id: 'a<|endoftext|>b' -> [64, 50256, 65]."""
        documents = map(self.encode, text.split(END_OF_TEXT))
        ids = next(documents)
        for document in documents:
            ids.append(self.end_of_text)
            ids.extend(document)
        return ids

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
