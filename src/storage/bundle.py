"""TensorFlow's checkpoint format: written tensor by tensor, index read.

A V2 checkpoint is a tensor bundle: a data file of raw little-endian numbers and an index, a sorted table of where each tensor
lies. TensorFlow is not needed. tf.train.Saver has to hold all tensors in memory, three times the model's size; this does not.
"""

import os
import struct
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

import google_crc32c
import numpy as np

from command.errors import UserError, reason
from command.read_files import check_kind

FLOAT32 = 1                     # in tensorflow.DataType
TABLE_MAGIC = struct.pack('<Q', 0xdb4775248b80fb57)
FOOTER = 48                     # bytes at the end of a table
RESTART_INTERVAL = 16           # every 16th key is written in full
REMEDY = 'copy, download or make it again'


def write_bundle(data: BinaryIO, index: BinaryIO, shapes: dict[str, list[int]], tensors: Iterable[np.ndarray]) -> None:
    """Writes PREFIX.data-00000-of-00001 and PREFIX.index, as float32, byte for byte as tf.train.Saver does.

    shapes: name -> shape, sorted by name; tensors: in the same order, consumed one by one. The index is a single block,
    which holds some thousand tensors.
    """
    entries = [(b'', _message(varints={1: 1}, messages={3: _message(varints={1: 1})}))]      # one shard, format version 1
    offset = 0
    for (name, shape), tensor in zip(shapes.items(), tensors, strict=True):
        content = np.ascontiguousarray(tensor, '<f4').reshape(-1).view(np.uint8)
        data.write(content.data)
        dimensions = b''.join(_field(2, _message(varints={1: size})) for size in shape)
        entries.append((name.encode(), _message(varints={1: FLOAT32}, messages={2: dimensions})
                        + _message(varints={4: offset, 5: len(content)}) + bytes([6 << 3 | 5]) + _checksum(content)))
        offset += len(content)
    _write_table(index, entries)


class Entry(NamedTuple):
    """A tensor's entry in an index: its shape, its tensorflow.DataType, the bytes it takes in a data file, their checksum."""
    shape: list[int]
    dtype: int
    shard: int
    offset: int
    size: int
    checksum: bytes | None


def read_index(prefix: str) -> tuple[dict[str, Entry], int]:
    """Reads PREFIX.index: the entry of each tensor by name, and the number of data files.

    Raises UserError that names the file if it cannot be read, is cut off or damaged.
    """
    path = f'{prefix}.index'
    try:
        with open(path, 'rb') as file:
            entries = dict(_read_table(file.read()))
        header = dict(_fields(entries.pop(b'')))
        return {name.decode(): _entry(message) for name, message in entries.items()}, header[1]
    except OSError as error:
        raise UserError(f'cannot read the checkpoint {prefix}: {path}: {reason(error)}') from None
    except (LookupError, ValueError, struct.error):
        check_kind(path)
        raise UserError(f'cannot read the checkpoint {prefix}: {path} is cut off or damaged, or not a checkpoint index; '
                        f'{REMEDY}') from None


def read_tensor(prefix: str, name: str, entry: Entry, n_shards: int) -> np.ndarray:
    """Reads a float32 tensor. Raises UserError if its file cannot be read, or does not hold what its checksum is of."""
    fault = f'cannot read the checkpoint {prefix}: '
    if entry.dtype != FLOAT32 or entry.checksum is None:
        raise UserError(f'{fault}it does not hold {name} as float32 in one piece')
    array = np.empty(entry.shape, '<f4')
    content = array.reshape(-1).view(np.uint8)
    path = data_file(prefix, entry.shard, n_shards)
    try:
        with open(path, 'rb') as file:
            file.seek(entry.offset)
            complete = file.readinto(content) == entry.size == array.nbytes
    except OSError as error:
        raise UserError(f'{fault}{path}: {reason(error)}') from None
    if not complete or _checksum(content) != entry.checksum:
        raise UserError(f'{fault}the checksum of {name} in {path} does not match; {REMEDY}')
    return array


def data_file(prefix: str, shard: int, n_shards: int) -> str:
    return f'{prefix}.data-{shard:05}-of-{n_shards:05}'


def _entry(message: bytes) -> Entry:
    """Parses a BundleEntryProto."""
    fields = dict(_fields(message))
    # The size of a dimension (TensorShapeProto.Dim) is field 1, which is omitted if 0.
    shape = [dict(_fields(dimension)).get(1, 0) for number, dimension in _fields(fields.get(2, b'')) if number == 2]
    return Entry(shape, *(fields.get(number, 0) for number in (1, 3, 4, 5)), fields.get(6))


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers and values of the fields of a protocol buffer. Raises ValueError or IndexError if it is malformed."""
    position = 0
    while position < len(message):
        key, position = _read_varint(message, position)
        number, wire_type = key >> 3, key & 7
        if wire_type == 0:
            value, position = _read_varint(message, position)
        elif wire_type in (1, 2, 5):
            size, position = (8 if wire_type == 1 else 4, position) if wire_type != 2 else _read_varint(message, position)
            value, position = message[position:position + size], position + size
        else:
            raise ValueError(f'unknown wire type {wire_type}')
        yield number, value


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    """The number at `position`, and the position after it."""
    value = shift = 0
    while data[position] > 127:
        value, shift, position = value | (data[position] & 127) << shift, shift + 7, position + 1
    return value | data[position] << shift, position + 1


def _read_table(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a sorted string table (LevelDB's format). Raises ValueError, IndexError or struct.error."""
    footer = content[-FOOTER:]
    if not footer.endswith(TABLE_MAGIC):
        raise ValueError('the magic number at the end is missing')
    position = 0
    for _ in range(2):          # the handle of the metadata block, which is empty
        _, position = _read_varint(footer, position)
    for _, handle in _read_block(content, footer[position:]):
        yield from _read_block(content, handle)


def _read_block(content: bytes, handle: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of the block at a handle (offset and size). Raises the same as `_read_table`."""
    start, position = _read_varint(handle, 0)
    size, _ = _read_varint(handle, position)
    block, checksum = content[start:start + size + 1], content[start + size + 1:start + size + 5]
    if checksum != _checksum(block):
        raise ValueError('the checksum does not match')
    if block[-1]:
        raise ValueError('the block is compressed')         # only TensorFlow 1.1 did that
    [n_restarts] = struct.unpack('<I', block[-5:-1])
    position, end, key = 0, size - 4 * (n_restarts + 1), b''
    while position < end:
        shared, position = _read_varint(block, position)
        unshared, position = _read_varint(block, position)
        length, position = _read_varint(block, position)
        key = key[:shared] + block[position:position + unshared]
        position += unshared + length
        yield key, block[position - length:position]


def _varint(value: int) -> bytes:
    """Seven bits a byte, lowest first, the highest bit set in all but the last: 300 -> ac 02."""
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def _field(number: int, content: bytes) -> bytes:
    """A protocol buffer's field that holds another message."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _message(varints: dict[int, int], messages: dict[int, bytes] | None = None) -> bytes:
    """A protocol buffer of numbers, omitted where they are 0, followed by messages."""
    numbers = b''.join(_varint(number << 3) + _varint(value) for number, value in varints.items() if value)
    return numbers + b''.join(_field(number, content) for number, content in (messages or {}).items())


def _write_table(file: BinaryIO, entries: list[tuple[bytes, bytes]]) -> None:
    """Writes a sorted string table with a single block of entries."""
    position = 0

    def write(block: bytes) -> bytes:       # returns its handle
        nonlocal position
        handle = _varint(position) + _varint(len(block))
        block += b'\0'                      # not compressed
        position += file.write(block + _checksum(block))
        return handle

    handle = write(_block(entries))
    metadata = write(_block([]))
    # The key of a block is the shortest one that is not less than its last key.
    index = write(_block([(bytes([entries[-1][0][0] + 1]), handle)]))
    file.write((metadata + index).ljust(FOOTER - len(TABLE_MAGIC), b'\0') + TABLE_MAGIC)


def _block(entries: list[tuple[bytes, bytes]]) -> bytes:
    """Values and keys, each without the prefix it shares with the key before; then the offsets of the keys written in full."""
    content, restarts, previous = bytearray(), [0], b''
    for i, (key, value) in enumerate(entries):
        if i and i % RESTART_INTERVAL == 0:
            restarts.append(len(content))
            previous = b''
        shared = len(os.path.commonprefix([previous, key]))
        content += _varint(shared) + _varint(len(key) - shared) + _varint(len(value)) + key[shared:] + value
        previous = key
    return bytes(content) + struct.pack(f'<{len(restarts) + 1}I', *restarts, len(restarts))


def _checksum(content: bytes | np.ndarray) -> bytes:
    """The CRC-32C (RFC 3720) of bytes, as it is stored."""
    return mask(google_crc32c.value(content))


def mask(crc: int) -> bytes:
    """A CRC-32C as LevelDB stores it: rotated by 15 bits, plus a constant."""
    return struct.pack('<I', ((crc >> 15 | crc << 17) + 0xa282ead8) & 0xffffffff)
