"""load_dataset.py with a stand-in for the encoder, under which a token is a byte."""

import contextlib
import glob
import io
import os
import re
import socket
import zipfile

import numpy as np
import pytest

import load_dataset as load_dataset_module
import token_files
from corpus_files import find_files
from errors import UserError
from load_dataset import Sampler, load_dataset, read_texts, save_files
from read_text import TextFormat, check_encoding
from token_files import mappings, read_npz, release, token_dtype

END = 256


class ByteEncoder:
    n_vocab = 257
    end_of_text = END

    def encode_with_special(self, text):
        ids = []
        for part in text.split('<|endoftext|>'):
            ids += [*part.encode(), END]
        return ids[:-1]

    def encode_array(self, text):
        return np.array(self.encode_with_special(text), token_dtype(self.n_vocab))


class WideEncoder(ByteEncoder):
    n_vocab = 65537


ENC = ByteEncoder()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def load(path, combine=50000, enc=ENC, **kwargs):
    return [chunk.tolist() for chunk in load_dataset(enc, str(path), combine, **kwargs)]


def save(output, path, combine=50000, enc=ENC, processes=1, **format):
    return save_files(output, enc, str(path), find_files(path), combine, TextFormat(**format), processes)


def error_of(function, *args, **kwargs):
    with pytest.raises(UserError) as info:
        function(*args, **kwargs)
    return str(info.value)


# Files that a path stands for


def test_one_file_is_itself(tmp_path):
    path = write(tmp_path / '.hidden', 'x')
    assert find_files(path) == [path]
    assert find_files(tmp_path / '.hidden') == [path]


def test_directory_is_recursive_sorted_and_without_hidden(tmp_path):
    for name in ('b.txt', 'a/z.txt', 'a/deep/er.txt', 'c', '.hidden', '.git/config', 'a/.cache/x.txt', 'a-b.txt'):
        write(tmp_path / name, 'x')
    (tmp_path / 'empty').mkdir()
    names = [os.path.relpath(file, tmp_path) for file in find_files(str(tmp_path))]
    assert names == ['a-b.txt', 'a/deep/er.txt', 'a/z.txt', 'b.txt', 'c']


def test_a_directory_that_is_itself_hidden_or_relative_is_read(tmp_path, monkeypatch):
    write(tmp_path / '.corpus' / 'a.txt', 'x')
    assert len(find_files(str(tmp_path / '.corpus'))) == 1
    monkeypatch.chdir(tmp_path / '.corpus')
    assert find_files('.') == ['./a.txt']


@pytest.mark.parametrize('pattern, names', [
    ('*.txt', ['a.txt', 'b.txt']),
    ('**/*.txt', ['a.txt', 'b.txt', 'sub/c.txt', 'sub/deep/d.txt']),
    ('sub/**', ['sub/c.txt', 'sub/deep/d.txt', 'sub/e.md']),
    ('*', ['a.txt', 'b.txt']),
    ('[ab].txt', ['a.txt', 'b.txt']),
    ('?.txt', ['a.txt', 'b.txt']),
])
def test_glob_is_sorted_and_without_hidden(tmp_path, pattern, names):
    for name in ('b.txt', 'a.txt', '.h.txt', 'sub/c.txt', 'sub/e.md', 'sub/deep/d.txt', '.git/g.txt'):
        write(tmp_path / name, 'x')
    assert find_files(f'{tmp_path}/{pattern}') == [f'{tmp_path}/{name}' for name in names]


def test_a_file_whose_name_looks_like_a_glob(tmp_path):
    path = write(tmp_path / 'a[1].txt', 'x')
    assert find_files(path) == [path]


def test_pipes_and_sockets_are_left_out_of_directory_and_glob_and_said(tmp_path, monkeypatch, capfd):
    write(tmp_path / 'a.txt', 'x')
    os.mkfifo(tmp_path / 'pipe')
    monkeypatch.chdir(tmp_path)     # the name of a socket must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind('door')
        for path in (str(tmp_path), f'{tmp_path}/*'):
            assert find_files(path) == [f'{tmp_path}/a.txt']
            assert capfd.readouterr().err == (f'skipping {tmp_path}/door: it is a socket\n'
                                              f'skipping {tmp_path}/pipe: it is a FIFO\n')


def test_links_that_go_in_circles(tmp_path):
    """glob's ** would follow these in 2 ** 40 ways."""
    write(tmp_path / 'sub' / 'a.txt', 'x')
    for name in ('left', 'right'):
        (tmp_path / 'sub' / name).symlink_to('..')
    assert find_files(str(tmp_path)) == find_files(f'{tmp_path}/**') == [f'{tmp_path}/sub/a.txt']
    assert find_files(f'{tmp_path}/**/*.txt') == [f'{tmp_path}/sub/a.txt']
    assert find_files(f'{tmp_path}/sub/left/*/a.txt') == [f'{tmp_path}/sub/left/sub/a.txt']
    (tmp_path / 'self.txt').symlink_to('self.txt')
    assert error_of(load, tmp_path) == f'cannot read {tmp_path}/self.txt: Too many levels of symbolic links'


@pytest.mark.parametrize('pattern', ['[.]h*', '.h*', '.git/*', '.g*/g.txt'])
def test_hidden_files_are_found_by_patterns_that_begin_with_a_dot(tmp_path, pattern):
    write(tmp_path / '.h.txt', 'x')
    write(tmp_path / '.git' / 'g.txt', 'x')
    expected = sorted(glob.glob(f'{tmp_path}/{pattern}'))
    if expected:
        assert find_files(f'{tmp_path}/{pattern}') == expected
    else:
        assert error_of(find_files, f'{tmp_path}/{pattern}') == f'nothing matches the pattern {tmp_path}/{pattern}'


def test_a_pipe_named_directly_is_read():
    reader, writer = os.pipe()
    os.write(writer, b'hi')
    os.close(writer)
    assert load(f'/dev/fd/{reader}') == [[*b'hi']]
    os.close(reader)


def test_no_such_path(tmp_path):
    assert error_of(find_files, f'{tmp_path}/corpus') == f"cannot find '{tmp_path}/corpus': No such file or directory"


def test_glob_without_a_match(tmp_path):
    assert error_of(find_files, f'{tmp_path}/*.txt') == f'nothing matches the pattern {tmp_path}/*.txt'


def test_glob_that_matches_only_directories(tmp_path):
    (tmp_path / 'sub').mkdir()
    assert 'matches only directories' in error_of(find_files, f'{tmp_path}/*')


def test_directory_without_files(tmp_path):
    write(tmp_path / '.hidden', 'x')
    os.mkfifo(tmp_path / 'pipe')
    assert error_of(find_files, str(tmp_path)) == f'no files in the directory {tmp_path} (hidden ones are skipped)'


def test_a_broken_link_is_not_passed_over(tmp_path):
    write(tmp_path / 'a.txt', 'x')
    (tmp_path / 'b.txt').symlink_to('nowhere')
    assert error_of(load, tmp_path) == f'cannot read {tmp_path}/b.txt: No such file or directory'


@contextlib.contextmanager
def without_rights():
    """Root may read what has no permissions: be somebody else."""
    root = os.geteuid() == 0
    if root:
        try:
            os.seteuid(65534)
        except PermissionError:
            pytest.skip('cannot give up the rights of root')
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.parametrize('name', ['a.txt', 'a.npz'])
def test_unreadable_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)     # the directories above it may be closed to somebody else
    tmp_path.chmod(0o755)
    write(tmp_path / name, 'x')
    os.chmod(name, 0)
    with without_rights():
        assert error_of(load, name) == f'cannot read {name}: Permission denied'


def test_unreadable_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o755)
    write(tmp_path / 'corpus' / 'locked' / 'a.txt', 'x')
    os.chmod('corpus/locked', 0)
    with without_rights():
        assert error_of(load, 'corpus') == 'cannot read corpus/locked: Permission denied'
    os.chmod('corpus/locked', 0o700)    # so that it can be removed


# Text


def test_one_document_is_its_tokens_and_nothing_else(tmp_path):
    text = 'a line\n<|endoftext|>another – with a dash\n'
    chunks = load_dataset(ENC, write(tmp_path / 'a.txt', text), 50000)
    assert [chunk.tolist() for chunk in chunks] == [ENC.encode_with_special(text)]
    assert chunks[0].dtype == np.uint16


def test_dtype_holds_every_id():
    assert token_dtype(50257) == token_dtype(65536) == np.uint16
    assert token_dtype(65537) == np.uint32


@pytest.mark.parametrize('name', ['a.txt', 'a.npz'])
def test_wide_vocabulary_takes_four_bytes(tmp_path, name):
    path = write(tmp_path / name, 'ab')
    if name.endswith('.npz'):
        np.savez_compressed(path, np.array([65536]))
    assert load_dataset(WideEncoder(), path, 50000)[0].dtype == np.uint32


def test_documents_are_separated_by_end_of_text(tmp_path):
    for name, text in (('1', 'a'), ('2', ''), ('3', 'bc'), ('4', '\ufeff'), ('5', 'd')):
        write(tmp_path / name, text)
    assert load(tmp_path) == [[*b'a', END, *b'bc', END, *b'd']]


@pytest.mark.parametrize('combine, chunks', [
    (1, ['aaa', 'bb', 'cccc', 'd']),
    (3, ['aaa', 'bb|cccc', 'd']),
    (4, ['aaa|bb', 'cccc', 'd']),
    (5, ['aaa|bb', 'cccc|d']),
    (6, ['aaa|bb|cccc', 'd']),
    (10, ['aaa|bb|cccc|d']),
    (11, ['aaa|bb|cccc|d']),
])
def test_combine_packs_whole_documents(tmp_path, combine, chunks):
    for name, text in (('1', 'aaa'), ('2', 'bb'), ('3', 'cccc'), ('4', 'd')):
        write(tmp_path / name, text)
    expected = [ENC.encode_with_special(chunk.replace('|', '<|endoftext|>')) for chunk in chunks]
    assert load(tmp_path, combine) == expected


def test_combine_counts_characters_not_bytes(tmp_path):
    write(tmp_path / '1', 'äöü')
    write(tmp_path / '2', 'b')
    assert len(load(tmp_path, combine=4)) == 1
    assert len(load(tmp_path, combine=3)) == 2


def test_text_between_arrays(tmp_path):
    write(tmp_path / '1.txt', 'a')
    np.savez(tmp_path / '2.npz', np.array([7, 8]))
    write(tmp_path / '3.txt', 'b')
    assert load(tmp_path) == [[*b'a'], [7, 8], [*b'b']]


def test_newlines_and_byte_order_mark(tmp_path):
    path = write(tmp_path / 'a.txt', b'\xef\xbb\xbfa\r\nb\rc\n\r\nd')
    assert load(path) == load(path, encoding='utf-8-sig') == [[*b'a\nb\nc\n\nd']]
    with open(path, encoding='utf-8-sig') as file:
        assert list(read_texts(path)) == [file.read()]


@pytest.mark.parametrize('encoding', ['utf-16', 'utf-16-le', 'utf-32', 'latin-1', 'UTF8'])
def test_other_encodings(tmp_path, encoding):
    path = write(tmp_path / 'a.txt', 'é\r\n'.encode(encoding))
    assert load(path, encoding=encoding) == [[*'é\n'.encode()]]


@pytest.mark.parametrize('content, encoding, message', [
    (b'abc\xff', 'utf-8', 'is not utf-8 text: byte 0xff at offset 3 (invalid start byte)'),
    (b'\xef\xbb\xbfabc\xff', 'utf-8', 'byte 0xff at offset 6 '),
    (b'\xef\xbb\xbfabc\xff', 'UTF_8_SIG', 'is not UTF_8_SIG text: byte 0xff at offset 6 '),
    (b'\r\n' * 100_000 + b'\xe9', 'utf-8', 'byte 0xe9 at offset 200000 (unexpected end of data)'),
    (b'a\xe9', 'ascii', 'is not ascii text: byte 0xe9 at offset 1 '),
    (b'a\0b', 'utf-16-le', 'byte 0x62 at offset 2 (truncated data)'),
])
def test_undecodable_text_names_file_and_offset(tmp_path, content, encoding, message):
    write(tmp_path / 'a.txt', 'good')
    path = write(tmp_path / 'b.txt', content)
    error = error_of(load, tmp_path, encoding=encoding)
    assert error.startswith(path) and message in error
    assert error.endswith('; give its --encoding, or --encoding_errors replace, or leave the file out by a glob such as '
                          '*.txt')


@pytest.mark.parametrize('encoding', ['utf8x', 'rot13', 'base64', 'undefined', ''])
def test_unknown_encoding(tmp_path, encoding):
    assert error_of(check_encoding, encoding).startswith(f'unknown text encoding {encoding!r}; expected ')
    path = write(tmp_path / 'a.txt', '')
    assert 'unknown text encoding' in error_of(load, path, encoding=encoding)


def test_empty_corpus_names_what_it_matched(tmp_path):
    path = write(tmp_path / '1.txt', '')
    assert error_of(load, path) == f'the corpus {path} is empty: 0 tokens in {path}'
    for name in '2345':
        write(tmp_path / f'{name}.txt', '')
    for function in (load, lambda path: list(read_texts(path))):
        assert error_of(function, f'{tmp_path}/*') == (
            f'the corpus {tmp_path}/* is empty: 0 tokens in {path}, {tmp_path}/2.txt, {tmp_path}/3.txt and 2 more')


def test_read_texts(tmp_path):
    for name, text in (('b', 'two\r\n'), ('a', 'one'), ('c', '')):
        write(tmp_path / name, text)
    assert list(read_texts(str(tmp_path))) == ['one', 'two\n']
    np.savez(tmp_path / 'd.npz', np.array([1]))
    assert error_of(list, read_texts(str(tmp_path))) == f'{tmp_path}/d.npz holds tokens; expected text'


def test_no_progress_bar_where_standard_error_is_no_terminal(tmp_path, capfd):
    load(write(tmp_path / 'a.txt', 'a'))
    assert capfd.readouterr() == ('', '')


# .npz


def test_what_is_saved_is_loaded(tmp_path):
    path = str(tmp_path / 'corpus.npz')
    chunks = [np.array([number, 256], np.uint16) for number in range(12)]
    for number in range(12):
        np.savez(tmp_path / f'{number:02}.npz', chunks[number])
    assert save(path, tmp_path)[0] == 12
    for number in range(12):
        (tmp_path / f'{number:02}.npz').unlink()
    assert load(path) == [chunk.tolist() for chunk in chunks]
    assert os.listdir(tmp_path) == ['corpus.npz']
    with np.load(path, allow_pickle=False) as npz:      # as the 2019 tool does
        assert npz.files == [f'arr_{number}' for number in range(12)]
        assert npz['arr_11'].dtype == np.uint16
    with zipfile.ZipFile(path) as archive:
        assert {member.compress_type for member in archive.infolist()} == {zipfile.ZIP_STORED}


def test_what_is_saved_is_mapped_and_the_same_each_time(tmp_path):
    text = write(tmp_path / 'a.txt', 'some text')
    for name in ('one', 'two'):
        save(str(tmp_path / f'{name}.npz'), text)
    assert (tmp_path / 'one.npz').read_bytes() == (tmp_path / 'two.npz').read_bytes()
    [chunk] = load_dataset(ENC, str(tmp_path / 'one.npz'), 1)
    assert len(mappings([chunk, chunk[2:]])) == 1 and not mappings(load_dataset(ENC, text, 1))
    with pytest.raises(ValueError, match='read-only'):
        chunk[0] = 1
    release([chunk])
    assert bytes(chunk.astype(np.uint8)) == b'some text'


def test_a_chunk_larger_than_what_is_held_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(token_files, '_HELD', 100)
    monkeypatch.setattr(token_files, 'PIECE', 7)
    text = 'x' * 99 + 'y' * 99
    save(str(tmp_path / 'a.npz'), write(tmp_path / 'text' / 'a', text), enc=WideEncoder())
    with np.load(tmp_path / 'a.npz') as npz:
        assert npz.files == ['arr_0'] and npz['arr_0'].dtype == np.uint32 and npz['arr_0'].tolist() == [*text.encode()]
    assert load(tmp_path / 'a.npz', enc=WideEncoder()) == [[*text.encode()]]
    assert sorted(os.listdir(tmp_path)) == ['a.npz', 'text']


@pytest.mark.parametrize('dtype', ['<i8', '>i4', '<u2', '|u1', '|i1'])
@pytest.mark.parametrize('save_as', [np.savez, np.savez_compressed])
def test_integers_of_any_kind(tmp_path, dtype, save_as):
    save_as(tmp_path / 'a.npz', np.arange(99, dtype=dtype), np.arange(3, dtype=dtype))
    assert load(tmp_path / 'a.npz') == [[*range(99)], [0, 1, 2]]


def test_a_good_file_is_not_read_again(tmp_path):
    path = write(tmp_path / 'a.npz', SOUND)
    assert [array.tolist() for array in read_npz(path, 257, check=False)] == [(np.arange(100) + 0x41424344).tolist()]


@pytest.mark.parametrize('shape', [b'(990,)', b'( 10,)'])
def test_a_lying_header(tmp_path, shape):
    """The size that an array's header tells is not that of the archive's directory."""
    path = write(tmp_path / 'a.npz', archive_bytes(arr_0=np.arange(100)).replace(b'(100,)', shape))
    assert 'an array has another size than the archive says' in error_of(list, read_npz(path, 257, check=False))


def test_memory_of_mapped_files_is_given_back(tmp_path, monkeypatch):
    save(str(tmp_path / 'a.npz'), write(tmp_path / 'text' / 'a', 'some text'))
    chunks, released = load_dataset(ENC, str(tmp_path / 'a.npz'), 1), []
    monkeypatch.setattr(load_dataset_module, 'release_mappings', released.append)
    monkeypatch.setattr(load_dataset_module, '_RELEASE', 10 * load_dataset_module._TOUCHED)
    for sampler in (Sampler(chunks), Sampler([np.arange(9)])):
        for _ in range(35):
            sampler.sample(2)
    assert released == [mappings(chunks)] * 3


def test_file_of_2019_is_loaded_small(tmp_path):
    path = str(tmp_path / 'old.npz')
    np.savez_compressed(path, np.array([1, 2, 3]), np.array([256, 0]))
    chunks = load_dataset(ENC, path, 50000)
    assert [chunk.tolist() for chunk in chunks] == [[1, 2, 3], [256, 0]]
    assert {chunk.dtype for chunk in chunks} == {np.dtype(np.uint16)}


def test_arrays_come_in_the_order_of_their_numbers(tmp_path):
    path = str(tmp_path / 'a.npz')
    np.savez(path, **{name: np.array([value]) for name, value in (
        ('other', 99), ('arr_10', 10), ('arr_2', 2), ('arr_0', 0), ('more', 98))})
    assert load(path) == [[0], [2], [10], [99], [98]]


def test_empty_arrays_are_left_out(tmp_path):
    path = str(tmp_path / 'a.npz')
    np.savez(path, np.array([], np.int64), np.array([1]))
    assert load(path) == [[1]]
    np.savez(path, np.array([], np.int64))
    assert error_of(load, path) == f'the corpus {path} is empty: 0 tokens in {path}'


@pytest.mark.parametrize('array, message', [
    (np.array([1.0]), 'array arr_1 in {} holds float64; expected whole numbers'),
    (np.array([True]), 'array arr_1 in {} holds bool; expected whole numbers'),
    (np.array(['a']), 'array arr_1 in {} holds <U1; expected whole numbers'),
    (np.array([1, None]), 'array arr_1 in {} holds pickled objects, which are never loaded; expected whole numbers'),
    (np.array([[1, 2]]), 'array arr_1 in {} has 2 dimensions; expected 1'),
    (np.array(1), 'array arr_1 in {} has 0 dimensions; expected 1'),
    (np.array([0, 257]), 'array arr_1 in {} holds the id 257; the vocabulary has 0 to 256'),
    (np.array([0, 65536]), 'array arr_1 in {} holds the id 65536; the vocabulary has 0 to 256'),
    (np.array([0, -1]), 'array arr_1 in {} holds the id -1; the vocabulary has 0 to 256'),
])
@pytest.mark.parametrize('save_as', [np.savez, np.savez_compressed])
def test_wrong_array(tmp_path, save_as, array, message):
    path = str(tmp_path / 'a.npz')
    save_as(path, np.array([256]), array)
    assert error_of(load, path).startswith(message.format(path))


def test_archive_without_arrays(tmp_path):
    path = str(tmp_path / 'a.npz')
    np.savez(path)
    assert error_of(load, path).startswith(f'{path} holds no arrays; ')
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('readme.txt', 'hello')
    assert error_of(load, path) == f'array readme.txt in {path} is not an array'


def archive_bytes(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def single_array():
    buffer = io.BytesIO()
    np.save(buffer, np.array([1]))
    return buffer.getvalue()


SOUND = archive_bytes(arr_0=np.arange(100) + 0x41424344)


@pytest.mark.parametrize('content', [
    b'', b'PK', b'hello', single_array(), b'PK\x03\x04', SOUND[:-30], SOUND[:200],
    SOUND.replace(b'DCBA', b'ABCD', 1),                     # a checksum that does not agree
], ids=['empty', 'two_bytes', 'text', 'npy', 'magic', 'cut', 'cut_short', 'changed'])
def test_damaged_archive(tmp_path, content):
    path = write(tmp_path / 'a.npz', content)
    assert re.fullmatch(f'cannot read {re.escape(path)}: .*; is it damaged[?] [^\n]*', error_of(load, path))


@pytest.mark.parametrize('old, new', [(b"'descr'", b"'des(r'"), (b'(1,)', b'(09)'), (b"'shape'", b"b'shape")])
def test_array_with_a_damaged_header(tmp_path, old, new):
    """numpy parses the header as Python: these end in TokenError, SyntaxError, TypeError or ValueError."""
    path = str(tmp_path / 'a.npz')
    assert old in single_array()
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('arr_0.npy', single_array().replace(old, new))
    assert error_of(load, path).startswith(f'cannot read {path}: ')


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='needs /dev/full')
def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    text, path = write(tmp_path / 'text' / 'a.txt', 'x' * 100_000), str(tmp_path / 'corpus.npz')
    np.savez(path, np.array([1]))
    (tmp_path / 'corpus.npz.part').symlink_to('/dev/full')
    assert error_of(save, path, text) == f'cannot write {path}: No space left on device'
    assert sorted(os.listdir(tmp_path)) == ['corpus.npz', 'text'] and load(path) == [[1]]


def test_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    class Interrupted(ByteEncoder):
        def encode_array(self, text):
            raise KeyboardInterrupt
    text = write(tmp_path / 'text' / 'a.txt', 'x')
    with pytest.raises(KeyboardInterrupt):
        save(str(tmp_path / 'corpus.npz'), text, enc=Interrupted())
    assert os.listdir(tmp_path) == ['text']


def test_write_into_a_missing_directory(tmp_path):
    path = str(tmp_path / 'no' / 'corpus.npz')
    assert error_of(save, path, write(tmp_path / 'a.txt', 'x')) == f'cannot write {path}: No such file or directory'


# Sampler


def numbered(*sizes):
    """Chunks in which each token is different, so that a sample tells where it starts."""
    return [np.arange(size) + 100 * number for number, size in enumerate(sizes)]


def test_every_start_is_equally_likely():
    sampler = Sampler(numbered(7, 2, 3, 12, 1, 5), seed=0)
    starts = [*range(5), *range(200, 201), *range(300, 310), *range(500, 503)]      # of three tokens
    draws = [int(sampler.sample(3)[0]) for _ in range(20_000)]
    assert set(draws) == set(starts)
    expected = len(draws) / len(starts)
    chi_square = sum((draws.count(start) - expected) ** 2 / expected for start in starts)
    assert chi_square < 42.3        # 18 degrees of freedom, p = 0.001


def test_each_place_is_drawn_once_in_turn():
    """With the draws replaced by 0, 1, 2, ..., every possible start comes once, in order."""
    sampler = Sampler(numbered(1, 4, 2, 3, 1), seed=0)

    class Counter:
        def integers(self, high):
            self.high, self.count = high, getattr(self, 'count', -1) + 1
            return np.int64(self.count)

    sampler.rng = Counter()
    samples = [sampler.sample(2).tolist() for _ in range(6)]
    assert sampler.rng.high == 6
    assert samples == [[100, 101], [101, 102], [102, 103], [200, 201], [300, 301], [301, 302]]


def test_sample_lies_within_one_chunk():
    sampler = Sampler(numbered(9, 3, 5), seed=1)
    for length in (1, 2, 3, 4, 5, 6, 9):
        for _ in range(200):
            sample = sampler.sample(length)
            assert sample.shape == (length,)
            assert sample.tolist() == list(range(sample[0], sample[0] + length))
            assert sample[0] // 100 == sample[-1] // 100


def test_exact_fit_is_accepted_and_shorter_chunks_ignored():
    sampler = Sampler(numbered(3, 5, 4), seed=2)
    sampler.check(5)
    assert all(sampler.sample(5).tolist() == [100, 101, 102, 103, 104] for _ in range(50))


def test_all_chunks_too_short():
    sampler = Sampler(numbered(3, 5, 4))
    for function in (sampler.check, sampler.sample):
        assert error_of(function, 6) == ('the corpus is too short: 6 tokens are needed in one piece, and its longest '
                                         'chunk has 5; give a smaller --seq_length, or more text')
    assert 'longest chunk has 0;' in error_of(Sampler([]).sample, 1)


def test_total_size():
    assert Sampler(numbered(3, 5, 4)).total_size == 12
    assert Sampler([]).total_size == 0


def test_seed_makes_samples_repeat():
    def draw(seed):
        sampler = Sampler(numbered(90, 50), seed=seed)
        return [sampler.sample(length).tolist() for length in (2, 3, 2, 10) * 10]

    assert draw(7) == draw(7) != draw(8)
    assert draw(np.random.SeedSequence(7)) == draw(7)
    assert draw(None) != draw(None)


def test_check_takes_no_draw():
    plain, checked = Sampler(numbered(90), seed=3), Sampler(numbered(90), seed=3)
    checked.check(5)
    assert plain.sample(5).tolist() == checked.sample(5).tolist()
