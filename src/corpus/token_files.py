"""Chunks of tokens on disk: an .npz of one integer array each (arr_0, arr_1, ...), as the 2019 tools keep them.

Written a piece at a time, not compressed, so that they can be mapped into memory: of a mapped array only what is looked at
is read from the disk.
"""

import io
import mmap
import os
import re
import shutil
import struct
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import numpy as np

from command.errors import UserError, reason

PIECE = 1 << 20         # tokens looked at, or bytes copied, at a time
_HELD = 1 << 22         # bytes of a chunk that are held in memory until its size is known; more wait in a temporary file
_ZIP_MAGIC = (b'PK\x03\x04', b'PK\x05\x06')     # of an archive with members, and of an empty one
_LOCAL_HEADER = struct.Struct('<4s22xHH')       # of a zip member: magic, ..., lengths of the name and of what comes after
_NPY_HEADER = re.compile(rb"\x93NUMPY\x01\x00..\{'descr': '([<|][iu][1248])', 'fortran_order': False, "
                         rb"'shape': \((\d+),\), \} *\n", re.DOTALL)
# What reading a damaged archive raises, found by damaging some at random: numpy parses an array's header as Python.
_DAMAGE = (ArithmeticError, EOFError, LookupError, MemoryError, RuntimeError, SyntaxError, TypeError, ValueError,
           struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error)


def token_dtype(n_vocab: int) -> np.dtype:
    """The smallest dtype for the ids 0 .. n_vocab - 1: two bytes a token for every published vocabulary."""
    return np.dtype(np.uint16 if n_vocab <= 2 ** 16 else np.uint32)


def write_chunks(file: BinaryIO, pieces: Iterable[tuple[np.ndarray, bool]], dtype: np.dtype, directory: str) -> int:
    """Writes chunks, told as pieces (tokens, whether a chunk begins with them), as an .npz; returns how many.

    A chunk's size comes before its tokens in the file: what is too large for memory until then waits in `directory`, in a
    file without a name. Raises OSError.
    """
    number, spool = 0, None
    with zipfile.ZipFile(file, 'w') as archive:
        try:
            for tokens, begins in pieces:
                if begins and spool:
                    _write_array(archive, number, spool, dtype)
                    number += 1
                if begins:
                    spool = tempfile.SpooledTemporaryFile(_HELD, dir=directory)     # noqa: SIM115  (until it is written)
                for start in range(0, len(tokens), PIECE):
                    spool.write(tokens[start:start + PIECE].astype(dtype, copy=False).tobytes())
                release([tokens])
            if spool:
                _write_array(archive, number, spool, dtype)
                number += 1
        finally:
            if spool:
                spool.close()
    return number


def _write_array(archive: zipfile.ZipFile, number: int, spool, dtype: np.dtype) -> None:
    """Writes the bytes in `spool` as the array arr_NUMBER, and closes it."""
    header = {'descr': np.lib.format.dtype_to_descr(dtype), 'fortran_order': False, 'shape': (spool.tell() // dtype.itemsize,)}
    spool.seek(0)
    # A ZipInfo of its own, for the same date each time: the same corpus makes the same bytes.
    with spool, archive.open(zipfile.ZipInfo(f'arr_{number}.npy'), 'w', force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, header)
        shutil.copyfileobj(spool, member, PIECE)


def read_npz(path: str, n_vocab: int, check: bool = True) -> Iterator[np.ndarray]:
    """The arrays of an .npz that are not empty, as chunks of token ids: mapped, read-only, if not compressed; else loaded.

    In the order arr_0, arr_1, ... arr_10, ..., then any others. Raises UserError, naming file and array, for anything but
    1-D integer arrays of ids 0 .. n_vocab - 1, or with a checksum that does not agree. Without `check`, for a file that
    was found good before, mapped arrays are not read.
    """
    name = None
    try:
        with open(path, 'rb', buffering=0) as file:
            if file.read(4) not in _ZIP_MAGIC:
                raise ValueError('it is not a zip archive of arrays')
            mapping = MappedFile(path, file.fileno())       # lives as long as its arrays
            with zipfile.ZipFile(file) as archive:
                if not (members := sorted(archive.infolist(), key=_array_order)):
                    raise UserError(f'{path} holds no arrays; ./encode.py makes it from text')
                for member in members:
                    name = member.filename.removesuffix('.npy')
                    what = f'array {name} in {path}'
                    if member.compress_type == zipfile.ZIP_STORED:
                        array, start = _map_array(file.fileno(), mapping, member, what)
                        if check:
                            _check_mapped(file.fileno(), start, member, array, n_vocab, what)
                    else:
                        array = _load_array(archive, member, n_vocab, what)
                    if array.size:
                        yield array
    except OSError as error:
        raise UserError(f'cannot read {path}: {reason(error)}') from None
    except _DAMAGE as error:
        raise UserError(f'cannot read {path}: {str(error) or type(error).__name__}; is it damaged? ./encode.py makes '
                        'it from text') from None


class MappedFile(mmap.mmap):
    """A file mapped into memory, to be read only. path: its name."""

    def __new__(cls, path: str, descriptor: int):
        mapping = super().__new__(cls, descriptor, 0, access=mmap.ACCESS_READ)
        mapping.path = path
        return mapping

    def check(self) -> None:
        """Raises UserError if the file has been cut since, which would end the process (SIGBUS) when it looks there."""
        if self.size() < len(self):         # the file's size now, and what was mapped
            raise UserError(f'{self.path} was cut while it was read: it had {len(self):,} bytes, and has {self.size():,} now; '
                            'make it again, and put it in place by renaming it')


class Joined:
    """Arrays of tokens as one, with a separator between them; slices of it are copied when they are asked for, not before.

        Joined([[1, 2], [3]], 9)[:] -> [1, 2, 9, 3]

    pieces: 1-D arrays, of one dtype, which may be mapped.
    """

    def __init__(self, pieces: list[np.ndarray], separator: int):
        self.pieces, self.dtype = pieces, pieces[0].dtype
        self.mappings = mappings(pieces)
        self._separator = np.array([separator], self.dtype)
        self._ends = np.cumsum([len(piece) + 1 for piece in pieces])       # of each piece with the separator after it

    def __len__(self) -> int:
        return int(self._ends[-1]) - 1

    def __getitem__(self, places: slice) -> np.ndarray:
        start, stop, _ = places.indices(len(self))
        found = [self._separator[:0]]
        for index in range(self._ends.searchsorted(start, 'right'), self._ends.searchsorted(stop, 'left') + 1):
            piece = self.pieces[index]
            begin = int(self._ends[index]) - len(piece) - 1
            found.append(piece[max(start - begin, 0):max(stop - begin, 0)])
            if begin + len(piece) < stop:
                found.append(self._separator)
        return np.concatenate(found)


def joined(pieces: list[np.ndarray], separator: int) -> np.ndarray | Joined:
    """What there is of them as one: a single array is itself."""
    return pieces[0] if len(pieces) == 1 else Joined(pieces, separator)


def release(arrays: Iterable[np.ndarray | Joined]) -> None:
    """Gives back the memory that looking at mapped arrays has filled; they stay as they are. Others are passed over.

    The system would take it back by itself, but only when memory is short; until then it counts as this process's.
    """
    release_mappings(mappings(arrays))


def release_mappings(found: Iterable[MappedFile]) -> None:
    """As `release`, for mapped files."""
    for mapping in found:
        mapping.madvise(mmap.MADV_DONTNEED)


def mappings(arrays: Iterable[np.ndarray | Joined]) -> list[MappedFile]:
    """The mapped files that these arrays lie in, each once."""
    found = {}
    for array in arrays:
        if isinstance(array, Joined):
            found |= {id(mapping): mapping for mapping in array.mappings}
            continue
        while isinstance(array, np.ndarray | memoryview):
            array = array.base if isinstance(array, np.ndarray) else array.obj
        if isinstance(array, MappedFile):
            found[id(array)] = array
    return list(found.values())


def _array_order(member: zipfile.ZipInfo) -> float:
    """Sort key: arr_N by number, where the names themselves would put arr_10 before arr_2; other names last."""
    match = re.fullmatch(r'arr_(\d+)(\.npy)?', member.filename)
    return int(match[1]) if match else float('inf')


def _map_array(descriptor: int, mapping: MappedFile, member: zipfile.ZipInfo, what: str
               ) -> tuple[np.ndarray, int]:
    """The array of a member that is not compressed, in the mapped file, and where the member's bytes start in that.

    What is read is its headers alone.
    """
    magic, name_size, extra_size = _LOCAL_HEADER.unpack(os.pread(descriptor, _LOCAL_HEADER.size, member.header_offset))
    if magic != _ZIP_MAGIC[0]:
        raise ValueError('a member of the archive does not begin where it should')
    start = member.header_offset + _LOCAL_HEADER.size + name_size + extra_size
    size, shape, dtype = _npy_header(descriptor, start, member.file_size, what)
    _check_kind(shape, dtype, what)
    if size + shape[0] * dtype.itemsize != member.file_size or start + member.file_size > len(mapping):
        raise EOFError('an array has another size than the archive says')
    return (np.frombuffer(mapping, dtype, shape[0], start + size) if shape[0] else np.empty(0, dtype)), start


def _npy_header(descriptor: int, start: int, limit: int, what: str) -> tuple[int, tuple[int, ...], np.dtype]:
    """Size in bytes of an array's header at `start`, which has at most `limit`, and the shape and dtype it tells."""
    head = os.pread(descriptor, min(128, limit), start)
    if match := _NPY_HEADER.fullmatch(head):        # as numpy writes it: its own parser takes ten times as long
        return len(head), (int(match[2]),), np.dtype(match[1].decode())
    return _parse_header(io.BytesIO(os.pread(descriptor, min(1 << 17, limit), start)), what)


def _load_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, n_vocab: int, what: str) -> np.ndarray:
    """The array of a compressed member, in as few bytes as its ids need."""
    with archive.open(member) as file:
        _, shape, dtype = _parse_header(file, what)
        _check_kind(shape, dtype, what)
        parts, ends = [], []
        for tokens in _tokens(file, shape[0], dtype):
            ends += [int(tokens.min()), int(tokens.max())]
            parts.append(tokens.astype(token_dtype(n_vocab)))
    _check_ids(ends, n_vocab, what)
    return np.concatenate(parts) if parts else np.empty(0, token_dtype(n_vocab))


def _check_mapped(descriptor: int, start: int, member: zipfile.ZipInfo, array: np.ndarray, n_vocab: int, what: str) -> None:
    """Reads a mapped array from the file, which fills no memory: its ids, and the checksum that the archive has of it."""
    end = start + member.file_size
    place = end - array.nbytes
    checksum, ends = zlib.crc32(os.pread(descriptor, place - start, start)), []
    while place < end:
        data = os.pread(descriptor, min(PIECE * array.itemsize, end - place), place)
        checksum, place = zlib.crc32(data, checksum), place + len(data)
        if not data:
            raise EOFError('it ends too early')
        tokens = np.frombuffer(data, array.dtype)
        ends += [int(tokens.min()), int(tokens.max())]
    if checksum != member.CRC:
        raise zipfile.BadZipFile(f'the checksum of {member.filename} does not agree')
    _check_ids(ends, n_vocab, what)


def _tokens(file: BinaryIO, count: int, dtype: np.dtype) -> Iterator[np.ndarray]:
    """The `count` tokens in a member, in pieces; nothing must be left of it then, and its checksum is compared."""
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
    """Size in bytes of the array header at the beginning of `file`, and the shape and dtype that it tells."""
    if file.read(6) != b'\x93NUMPY':
        raise UserError(f'{what} is not an array')
    file.seek(0)
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f'arrays of the format {version} are not known here')
    shape, _, dtype = readers[version](file)
    return file.tell(), shape, dtype


def _check_kind(shape: tuple[int, ...], dtype: np.dtype, what: str) -> None:
    """Raises UserError, beginning with `what`, unless these are of a 1-D array of integers."""
    if dtype.hasobject:
        raise UserError(f'{what} holds pickled objects, which are never loaded; expected whole numbers, the ids of tokens')
    if not np.issubdtype(dtype, np.integer):
        raise UserError(f'{what} holds {dtype}; expected whole numbers, the ids of tokens')
    if len(shape) != 1:
        raise UserError(f'{what} has {len(shape)} dimensions; expected 1')


def _check_ids(ids: list[int], n_vocab: int, what: str) -> None:
    """Raises UserError, beginning with `what`, unless all of these ids, the lowest and highest ones, are 0 .. n_vocab - 1."""
    for token in ids:
        if not 0 <= token < n_vocab:
            raise UserError(f'{what} holds the id {token}; the vocabulary has 0 to {n_vocab - 1} (encoded for another '
                            'model?)')
