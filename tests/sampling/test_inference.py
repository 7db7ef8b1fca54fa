"""The sharded, compiled network against the oracle: every position of unequal prompts, and tokens one by one after them."""

import numpy as np
import pytest

import reference
from checkpoint_files import write_checkpoint
from command.errors import UserError
from network.hparams import HParams

HPARAMS = HParams(n_vocab=37, n_ctx=12, n_embd=24, n_head=3, n_layer=2)     # sizes that two shards cannot share evenly
PROMPTS = [[5, 0, 36, 18, 19], [7]]
NEXT = [[18, 36, 1], [19, 0, 7]]


@pytest.fixture(scope='module')
def params():
    return reference.random_params(HPARAMS, seed=3)


@pytest.fixture(scope='module')
def directory(params, tmp_path_factory):
    path = tmp_path_factory.mktemp('model')
    write_checkpoint(path / 'model.ckpt', params, 'model/')
    return path


def expected(params, row, n):
    """The oracle's logits behind a prompt and the first n of the tokens that follow it."""
    return reference.gpt2(np.array([PROMPTS[row] + NEXT[row][:n]]), params, HPARAMS)[0, -1]


@pytest.mark.parametrize('compiled', [False, True], ids=['ops', 'compiled'])
@pytest.mark.parametrize('shards', [1, 2, 3])
def test_logits_equal_the_oracle_s(tf, session, params, directory, shards, compiled):
    from sampling.inference import Decoder
    decoder = Decoder(HPARAMS, shards, compiled)
    decoder.load(session, str(directory / 'model.ckpt'))
    session.run(decoder.cache.resized, {decoder.cache.kept: [], decoder.cache.size: [2, 9]})
    # The rows are read in the other order, and into their places.
    prompts, written = decoder.prefill(tf.constant([[7, 0, 0, 0, 0], PROMPTS[0]]), tf.constant([1, 5]), tf.constant([1, 0]))
    logits = session.run([prompts, written])[0]
    for row in (0, 1):
        np.testing.assert_allclose(logits[1 - row], expected(params, row, 0), atol=1e-4)
    tokens, positions = tf.placeholder(tf.int32, [None]), tf.placeholder(tf.int32, [None])
    after = decoder.decode(tokens, positions)
    for n in range(3):
        if n == 2:      # the rows change places, and get more room
            session.run(decoder.cache.resized, {decoder.cache.kept: [1, 0], decoder.cache.size: [2, 12]})
        order = [1, 0] if n == 2 else [0, 1]
        logits = session.run(after, {tokens: [NEXT[row][n] for row in order],
                                     positions: [len(PROMPTS[row]) + n for row in order]})
        for place, row in enumerate(order):
            np.testing.assert_allclose(logits[place], expected(params, row, n + 1), atol=1e-4)
    assert any('PartitionedCall' in op.type and op.get_attr('_XlaMustCompile')
               for op in tf.get_default_graph().get_operations()) == compiled


def test_only_large_networks_are_compiled_and_only_on_cpus(tf, session, monkeypatch):
    import dataclasses

    from sampling.inference import Decoder
    large = dataclasses.replace(HPARAMS, n_embd=300)
    assert [Decoder(hparams, 1)._compiled for hparams in (HPARAMS, large)] == [False, True]
    monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind: [f'a {kind}'])
    assert not Decoder(large, 1)._compiled


def test_the_normalisation_has_the_epsilon_of_the_oracle(tf, session):
    from network import layers
    from sampling import inference
    x, params = np.array([[1.0, 1.02]], np.float32), {'ln/g': np.float32([1, 10]), 'ln/b': np.float32([0.5, 0])}
    by_row = layers.normalize_rows(x, *params.values())
    by_column = tf.transpose(inference.normalize_columns(tf.transpose(x), *(tf.constant(value) for value in params.values())))
    for result in session.run([by_row, by_column]):
        np.testing.assert_allclose(result, reference.layer_norm(x, params, 'ln'), rtol=1e-3)


def test_the_parts_of_the_shards_are_the_whole():
    from sampling.inference import _split_weight
    for name, shape in HPARAMS.shapes().items():
        array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        parts = _split_weight(name, array, HPARAMS, 2)
        if any(word in name for word in ('c_attn', 'c_fc', 'c_proj/w', 'wte')):
            assert sorted(np.concatenate([part.ravel() for part in parts])) == array.ravel().tolist(), name
        else:
            assert all((part == array).all() for part in parts)
        assert len(parts) == (1 if name == 'model/wpe' else 2)


def test_memory_is_taken_over_without_a_copy(tf, session):
    from sampling.inference import ALIGNMENT, _LargePages
    memory = _LargePages(4 * ALIGNMENT)
    arrays = [np.arange(size, dtype=np.float32).reshape(2, -1).T for size in (6, 18, 2)]
    kept = [memory.copy(array) for array in arrays]
    assert [array.tolist() for array in kept] == [array.tolist() for array in arrays]
    assert all(array.ctypes.data % ALIGNMENT == 0 and array.flags.c_contiguous for array in kept)


@pytest.mark.parametrize(('change', 'fault'), [
    ({'n_layer': 1}, 'it holds model/h1 too'), ({'n_embd': 36}, r'model/wpe is \[12, 24\] there, \[12, 36\] here')])
def test_a_checkpoint_of_another_size_is_refused(tf, session, directory, change, fault):
    import dataclasses

    from sampling.inference import Decoder
    decoder = Decoder(dataclasses.replace(HPARAMS, **change), 1)
    with pytest.raises(UserError, match=fault):
        decoder.load(session, str(directory / 'model.ckpt'))


@pytest.mark.parametrize('damage', ['a flipped bit', 'cut off'])
def test_a_damaged_checkpoint_is_named(tf, session, directory, tmp_path, damage):
    import shutil

    from sampling.inference import Decoder
    shutil.copytree(directory, tmp_path / 'copy')
    data = tmp_path / 'copy' / 'model.ckpt.data-00000-of-00001'
    content = bytearray(data.read_bytes())
    content[1000] ^= 1
    data.write_bytes(content if damage == 'a flipped bit' else content[:1000])
    with pytest.raises(UserError, match='cannot read the checkpoint .*copy/model.ckpt'):
        Decoder(HPARAMS, 1).load(session, str(tmp_path / 'copy' / 'model.ckpt'))
