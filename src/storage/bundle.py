"""TensorFlow's tensor bundle (the format of a V2 checkpoint), written one tensor at a time, and its index, read without TensorFlow.

A bundle is a file of raw little-endian numbers and a sorted table of what lies where. tf.train.Saver needs all tensors in
memory at the same time, three times what a model of gigabytes needs here."""

import functools
import os
import struct
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

from command.errors import UserError, reason

CRC_POLYNOMIAL = np.uint32(0x82f63b78)      # Castagnoli, lowest bit first
CRC_LANES, CRC_STEPS = 4096, 128            # stretches of a block, and two-byte steps of each: powers of two
FLOAT32 = 1                                 # of tensorflow.DataType
TABLE_MAGIC = 0xdb4775248b80fb57
FOOTER = 48                                 # bytes at the end of a table
RESTART_INTERVAL = 16                       # keys from one that is written in full to the next
AGAIN = 'copy, download or make it again'


def write_bundle(data: BinaryIO, index: BinaryIO, shapes: dict[str, list[int]], tensors: Iterable[np.ndarray]) -> None:
    """Writes tensors, as float32, as tf.train.Saver does, byte for byte: PREFIX.data-00000-of-00001 and PREFIX.index.

    shapes: of each name, sorted; tensors: in that order, each read when its turn comes. The index must fit in one block of
    its table, which is what some thousand tensors do.
    """
    entries = [(b'', _message(varints={1: 1}, messages={3: _message(varints={1: 1})}))]      # one shard, format version 1
    start = 0
    for (name, shape), tensor in zip(shapes.items(), tensors, strict=True):
        content = np.ascontiguousarray(tensor, '<f4').reshape(-1).view(np.uint8)
        data.write(content.data)
        dimensions = b''.join(_field(2, _message(varints={1: size})) for size in shape)
        entries.append((name.encode(), _message(varints={1: FLOAT32}, messages={2: dimensions})
                        + _message(varints={4: start, 5: len(content)})
                        + struct.pack('<BI', 6 << 3 | 5, _masked(crc32c(content)))))
        start += len(content)
    _write_table(index, entries)


class Stored(NamedTuple):
    """What the index of a bundle tells of a tensor: its shape, its tensorflow.DataType, and where its bytes are."""
    shape: list[int]
    kind: int
    shard: int
    start: int
    size: int


def read_index(prefix: str) -> tuple[dict[str, Stored], int]:
    """What PREFIX.index tells: the tensors by name, and how many files of numbers there are.

    Raises UserError that names the file if it cannot be read, is cut off or damaged.
    """
    path = f'{prefix}.index'
    try:
        with open(path, 'rb') as file:
            content = file.read()
        entries = dict(_read_table(content))
        header = dict(_fields(entries.pop(b'')))        # whose key is before all names
        return {name.decode(): _stored(entry) for name, entry in entries.items()}, header[1]
    except OSError as error:
        raise UserError(f'cannot read the checkpoint {prefix}: {path}: {reason(error)}') from None
    except (LookupError, ValueError, struct.error):
        raise UserError(f'cannot read the checkpoint {prefix}: {path} is cut off or damaged, or no index of a checkpoint; '
                        f'{AGAIN}') from None


def _stored(entry: bytes) -> Stored:
    """A tensor's entry in the index (BundleEntryProto)."""
    fields = dict(_fields(entry))
    # Of a dimension (TensorShapeProto.Dim) the size is field 1, and 0 is left out.
    shape = [dict(_fields(dimension)).get(1, 0) for number, dimension in _fields(fields.get(2, b'')) if number == 2]
    return Stored(shape, *(fields.get(number, 0) for number in (1, 3, 4, 5)))


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers and values of a protocol buffer's fields. Raises ValueError or IndexError for what is none."""
    place = 0
    while place < len(message):
        key, place = _read_varint(message, place)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, place = _read_varint(message, place)
        elif kind in (1, 2, 5):
            size, place = (8 if kind == 1 else 4, place) if kind != 2 else _read_varint(message, place)
            value, place = message[place:place + size], place + size
        else:
            raise ValueError(f'fields of the kind {kind} are not known here')
        yield number, value


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    """The number at `place`, and the place after it."""
    value = shift = 0
    while data[place] > 127:
        value, shift, place = value | (data[place] & 127) << shift, shift + 7, place + 1
    return value | data[place] << shift, place + 1


def _read_table(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a sorted string table. Raises ValueError, IndexError or struct.error for what is none."""
    footer = content[-FOOTER:]
    if footer[-8:] != struct.pack('<Q', TABLE_MAGIC):
        raise ValueError('it does not end as a table does')
    place = 0
    for _ in range(2):                      # the handle of the metadata, which is not read
        _, place = _read_varint(footer, place)
    for _, handle in _read_block(content, footer[place:]):
        yield from _read_block(content, handle)


def _read_block(content: bytes, handle: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of the block that a handle, offset and size, tells of. Raises as `_read_table`."""
    start, place = _read_varint(handle, 0)
    size, _ = _read_varint(handle, place)
    block = content[start:start + size + 1]                 # with the byte that tells how it is compressed
    if struct.unpack_from('<I', content, start + size + 1) != (_masked(crc32c(np.frombuffer(block, np.uint8))),):
        raise ValueError('its checksum does not agree')
    if block[-1]:
        raise ValueError('it is compressed')                # as no release of TensorFlow but 1.1 has done
    [n_restarts] = struct.unpack('<I', block[-5:-1])
    place, end, key = 0, size - 4 * (n_restarts + 1), b''
    while place < end:
        shared, place = _read_varint(block, place)
        own, place = _read_varint(block, place)
        length, place = _read_varint(block, place)
        key = key[:shared] + block[place:place + own]
        place += own + length
        yield key, block[place - length:place]


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first, the highest bit set on all but the last: 300 -> ac 02."""
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def _field(number: int, content: bytes) -> bytes:
    """A field of a protocol buffer that holds another message."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _message(varints: dict[int, int], messages: dict[int, bytes] | None = None) -> bytes:
    """A protocol buffer of numbers, which are left out where they are 0, and then of messages."""
    numbers = b''.join(_varint(number << 3) + _varint(value) for number, value in varints.items() if value)
    return numbers + b''.join(_field(number, content) for number, content in (messages or {}).items())


def _write_table(file: BinaryIO, entries: list[tuple[bytes, bytes]]) -> None:
    """Writes a sorted string table (LevelDB's format) of one block: keys and values, then where they lie."""
    position = 0

    def write(block: bytes) -> bytes:       # -> its handle: offset and size
        nonlocal position
        handle = _varint(position) + _varint(len(block))
        block += b'\0'                      # not compressed
        position += file.write(block + struct.pack('<I', _masked(crc32c(np.frombuffer(block, np.uint8)))))
        return handle

    handle = write(_block(entries))
    metadata = write(_block([]))
    # A key that is not before the block's last: as short as can be.
    index = write(_block([(bytes([entries[-1][0][0] + 1]), handle)]))
    file.write((metadata + index).ljust(FOOTER - 8, b'\0') + struct.pack('<Q', TABLE_MAGIC))


def _block(entries: list[tuple[bytes, bytes]]) -> bytes:
    """Keys, without the beginning that each shares with the one before it, and values; where to find whole keys."""
    content, restarts, before = bytearray(), [0], b''
    for i, (key, value) in enumerate(entries):
        if i and i % RESTART_INTERVAL == 0:
            restarts.append(len(content))
            before = b''
        shared = len(os.path.commonprefix([before, key]))
        content += _varint(shared) + _varint(len(key) - shared) + _varint(len(value)) + key[shared:] + value
        before = key
    return bytes(content) + struct.pack(f'<{len(restarts) + 1}I', *restarts, len(restarts))


def _masked(crc: int) -> int:
    """A checksum as it is stored beside what it is of: rotated, and a constant added, so that it can be summed up again."""
    return ((crc >> 15 | crc << 17) + 0xa282ead8) & 0xffffffff


def crc32c(content: np.ndarray) -> int:
    """CRC-32C (RFC 3720) of bytes, one or more of any length: crc32c of b'123456789' is 0xe3069283.

    Many stretches of the bytes side by side. This works because the register is linear in the bytes: that of two stretches
    is that of the first, moved on by as many zeros as the second is long, xor that of the second.
    """
    tables = _crc_tables()
    size = 2 * CRC_STEPS * CRC_LANES
    register = np.uint32(0)
    # Zeros before the content leave a register of 0 as it is, and fill up the first block.
    end = len(content) % size or size
    start = 0
    while start < len(content):
        block = np.zeros(size, np.uint8)
        block[size - (end - start):] = content[start:end]
        register = _moved(tables.over_block, register) ^ _block_register(block, tables)
        start, end = end, end + size
    # The register starts as all ones, as if they had been there before the first byte.
    ones = np.uint32(0xffffffff)
    for bit in range(len(content).bit_length()):
        if len(content) >> bit & 1:
            ones = _moved(tables.over_bytes[bit], ones)
    return int(~(register ^ ones))


def _block_register(block: np.ndarray, tables: '_Tables') -> np.uint32:
    registers = np.zeros(CRC_LANES, np.uint32)
    for words in np.ascontiguousarray(block.view('<u2').reshape(CRC_LANES, CRC_STEPS).T):
        registers = tables.two_bytes[(registers ^ words) & 0xffff] ^ registers >> 16
    for move in tables.over_lanes:
        registers = _moved(move, registers[0::2]) ^ registers[1::2]
    return registers[0]


class _Tables(NamedTuple):
    """What becomes of a register. A move is given by what becomes of each of its bits, [32]."""
    two_bytes: np.ndarray           # [65536] of the register with only its low half set, in a step of two bytes
    over_bytes: list[np.ndarray]    # moves over 1, 2, 4, 8, ... zero bytes
    over_lanes: list[np.ndarray]    # moves over a lane, two lanes, four, ... half the lanes
    over_block: np.ndarray


@functools.cache
def _crc_tables() -> _Tables:
    two_bytes = np.arange(2 ** 16, dtype=np.uint32)
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    for _ in range(16):
        two_bytes = two_bytes >> 1 ^ np.where(two_bytes & 1, CRC_POLYNOMIAL, np.uint32(0))
    over_byte = bits
    for _ in range(8):
        over_byte = over_byte >> 1 ^ np.where(over_byte & 1, CRC_POLYNOMIAL, np.uint32(0))
    over_bytes = [over_byte]
    for _ in range(40):     # up to a terabyte
        over_bytes.append(_moved(over_bytes[-1], over_bytes[-1]))
    lane, block = (2 * CRC_STEPS).bit_length() - 1, (2 * CRC_STEPS * CRC_LANES).bit_length() - 1
    return _Tables(two_bytes, over_bytes, over_bytes[lane:block], over_bytes[block])


def _moved(move: np.ndarray, registers: np.ndarray) -> np.ndarray:
    """Registers [...] after a move: the xor of what becomes of each of their bits."""
    set_bits = np.asarray(registers)[..., None] >> np.arange(32, dtype=np.uint32) & 1
    return np.bitwise_xor.reduce(set_bits * move, axis=-1)
