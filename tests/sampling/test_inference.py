"""The sharded network, as ops and compiled, against the oracle: unequal prompts, and tokens after them one by one."""

import ml_dtypes
import numpy as np
import pytest

import reference
from checkpoint_files import write_checkpoint
from command.errors import UserError
from graph_walk import compiled_calls
from network.hparams import HParams
from network.quantize import quantize

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
    """The oracle's logits after a prompt and the first n of the tokens that follow it."""
    return reference.gpt2(np.array([PROMPTS[row] + NEXT[row][:n]]), params, HPARAMS)[0, -1]


def rounded(params, stored_as):
    """What is computed with if the matrices are stored in a type; wpe, gains and biases stay as they are."""
    def through(name, value):
        if stored_as == 'float32' or not (name.endswith('/w') or name == 'wte'):
            return value
        if stored_as == 'bfloat16':
            return value.astype(ml_dtypes.bfloat16).astype(np.float32)
        inputs = -1 if name == 'wte' else -2
        q, scale = quantize(value, inputs)
        return q * np.expand_dims(scale, inputs)
    return {name: through(name, value) for name, value in params.items()}


@pytest.mark.parametrize(('shards', 'compiled', 'stored_as', 'tile', 'integers'), [
    *((shards, compiled, 'float32', 2 ** 19, True) for shards in (1, 2, 3) for compiled in (False, True)),
    (1, False, 'int8', 2 ** 19, True), (2, False, 'int8', 500, False), (3, True, 'int8', 700, False),
    (2, True, 'int8', 700, True), (2, True, 'bfloat16', 800, True), (1, False, 'bfloat16', 2 ** 19, False)])
def test_logits_equal_the_oracle_s(tf, session, params, directory, monkeypatch, shards, compiled, stored_as, tile, integers):
    from sampling import inference, sharded_weights
    from sampling.inference import ShardedNetwork
    monkeypatch.setattr(inference, 'integer_products', lambda: integers)
    monkeypatch.setattr(sharded_weights, 'TILE', tile)
    monkeypatch.setattr(sharded_weights, 'FEW', 3)
    network = ShardedNetwork(HPARAMS, shards, compiled, stored_as)
    if stored_as != 'float32':
        exact, params = params, rounded(params, stored_as)
        assert np.abs(expected(exact, 0, 0) - expected(params, 0, 0)).max() > 0.005
    network.load(session, str(directory / 'model.ckpt'))
    session.run(network.cache.resize, {network.cache.kept_rows: [], network.cache.new_size: [2, 9]})
    # The prompts are read in the other order than their rows.
    prompts, written, _ = network.prefill(tf.constant([[7, 0, 0, 0, 0], PROMPTS[0]]), tf.constant([1, 5]),
                                          tf.constant([1, 0]))
    logits = session.run([prompts, written])[0]
    for row in (0, 1):
        np.testing.assert_allclose(logits[1 - row], expected(params, row, 0), atol=1e-4)
    tokens, positions = tf.placeholder(tf.int32, [None]), tf.placeholder(tf.int32, [None])
    after = network.decode(tokens, positions)
    for n in range(3):
        if n == 2:      # the rows swap, and the capacity grows
            session.run(network.cache.resize, {network.cache.kept_rows: [1, 0], network.cache.new_size: [2, 12]})
        order = [1, 0] if n == 2 else [0, 1]
        logits = session.run(after, {tokens: [NEXT[row][n] for row in order],
                                     positions: [len(PROMPTS[row]) + n for row in order]})
        for i, row in enumerate(order):
            np.testing.assert_allclose(logits[i], expected(params, row, n + 1), atol=1e-4)
    assert any(compiled_calls(session.graph)) == compiled


@pytest.mark.parametrize('rows', [1, 2, 3, 8])
@pytest.mark.parametrize('shards', [1, 2])
def test_log_probabilities_equal_the_oracle_s(tf, session, params, directory, monkeypatch, shards, rows):
    from network import block_sizes
    from sampling.inference import ShardedNetwork
    monkeypatch.setattr(block_sizes, 'HEAD_ROWS', rows)
    network = ShardedNetwork(HPARAMS, shards)
    network.load(session, str(directory / 'model.ckpt'))
    tokens = np.array([PROMPTS[0], [7, 3, 0, 0, 0]])
    _, _, score = network.prefill(tf.constant(tokens), tf.constant([5, 2]), tf.constant([0, 1]))
    columns, labels = [4, 0, 2, 5, 6, 5], [36, 1, 0, 3, 18, 7]
    logits = reference.log_softmax(reference.gpt2(tokens, params, HPARAMS)).reshape(10, -1)[columns]
    columns, labels = tf.constant(columns), tf.constant(labels)
    [found] = session.run(score(columns, labels))
    np.testing.assert_allclose(found, logits[range(6), [36, 1, 0, 3, 18, 7]], atol=1e-4)
    found, ids, best = session.run(score(columns, labels, tf.constant(3), 30))      # alternatives among the first 30 tokens
    np.testing.assert_allclose(found, logits[range(6), [36, 1, 0, 3, 18, 7]], atol=1e-4)
    assert ids.tolist() == np.argsort(-logits[:, :30], axis=1)[:, :3].tolist()
    np.testing.assert_allclose(best, np.take_along_axis(logits, ids, axis=1), atol=1e-4)


def test_only_large_networks_are_compiled_and_only_on_cpus(tf, session, monkeypatch):
    import dataclasses

    from sampling.inference import ShardedNetwork
    large = dataclasses.replace(HPARAMS, n_embd=300)
    assert [ShardedNetwork(hparams, 1)._compiled for hparams in (HPARAMS, large)] == [False, True]
    monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind: [f'a {kind}'])
    assert not ShardedNetwork(large, 1)._compiled


def test_the_normalisation_has_the_epsilon_of_the_oracle(tf, session):
    from sampling.inference import normalize_columns
    x, params = np.array([[1.0, 1.02]], np.float32), {'ln/g': np.float32([1, 10]), 'ln/b': np.float32([0.5, 0])}
    columns = normalize_columns(tf.transpose(x), *(tf.constant(value) for value in params.values()))
    np.testing.assert_allclose(session.run(columns).T, reference.layer_norm(x, params, 'ln'), rtol=1e-3)


def test_the_shards_parts_make_up_each_weight():
    from sampling.sharded_weights import split_weight
    for name, shape in HPARAMS.shapes().items():
        array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        parts = split_weight(name, array, HPARAMS, 2)
        assert sorted(np.concatenate([part.ravel() for part in parts])) == array.ravel().tolist(), name
        assert len(parts) == (2 if any(word in name for word in ('c_attn', 'c_fc', 'c_proj/w', 'wte')) else 1)


def test_products_of_integers_are_as_precise_as_those_of_float32(tf, session):
    """Also of a column of zeros, of one with a number far larger than the others, and of the largest possible sums."""
    from sampling.sharded_weights import Matrix
    rng = np.random.default_rng(0)
    w, scale = rng.integers(-127, 128, [8, 1, 200], np.int8), np.float32([1, 0.5, 2, 1, 1])
    w[0] = 127
    x = np.float32(rng.normal(size=[200, 5]))
    x[:, 1], x[7, 2], x[:, 3] = 0, 1000, -3
    exact = w.reshape(8, 200)[:5].astype(float) @ x * scale[:, None]

    def product(columns, integers=True):
        fed = tf.placeholder(tf.float32, columns.shape)     # of constants TensorFlow would compute the product without XLA
        matrix = Matrix(tf.constant(w), 5, tf.constant(scale), True, integers)
        return session.run(tf.function(matrix.times, jit_compile=True)(fed), {fed: columns})

    in_float32, in_integers, *alone = product(x, False), product(x), product(x[:, :2]), product(x[:, 2:])
    size = np.abs(w.reshape(8, 200)[:5].astype(float)) @ np.abs(x) * scale[:, None]
    error = np.abs(in_integers - exact)
    assert (error[:, [0, 3, 4]] <= 1e-6 * size[:, [0, 3, 4]]).all() and not in_integers[:, 1].any()
    assert (error[:, 2] <= 200 * 127 * 2 * 1000 * 2 ** -23).all()       # half a step for each number, of a scale made for 1000
    assert not np.array_equal(in_integers, in_float32)                  # another way of computing
    assert np.array_equal(np.concatenate(alone, axis=1), in_integers)   # whatever is next to a column


def test_one_column_is_multiplied_in_float32_by_either_way(tf, session):
    """Row by row in the order of the matrix, although it is read in another one."""
    from sampling.sharded_weights import Matrix
    w, x = tf.constant(np.arange(48, dtype=np.int8).reshape(8, 3, 2)), tf.constant([[1.5], [-0.1]])
    [product] = {tuple(session.run(tf.function(Matrix(w, 23, tf.ones([23]), True, integers).times, jit_compile=True)(x))[:, 0])
                 for integers in (False, True)}
    assert product == pytest.approx([2.8 * row - 0.1 for row in range(23)], abs=1e-5)


@pytest.mark.parametrize('wrong', [np.nan, np.inf])
def test_what_is_no_number_is_none_in_the_product(tf, session, wrong):
    from sampling.sharded_weights import Matrix
    x = tf.placeholder(tf.float32, [2, 1])
    product = tf.function(Matrix(tf.ones([8, 1, 2], tf.int8), 8, tf.ones([8]), True).times, jit_compile=True)(x)
    for columns in ([[wrong], [1]], [[1], [wrong]]):
        assert not np.isfinite(session.run(product, {x: columns})).any()


@pytest.mark.parametrize(('amx', 'version', 'integers'), [
    (True, '2.21.0', True), (True, '2.20.1', False), (True, '3.0.0', True), (False, '2.21.0', False)])
def test_integers_are_multiplied_where_xla_is_fast_at_it(tf, monkeypatch, amx, version, integers):
    from sampling import sharded_weights
    monkeypatch.setattr(sharded_weights, 'has_amx', lambda: amx)
    monkeypatch.setattr(tf, '__version__', version)
    assert sharded_weights.integer_products() == integers


def test_arrays_in_large_pages_are_aligned_copies():
    from sampling.sharded_weights import LargePages
    memory = LargePages(5 * 64)
    arrays = [np.arange(size, dtype=np.float32).reshape(2, -1).T for size in (6, 18, 2)]
    kept = [memory.copy(array, list(array.shape), np.float32) for array in arrays]
    assert [array.tolist() for array in kept] == [array.tolist() for array in arrays]
    assert all(array.ctypes.data % 64 == 0 and array.flags.c_contiguous for array in kept)       # else TensorFlow copies them
    assert memory.copy(np.ones([1, 3]), [2, 2, 1], np.int8).tolist() == [[[1], [1]], [[1], [0]]]


def test_the_size_of_a_tile():
    from sampling.sharded_weights import tiled
    assert tiled((50257, 768)) == (296, 170, 768)       # 0.5 MB in float32
    assert tiled((3, 768)) == (8, 1, 768)


@pytest.mark.parametrize(('change', 'fault'), [
    ({'n_layer': 1}, 'it holds model/h1 too'), ({'n_embd': 36}, r'model/wpe is \[12, 24\] there, \[12, 36\] here')])
def test_a_checkpoint_of_another_size_is_refused(tf, session, directory, change, fault):
    import dataclasses

    from sampling.inference import ShardedNetwork
    network = ShardedNetwork(dataclasses.replace(HPARAMS, **change), 1)
    with pytest.raises(UserError, match=fault):
        network.load(session, str(directory / 'model.ckpt'))


@pytest.mark.parametrize('damage', ['a flipped bit', 'cut off'])
def test_a_damaged_checkpoint_is_named(tf, session, directory, tmp_path, damage):
    import shutil

    from sampling.inference import ShardedNetwork
    shutil.copytree(directory, tmp_path / 'copy')
    data = tmp_path / 'copy' / 'model.ckpt.data-00000-of-00001'
    content = bytearray(data.read_bytes())
    content[1000] ^= 1
    data.write_bytes(content if damage == 'a flipped bit' else content[:1000])
    with pytest.raises(UserError, match='cannot read the checkpoint .*copy/model.ckpt'):
        ShardedNetwork(HPARAMS, 1).load(session, str(tmp_path / 'copy' / 'model.ckpt'))
