"""read_text.py: bytes on disk -> documents, and errors that give the offset or line."""

import codecs
import gzip
import os
import random
import sys

import pytest

from command.errors import UserError
from corpus import read_text
from corpus.read_text import TextFormat, read_documents
from document_files import documents, error_of
from optional import needs


def test_a_file_is_one_document(tmp_path, block):
    (tmp_path / 'a').write_bytes('\ufeffé\r\n\r\nb\ufeff\rc\n'.encode())
    assert documents(tmp_path / 'a') == ['é\n\nb\ufeff\nc\n']


def test_lines_are_documents(tmp_path, block):
    (tmp_path / 'a').write_bytes('\ufeffone\r\n\r\ntwo\u2028 more\x0b\rthree'.encode())
    assert documents(tmp_path / 'a', document_per_line=True) == ['one', '', 'two\u2028 more\x0b', 'three']


@pytest.mark.parametrize(('content', 'expected'), [
    ('', []), ('\n', ['']), ('a\n', ['a']), ('a\n\n', ['a', '']), ('\nlong line', ['', 'long line']), ('a\r', ['a'])])
def test_no_line_follows_the_last_line_break(tmp_path, block, content, expected):
    (tmp_path / 'a').write_text(content, newline='')
    assert documents(tmp_path / 'a', document_per_line=True) == expected


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-be', 'utf-32', 'shift_jis', 'gb18030', 'ascii'])
def test_a_decoding_error_gives_the_offset_in_the_file(tmp_path, block, encoding):
    """The same offset as when the complete file is decoded together."""
    rng = random.Random(block)
    for _ in range(20):
        content = bytearray(''.join(rng.choice('ab\r\n語é ') for _ in range(30)).encode(encoding, 'ignore'))
        content[rng.randrange(len(content))] = rng.choice((0xff, 0x81, 0xd8, 0xc3))
        (tmp_path / 'a').write_bytes(content)
        try:
            expected = content.decode('utf-8' if encoding == 'utf-8-sig' else encoding).removeprefix('\ufeff')
        except UnicodeDecodeError as error:
            expected = f' is not {encoding} text: byte 0x{content[error.start]:02x} at offset {error.start} ({error.reason})'
            assert error_of(tmp_path / 'a', bytes(content), encoding=encoding).startswith(expected)
        else:
            if '\0' not in expected:
                assert documents(tmp_path / 'a', encoding=encoding) == [expected.replace('\r\n', '\n').replace('\r', '\n')]


@pytest.mark.parametrize('encoding, mark', [('utf-8', b''), ('utf-8', codecs.BOM_UTF8), ('utf-16', codecs.BOM_UTF16_LE),
                                            ('utf-16-le', b''), ('latin-1', b'')])
def test_a_binary_file_is_named(tmp_path, block, encoding, mark):
    before = mark + 'né'.encode('utf-16-le' if encoding == 'utf-16' else encoding)
    content = before + '\0x'.encode('utf-16-le' if encoding == 'utf-16' else encoding)
    assert f'byte 0x00 at offset {len(before)} (a binary file?); give its --encoding, or' in error_of(
        tmp_path / 'a', content, encoding=encoding)
    assert documents(tmp_path / 'a', encoding=encoding, encoding_errors='replace') == ['né\0x']


def test_encodings_and_their_errors(tmp_path, block):
    (tmp_path / 'utf-16').write_bytes('no mark'.encode(f'utf-16-{sys.byteorder[0]}e'))
    assert documents(tmp_path / 'utf-16', encoding='UTF16') == ['no mark']
    (tmp_path / 'a').write_bytes(b'a\xffb\xe9')
    assert documents(tmp_path / 'a', encoding_errors='replace') == ['a\ufffdb\ufffd']
    assert documents(tmp_path / 'a', encoding_errors='ignore') == ['ab']


@pytest.mark.parametrize('content, end', [('x' * 500, 101), ('word ' + 'y' * 120, 105), (' ' * 500, 101), ('é' * 500, 202)])
def test_a_word_that_is_too_long(tmp_path, monkeypatch, content, end):
    """With blocks of a byte, the offset is that of the first byte too many."""
    monkeypatch.setattr(read_text, 'LONGEST_WORD', 100)
    monkeypatch.setattr(read_text, 'BLOCK', 1)
    assert error_of(tmp_path / 'a', content) == (
        f' has a word of more than 100 characters before offset {end}: is it text? break it into lines, or leave the file '
        'out by a glob such as *.txt')
    for before in ('', 'some words '):
        (tmp_path / 'a').write_text(before + f'{"z" * 99} ' * 3)
        assert documents(tmp_path / 'a') == [before + f'{"z" * 99} ' * 3]


# Compressed


def packed(suffix, data):
    if suffix == '.gz':
        return gzip.compress(data)
    return needs('zstandard').ZstdCompressor(write_checksum=True).compress(data)


@pytest.mark.parametrize('suffix', ['.gz', '.zst'])
def test_compressed_files_of_several_members(tmp_path, block, suffix):
    texts = ['first\r\n' * 9, '', 'sécond']
    (tmp_path / f'a.txt{suffix}').write_bytes(b''.join(packed(suffix, text.encode()) for text in texts))
    assert documents(tmp_path / f'a.txt{suffix}') == ['first\n' * 9 + 'sécond']
    (tmp_path / f'a.JSONL{suffix}').write_bytes(packed(suffix, b'{"t": "x"}\n{"t": "y"}'))
    assert documents(tmp_path / f'a.JSONL{suffix}', text_column='t') == ['x', 'y']


def test_well_compressed_text_is_decompressed_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setitem(read_text._STEPS, '.gz', 100)
    (tmp_path / 'a.gz').write_bytes(gzip.compress(b'words ' * 500_000))
    sizes = [len(text) for text, _ in read_documents(str(tmp_path / 'a.gz'), TextFormat())]
    assert sum(sizes) == 3_000_000 and max(sizes) < 200_000


@pytest.mark.parametrize(('suffix', 'kind'), [('.gz', 'gzip'), ('.zst', 'zstd')])
def test_compressed_files_cut_off_or_damaged(tmp_path, block, suffix, kind):
    path, whole = tmp_path / f'a{suffix}', packed(suffix, os.urandom(20).hex().encode())
    again = '; copy, download or make it again'
    cut, damaged = f' is cut off: its {kind} data ends too early{again}', f' is damaged: its {kind} data is corrupt{again}'
    for size in (1, 3, 11, len(whole) - 1):
        assert error_of(path, whole[:size]) == cut
    first = packed(suffix, b'x')
    assert error_of(path, first + whole[:-1]) == cut
    for place in (5 if suffix == '.zst' else 2, 20, len(whole) - 3):
        changed = bytearray(whole)
        changed[place] ^= 1
        assert error_of(path, first + changed) == damaged
    assert ' is not utf-8 text: byte 0xff at offset 700 (invalid start byte)' in error_of(
        path, packed(suffix, b'x' * 700 + b'\xff'))


@pytest.mark.parametrize(('suffix', 'kind'), [('.gz', 'gzip'), ('.zst', 'zstd')])
def test_files_that_are_not_compressed_or_only_at_first(tmp_path, block, suffix, kind):
    path, whole, todo = tmp_path / f'a{suffix}', packed(suffix, b'text'), '; rename it, or leave it out by a glob such as *.txt'
    for content in (b'plain text', b'p', bytes(100), whole[1:]):
        assert error_of(path, content) == f' is not a {kind} file: it begins differently{todo}'
    assert error_of(path, b'') == f' is not a {kind} file: it is empty{todo}'
    for rest in (b'plain text', b'p', bytes(100)):
        assert error_of(path, whole + rest) == (f' is damaged: its {kind} data ends at offset {len(whole)}, and other data '
                                                'follows; copy, download or make it again')


@pytest.mark.parametrize('content', [b'a' * 9 + b'\xff' + b'b' * 90, b'{"t": "x"' + b'\n' * 90])
def test_wrong_text_of_a_damaged_file_is_reported_as_damage(tmp_path, monkeypatch, content):
    """Invalid text in a file whose checksum is wrong too; too far after the text, damage is not searched for."""
    monkeypatch.setattr(read_text, 'BLOCK', 8)
    path, whole = tmp_path / 'a.jsonl.gz', gzip.compress(content, 0)
    monkeypatch.setattr(read_text, 'LONGEST_WORD', 1000)
    text_error = error_of(path, whole, text_column='t')
    assert ' is not utf-8 text' in text_error or ' line 1 is not JSON' in text_error
    changed = whole[:-8] + bytes(4) + whole[-4:]
    assert error_of(path, changed, text_column='t').startswith(' is damaged: its gzip data is corrupt')
    monkeypatch.setattr(read_text, '_SEARCHED', 20)
    assert error_of(path, changed, text_column='t') == text_error


def test_zst_with_a_long_window_and_skippable_frames(tmp_path):
    zstandard = needs('zstandard')
    compressor = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(window_log=31)).compressobj()
    (tmp_path / 'a.zst').write_bytes(b'\x50\x2a\x4d\x18\x02\0\0\0no' + compressor.compress(b'text') + compressor.flush())
    assert documents(tmp_path / 'a.zst') == ['text']


def test_the_package_for_zst_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'zstandard', None)
    assert error_of(tmp_path / 'a.zst', b'') == ': reading .zst needs a package: pip install zstandard'


def test_a_file_that_shrinks_while_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(read_text, 'BLOCK', 4)
    path = tmp_path / 'a'
    path.write_text('twelve bytes')
    pieces = read_documents(str(path), TextFormat())
    assert next(pieces) == ('twel', False)
    os.truncate(path, 6)
    with pytest.raises(UserError, match='shrank while it was read: it had 12 bytes, and ended after 6'):
        list(pieces)


def test_the_bytes_that_were_read_are_reported(tmp_path, block):
    path, counts = tmp_path / 'a.gz', []
    path.write_bytes(gzip.compress(b'x' * 999))
    list(read_documents(str(path), TextFormat(), counts.append))
    assert sum(counts) == path.stat().st_size and max(counts) <= block
