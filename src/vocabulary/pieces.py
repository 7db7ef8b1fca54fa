"""Cuts a text into pieces and into parts that can be encoded one by one.

PIECE defines the pieces. `split` finds the same ends for a whole block of text with numpy: whether a piece ends after a
character follows from the kinds (letter, number, other, white space, the space) of that character and the next two. ENDS
has the answer for every three kinds, computed with PIECE. Only contractions need a second step:

    it's  two -> kinds aa!a__aaa -> it|'|s| | two -> it|'s| | two
"""

import itertools
import re
from collections.abc import Iterator

import numpy as np
import regex

from vocabulary.special import ONLY_END_OF_TEXT, SpecialTokens

BLOCK = 2 ** 16             # characters: the arrays for so many fit the processor's cache

# No merge crosses the end of a piece. Every character of a text is in exactly one piece. The `regex` package's Unicode
# tables define letters, numbers and white space, so other tools may cut characters of newer Unicode versions differently.
PIECE = regex.compile(r'''
      '(?:[stmd]|re|ve|ll)                          # the end of a contraction: it's, we're
    | [ ]?(?:\p{L}+|\p{N}+|[^\s\p{L}\p{N}]+)        # letters, numbers or the rest, each with one space before it
    | \s+(?!\S)                                     # white space; leaves its last character to a piece that follows
    | \s+
''', regex.VERBOSE)

# Between two characters where a piece always ends, whatever surrounds them. A surrogate may be half a letter.
BOUNDARY = regex.compile(r'''(?r)              # searches backwards
      (?<=\S)(?=\s)
    | (?<=\p{L})(?=[^\p{L}\p{Cs}])
    | (?<=\p{N})(?=[^\p{N}\p{Cs}])
''', regex.VERBOSE)

# Kinds of characters: an example of each -> a run of that kind. A kind's number is its index.
KINDS = {'!': r'[^\s\p{L}\p{N}]+', 'a': r'\p{L}+', '0': r'\p{N}+', '\n': r'[^\S ]+', ' ': r'[ ]+'}
SPACE = len(KINDS) - 1
UNKNOWN = len(KINDS)
PAGE = 2 ** 12              # code points whose kinds are found together, when one of them first occurs

# Index: the kinds of three characters, as digits of a number. Value: whether a piece ends after the first one.
ENDS = bytes(len(PIECE.match(''.join(three))[0]) == 1 for three in itertools.product(KINDS, repeat=3)).ljust(256, b'\0')
CONTRACTION = re.compile("'(?:[stmd]|re|ve|ll)")

END, WITHIN = b'\xff', b'\xfe'      # bytes that never occur in UTF-8


def kinds_of(characters: str) -> np.ndarray:
    """The kind of each character, uint8: 'a b' -> [1, 4, 1]."""
    kinds = np.empty(len(characters), np.uint8)
    for kind, pattern in enumerate(KINDS.values()):
        for run in regex.finditer(pattern, characters):
            kinds[run.start():run.end()] = kind
    return kinds


ASCII_KINDS = kinds_of(''.join(map(chr, range(256)))).tobytes()
_kind_of_code = np.full(0x110000, UNKNOWN, np.uint8)        # filled in page by page


def cut(text: str, end: bool = False, special: SpecialTokens = ONLY_END_OF_TEXT) -> int:
    """Where to cut a text: text[:p] and text[p:] + any continuation, encoded separately, give the ids of all of it.

    p is the last position where a piece ends whatever surrounds the two characters there: before white space that follows
    something else, and after a letter or number that something else follows, but never inside a special token. 'two
    words' -> 3. 0 if there is none, as in a single word. len(text) if nothing follows (`end`).
    """
    if end:
        return len(text)
    positions = (boundary.start() for boundary in BOUNDARY.finditer(text))      # from the end of the text
    return next((position for position in positions if not special.crosses(text, position)), 0)


def blocks(text: str) -> Iterator[str]:
    """Cuts the text into blocks of at most BLOCK characters, or longer ones where `cut` finds no position."""
    start, size = 0, BLOCK
    while start + size < len(text):
        length = cut(text[start:start + size])
        if length:
            yield text[start:start + length]
        start += length
        size = BLOCK if length else 2 * size
    yield text[start:]


def split(block: str, separable: np.ndarray) -> list[bytes]:
    """Cuts a text, in UTF-8, where a piece ends and, if it is not ASCII, also between separable bytes.

    separable: see merge.separable_bytes. It cuts '人之初' into its characters, as hardly any token of GPT-2 reaches from
    one Chinese character into the next. Raises UnicodeEncodeError for a lone surrogate.
    """
    data = block.encode()
    values = np.frombuffer(data, np.uint8)
    if len(data) == len(block):
        ends = piece_ends(block, data.translate(ASCII_KINDS))
    else:
        ends = np.zeros(len(data), np.uint8)
        last_of_character = np.append(values[1:] & 0xc0 != 0x80, True)
        np.place(ends, last_of_character, piece_ends(block, look_up_kinds(block).tobytes()))
        ends[:-1] |= separable.take(values[:-1].astype(np.uint16) << 8 | values[1:])
    ends[-1:] = 0
    marked = np.empty([len(data), 2], np.uint8)
    marked[:, 0] = values
    marked[:, 1] = ends + WITHIN[0]         # END where a piece ends
    return marked.tobytes().translate(None, WITHIN).split(END)


def piece_ends(text: str, kinds: bytes) -> np.ndarray:
    """1 for each character after which a piece ends, else 0, uint8 [characters]. kinds: of the characters."""
    kinds = np.frombuffer(kinds + bytes([SPACE, SPACE]), np.uint8)      # the end of a text acts like a space
    threes = kinds[:-2] * np.uint8(len(KINDS) ** 2) + kinds[1:-1] * np.uint8(len(KINDS)) + kinds[2:]
    ends = np.frombuffer(bytearray(threes.tobytes().translate(ENDS)), np.uint8)
    spans = np.array([match.span() for match in CONTRACTION.finditer(text)], np.intp).reshape(-1, 2)
    # The apostrophe must begin a piece. Contractions do not overlap, so they do not depend on one another.
    starts, stops = spans[(spans[:, 0] == 0) | (ends[spans[:, 0] - 1] == 1)].T
    ends[starts] = 0
    ends[stops - 1] = 1
    return ends


def look_up_kinds(text: str) -> np.ndarray:
    """Like `kinds_of`, but from a table, which is faster."""
    codes = np.frombuffer(text.encode('utf-32-le'), '<u4')
    kinds = _kind_of_code.take(codes)
    if UNKNOWN in kinds:
        for page in np.unique(codes[kinds == UNKNOWN] // PAGE).tolist():
            _kind_of_code[page * PAGE:(page + 1) * PAGE] = kinds_of(''.join(map(chr, range(page * PAGE, (page + 1) * PAGE))))
        kinds = _kind_of_code.take(codes)
    return kinds
