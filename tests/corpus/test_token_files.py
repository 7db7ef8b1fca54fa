"""token_files.py: chunks of tokens on disk, written, read in slices, and found damaged."""

import concurrent.futures
import io
import os
import re
import tempfile
import time
import zipfile

import numpy as np
import pytest

from byte_encoder import ENC, ByteEncoder, WideEncoder, error_of, load, save, write
from corpus import token_files
from corpus.token_files import TokenArray, read_npz
from load_dataset import load_dataset


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
        assert {(member.compress_type, member.date_time) for member in archive.infolist()} == {
            (zipfile.ZIP_STORED, (1980, 1, 1, 0, 0, 0))}        # no time of day


def test_what_is_saved_stays_in_its_file_and_is_the_same_each_time(tmp_path):
    text = write(tmp_path / 'a.txt', 'some text')
    for name in ('one', 'two'):
        save(str(tmp_path / f'{name}.npz'), text)
    assert (tmp_path / 'one.npz').read_bytes() == (tmp_path / 'two.npz').read_bytes()
    [chunk] = load_dataset(ENC, str(tmp_path / 'one.npz'), 1)
    assert isinstance(chunk, TokenArray) and isinstance(load_dataset(ENC, text, 1)[0], np.ndarray)
    assert bytes(chunk[:].astype(np.uint8)) == b'some text'


def open_files(path):
    """How many descriptors of this process are open for a file."""
    return sum(os.path.realpath(f'/proc/self/fd/{number}') == str(path) for number in os.listdir('/proc/self/fd'))


def test_an_array_in_a_file_is_sliced_like_one_in_memory(tmp_path):
    expected = np.arange(20, dtype='>i4')
    np.savez(tmp_path / 'a.npz', expected, np.arange(3))
    first, second = read_npz(str(tmp_path / 'a.npz'), 257)
    assert (len(first), first.nbytes, first.dtype) == (20, 80, expected.dtype)
    for start in (None, 0, 3, 19, 20, 25, -4):
        for stop in (None, 0, 2, 8, 20, 25, -1):
            assert first[start:stop].tolist() == expected[start:stop].tolist()
            assert first[start:stop].dtype == expected.dtype
    for array in (np.asarray(first), np.array(first, np.int64), np.concatenate([first])):
        assert isinstance(array, np.ndarray) and array.tolist() == [*range(20)]
    assert np.array(first, np.int64).dtype == np.int64 and np.asarray(first).dtype == expected.dtype
    with pytest.raises(ValueError, match='without a copy'):
        first.__array__(copy=False)
    assert second[:].tolist() == [0, 1, 2]


@pytest.mark.skipif(not os.path.exists('/proc/self/fd'), reason='needs /proc')
def test_arrays_share_one_descriptor_which_closes_with_the_last(tmp_path, recwarn):
    path = tmp_path.resolve() / 'a.npz'
    np.savez(path, *(np.arange(5) for _ in range(10)))
    arrays = list(read_npz(str(path), 257))
    assert len(arrays) == 10 and open_files(path) == 1
    del arrays[1:]
    assert open_files(path) == 1 and arrays[0][1:3].tolist() == [1, 2]
    arrays.clear()
    assert open_files(path) == 0 and not recwarn.list


def test_a_read_may_return_less_than_it_was_asked_for(tmp_path, monkeypatch):
    """The system returns at most 2 GB at a time."""
    np.savez(tmp_path / 'a.npz', np.arange(100))
    [array] = read_npz(str(tmp_path / 'a.npz'), 257)
    monkeypatch.setattr(token_files._OpenFile, 'readinto', lambda file, data: io.FileIO.readinto(file, data[:7]))
    assert array[10:90].tolist() == [*range(10, 90)]


def test_several_threads_read_a_file(tmp_path, monkeypatch):
    def seek(file, offset):
        io.FileIO.seek(file, offset)
        time.sleep(0.001)       # in which another thread would seek elsewhere
    np.savez(tmp_path / 'a.npz', np.arange(200))
    [array] = read_npz(str(tmp_path / 'a.npz'), 257)
    monkeypatch.setattr(token_files._OpenFile, 'seek', seek)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        slices = list(pool.map(lambda start: array[start:start + 50].tolist(), range(20)))
    assert slices == [[*range(start, start + 50)] for start in range(20)]


def test_a_read_error_names_the_file(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(5, 'Input/output error')
    np.savez(tmp_path / 'a.npz', np.arange(100))
    [array] = read_npz(str(tmp_path / 'a.npz'), 257)
    monkeypatch.setattr(token_files._OpenFile, 'readinto', fail)
    assert error_of(lambda: array[:]) == f'cannot read {tmp_path}/a.npz: Input/output error'


def test_a_chunk_too_large_for_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(token_files, '_HELD', 100)
    monkeypatch.setattr(token_files, 'PIECE', 7)
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'nowhere'))     # it is spooled next to the output
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


def test_check_false_does_not_read_the_tokens(tmp_path):
    path = write(tmp_path / 'a.npz', SOUND)
    assert [array[:].tolist() for array in read_npz(path, 257, check=False)] == [(np.arange(100) + 0x41424344).tolist()]


def test_a_wrong_size_in_the_header_of_a_compressed_array(tmp_path):
    path, array = str(tmp_path / 'a.npz'), io.BytesIO()
    np.save(array, np.arange(100))
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('arr_0.npy', array.getvalue().replace(b'(100,)', b'( 10,)'))
    assert 'an array has another size than the archive says' in error_of(load, path)


@pytest.mark.parametrize('shape', [b'(990,)', b'( 10,)'])
def test_a_wrong_size_in_a_header(tmp_path, shape):
    """The size in an array's header is not that in the archive's directory."""
    path = write(tmp_path / 'a.npz', archive_bytes(arr_0=np.arange(100)).replace(b'(100,)', shape))
    assert 'an array has another size than the archive says' in error_of(list, read_npz(path, 257, check=False))


def test_a_file_of_2019_is_loaded_in_the_smallest_dtype(tmp_path):
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
