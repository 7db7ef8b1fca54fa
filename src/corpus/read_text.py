"""Reads documents from files in pieces: decompresses, decodes, splits.

A document is a complete file, each of its lines (--document_per_line), or each of its records (see records.py). Events
(text, ends) describe documents: a piece of the current one, and whether the piece ends it.
"""

import codecs
import dataclasses
import io
import itertools
import os
import stat
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator

from command.errors import UserError, reason
from corpus.records import JSON, TABLES, Skipped, json_texts, table_texts
from vocabulary.pieces import cut

BLOCK = 1 << 18         # bytes read at a time
LONGEST_WORD = 1 << 20      # characters; a word cannot be cut, and encoding one takes 130 bytes or more for each
ERRORS = ('strict', 'replace', 'ignore')
_MARKS = {'utf-16': (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE), 'utf-32': (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)}
# Bytes given to a decompressor at a time, so that the output fits into memory even for a file of zeros: a byte of gzip
# becomes up to a thousand, four bytes of zstd up to 2 ** 17.
_STEPS = {'.gz': 1 << 16, '.zst': 1 << 12}
_KINDS = {'.gz': 'gzip', '.zst': 'zstd'}
# The first bytes of a member (RFC 1952, RFC 8878; the second line of .zst: skippable frames).
_MAGICS = {'.gz': [b'\x1f\x8b'],
           '.zst': [b'\x28\xb5\x2f\xfd', *(bytes([first, 0x2a, 0x4d, 0x18]) for first in range(0x50, 0x60))]}
_SEARCHED = 1 << 28     # bytes of text that are searched for damage, about a second
_WINDOW = 1 << 31       # bytes of memory that a .zst may need: zstd --long=31, which large corpora use


@dataclasses.dataclass(frozen=True)
class TextFormat:
    """The format of text files. text_column: of files with records. Raises UserError for an unknown encoding."""
    encoding: str = 'utf-8'
    encoding_errors: str = 'strict'
    text_column: str | None = None
    document_per_line: bool = False
    skip_bad_records: bool = False

    def __post_init__(self):
        check_encoding(self.encoding)


def check_encoding(encoding: str) -> None:
    """Raises UserError unless Python can decode text in the encoding of this name."""
    try:
        codecs.getincrementaldecoder(encoding)
        b'x'.decode(encoding)
    except UnicodeDecodeError:
        pass        # known, but a character takes more than one byte
    except (LookupError, UnicodeError):
        raise UserError(f'unknown text encoding {encoding!r}; expected a name such as utf-8, utf-16, latin-1 or '
                        'cp1252 (--encoding)') from None


def check_text_column(format: TextFormat, files: Iterable[str]) -> None:
    """Raises UserError if there is a text_column, but none of the files can have it."""
    if format.text_column is not None and not any(_unpacked(file)[0].endswith((*JSON, *TABLES)) for file in files):
        raise UserError(f'--text_column {format.text_column} has no effect: no file of the corpus ends in '
                        f'{", ".join((*JSON, *TABLES))} (or one of them with .gz, .zst); leave it out, or rename the files')


def read_documents(path: str, format: TextFormat, read: Callable[[int], None] = lambda count: None,
                   skipped: Skipped | None = None) -> Iterator[tuple[str, bool]]:
    """Events (text, ends) of a file's documents. Calls `read` with the number of bytes of each read from the disk.

    A byte order mark is dropped, lines end in \\n. skipped: to which bad records are added, if the format allows them.
    Raises UserError that names the file, what is wrong with it, and the line or the byte's offset in the decompressed file.
    """
    name, packed = _unpacked(path)
    blocks = _blocks(path, read)
    if packed:
        blocks = _decompressed(blocks, path, packed)
    events = _documents(name, path, blocks, format, skipped or Skipped(format.skip_bad_records))
    return _prefer_damage(events, blocks) if packed else events


def _unpacked(path: str) -> tuple[str, str]:
    """A file's name in small letters without the suffix of a compressed file, and that suffix: 'A.CSV.gz' -> 'a.csv', '.gz'."""
    name = path.lower()
    packed = next((suffix for suffix in _STEPS if name.endswith(suffix)), '')
    return name.removesuffix(packed), packed


def _documents(name: str, path: str, blocks: Iterable[bytes], format: TextFormat, skipped: Skipped
               ) -> Iterator[tuple[str, bool]]:
    """Events of the documents in the bytes of the file `path`. name: as _unpacked gives it, which says the format."""
    pieces, column = _decoded(blocks, path, format), format.text_column
    if name.endswith(JSON):
        return json_texts(pieces, path, column, skipped, array_or_lines=name.endswith('.json'))
    if column is not None and name.endswith(tuple(TABLES)):
        return table_texts(pieces, path, column, TABLES[name[-4:]], skipped)
    return _lines_as_documents(pieces) if format.document_per_line else _one_document(pieces)


def _blocks(path: str, read: Callable[[int], None]) -> Iterator[bytes]:
    """The bytes of a file. Raises UserError if it cannot be read, or shrinks meanwhile."""
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
    """The content of a .gz or .zst of one or several members. Raises UserError for a damaged, truncated or other file.

    Member by member: zstandard's own reader of several frames ends silently where a file is cut off.
    """
    new, damage = _decompressor(path, suffix)
    step, member, complete = _STEPS[suffix], None, False
    done = begin = 0        # bytes read, and the offset at which the current member begins
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
                    raise _bad_member(path, suffix, head, begin, 'damaged: its {} data is corrupt') from None
                data, complete = member.unused_data, member.eof
                member = None if complete else member
                if text:
                    yield text
    if not complete:
        raise _bad_member(path, suffix, head, begin, 'cut off: its {} data ends too early')


def _prefer_damage(events: Iterator[tuple[str, bool]], blocks: Iterator[bytes]) -> Iterator[tuple[str, bool]]:
    """The events of a compressed file. If its text is wrong because it is damaged, raises the error of the damage.

    A decompressor notices most damage only after it has returned wrong text, so some more `blocks` are read.
    """
    try:
        yield from events
    except UserError:
        seen = 0
        while seen < _SEARCHED and (block := next(blocks, b'')):
            seen += len(block)
        raise


def _bad_member(path: str, suffix: str, head: bytes, begin: int, what: str) -> UserError:
    """The error for a member at offset `begin`: `what`, if its first bytes `head` are those of a member at all."""
    kind = _KINDS[suffix]
    if head and any(head[:len(magic)] == magic[:len(head)] for magic in _MAGICS[suffix]):
        return UserError(f'{path} is {what.format(kind)}; copy, download or make it again')
    if begin:
        return UserError(f'{path} is damaged: its {kind} data ends at offset {begin}, and other data follows; copy, '
                         'download or make it again')
    return UserError(f'{path} is not a {kind} file: {"it begins differently" if head else "it is empty"}; rename it, '
                     'or leave it out by a glob such as *.txt')


def _decompressor(path: str, suffix: str) -> tuple[Callable, type[Exception]]:
    """A function that makes a decompressor for one member, and the exception that it raises."""
    if suffix == '.gz':
        return (lambda: zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)), zlib.error      # 16: with gzip's header
    try:
        import zstandard
    except ImportError:
        raise UserError(f'{path}: reading .zst needs a package: pip install zstandard') from None
    return (lambda: zstandard.ZstdDecompressor(max_window_size=_WINDOW).decompressobj()), zstandard.ZstdError


def _decoded(blocks: Iterable[bytes], path: str, format: TextFormat) -> Iterator[str]:
    """The text of these bytes, without a byte order mark; lines end in \\n."""
    codec, blocks = _codec(format.encoding, iter(blocks))
    decoder = codecs.getincrementaldecoder(codec)(format.encoding_errors)
    # As Python's text mode, in which the tools of 2019 opened files: the same text, the same tokens.
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    done, first, word = 0, True, _LastWord()
    for block, last in itertools.chain(((block, False) for block in blocks), [(b'', True)]):
        done += len(block)
        try:
            text = decoder.decode(block, last)
        except UnicodeDecodeError as error:
            offset = done - len(error.object) + error.start     # object: undecoded bytes and this block
            raise _not_text(path, format, f'byte 0x{error.object[error.start]:02x} at offset {offset} '
                                          f'({error.reason})') from None
        if '\0' in text and format.encoding_errors == 'strict':
            # Counted from the end: a mark at the beginning may have been dropped.
            after = text[text.index('\0'):].encode(codec)
            mark = len(''.encode(codec))
            offset = done - len(decoder.getstate()[0]) - (len(after) - mark)
            raise _not_text(path, format, f'byte 0x00 at offset {offset} (a binary file?)')
        if text and first:
            text, first = text.removeprefix('\ufeff'), False
        if text := newlines.decode(text, last):
            if word.length_after(text) > LONGEST_WORD:
                raise UserError(f'{path} has a word of more than {LONGEST_WORD} characters before offset {done}: is it '
                                'text? break it into lines, or leave the file out by a glob such as *.txt')
            yield text


class _LastWord:
    """Measures the last word, or other text that cannot be cut, of a text that is read in pieces."""

    def __init__(self):
        self._length, self._end = 0, ''

    def length_after(self, piece: str) -> int:
        """Its characters after one more piece, which is not empty."""
        text = self._end + piece        # a word may end between two pieces
        end = cut(text)
        self._length = len(text) - end if end else self._length + len(piece)
        self._end = piece[-1]
        return self._length


def _codec(encoding: str, blocks: Iterator[bytes]) -> tuple[str, Iterator[bytes]]:
    """The codec for decoding these bytes in pieces, and the bytes again, some of which it read."""
    name = codecs.lookup(encoding).name
    if name == 'utf-8-sig':     # this codec counts offsets after the mark, which is dropped in any case
        return 'utf-8', blocks
    if name not in _MARKS:
        return encoding, blocks
    head = b''
    while len(head) < 4 and (block := next(blocks, b'')):
        head += block
    # Without a mark, Python decodes a complete file in this machine's byte order, but pieces not at all.
    order = '' if head.startswith(_MARKS[name]) else '-le' if sys.byteorder == 'little' else '-be'
    return name + order, itertools.chain([head], blocks)


def _not_text(path: str, format: TextFormat, what: str) -> UserError:
    return UserError(f'{path} is not {format.encoding} text: {what}; give its --encoding, or --encoding_errors replace, '
                     'or leave the file out by a glob such as *.txt')


def _one_document(pieces: Iterable[str]) -> Iterator[tuple[str, bool]]:
    for piece in pieces:
        yield piece, False
    yield '', True


def _lines_as_documents(pieces: Iterable[str]) -> Iterator[tuple[str, bool]]:
    inside = False      # whether the last line has begun: no line follows the last \n
    for piece in pieces:
        *lines, rest = piece.split('\n')
        for line in lines:
            yield line, True
        if inside := bool(rest) or inside and not lines:
            yield rest, False
    if inside:
        yield '', True
