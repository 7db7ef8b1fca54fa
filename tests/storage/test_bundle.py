"""storage/bundle.py: writes what TensorFlow writes, byte for byte, and reads an index as TensorFlow does."""

import io
import random

import google_crc32c
import numpy as np
import pytest

from checkpoint_files import read_checkpoint, write_index
from command.errors import UserError
from storage import bundle
from storage.bundle import FLOAT32, Entry


def save(tf, prefix, arrays):
    """Writes arrays (name -> array) with TensorFlow's Saver."""
    with tf.Graph().as_default(), tf.Session() as session:
        variables = [tf.get_variable(name, initializer=array) for name, array in arrays.items()]
        session.run(tf.global_variables_initializer())
        tf.train.Saver(variables).save(session, str(prefix), write_meta_graph=False)


def test_a_bundle_of_many_and_large_tensors_is_what_tensorflow_writes(tf, tmp_path):
    rng = np.random.default_rng(0)
    arrays = {f'model/h{i}/{name}': rng.random(shape, np.float32)
              for i in range(60) for name, shape in (('attn/w', [1, 3, 5]), ('attn/b', [300]), ('b', [1]), ('mlp/c/w', [9, 2]))}
    arrays |= {'model/wte': rng.random([70000, 5], np.float32), 'model/zeros': np.zeros([4], np.float32),
               'model/empty': np.zeros([0, 2], np.float32), 'model/scalar': np.float32(3)}
    arrays = dict(sorted(arrays.items()))
    save(tf, tmp_path / 'model.ckpt', arrays)
    data, index = io.BytesIO(), io.BytesIO()
    bundle.write_bundle(data, index, {name: list(array.shape) for name, array in arrays.items()}, arrays.values())
    for suffix, file in (('data-00000-of-00001', data), ('index', index)):
        assert file.getvalue() == (tmp_path / f'model.ckpt.{suffix}').read_bytes()


def test_tensors_of_other_types_are_written_as_float32():
    as_float64, as_float32 = ((io.BytesIO(), io.BytesIO()) for _ in range(2))
    for files, dtype in ((as_float64, np.float64), (as_float32, np.float32)):
        bundle.write_bundle(*files, {'a': [2, 3]}, [np.arange(6, dtype=dtype).reshape(3, 2).T])      # not contiguous
    assert [file.getvalue() for file in as_float64] == [file.getvalue() for file in as_float32]
    assert as_float32[0].getvalue() == np.float32([0, 2, 4, 1, 3, 5]).tobytes()


def test_fewer_tensors_than_shapes_is_an_error():
    with pytest.raises(ValueError, match='shorter'):
        bundle.write_bundle(io.BytesIO(), io.BytesIO(), {'a': [1], 'b': [1]}, [np.zeros(1)])


def test_the_checksum_of_rfc_3720():
    assert google_crc32c.value(b'123456789') == 0xe3069283
    array = np.frombuffer(b'123456789', np.uint8)
    assert bundle._checksum(array) == bundle._checksum(array.tobytes()) == bytes.fromhex('e5b08ac7')     # masked


def test_an_index_is_read_as_tensorflow_reads_it(tf, tmp_path):
    arrays = {f'model/h{i}/attn/w': np.ones([1, 3, 1 + i], np.float32) for i in range(40)}
    arrays |= {'model/step': np.int64(5), 'model/half': np.float16([1, 2]), 'nothing': np.zeros([0, 2], np.float32)}
    save(tf, tmp_path / 'model-7', arrays)
    index, shards = bundle.read_index(str(tmp_path / 'model-7'))
    read = read_checkpoint(tmp_path / 'model-7')
    assert shards == 1 and len(index) == len(read) == 43
    assert {name: entry.shape for name, entry in index.items()} == {name: list(np.shape(array)) for name, array in read.items()}
    data = (tmp_path / 'model-7.data-00000-of-00001').read_bytes()
    for name, entry in index.items():
        assert entry.dtype == tf.as_dtype(read[name].dtype).as_datatype_enum
        assert (entry.shard, entry.size) == (0, read[name].nbytes)
        assert data[entry.offset:entry.offset + entry.size] == read[name].tobytes()
    assert index['model/h0/attn/w'].dtype == FLOAT32 == tf.float32.as_datatype_enum


def test_fields_of_every_wire_type():
    fields = [(1, b'\x09' + b'8 bytes.', b'8 bytes.'), (2, b'\x12\x03abc', b'abc'), (3, b'\x18\xac\x02', 300),
              (4, b'\x25four', b'four')]
    assert list(bundle._fields(b''.join(message for _, message, _ in fields))) == [(number, value) for number, _, value in fields]
    with pytest.raises(ValueError, match='unknown wire type 3'):
        list(bundle._fields(b'\x0b'))


def test_an_index_of_several_blocks(tmp_path):
    write_index(tmp_path / 'a.index', 100, keys_per_block=30)
    index, shards = bundle.read_index(str(tmp_path / 'a'))
    assert shards == 2
    assert index == {f'w{i:04}': Entry([], FLOAT32, i % 2, 4 * i, 4, None) for i in range(100)}


def test_compressed_blocks_are_refused(tmp_path):
    write_index(tmp_path / 'a.index', 3, keys_per_block=30, compression=1)
    with pytest.raises(UserError, match='a.index is cut off or damaged, or not a checkpoint index'):
        bundle.read_index(str(tmp_path / 'a'))


def test_a_damaged_index_is_named(tmp_path):
    write_index(tmp_path / 'whole.index', 40, keys_per_block=30)
    complete, rng = (tmp_path / 'whole.index').read_bytes(), random.Random(0)
    damaged = [complete[:size] for size in [0, 1, 47, 48, 100, len(complete) // 2, len(complete) - 1]]
    for _ in range(300):
        content = bytearray(complete)
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        damaged.append(bytes(content))
    noticed = 0
    for content in damaged:
        (tmp_path / 'a.index').write_bytes(content)
        try:
            bundle.read_index(str(tmp_path / 'a'))
        except UserError as error:
            assert 'a.index is cut off or damaged, or not a checkpoint index; copy, download or make it again' in str(error)
            assert '\n' not in str(error)
            noticed += 1
    assert noticed > 257      # the others differ in the padding of the footer, or in the metadata block, which is not read


def test_an_index_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / 'a.index').mkdir()
    with pytest.raises(UserError, match='a.index: Is a directory'):
        bundle.read_index(str(tmp_path / 'a'))
    with pytest.raises(UserError, match='b.index: No such file or directory'):
        bundle.read_index(str(tmp_path / 'b'))
