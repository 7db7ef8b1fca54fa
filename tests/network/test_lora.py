"""LoRA: the network with factors is that with merged matrices; only the factors have gradients."""

import dataclasses
import os

import ml_dtypes
import numpy as np
import pytest

import reference
from conftest import ROOT, load_params
from graph_walk import ancestors, ops_of, shapes_in
from network.hparams import HParams
from network.lora import MATRICES, Lora, is_factor
from network.quantize import SCALE, TYPES, quantize

HPARAMS = HParams(n_vocab=37, n_ctx=16, n_embd=24, n_head=3, n_layer=2)
LORA = Lora(rank=5, alpha=15)
PARAMS = reference.random_params(HPARAMS, seed=0)
TOKENS = np.random.default_rng(0).integers(HPARAMS.n_vocab, size=[2, 13])


def stored_as(base_weights):
    return dataclasses.replace(LORA, base_weights=base_weights)


def rounded(base_weights):
    """PARAMS as they are when the matrices are stored in a type."""
    def through(w):
        if base_weights == 'int8':
            q, scale = quantize(w, -2)
            return q * scale
        return w.astype(ml_dtypes.bfloat16 if base_weights == 'bfloat16' else np.float32).astype(np.float32)
    return {name: through(value) if name.endswith('/w') else value for name, value in PARAMS.items()}


def load(session, params):
    """As load_params, for matrices of any type."""
    import tensorflow.compat.v1 as tf
    for variable in tf.global_variables():
        name = variable.op.name.removeprefix('model/')
        if variable.dtype == tf.int8 or name.endswith(SCALE):
            part = name.endswith(SCALE)
            variable.load(quantize(params[name.removesuffix(SCALE)], -2)[part], session)
        else:
            variable.load(params[name].astype(variable.dtype.as_numpy_dtype), session)


def factors(zero=False):
    """Random factors, by their names without model/; with zero, B is zero as in a new run."""
    values = LORA.first_values(HPARAMS, np.random.default_rng(1))
    rng = np.random.default_rng(2)
    return {name.removeprefix('model/'): value if zero or name.endswith('lora_a') else
            rng.normal(0, 0.1, value.shape).astype(np.float32) for name, value in values.items()}


def merged(params, values):
    result = dict(params)
    for layer in range(HPARAMS.n_layer):
        for matrix in MATRICES:
            name = f'h{layer}/{matrix}'
            result[f'{name}/w'] = LORA.merged(params[f'{name}/w'], values[f'{name}/lora_a'], values[f'{name}/lora_b'])
    return result


def build(tf, lora=LORA, **kwargs):
    """The token placeholder, the network's output, and its loss without gradients of the embeddings."""
    import model
    tokens = tf.placeholder(tf.int32, [2, 13])
    output = model.model(HPARAMS, tokens, lora=lora, **kwargs)
    return tokens, output, model.loss(output, tokens, wte_gradient=lora is None)


def trained(tf):
    return [variable for variable in tf.trainable_variables() if is_factor(variable.op.name)]


def run(tf, values, fetch, lora=LORA, dtype='float32'):
    with tf.Graph().as_default(), tf.Session() as session:
        tokens, output, loss = build(tf, lora, dtype=tf.as_dtype(dtype))
        load(session, PARAMS | values)
        return session.run(fetch(output, loss), {tokens: TOKENS})


def test_sizes_and_first_values():
    shapes, values = LORA.shapes(HPARAMS), LORA.first_values(HPARAMS, np.random.default_rng(0))
    assert {name: list(value.shape) for name, value in values.items()} == shapes
    assert shapes['model/h1/mlp/c_proj/lora_a'] == [96, 5] and shapes['model/h1/mlp/c_proj/lora_b'] == [5, 24]
    assert len(shapes) == 2 * 4 * 2 and LORA.scale == 3
    for name, value in values.items():
        if name.endswith('lora_b'):
            assert not value.any()
        else:
            bound = len(value) ** -0.5
            assert 0.9 * bound < np.abs(value).max() <= bound and abs(value.mean()) < 0.2 * bound
    again = LORA.first_values(HPARAMS, np.random.default_rng(0))
    assert all(np.array_equal(values[name], again[name]) for name in values)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_new_factors_change_nothing(tf, dtype):
    """Processors with instructions for bfloat16 round only once after a product and its bias, if nothing is added in between."""
    def fetch(output, loss):
        return [output['logits'], loss]

    (plain, loss), (logits, with_factors) = (
        run(tf, {}, fetch, lora=None, dtype=dtype), run(tf, factors(zero=True), fetch, dtype=dtype))
    if dtype == 'float32':
        assert np.array_equal(plain, logits) and loss == with_factors
    np.testing.assert_allclose(np.float32(logits), np.float32(plain), atol=0.08, rtol=2 ** -7)
    assert with_factors == pytest.approx(loss, rel=1e-3)


def test_merged_matrices_give_the_same_logits(tf):
    values = factors()
    logits, = run(tf, values, lambda output, _: [output['logits']])
    plain, = run(tf, merged(PARAMS, values), lambda output, _: [output['logits']], lora=None)
    base, = run(tf, {}, lambda output, _: [output['logits']], lora=None)
    np.testing.assert_allclose(logits, plain, atol=2e-5)
    assert np.abs(logits - base).max() > 0.1
    np.testing.assert_allclose(logits, reference.gpt2(TOKENS, reference.float64(merged(PARAMS, values)), HPARAMS), atol=1e-4)


@pytest.mark.parametrize('base_weights', ['bfloat16', 'int8'])
def test_smaller_matrices_give_the_logits_of_what_they_round_to(tf, base_weights):
    values = factors()
    logits, = run(tf, values, lambda output, _: [output['logits']], lora=stored_as(base_weights))
    expected = reference.gpt2(TOKENS, reference.float64(merged(rounded(base_weights), values)), HPARAMS)
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    exact = reference.gpt2(TOKENS, reference.float64(merged(PARAMS, values)), HPARAMS)
    assert 0.01 < np.abs(exact - expected).max() < 0.5
    in_bfloat16, = run(tf, values, lambda output, _: [output['logits']], lora=stored_as(base_weights), dtype='bfloat16')
    assert np.sqrt(np.mean((in_bfloat16.astype(np.float32) - expected) ** 2)) < 0.02 * np.std(expected)


def oracle(values, params=PARAMS):
    """The gradients of the factors, from those of the merged matrices: dw = s A^T ..., by the chain rule."""
    _, gradients = reference.loss_and_gradients(TOKENS, reference.float64(merged(params, values)), HPARAMS)
    result = {}
    for layer in range(HPARAMS.n_layer):
        for matrix in MATRICES:
            name = f'h{layer}/{matrix}'
            dw = LORA.scale * gradients[f'{name}/w'][0]
            result[f'{name}/lora_a'] = dw @ values[f'{name}/lora_b'].T
            result[f'{name}/lora_b'] = values[f'{name}/lora_a'].T @ dw
    return result


@pytest.mark.parametrize('base_weights', TYPES)
@pytest.mark.parametrize('recompute', [False, True])
@pytest.mark.parametrize('compiled', [False, True])
def test_gradients_agree_with_the_oracle(tf, monkeypatch, recompute, compiled, base_weights):
    import contextlib

    import memory_saving_gradients
    from network import gradients
    from training.optimizer import gradients_of
    monkeypatch.setattr(gradients, 'COMPILED_SIZE', 4)
    values = factors()
    with tf.Graph().as_default(), tf.Session() as session:
        with gradients.compiling() if compiled and not recompute else contextlib.nullcontext():
            tokens, _, loss = build(tf, stored_as(base_weights))
            found, _ = gradients_of(loss, trained(tf), tf.get_collection('checkpoints'),
                                    memory_saving_gradients.gradients if recompute else tf.gradients)
        load(session, PARAMS | values)
        names = [variable.op.name.removeprefix('model/') for variable in trained(tf)]
        found = dict(zip(names, session.run(found, {tokens: TOKENS})))
    expected = oracle(values, rounded(base_weights))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert np.abs(value).max() > 1e-4
        np.testing.assert_allclose(found[name], value, rtol=2e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize('recompute', [False, True])
@pytest.mark.parametrize('optimizer', ['adam', 'adafactor'])
def test_what_is_frozen_has_no_gradient_in_the_graph(tf, session, recompute, optimizer):
    from training.optimizer import TrainStep
    _, _, loss = build(tf)
    before = set(session.graph.get_operations())
    step = TrainStep(loss, trained(tf), optimizer=optimizer, memory_saving=recompute)
    new = ancestors(step._update) - before
    assert 'BiasAddGrad' not in {op.type for op in new}
    # Of the size of a matrix or an embedding there are only the values that are read, in the type they are stored in.
    weights = {tuple(shape) for shape in HPARAMS.shapes().values() if len(shape) > 1}
    large = [op for op in new if shapes_in([op]) & (weights | {shape[1:] for shape in weights if len(shape) == 3})]
    assert {op.type for op in large} <= {'Identity', 'IdentityN', 'Squeeze', 'ReadVariableOp'}, {op.type for op in large}
    users = {op for variable in tf.trainable_variables() if not is_factor(variable.op.name) for op in variable.handle.consumers()}
    assert {op.type for op in users & new} <= {'ReadVariableOp'}


def test_the_first_block_passes_no_gradient_further_down(tf, session):
    """Below its first matrix nothing is trained, so the gradient of that matrix's input is not computed."""
    from training.optimizer import TrainStep
    _, _, loss = build(tf)
    step = TrainStep(loss, trained(tf))
    run_ops = ancestors(step._update)
    matrices = {tuple(shape[1:]) for shape in HPARAMS.shapes().values() if len(shape) == 3}
    backward = [op for op in ops_of(session.graph, 'MatMul') if op in run_ops and op.get_attr('transpose_b')
                and tuple(op.inputs[1].shape.as_list()) in matrices]
    assert len(backward) == 4 * HPARAMS.n_layer - 1


@pytest.mark.parametrize(('base_weights', 'dtype'), [('float32', 'bfloat16'), ('bfloat16', 'float32'), ('int8', 'float32')])
@pytest.mark.parametrize('recompute', [False, True])
def test_the_compute_type_is_made_from_a_matrix_only_when_its_input_is_there(tf, session, base_weights, dtype, recompute):
    """Else the executor could convert all matrices first, and keep a second model in memory. So in each pass."""
    from training.optimizer import TrainStep
    tokens, _, loss = build(tf, stored_as(base_weights), dtype=tf.as_dtype(dtype))
    update = TrainStep(loss, trained(tf), memory_saving=recompute)._update
    used = ancestors(update)
    matrices = {(24, 72), (24, 24), (24, 96), (96, 24)}
    casts = [op for op in ops_of(session.graph, 'Cast') if op in used and shapes_in([op]) & matrices]
    products = [op for op in ops_of(session.graph, 'MatMul') if op in used and tuple(op.inputs[1].shape.as_list()) in matrices]
    # Each is for the product of that input alone.
    assert len(casts) == len(products) == len({op.inputs[0].op for op in casts})
    # Twice each but for the input of the first matrix; again all but a block's last, and the first, which no factor comes before.
    assert len(casts) == (8 + 3 * recompute) * HPARAMS.n_layer - 1 - recompute
    for cast, product in zip(casts, products, strict=True):
        assert product.inputs[1].op is cast and tokens.op in ancestors(cast)
        assert ancestors(cast) >= ancestors(product.inputs[0].op) - {product.inputs[0].op}


def test_samples_come_from_the_network_with_factors(tf):
    import sample
    values, drawn = factors(), []
    uniform = np.random.default_rng(3).random([2, 6])
    for lora, params in ((LORA, PARAMS | values), (None, merged(PARAMS, values)), (None, PARAMS)):
        with tf.Graph().as_default(), tf.Session() as session:
            tokens = sample.sample_sequence(hparams=HPARAMS, length=6, context=tf.constant(TOKENS[:, :3], tf.int32),
                                            uniform=tf.constant(uniform, tf.float32), lora=lora)
            load_params(session, params)
            drawn.append(session.run(tokens))
    assert np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], drawn[2])


def test_only_the_gradients_of_factors_travel_between_workers(tf, session):
    from fake_cluster import FakeCluster, fake_workers
    from training.optimizer import TrainStep
    _, _, loss = build(tf)
    TrainStep(loss, trained(tf), workers=fake_workers(FakeCluster(2)))
    sent = sum(op.inputs[0].shape.num_elements() for op in ops_of(session.graph, 'CollectiveReduceV2'))
    assert sent == sum(np.prod(shape) for shape in LORA.shapes(HPARAMS).values()) + 2      # the loss, and whether to stop


def test_an_8_bit_base_is_close_to_the_model_that_ships(tf):
    """On a text that it was not trained on: the loss, and each logit."""
    import model
    from encoder import load_encoder
    from network.hparams import load_hparams
    from storage import saver
    directory = os.path.join(ROOT, 'models', 'tiny')
    hparams = load_hparams(directory)
    with open(os.path.join(ROOT, 'LICENSE'), encoding='utf-8') as file:
        tokens = np.array(load_encoder(directory).encode(file.read()))[None, :hparams.n_ctx]
    found = []
    for base_weights in ('float32', 'int8'):
        with tf.Graph().as_default(), tf.Session() as session:
            labels = tf.constant(tokens, tf.int32)
            output = model.model(hparams, labels, lora=stored_as(base_weights))
            session.run(tf.global_variables_initializer())
            frozen = [variable for variable in tf.global_variables() if not is_factor(variable.op.name)]
            saver.restore_smaller(session, os.path.join(directory, 'model.ckpt'), frozen)
            found.append(session.run([output['logits'], model.loss(output, labels, differentiable=False)]))
    (exact, loss), (logits, rounded_loss) = found
    assert 0 < abs(rounded_loss / loss - 1) < 0.002
    assert np.sqrt(np.mean((logits - exact) ** 2)) < 0.015 * exact.std()
