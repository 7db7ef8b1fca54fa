"""storage/check.py: a checkpoint that is incomplete or of another model is refused in one line that names the problem."""

import numpy as np
import pytest

from checkpoint_files import write_checkpoint, write_index, zeros
from command.errors import UserError
from conftest import ROOT
from network.hparams import load_hparams
from storage import check
from storage.check import check_checkpoint, is_sound

SHAPES = {f'model/h{i}/b': [1 + i] for i in range(40)} | {'model/wte': [2, 3]}


@pytest.fixture
def prefix(tmp_path):
    write_checkpoint(tmp_path / 'model-7', zeros(SHAPES | {'not/needed': [2]}))
    return str(tmp_path / 'model-7')


def refusal(prefix, weights):
    with pytest.raises(UserError) as error:
        check_checkpoint(prefix, weights)
    assert '\n' not in str(error.value)
    return str(error.value)


def test_the_model_that_ships_is_complete():
    directory = f'{ROOT}/models/tiny'
    check_checkpoint(f'{directory}/model.ckpt', load_hparams(directory).shapes())


def test_checksums_of_tensors(prefix, tmp_path):
    assert is_sound(f'{ROOT}/models/tiny/model.ckpt')       # which TensorFlow wrote
    assert is_sound(prefix)
    assert not is_sound(str(tmp_path / 'nothing'))
    for suffix, offset in (('.data-00000-of-00001', 0), ('.data-00000-of-00001', -1), ('.index', 20)):
        path = tmp_path / f'model-7{suffix}'
        content = bytearray(path.read_bytes())
        content[offset] ^= 1
        path.write_bytes(content)
        assert not is_sound(prefix)
        content[offset] ^= 1
        path.write_bytes(content[:-1])
        assert not is_sound(prefix)
        path.write_bytes(content)
        assert is_sound(prefix)
    (tmp_path / 'model-7.data-00000-of-00001').unlink()
    assert not is_sound(prefix)


def test_a_tensor_larger_than_a_piece(tmp_path, monkeypatch):
    monkeypatch.setattr('storage.check.CHUNK', 100)
    write_checkpoint(tmp_path / 'm', {'w': np.arange(99)})
    assert is_sound(str(tmp_path / 'm'))


def test_variables_that_the_model_lacks_are_accepted(prefix):
    check_checkpoint(prefix, SHAPES)


@pytest.mark.parametrize(('weights', 'words'), [
    ({'model/h0/b': [2]}, 'it looks like a model with n_layer 40 and n_embd 3: model/h0/b is [1] there, [2] here'),
    ({'model/h0/b': [1]}, 'it holds model/h1 too'),
    ({'model/h50/b': [1]}, 'it holds no model/h50/b')])
def test_another_model_is_named(prefix, weights, words):
    assert words in refusal(prefix, weights)


@pytest.mark.parametrize(('n_layer', 'n_embd', 'name'), [(24, 1024, '355M'), (12, 768, '124M'),
                                                         (24, 768, 'a model with n_layer 24 and n_embd 768')])
def test_published_models_are_recognised(tmp_path, n_layer, n_embd, name):
    write_checkpoint(tmp_path / 'm', zeros({'model/wte': [2, n_embd]} | {f'model/h{i}/b': [1] for i in range(n_layer)}))
    assert f'it looks like {name}: it holds no model/wpe' in refusal(str(tmp_path / 'm'), {'model/wpe': [2, n_embd]})


def test_a_checkpoint_without_any_weight_of_gpt_2(tmp_path):
    write_checkpoint(tmp_path / 'm', zeros({'w': [1]}))
    assert 'it looks like a model with n_layer 0 and n_embd 0: it holds no model/h0/b' in refusal(str(tmp_path / 'm'), SHAPES)


def test_weights_of_another_type_are_named(tf, tmp_path):
    with tf.Graph().as_default(), tf.Session() as session:
        tf.get_variable('model/wte', initializer=np.float16([[1, 2]]))
        session.run(tf.global_variables_initializer())
        tf.train.Saver().save(session, str(tmp_path / 'model-7'))
    assert refusal(str(tmp_path / 'model-7'), {'model/wte': [1, 2]}).endswith('it does not hold model/wte as float32')


@pytest.mark.parametrize('number', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(('name', 'position'), [('model/h0/b', 0), ('model/h39/b', 39), ('model/wte', 5)])
def test_numbers_that_are_not_finite_are_found(tmp_path, monkeypatch, number, name, position):
    monkeypatch.setattr(check, 'BLOCK', 7)      # h39 takes several blocks, the last one not full
    arrays = zeros(SHAPES)
    arrays[name].reshape(-1)[position] = number
    write_checkpoint(tmp_path / 'm', arrays)
    assert refusal(str(tmp_path / 'm'), SHAPES).startswith(
        f'the checkpoint {tmp_path}/m is of no use: its weight {name} holds NaN or infinite numbers; take an earlier checkpoint')


def test_missing_and_truncated_files_are_named(prefix, tmp_path):
    data = tmp_path / 'model-7.data-00000-of-00001'
    content = data.read_bytes()
    data.write_bytes(content + b'more')
    check_checkpoint(prefix, SHAPES)
    data.write_bytes(content[:-1])
    assert refusal(prefix, SHAPES).endswith('data-00000-of-00001 is cut off: '
                                            f'it has {len(content) - 1:,} bytes of {len(content):,}; '
                                            'copy, download or make it again')
    data.unlink()
    assert refusal(prefix, SHAPES).endswith('model-7.data-00000-of-00001: No such file or directory')
    (tmp_path / 'model-7.index').unlink()
    assert refusal(prefix, SHAPES).endswith('model-7.index: No such file or directory')


def test_each_of_several_data_files_is_measured(tmp_path):
    write_index(tmp_path / 'a.index', 100, keys_per_block=30)
    (tmp_path / 'a.data-00000-of-00002').write_bytes(bytes(4 * 99))
    (tmp_path / 'a.data-00001-of-00002').write_bytes(bytes(4 * 100))
    check_checkpoint(str(tmp_path / 'a'), {})
    (tmp_path / 'a.data-00001-of-00002').write_bytes(bytes(4 * 100 - 1))
    assert 'a.data-00001-of-00002 is cut off: it has 399 bytes of 400' in refusal(str(tmp_path / 'a'), {})
