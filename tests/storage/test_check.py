"""tensor_files.py: an index is read as TensorFlow reads it, and whatever harm it has come to is told in one line."""

import random

import numpy as np
import pytest

from command.errors import UserError
from conftest import ROOT
from network.hparams import load_hparams
from storage import bundle, check
from storage.bundle import FLOAT32, Stored

BIASES = {f'model/h{i}/b': [1 + i] for i in range(40)}


@pytest.fixture(scope='module')
def prefix(tf, tmp_path_factory):
    """A checkpoint of TensorFlow's with many tensors, of several shapes and kinds."""
    prefix = str(tmp_path_factory.mktemp('bundle') / 'model-7')
    with tf.Graph().as_default(), tf.Session() as session:
        for i in range(40):
            tf.get_variable(f'model/h{i}/attn/w', initializer=np.ones([1, 3, 1 + i], np.float32))
            tf.get_variable(f'model/h{i}/b', initializer=np.ones([1 + i], np.float32))
        tf.get_variable('model/step', initializer=np.int64(5))
        tf.get_variable('nothing', initializer=np.zeros([0, 2], np.float32))
        session.run(tf.global_variables_initializer())
        tf.train.Saver().save(session, prefix, write_meta_graph=False)
    return prefix


def copy(prefix, directory, index=None, data=None):
    """The checkpoint with other content in one of its files."""
    for suffix, content in (('index', index), ('data-00000-of-00001', data)):
        if content is None:
            with open(f'{prefix}.{suffix}', 'rb') as file:
                content = file.read()
        (directory / f'model-7.{suffix}').write_bytes(content)
    return str(directory / 'model-7')


def index_of(prefix):
    with open(f'{prefix}.index', 'rb') as file:
        return file.read()


def refused(prefix, weights):
    with pytest.raises(UserError) as error:
        check.check_checkpoint(prefix, weights)
    assert '\n' not in str(error.value)
    return str(error.value)


def test_an_index_says_what_tensorflow_reads_in_it(tf, prefix):
    stored, shards = bundle.read_index(prefix)
    reader = tf.train.load_checkpoint(prefix)
    assert {name: tensor.shape for name, tensor in stored.items()} == reader.get_variable_to_shape_map()
    assert shards == 1 and len(stored) == 82
    with open(f'{prefix}.data-00000-of-00001', 'rb') as file:
        data = file.read()
    for name, tensor in stored.items():
        array = reader.get_tensor(name)
        assert tensor.kind == tf.as_dtype(array.dtype).as_datatype_enum
        assert data[tensor.start:tensor.start + tensor.size] == array.tobytes()
    assert stored['model/h0/b'].kind == FLOAT32 == tf.float32.as_datatype_enum
    check.check_checkpoint(prefix, {'model/h39/b': [40]} | {f'model/h{i}/attn/w': [1, 3, 1 + i] for i in range(40)})


def test_an_index_of_several_blocks(tmp_path):
    """As TensorFlow makes of some thousand tensors: each block with keys of its own, written in full where it begins."""
    entries = [(b'', bundle._message({1: 2}))] + [(b'w%04d' % i, bundle._message({1: 1, 3: i % 2, 4: 4 * i, 5: 4}))
                                                       for i in range(100)]
    content, handles = b'', []

    def add(block):
        nonlocal content
        handle = bundle._varint(len(content)) + bundle._varint(len(block))
        block += b'\0'
        content += block + bundle._masked(bundle.crc32c(np.frombuffer(block, np.uint8))).to_bytes(4, 'little')
        return handle

    for start in range(0, len(entries), 30):
        handles.append((entries[start:start + 30][-1][0], add(bundle._block(entries[start:start + 30]))))
    footer = add(bundle._block([])) + add(bundle._block(handles))
    (tmp_path / 'a.index').write_bytes(content + footer.ljust(40, b'\0') + bundle.TABLE_MAGIC.to_bytes(8, 'little'))
    stored, shards = bundle.read_index(str(tmp_path / 'a'))
    assert shards == 2
    assert stored == {f'w{i:04}': Stored([], 1, i % 2, 4 * i, 4) for i in range(100)}
    (tmp_path / 'a.data-00000-of-00002').write_bytes(bytes(4 * 99))
    (tmp_path / 'a.data-00001-of-00002').write_bytes(bytes(4 * 100 - 1))
    assert 'a.data-00001-of-00002 is cut off: it has 399 bytes of 400' in refused(str(tmp_path / 'a'), {})


def test_any_damage_of_an_index_is_told(prefix, tmp_path):
    whole, rng = index_of(prefix), random.Random(0)
    for size in [0, 1, 47, 48, 100, len(whole) // 2, len(whole) - 1]:
        assert 'model-7.index is cut off or damaged, or no index' in refused(copy(prefix, tmp_path, whole[:size]), {})
    changed = 0
    for _ in range(300):
        content = bytearray(whole)
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        try:
            bundle.read_index(copy(prefix, tmp_path, bytes(content)))
        except UserError as error:
            changed += 1
            assert 'model-7.index is cut off or damaged' in str(error)
    assert changed > 250      # the rest: in the footer's padding, or in what is read of no block


@pytest.mark.parametrize(('weights', 'words'), [
    (BIASES | {'model/step': []}, 'model/step is not float32 there'),
    ({'model/h0/b': [2]}, 'it looks like a model with n_layer 40 and n_embd 0: model/h0/b is [1] there, [2] here'),
    ({'model/h0/b': [1]}, 'it holds model/h1 too'),
    ({'model/h50/b': [1]}, 'it holds no model/h50/b')])
def test_other_weights_are_told(prefix, weights, words):
    assert words in refused(prefix, weights)


def test_files_that_are_not_there_or_too_short(prefix, tmp_path):
    with open(f'{prefix}.data-00000-of-00001', 'rb') as file:
        data = file.read()
    check.check_checkpoint(copy(prefix, tmp_path, data=data + b'more'), BIASES)
    assert f'is cut off: it has {len(data) - 1:,} bytes of {len(data):,}' in refused(
        copy(prefix, tmp_path, data=data[:-1]), BIASES)
    (tmp_path / 'model-7.data-00000-of-00001').unlink()
    assert refused(str(tmp_path / 'model-7'), BIASES).endswith(
        'model-7.data-00000-of-00001: No such file or directory')
    (tmp_path / 'model-7.index').unlink()
    (tmp_path / 'model-7.index').mkdir()
    assert refused(str(tmp_path / 'model-7'), {}).endswith('model-7.index: Is a directory')


def test_the_model_that_ships_will_do():
    directory = f'{ROOT}/models/tiny'
    check.check_checkpoint(f'{directory}/model.ckpt', load_hparams(directory).shapes())
