"""Checkpoints of adapters: what they are added to is found, checked and merged."""

import json
import os
import pathlib
import re
import shutil

import numpy as np
import pytest

from checkpoint_files import write_checkpoint
from command.errors import UserError
from network.hparams import HParams
from network.lora import Lora
from storage import adapters

HPARAMS = HParams(n_vocab=7, n_ctx=4, n_embd=6, n_head=2, n_layer=2)
LORA, SECOND = Lora(rank=2, alpha=6), Lora(rank=1, alpha=0.5)


FILE = pathlib.Path('checkpoint/a/adapter.json')


def change_file(**values):
    FILE.write_text(json.dumps(json.loads(FILE.read_text()) | values))


def random(shapes, seed):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def write(prefix, arrays):
    os.makedirs(os.path.dirname(prefix), exist_ok=True)
    write_checkpoint(prefix, arrays)


def write_adapters(prefix, base, lora, seed):
    """A checkpoint of random factors, with some of the optimizer's state, on a base."""
    values = random(lora.shapes(HPARAMS), seed)
    write(prefix, values | {'beta1_power': np.float32(0.5), 'model/h0/mlp/c_fc/lora_b/Adam': np.zeros([lora.rank, 24])})
    directory = os.path.dirname(prefix)
    with open(os.path.join(directory, 'adapter.json'), 'w') as file:
        file.write(adapters.on(base, lora).text(directory))
    return values


@pytest.fixture
def chain(tmp_path, monkeypatch):
    """A model, a run of adapters on it, and a run of adapters on that: their weights and factors."""
    monkeypatch.chdir(tmp_path)
    model = random(HPARAMS.shapes(), 0)
    write('models/m/model.ckpt', model)
    first = write_adapters('checkpoint/a/model-5', 'models/m/model.ckpt', LORA, 1)
    return model, first, write_adapters('checkpoint/b/model-3', 'checkpoint/a/model-5', SECOND, 2)


def test_what_a_checkpoint_is_based_on(chain):
    assert adapters.read('models/m/model.ckpt') is None
    a, b = (adapters.read(prefix) for prefix in ('checkpoint/a/model-5', 'checkpoint/b/model-3'))
    assert (a.lora, a.base) == (LORA, 'models/m/model.ckpt') and (b.lora, b.base) == (SECOND, 'checkpoint/a/model-5')
    for prefix in ('models/m/model.ckpt', 'checkpoint/a/model-5', 'checkpoint/b/model-3'):
        adapters.check_weights(prefix, HPARAMS)


def test_the_checksum_is_that_of_the_weights_alone(chain):
    model, first, _ = chain
    before = adapters.checksum('models/m/model.ckpt')
    write('models/other/model-9', model | {'model/wte/Adam': model['model/wte'], 'beta1_power': np.float32(1)})
    assert adapters.checksum('models/other/model-9') == before
    name = 'model/h1/ln_2/b'
    write('models/other/model-9', model | {name: np.nextafter(model[name], np.float32(9))})
    assert adapters.checksum('models/other/model-9') != before
    before = adapters.checksum('checkpoint/a/model-5')
    write('checkpoint/a/model-5', first | {'beta1_power': np.float32(0.25)})
    assert adapters.checksum('checkpoint/a/model-5') == before
    change_file(alpha=7)
    assert adapters.checksum('checkpoint/a/model-5') != before


def test_a_base_is_found_where_it_was_or_at_the_same_place_from_the_run(chain, tmp_path, monkeypatch):
    os.makedirs('elsewhere')
    shutil.copytree('checkpoint/b', 'copy/of/b')
    assert adapters.read('copy/of/b/model-3').base == 'checkpoint/a/model-5'
    monkeypatch.chdir('elsewhere')
    assert adapters.read('../checkpoint/b/model-3').base == '../checkpoint/a/model-5'
    adapters.check_weights('../checkpoint/b/model-3', HPARAMS)
    shutil.copytree('../models', 'models')                      # another model under the recorded name does not matter
    write('models/m/model.ckpt', random(HPARAMS.shapes(), 9))
    assert adapters.read('../checkpoint/a/model-5').base == '../models/m/model.ckpt'


@pytest.mark.parametrize(('spoil', 'words'), [
    (lambda: os.remove('checkpoint/a/adapter.json'),
     'checkpoint/a/model-5 holds adapters, and checkpoint/a/adapter.json, which names their base model, is missing: copy it'),
    (lambda: FILE.write_text('{'), 'checkpoint/a/adapter.json is not JSON'),
    (lambda: FILE.write_text('{"base": "models/m/model.ckpt", "rank": 2}'),
     'checkpoint/a/adapter.json is damaged: it lacks base, checksum, rank or alpha'),
    (lambda: os.remove('models/m/model.ckpt.index'),
     'the base model of checkpoint/a/model-5, models/m/model.ckpt, is missing: put it there again, or write where it is into '),
    (lambda: write('models/m/model.ckpt', random(HPARAMS.shapes(), 9)),
     'the base model of checkpoint/a/model-5, models/m/model.ckpt, has changed: its weights are not those'),
    (lambda: os.truncate('models/m/model.ckpt.data-00000-of-00001', 99), 'models/m/model.ckpt.data-00000-of-00001 is cut off'),
    (lambda: os.truncate('checkpoint/a/model-5.data-00000-of-00001', 99), 'model-5.data-00000-of-00001 is cut off'),
])
def test_what_is_missing_damaged_or_changed_is_named(chain, spoil, words):
    spoil()
    for prefix in ('checkpoint/a/model-5', 'checkpoint/b/model-3'):
        with pytest.raises(UserError, match=f'^.*{re.escape(words)}'):
            adapters.check_weights(prefix, HPARAMS)


def test_adapters_of_another_rank_than_adapter_json_says(chain):
    change_file(rank=3)
    with pytest.raises(UserError, match=r'a/model-5 is a checkpoint of another model.*lora_a is \[6, 2\] there, \[6, 3\] here'):
        adapters.check_weights('checkpoint/a/model-5', HPARAMS)


def expected(chain):
    """The weights of the last run: of the model, with the products of both runs added."""
    model, first, second = chain
    result = dict(model)
    for name in first:
        if name.endswith('lora_a'):
            scope = name.removesuffix('lora_a')
            for lora, values in ((LORA, first), (SECOND, second)):
                result[f'{scope}w'] = result[f'{scope}w'] + lora.scale * (values[f'{scope}lora_a'] @ values[f'{scope}lora_b'])
    return result


def test_weights_are_merged_one_at_a_time_when_they_are_read(tf, chain):
    from storage.weights import Weights
    weights = Weights('checkpoint/b/model-3', HPARAMS.shapes())
    for name, value in expected(chain).items():
        np.testing.assert_allclose(weights.read(name), value, rtol=1e-5, atol=1e-5, err_msg=name)
        if not name.endswith('/w'):
            assert np.array_equal(weights.read(name), chain[0][name])


def test_factors_without_an_optimizer_s_state_are_read_as_they_are(chain):
    from storage.weights import Weights
    _, first, _ = chain
    write('checkpoint/a/model-5', first)        # as with --optimizer sgd
    weights = Weights('checkpoint/a/model-5', LORA.shapes(HPARAMS))
    for name, value in first.items():
        assert not weights.merges(name) and np.array_equal(weights.read(name), value)


def test_a_graph_without_adapters_gets_merged_weights(tf, session, chain):
    import model
    from storage import saver
    model.model(HPARAMS, tf.placeholder(tf.int32, [None, None]))
    assert not saver.restore(session, 'checkpoint/b/model-3', tf.trainable_variables())
    for name, value in expected(chain).items():
        with tf.variable_scope('', reuse=True):
            np.testing.assert_allclose(session.run(tf.get_variable(name, value.shape)), value, rtol=1e-5, atol=1e-5)


def test_adapters_of_a_model_of_another_size(tf, chain):
    from storage.weights import Weights
    with pytest.raises(UserError, match='models/m/model.ckpt is a checkpoint of another model'):
        Weights('checkpoint/b/model-3', HParams(n_vocab=7, n_ctx=4, n_embd=8, n_head=2, n_layer=2).shapes())
