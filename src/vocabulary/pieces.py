"""Where a text is cut: into the pieces that merges stay within, and into parts that can be encoded one by one.

PIECE says what a piece is. `split` finds the same ends for a whole block of text at once, with numpy. Whether a piece ends
after a character shows in that character and the next two, or rather in their kinds (letter, number, other, white space,
the space): ENDS has the answer for every three kinds, as PIECE gives it. Only contractions need a second look:

    it's  two -> kinds aa!a__aaa -> it|'|s| | two -> it|'s| | two
"""

import itertools
import re
from collections.abc import Iterator

import numpy as np
import regex

BLOCK = 2 ** 16             # characters: what is worked out about so many fits the processor's cache

# No merge crosses from one piece to the next. Every character of a text is in exactly one piece. Letters, numbers and
# white space are what the `regex` package's Unicode tables say, so characters of newer Unicode versions may be cut
# differently by other tools.
PIECE = regex.compile(r'''
      '(?:[stmd]|re|ve|ll)                          # what follows a word in a contraction: it's, we're
    | [ ]?(?:\p{L}+|\p{N}+|[^\s\p{L}\p{N}]+)        # letters, numbers or the rest, each with one space before it
    | \s+(?!\S)                                     # white space, except a last space that the next piece will take
    | \s+
''', regex.VERBOSE)

# Where a piece must end, whatever comes before and after these two characters. Surrogates may be half a letter.
BOUNDARY = regex.compile(r'''(?r)              # searches backwards
      (?<=\S)(?=\s)
    | (?<=\p{L})(?=[^\p{L}\p{Cs}])(?<!<\|endoftext)
    | (?<=\p{N})(?=[^\p{N}\p{Cs}])
''', regex.VERBOSE)

# A character of each kind, and the others of that kind. The last one is of itself.
KINDS = {'!': r'[^\s\p{L}\p{N}]+', 'a': r'\p{L}+', '0': r'\p{N}+', '\n': r'[^\S ]+', ' ': r'[ ]+'}
SPACE = len(KINDS) - 1
UNKNOWN = len(KINDS)
PAGE = 2 ** 12              # code points whose kinds are looked up together, when one of them first occurs

# By the kinds of three characters, as the digits of a number: whether a piece ends after the first.
ENDS = bytes(len(PIECE.match(''.join(three))[0]) == 1 for three in itertools.product(KINDS, repeat=3)).ljust(256, b'\0')
CONTRACTION = re.compile("'(?:[stmd]|re|ve|ll)")

END, WITHIN = b'\xff', b'\xfe'      # bytes that UTF-8 has not


def kinds_of(characters: str) -> np.ndarray:
    """The kind of each character, uint8: 'a b' -> [1, 4, 1]."""
    kinds = np.empty(len(characters), np.uint8)
    for kind, pattern in enumerate(KINDS.values()):
        for run in regex.finditer(pattern, characters):
            kinds[run.start():run.end()] = kind
    return kinds


ASCII_KINDS = kinds_of(''.join(map(chr, range(256)))).tobytes()
_kinds = np.full(0x110000, UNKNOWN, np.uint8)       # of all code points, filled in page by page


def cut(text: str, end: bool = False) -> int:
    """Where a text that goes on can be cut: text[:p] and text[p:] with all that follows, encoded one by one, give the
    ids of the whole. With `end`, nothing follows: len(text).

    'two words' -> 3. The last p at which the two characters beside it show, whatever the others are, that a piece ends
    and that no END_OF_TEXT stands across: before white space that follows something else, and after a letter or a
    number that something else follows. 0 if there is none, as in a single word. Looks no further back than it must.
    """
    if end:
        return len(text)
    boundary = BOUNDARY.search(text)
    return boundary.start() if boundary else 0


def blocks(text: str) -> Iterator[str]:
    """The text in parts of BLOCK characters or somewhat less, more only where `cut` finds no place."""
    start, size = 0, BLOCK
    while start + size < len(text):
        length = cut(text[start:start + size])
        if length:
            yield text[start:start + length]
        start += length
        size = BLOCK if length else 2 * size
    yield text[start:]


def split(block: str, apart: np.ndarray) -> list[bytes]:
    """A text in UTF-8, divided where a piece ends and, if it is not ASCII, also where merges cannot join two bytes.

    apart, uint8: at 256 * first + second, 1 if no merge joins these bytes or anything that ends and begins with them, else
    0. So '人之初' is divided into its characters: hardly a token of GPT-2 reaches from one Chinese character into the next.
    Raises UnicodeEncodeError for a lone surrogate.
    """
    data = block.encode()
    values = np.frombuffer(data, np.uint8)
    if len(data) == len(block):
        ends = piece_ends(block, data.translate(ASCII_KINDS))
    else:
        ends = np.zeros(len(data), np.uint8)
        last_of_character = np.append(values[1:] & 0xc0 != 0x80, True)
        np.place(ends, last_of_character, piece_ends(block, unicode_kinds(block).tobytes()))
        ends[:-1] |= apart.take(values[:-1].astype(np.uint16) << 8 | values[1:])
    ends[-1:] = 0
    marked = np.empty([len(data), 2], np.uint8)
    marked[:, 0] = values
    marked[:, 1] = ends + WITHIN[0]         # which makes END of an end
    return marked.tobytes().translate(None, WITHIN).split(END)


def piece_ends(text: str, kinds: bytes) -> np.ndarray:
    """For each character 1 if a piece of the text ends after it, else 0, uint8 [characters]. kinds: of the characters."""
    kinds = np.frombuffer(kinds + bytes([SPACE, SPACE]), np.uint8)      # at the end of a text, pieces end as before a space
    threes = kinds[:-2] * np.uint8(len(KINDS) ** 2) + kinds[1:-1] * np.uint8(len(KINDS)) + kinds[2:]
    ends = np.frombuffer(bytearray(threes.tobytes().translate(ENDS)), np.uint8)
    found = np.array([match.span() for match in CONTRACTION.finditer(text)], np.intp).reshape(-1, 2)
    # The apostrophe must begin a piece. None is part of another contraction, so they do not depend on one another.
    starts, stops = found[(found[:, 0] == 0) | (ends[found[:, 0] - 1] == 1)].T
    ends[starts] = 0
    ends[stops - 1] = 1
    return ends


def unicode_kinds(text: str) -> np.ndarray:
    """As `kinds_of`, from a table."""
    codes = np.frombuffer(text.encode('utf-32-le'), '<u4')
    kinds = _kinds.take(codes)
    if UNKNOWN in kinds:
        for page in np.unique(codes[kinds == UNKNOWN] // PAGE).tolist():
            _kinds[page * PAGE:(page + 1) * PAGE] = kinds_of(''.join(map(chr, range(page * PAGE, (page + 1) * PAGE))))
        kinds = _kinds.take(codes)
    return kinds
