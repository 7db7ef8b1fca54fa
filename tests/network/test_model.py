"""The graph against the numpy oracle: logits, the past at every split, the loss, every gradient."""

import numpy as np
import pytest

import reference
from conftest import load_params
from graph_walk import ancestors, compiled_calls, ops_of, shapes_in
from network.hparams import HParams

HPARAMS = HParams(n_vocab=37, n_ctx=12, n_embd=24, n_head=3, n_layer=3)
TOKENS = np.random.default_rng(1).integers(HPARAMS.n_vocab, size=(2, HPARAMS.n_ctx))
PARAMS = reference.random_params(HPARAMS, seed=0)


@pytest.fixture
def tokens(tf):
    return tf.placeholder(tf.int32, [None, None])


@pytest.fixture
def output(session, tokens):
    import model
    output = model.model(HPARAMS, tokens)
    load_params(session, PARAMS)
    return output


def test_logits_equal_the_oracle(session, tokens, output):
    logits = session.run(output['logits'], {tokens: TOKENS})
    np.testing.assert_allclose(logits, reference.gpt2(TOKENS, PARAMS, HPARAMS), atol=1e-4)


def test_logits_are_the_same_split_at_every_position(tf, session, tokens, output):
    import model
    complete, present = session.run([output['logits'], output['present']], {tokens: TOKENS})
    assert list(present.shape) == model.past_shape(hparams=HPARAMS, batch_size=2, sequence=HPARAMS.n_ctx)
    past = tf.placeholder(tf.float32, model.past_shape(hparams=HPARAMS))
    continued = model.model(HPARAMS, tokens, past=past)
    for split in range(1, HPARAMS.n_ctx):
        logits, added = session.run([continued['logits'], continued['present']],
                                    {tokens: TOKENS[:, split:], past: present[..., :split, :]})
        np.testing.assert_allclose(logits, complete[:, split:], atol=1e-4)
        np.testing.assert_allclose(added, present[..., split:, :], atol=1e-5)


def test_every_block_is_a_checkpoint(tf, output):
    collection = tf.get_collection('checkpoints')
    assert len(collection) == HPARAMS.n_layer
    assert all(h.shape.as_list() == [None, None, HPARAMS.n_embd] for h in collection)


def test_variables_have_the_published_names_and_shapes(tf, output):
    shapes = {v.op.name: tuple(v.shape.as_list()) for v in tf.global_variables()}
    assert shapes == {f'model/{name}': value.shape for name, value in PARAMS.items()}
    assert shapes['model/h0/attn/c_attn/w'] == (1, 24, 72)


def check_loss_and_gradients(tf, session, tokens, labels, memory_saving=False):
    """tokens, labels: placeholders, maybe the same one, of which labels is fed others than TOKENS if it is not."""
    import memory_saving_gradients
    import model
    from training import optimizer
    output = model.model(HPARAMS, tokens)
    loss = model.loss(output, labels)
    variables = tf.trainable_variables()
    differentiate = memory_saving_gradients.gradients if memory_saving else tf.gradients
    gradients, _ = optimizer.gradients_of(loss, variables, differentiate=differentiate)
    load_params(session, PARAMS)
    fed_labels = TOKENS if labels is tokens else (TOKENS + 5) % HPARAMS.n_vocab
    logits, value, gradients = session.run([output['logits'], loss, gradients], {labels: fed_labels, tokens: TOKENS})
    expected, expected_gradients = reference.loss_and_gradients(TOKENS, PARAMS, HPARAMS, fed_labels)
    np.testing.assert_allclose(logits, reference.gpt2(TOKENS, PARAMS, HPARAMS), atol=1e-4)
    assert value == pytest.approx(expected, abs=1e-5)
    for variable, gradient in zip(variables, gradients, strict=True):
        np.testing.assert_allclose(gradient, expected_gradients[variable.op.name.removeprefix('model/')], atol=1e-4,
                                   err_msg=variable.name)


def test_loss_and_every_gradient_equal_the_oracle(tf, session, tokens):
    check_loss_and_gradients(tf, session, tokens, tf.placeholder(tf.int32, [None, None]))


@pytest.mark.parametrize('memory_saving', [False, True])
def test_loss_and_gradients_in_blocks_and_chunks_equal_the_oracle(tf, session, monkeypatch, memory_saving):
    from network import block_sizes
    monkeypatch.setattr(block_sizes, 'QUERY_BLOCK', 5)
    monkeypatch.setattr(block_sizes, 'HEAD_ROWS', 7)
    tokens = tf.placeholder(tf.int32, TOKENS.shape)     # the graph must know the shape to cut it
    check_loss_and_gradients(tf, session, tokens, tokens, memory_saving)


@pytest.mark.parametrize('memory_saving', [False, True])
def test_loss_and_gradients_in_the_larger_blocks_of_a_gpu_equal_the_oracle(tf, session, monkeypatch, memory_saving):
    """Two blocks of up to 8 queries, of 12, and two chunks of up to 16 rows, of 24."""
    from network import block_sizes
    for name, size in (('QUERY_BLOCK', 2), ('GPU_QUERY_BLOCK', 8), ('HEAD_ROWS', 4), ('GPU_HEAD_ROWS', 16)):
        monkeypatch.setattr(block_sizes, name, size)
    monkeypatch.setattr(block_sizes, 'gpu', lambda: 8 * 10 ** 9)
    tokens = tf.placeholder(tf.int32, TOKENS.shape)
    check_loss_and_gradients(tf, session, tokens, tokens, memory_saving)
    assert {(2, 3, 8, 8), (2, 3, 4, 12), (16, 37), (8, 37)} <= shapes_in(session.graph.get_operations())


@pytest.mark.parametrize('memory_saving', [False, True])
def test_compiled_loss_and_gradients_equal_the_oracle(tf, session, monkeypatch, memory_saving):
    from network import gradients
    monkeypatch.setattr(gradients, 'COMPILED_SIZE', 1)
    tokens = tf.placeholder(tf.int32, TOKENS.shape)
    with gradients.compiling():
        check_loss_and_gradients(tf, session, tokens, tokens, memory_saving)
    calls = compiled_calls(session.graph)
    assert calls and all(calls)


def test_training_never_holds_all_logits_or_an_upper_triangle(tf, session, monkeypatch):
    import model
    from network import block_sizes
    from training import optimizer
    monkeypatch.setattr(block_sizes, 'QUERY_BLOCK', 4)
    monkeypatch.setattr(block_sizes, 'HEAD_ROWS', 8)
    tokens = tf.placeholder(tf.int32, TOKENS.shape)
    loss = model.loss(model.model(HPARAMS, tokens), tokens)
    step = optimizer.TrainStep(loss, tf.trainable_variables())
    shapes = shapes_in(ancestors(loss.op, step._update))
    assert (8, 37) in shapes        # a chunk of logits
    assert not {(24, 37), (2, 12, 37), (22, 37)} & shapes
    assert (2, 3, 4, 8) in shapes   # the second block's weights
    assert (2, 3, 12, 12) not in shapes


@pytest.mark.parametrize('name', ['wte', 'wpe', 'h0/mlp/c_fc/w'])
def test_variables_are_not_copied_when_they_are_read(tf, session, name):
    """If an op gathers from a variable directly, every later read of it is a copy."""
    import model
    tokens = tf.placeholder(tf.int32, [None, None])
    model.model(HPARAMS, tokens)
    model.model(HPARAMS, tokens, past=tf.placeholder(tf.float32, model.past_shape(hparams=HPARAMS)))
    [variable] = [v for v in tf.trainable_variables() if v.op.name == f'model/{name}']
    types = {op.type for op in variable.handle.consumers()}
    assert 'ReadVariableOp' in types and types <= {'ReadVariableOp', 'AssignVariableOp', 'VarIsInitializedOp'}


def test_bfloat16_keeps_the_residual_stream_and_the_loss_in_float32(tf, session):
    import model
    tokens = tf.placeholder(tf.int32, TOKENS.shape)
    output = model.model(HPARAMS, tokens, dtype=tf.bfloat16)
    loss = model.loss(output, tokens)
    load_params(session, PARAMS)
    assert output['hidden'].dtype == tf.bfloat16
    assert {h.dtype for h in tf.get_collection('checkpoints')} == {tf.float32}
    assert loss.dtype == tf.float32
    assert {v.dtype.base_dtype for v in tf.trainable_variables()} == {tf.float32}
    products = ops_of(session.graph, 'MatMul', 'BatchMatMulV2')
    assert products and {op.outputs[0].dtype for op in products} == {tf.bfloat16}
    assert session.run(loss, {tokens: TOKENS}) == pytest.approx(reference.loss(TOKENS, PARAMS, HPARAMS), rel=0.02)


def test_new_weights_have_the_spread_of_gpt2(tf, session, tokens):
    import model
    hparams = HParams(n_vocab=500, n_ctx=200, n_embd=128, n_head=2, n_layer=8)
    model.model(hparams, tokens)
    session.run(tf.global_variables_initializer())
    weights = session.run({v.op.name: v for v in tf.trainable_variables()})
    for name, stddev in (('wte', 0.02), ('wpe', 0.01), ('h3/attn/c_attn/w', 0.02), ('h3/mlp/c_fc/w', 0.02),
                         ('h3/attn/c_proj/w', 0.02 / 4), ('h3/mlp/c_proj/w', 0.02 / 4)):
        assert weights[f'model/{name}'].std() == pytest.approx(stddev, rel=0.05), name
    assert (weights['model/h3/ln_1/g'] == 1).all()
    assert (weights['model/h3/mlp/c_fc/b'] == 0).all()
