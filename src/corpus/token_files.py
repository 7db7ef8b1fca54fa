"""Writes and reads token files: an .npz of one integer array per chunk.

The arrays are named arr_0, arr_1, ..., as in the tools of 2019. They are not compressed, so that a slice can be read
from the file without the rest.
"""

import io
import itertools
import os
import re
import shutil
import struct
import tempfile
import threading
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import numpy as np

from command.errors import UserError, reason

PIECE = 1 << 20         # tokens read, or bytes copied, at a time
_HELD = 1 << 22         # bytes of a chunk that stay in memory until its size is known; a larger one is spooled to disk
_ZIP_MAGIC = (b'PK\x03\x04', b'PK\x05\x06')     # of an archive with members, and of an empty one
_LOCAL_HEADER = struct.Struct('<4s22xHH')       # of a zip member: magic, ..., lengths of name and extra field
_NPY_HEADER = re.compile(rb"\x93NUMPY\x01\x00..\{'descr': '([<|][iu][1248])', 'fortran_order': False, "
                         rb"'shape': \((\d+),\), \} *\n", re.DOTALL)
# What reading archives that were damaged at random raised: numpy parses an array's header as Python.
_DAMAGE = (ArithmeticError, EOFError, LookupError, MemoryError, RuntimeError, SyntaxError, TypeError, ValueError,
           struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error)


def token_dtype(n_vocab: int) -> np.dtype:
    """The smallest dtype for the ids 0 .. n_vocab - 1: two bytes a token for every published vocabulary."""
    return np.dtype(np.uint16 if n_vocab <= 2 ** 16 else np.uint32)


def write_chunks(file: BinaryIO, pieces: Iterable[tuple[np.ndarray, bool]], dtype: np.dtype, directory: str) -> int:
    """Writes chunks, given as pieces (tokens, whether a chunk begins with them), as an .npz; returns how many.

    The file has a chunk's size before its tokens: until it is known, a large chunk is kept in `directory`, in a file
    without a name. Raises OSError.
    """
    count = 0

    def chunk_number(piece: tuple[np.ndarray, bool]) -> int:
        nonlocal count
        count += piece[1]
        return count - 1

    with zipfile.ZipFile(file, 'w') as archive:
        for number, chunk in itertools.groupby(pieces, chunk_number):
            with tempfile.SpooledTemporaryFile(_HELD, dir=directory) as spool:
                for tokens, _ in chunk:
                    for start in range(0, len(tokens), PIECE):
                        spool.write(tokens[start:start + PIECE].astype(dtype, copy=False).tobytes())
                _write_array(archive, number, spool, dtype)
    return count


def _write_array(archive: zipfile.ZipFile, number: int, spool, dtype: np.dtype) -> None:
    """Writes the bytes in `spool` as the array arr_NUMBER."""
    shape = spool.tell() // dtype.itemsize,
    header = {'descr': np.lib.format.dtype_to_descr(dtype), 'fortran_order': False, 'shape': shape}
    spool.seek(0)
    # ZipInfo's fixed date: the same corpus gives the same bytes.
    with archive.open(zipfile.ZipInfo(f'arr_{number}.npy'), 'w', force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, header)
        shutil.copyfileobj(spool, member, PIECE)


class TokenArray:
    """A 1-D array of tokens that lies in a file; taking a slice reads it from the file, as an ndarray.

    np.asarray reads everything. Several threads may read. Reading raises UserError, also if the file has been truncated
    since it was opened.
    """
    __slots__ = ('_file', '_offset', '_size', 'dtype')

    def __init__(self, file: '_OpenFile', offset: int, size: int, dtype: np.dtype):
        self._file, self._offset, self._size, self.dtype = file, offset, size, dtype

    def __len__(self) -> int:
        return self._size

    @property
    def nbytes(self) -> int:
        return self._size * self.dtype.itemsize

    def __getitem__(self, where: slice) -> np.ndarray:
        start, stop, _ = where.indices(self._size)
        tokens = np.empty(max(stop - start, 0), self.dtype)
        self._file.read_at(self._offset + start * self.dtype.itemsize, tokens.view(np.uint8))
        return tokens

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        if copy is False:
            raise ValueError('an array in a file cannot become an ndarray without a copy')
        return self[:].astype(dtype or self.dtype, copy=False)


class _OpenFile(io.FileIO):
    """A file that is read at any offset, also by several threads, and closed when the last array in it is gone.

    Without os.pread, which Windows lacks.
    """

    def __init__(self, path: str):
        super().__init__(path)
        self._lock = threading.Lock()

    def __del__(self):
        self.close()

    def header_at(self, offset: int, size: int) -> bytes:
        """At most `size` bytes at `offset`. Raises OSError."""
        with self._lock:
            self.seek(offset)
            return self.read(size)

    def read_at(self, offset: int, data: np.ndarray) -> None:
        """Fills an array of bytes with those at `offset`. Raises UserError."""
        while len(data):
            try:
                with self._lock:
                    self.seek(offset)
                    count = self.readinto(data)
            except OSError as error:
                raise UserError(f'cannot read {self.name}: {reason(error)}') from None
            if not count:
                raise UserError(f'{self.name} was truncated while it was in use: it ended before offset {offset:,}; '
                                'make it again under another name, then rename it to this one')
            data, offset = data[count:], offset + count


def read_npz(path: str, n_vocab: int, check: bool = True) -> Iterator[np.ndarray | TokenArray]:
    """The arrays of an .npz that are not empty, as chunks of token ids: TokenArrays, or ndarrays if compressed.

    In the order arr_0, arr_1, ... arr_10, ..., then any others. Raises UserError, naming file and array, for anything
    but 1-D integer arrays of ids 0 .. n_vocab - 1, and for a wrong checksum. check=False, for a file that was valid
    before, reads only the headers of arrays that are not compressed.
    """
    name = None
    try:
        file = _OpenFile(path)
        if file.read(4) not in _ZIP_MAGIC:
            raise ValueError('it is not a zip archive of arrays')
        with zipfile.ZipFile(file) as archive:
            if not (members := sorted(archive.infolist(), key=_array_order)):
                raise UserError(f'{path} holds no arrays; ./encode.py makes it from text')
            for member in members:
                name = member.filename.removesuffix('.npy')
                what = f'array {name} in {path}'
                if member.compress_type == zipfile.ZIP_STORED:
                    array, header = _open_array(file, member, what)
                    if check:
                        _check_array(array, header, member, n_vocab, what)
                else:
                    array = _load_array(archive, member, n_vocab, what)
                if len(array):
                    yield array
    except OSError as error:
        raise UserError(f'cannot read {path}: {reason(error)}') from None
    except _DAMAGE as error:
        raise UserError(f'cannot read {path}: {str(error) or type(error).__name__}; is it damaged? ./encode.py makes '
                        'it from text') from None


def _array_order(member: zipfile.ZipInfo) -> float:
    """Sort key: arr_N by number, where the names themselves would put arr_10 before arr_2; other names last."""
    match = re.fullmatch(r'arr_(\d+)(\.npy)?', member.filename)
    return int(match[1]) if match else float('inf')


def _open_array(file: _OpenFile, member: zipfile.ZipInfo, what: str) -> tuple[TokenArray, bytes]:
    """The array of a member that is not compressed, and the array's header. Reads only headers."""
    header = file.header_at(member.header_offset, _LOCAL_HEADER.size)
    magic, name_size, extra_size = _LOCAL_HEADER.unpack(header)
    if magic != _ZIP_MAGIC[0]:
        raise ValueError('a member of the archive does not begin where it should')
    start = member.header_offset + _LOCAL_HEADER.size + name_size + extra_size
    header, shape, dtype = _npy_header(file, start, member.file_size, what)
    _check_kind(shape, dtype, what)
    array = TokenArray(file, start + len(header), shape[0], dtype)
    if len(header) + array.nbytes != member.file_size or start + member.file_size > os.fstat(file.fileno()).st_size:
        raise EOFError('an array has another size than the archive says')
    return array, header


def _npy_header(file: _OpenFile, start: int, limit: int, what: str) -> tuple[bytes, tuple[int, ...], np.dtype]:
    """The header of an array at offset `start`, which has at most `limit` bytes, and the shape and dtype it gives."""
    header = file.header_at(start, min(128, limit))
    if match := _NPY_HEADER.fullmatch(header):      # as numpy writes it: its own parser takes ten times as long
        return header, (int(match[2]),), np.dtype(match[1].decode())
    header = file.header_at(start, min(1 << 17, limit))
    size, shape, dtype = _parse_header(io.BytesIO(header), what)
    return header[:size], shape, dtype


def _load_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, n_vocab: int, what: str) -> np.ndarray:
    """The array of a compressed member, in the smallest dtype for the ids."""
    with archive.open(member) as file:
        _, shape, dtype = _parse_header(file, what)
        _check_kind(shape, dtype, what)
        parts, ends = [], []
        for tokens in _tokens(file, shape[0], dtype):
            ends += [int(tokens.min()), int(tokens.max())]
            parts.append(tokens.astype(token_dtype(n_vocab)))
    _check_ids(ends, n_vocab, what)
    return np.concatenate(parts) if parts else np.empty(0, token_dtype(n_vocab))


def _check_array(array: TokenArray, header: bytes, member: zipfile.ZipInfo, n_vocab: int, what: str) -> None:
    """Reads an array to check its ids, and the archive's checksum of header and tokens."""
    checksum, ends = zlib.crc32(header), []
    for start in range(0, len(array), PIECE):
        tokens = array[start:start + PIECE]
        checksum = zlib.crc32(tokens, checksum)
        ends += [int(tokens.min()), int(tokens.max())]
    if checksum != member.CRC:
        raise zipfile.BadZipFile(f'the checksum of {member.filename} does not agree')
    _check_ids(ends, n_vocab, what)


def _tokens(file: BinaryIO, count: int, dtype: np.dtype) -> Iterator[np.ndarray]:
    """The `count` tokens in a member, in pieces, to its end, where zipfile compares the checksum."""
    while count:
        wanted = min(count, PIECE)
        data = file.read(wanted * dtype.itemsize)
        if len(data) < wanted * dtype.itemsize:
            raise EOFError('it ends too early')
        yield np.frombuffer(data, dtype)
        count -= wanted
    if file.read(1):
        raise ValueError('an array has another size than the archive says')


def _parse_header(file: BinaryIO, what: str) -> tuple[int, tuple[int, ...], np.dtype]:
    """Size in bytes of the array header at the beginning of `file`, and its shape and dtype."""
    if file.read(6) != b'\x93NUMPY':
        raise UserError(f'{what} is not an array')
    file.seek(0)
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f'unknown version {version} of the array format')
    shape, _, dtype = readers[version](file)
    return file.tell(), shape, dtype


def _check_kind(shape: tuple[int, ...], dtype: np.dtype, what: str) -> None:
    """Raises UserError, beginning with `what`, unless shape and dtype are those of a 1-D array of integers."""
    if dtype.hasobject:
        raise UserError(f'{what} holds pickled objects, which are never loaded; expected whole numbers, token ids')
    if not np.issubdtype(dtype, np.integer):
        raise UserError(f'{what} holds {dtype}; expected whole numbers, token ids')
    if len(shape) != 1:
        raise UserError(f'{what} has {len(shape)} dimensions; expected 1')


def _check_ids(ids: list[int], n_vocab: int, what: str) -> None:
    """Raises UserError, beginning with `what`, unless all of these ids are 0 .. n_vocab - 1."""
    for token in ids:
        if not 0 <= token < n_vocab:
            raise UserError(f'{what} holds the id {token}; the vocabulary has 0 to {n_vocab - 1} (encoded for another '
                            'model?)')
