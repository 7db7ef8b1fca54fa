"""A file's text in pieces: decompressed, decoded, cut into documents, however large the file is.

A document is a whole file, each of its lines (--document_per_line), or each record of a .jsonl or .csv (--text_column).
Events (text, ends) tell of documents: a piece of the current one, and whether it ends with this piece.
"""

import codecs
import csv
import dataclasses
import io
import itertools
import json
import os
import stat
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator

from command.errors import UserError, reason
from vocabulary.pieces import cut
from vocabulary.spelling import well_formed

BLOCK = 1 << 18         # bytes read at a time
LONGEST_WORD = 1 << 20      # characters; what cannot be cut is encoded whole, at 130 bytes of memory and more for each
LONGEST_RECORD = 1 << 25    # characters; a record is held whole, in several copies
ERRORS = ('strict', 'replace', 'ignore')
_MARKS = {'utf-16': (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE), 'utf-32': (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)}
# Bytes given to a decompressor at a time, so that a file of nothing but zeros comes out in pieces that fit into memory: a
# byte of gzip makes up to a thousand, four bytes of zstd up to 2 ** 17.
_STEPS = {'.gz': 1 << 16, '.zst': 1 << 12}
_KINDS = {'.gz': 'gzip', '.zst': 'zstd'}
# What a member begins with (RFC 1952, RFC 8878; the others of .zst are frames to be skipped).
_MAGICS = {'.gz': [b'\x1f\x8b'],
           '.zst': [b'\x28\xb5\x2f\xfd', *(bytes([first, 0x2a, 0x4d, 0x18]) for first in range(0x50, 0x60))]}
_LOOK_ON = 1 << 28      # bytes of text, about a second
_WINDOW = 1 << 31       # bytes of memory that a .zst may need, if it was made so (zstd --long=31, as large corpora are)


@dataclasses.dataclass(frozen=True)
class TextFormat:
    """How a corpus holds its text. text_column: of .jsonl and .csv files. Raises UserError for an unknown encoding."""
    encoding: str = 'utf-8'
    encoding_errors: str = 'strict'
    text_column: str | None = None
    document_per_line: bool = False

    def __post_init__(self):
        check_encoding(self.encoding)


def check_encoding(encoding: str) -> None:
    """Raises UserError unless Python can decode text in the encoding of this name."""
    try:
        codecs.getincrementaldecoder(encoding)
        b'x'.decode(encoding)
    except UnicodeDecodeError:
        pass        # known, but a character takes more than the one byte
    except (LookupError, UnicodeError):
        raise UserError(f'unknown text encoding {encoding!r}; expected a name such as utf-8, utf-16, latin-1 or '
                        'cp1252 (--encoding)') from None


def read_documents(path: str, format: TextFormat, read: Callable[[int], None] = lambda count: None
                   ) -> Iterator[tuple[str, bool]]:
    """Events (text, ends) of a file's documents. `read` is told how many bytes were read from the disk, each time.

    A byte order mark is dropped, lines end in \\n. Raises UserError that names the file and what is wrong with it: the
    byte, by its offset in the decompressed file, or the line.
    """
    name = path.lower()
    packed = next((suffix for suffix in _STEPS if name.endswith(suffix)), '')
    blocks = _blocks(path, read)
    if packed:
        name = name.removesuffix(packed)
        blocks = _decompressed(blocks, path, packed)
        return _damage_first(_documents(name, path, blocks, format), blocks)
    return _documents(name, path, blocks, format)


def _documents(name: str, path: str, blocks: Iterable[bytes], format: TextFormat) -> Iterator[tuple[str, bool]]:
    """Events of the documents in these bytes of the file `path`, whose name, in small letters, says what they are."""
    pieces = _decoded(blocks, path, format)
    if name.endswith('.jsonl'):
        if format.text_column is None:
            raise UserError(f'{path} holds records: name the column of its text (--text_column)')
        return _jsonl(pieces, path, format.text_column)
    if name.endswith('.csv') and format.text_column is not None:
        return _csv(pieces, path, format.text_column)
    return _lines_as_documents(pieces) if format.document_per_line else _one_document(pieces)


def _blocks(path: str, read: Callable[[int], None]) -> Iterator[bytes]:
    """The bytes of a file. Raises UserError if it cannot be read, or has fewer bytes than when it was opened."""
    done = 0
    try:
        with open(path, 'rb', buffering=0) as file:
            status = os.fstat(file.fileno())
            while block := file.read(BLOCK):
                done += len(block)
                read(len(block))
                yield block
    except OSError as error:
        raise UserError(f'cannot read {path}: {reason(error)}') from None
    if stat.S_ISREG(status.st_mode) and done < status.st_size:
        raise UserError(f'{path} shrank while it was read: it had {status.st_size} bytes, and ended after {done}')


def _decompressed(blocks: Iterable[bytes], path: str, suffix: str) -> Iterator[bytes]:
    """What a .gz or .zst of one or several members holds. Raises UserError for one that is damaged, cut off, or none."""
    new, damage = _decompressor(path, suffix)
    step, member, whole = _STEPS[suffix], None, False
    done = begin = 0        # bytes read, and where the current member begins
    head = b''              # its first bytes
    for block in blocks:
        for data in (block[start:start + step] for start in range(0, len(block), step)):
            done += len(data)
            while data:
                if member is None:
                    member, head, begin = new(), b'', done - len(data)
                head += data[:4 - len(head)]
                try:
                    text = member.decompress(data)
                except damage:
                    raise _bad_member(path, suffix, head, begin, 'damaged: its {} data is not as it was written') from None
                data, whole = member.unused_data, member.eof
                member = None if whole else member
                if text:
                    yield text
    if not whole:
        raise _bad_member(path, suffix, head, begin, 'cut off: its {} data ends too early')


def _damage_first(events: Iterator[tuple[str, bool]], blocks: Iterator[bytes]) -> Iterator[tuple[str, bool]]:
    """The events of a compressed file. Where something is wrong with its text, it may be damaged, and that is told instead.

    Most damage shows only some time after it has made nonsense of the text, or at the end: a part of the rest is read.
    """
    try:
        yield from events
    except UserError:
        seen = 0
        while seen < _LOOK_ON and (block := next(blocks, b'')):
            seen += len(block)
        raise


def _bad_member(path: str, suffix: str, head: bytes, begin: int, what: str) -> UserError:
    """What to say of a member that begins at the byte `begin`, with the bytes `head`: `what`, if it is one at all."""
    kind = _KINDS[suffix]
    if head and any(head[:len(magic)] == magic[:len(head)] for magic in _MAGICS[suffix]):
        return UserError(f'{path} is {what.format(kind)}; copy, download or make it again')
    if begin:
        return UserError(f'{path} is damaged: its {kind} data ends before the byte at offset {begin}, and something else '
                         'follows; copy, download or make it again')
    return UserError(f'{path} is no {kind} file: {"it begins otherwise" if head else "it is empty"}; give it another name, or '
                     'leave it out by a glob such as *.txt')


def _decompressor(path: str, suffix: str) -> tuple[Callable, type[Exception]]:
    """What makes a decompressor of one member, and what that raises."""
    if suffix == '.gz':
        return (lambda: zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)), zlib.error      # 16: with gzip's header
    try:
        import zstandard
    except ImportError:
        raise UserError(f'{path}: reading .zst needs a package: pip install zstandard') from None
    return (lambda: zstandard.ZstdDecompressor(max_window_size=_WINDOW).decompressobj()), zstandard.ZstdError


def _decoded(blocks: Iterable[bytes], path: str, format: TextFormat) -> Iterator[str]:
    """The text of these bytes, without a byte order mark, lines ended by \\n."""
    codec, blocks = _codec(format.encoding, iter(blocks))
    decoder = codecs.getincrementaldecoder(codec)(format.encoding_errors)
    # The 2019 tools opened files in Python's text mode, which reads \r\n and \r as \n: the same text, the same tokens.
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    done, first, word = 0, True, _LastWord()
    for block, last in itertools.chain(((block, False) for block in blocks), [(b'', True)]):
        done += len(block)
        try:
            text = decoder.decode(block, last)
        except UnicodeDecodeError as error:
            offset = done - len(error.object) + error.start     # the object: what was held back, and this block
            raise _not_text(path, format, f'byte 0x{error.object[error.start]:02x} at offset {offset} '
                                          f'({error.reason})') from None
        if '\0' in text and format.encoding_errors == 'strict':
            # Counted from the end: a mark at the beginning may have been passed over.
            after = text[text.index('\0'):].encode(codec)
            mark = len(''.encode(codec))
            offset = done - len(decoder.getstate()[0]) - (len(after) - mark)
            raise _not_text(path, format, f'byte 0x00 at offset {offset} (a binary file?)')
        if text and first:
            text, first = text.removeprefix('\ufeff'), False
        if text := newlines.decode(text, last):
            if word.length_after(text) > LONGEST_WORD:
                raise UserError(f'{path} has more than {LONGEST_WORD} characters up to the byte at offset {done} in which no '
                                'word ends: is it text? break it into lines, or leave the file out by a glob such as *.txt')
            yield text


class _LastWord:
    """How long the last word is, or whatever else cannot be cut, of a text that is read in pieces."""

    def __init__(self):
        self._length, self._end = 0, ''

    def length_after(self, piece: str) -> int:
        """Its characters when one more piece, not empty, has been read."""
        seen = self._end + piece        # a word may end between two pieces
        place = cut(seen)
        self._length = len(seen) - place if place else self._length + len(piece)
        self._end = piece[-1]
        return self._length


def _codec(encoding: str, blocks: Iterator[bytes]) -> tuple[str, Iterator[bytes]]:
    """The codec to decode these bytes in pieces with, and the bytes, the first of which had to be looked at."""
    name = codecs.lookup(encoding).name
    if name == 'utf-8-sig':     # counts offsets from behind the mark, which is dropped in any case
        return 'utf-8', blocks
    if name not in _MARKS:
        return encoding, blocks
    head = b''
    while len(head) < 4 and (block := next(blocks, b'')):
        head += block
    # Without a mark, the whole file at once would be decoded in this machine's order, but pieces not at all.
    order = '' if head.startswith(_MARKS[name]) else '-le' if sys.byteorder == 'little' else '-be'
    return name + order, itertools.chain([head], blocks)


def _not_text(path: str, format: TextFormat, what: str) -> UserError:
    return UserError(f'{path} is not {format.encoding} text: {what}; give its --encoding, or --encoding_errors replace, or '
                     'leave the file out by a glob such as *.txt')


def _one_document(pieces: Iterable[str]) -> Iterator[tuple[str, bool]]:
    for piece in pieces:
        yield piece, False
    yield '', True


def _lines_as_documents(pieces: Iterable[str]) -> Iterator[tuple[str, bool]]:
    for piece in pieces:
        *lines, rest = piece.split('\n')
        for line in lines:
            yield line, True
        yield rest, False
    yield '', True


def _lines(pieces: Iterable[str], path: str) -> Iterator[str]:
    """Whole lines, each with its \\n. Raises UserError for one that is too long."""
    parts, held, number = [], 0, 1
    for piece in pieces:
        *lines, rest = piece.split('\n')
        for line in lines:
            yield ''.join([*parts, line, '\n'])
            parts.clear()
        number += len(lines)
        held = len(rest) if lines else held + len(rest)
        if held > LONGEST_RECORD:
            raise UserError(f'{path} line {number} has more than {LONGEST_RECORD} characters, too many for a record, which is '
                            'read whole: break it into several')
        parts.append(rest)
    if last := ''.join(parts):
        yield last + '\n'


def _jsonl(pieces: Iterable[str], path: str, column: str) -> Iterator[tuple[str, bool]]:
    """The text of each line, a JSON object."""
    for number, line in enumerate(_lines(pieces, path), start=1):
        if line.isspace():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f'{path} line {number} is not JSON: {error}') from None
        if not isinstance(record, dict):
            raise UserError(f'{path} line {number} must hold an object, with the column {column!r}')
        if column not in record:
            raise _no_column(path, number, column, record)
        text = record[column]
        if not isinstance(text, str):
            raise UserError(f'{path} line {number}: the column {column!r} holds {json.dumps(text)[:40]}; expected text')
        yield well_formed(text).replace('\r\n', '\n').replace('\r', '\n'), True


def _csv(pieces: Iterable[str], path: str, column: str) -> Iterator[tuple[str, bool]]:
    """The text of each row; the first row names the columns."""
    csv.field_size_limit(LONGEST_RECORD)        # by default a text of 131,072 characters would be too long
    reader = csv.reader(_lines(pieces, path), strict=True)
    header = None
    try:
        for row in reader:
            if not row:
                continue
            if header is None:
                header = row
                if column not in header:
                    raise _no_column(path, reader.line_num, column, header)
                index = header.index(column)
            elif len(row) != len(header):
                raise UserError(f'{path} line {reader.line_num} has {len(row)} columns, but the header {len(header)}')
            else:
                yield row[index], True
    except csv.Error as error:
        raise UserError(f'{path} line {reader.line_num} is not CSV: {error}') from None


def _no_column(path: str, number: int, column: str, columns: Iterable[str]) -> UserError:
    return UserError(f'{path} line {number} has no column {column!r} (--text_column); it has '
                     f'{", ".join(map(repr, itertools.islice(columns, 10))) or "none"}')
