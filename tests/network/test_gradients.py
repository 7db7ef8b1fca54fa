"""The hand-written gradients in pieces: small blocks and chunks, so that there are several, against the oracle."""

import numpy as np
import pytest

import reference
from conftest import load_params
from network.hparams import HParams

HPARAMS = HParams(n_vocab=37, n_ctx=16, n_embd=24, n_head=3, n_layer=2)
PARAMS = reference.random_params(HPARAMS, seed=0)
TOKENS = np.random.default_rng(1).integers(HPARAMS.n_vocab, size=(2, 13))


@pytest.fixture(params=[(5, 7), (13, 26), (1, 1), (256, 256)], ids=str)
def pieces(request, tf, monkeypatch):
    """Queries to a block, rows of logits to a chunk: 13 and 26 are all there are."""
    from network import block_sizes
    monkeypatch.setattr(block_sizes, 'QUERY_BLOCK', request.param[0])
    monkeypatch.setattr(block_sizes, 'HEAD_ROWS', request.param[1])


def check_loss_and_gradients(tf, session, memory_saving):
    import memory_saving_gradients
    import model
    from training import optimizer
    tokens = tf.placeholder(tf.int32, TOKENS.shape)     # a static shape is what allows blocks and chunks
    output = model.model(HPARAMS, tokens)
    loss = model.loss(output, tokens)
    variables = tf.trainable_variables()
    differentiate = memory_saving_gradients.gradients if memory_saving else tf.gradients
    gradients, _ = optimizer.gradients_of(loss, variables, differentiate=differentiate)
    load_params(session, PARAMS)
    logits, value, gradients = session.run([output['logits'], loss, gradients], {tokens: TOKENS})
    expected, expected_gradients = reference.loss_and_gradients(TOKENS, PARAMS, HPARAMS)
    np.testing.assert_allclose(logits, reference.gpt2(TOKENS, PARAMS, HPARAMS), atol=1e-4)
    assert value == pytest.approx(expected, abs=1e-5)
    for variable, gradient in zip(variables, gradients):
        np.testing.assert_allclose(gradient, expected_gradients[variable.op.name.removeprefix('model/')], atol=1e-4,
                                   err_msg=variable.name)


@pytest.mark.parametrize('memory_saving', [False, True])
def test_loss_and_gradients_in_pieces_equal_the_oracle(tf, session, pieces, memory_saving):
    check_loss_and_gradients(tf, session, memory_saving)


@pytest.mark.parametrize('memory_saving', [False, True])
def test_compiled_loss_and_gradients_equal_the_oracle(tf, session, memory_saving, monkeypatch):
    from network import gradients
    monkeypatch.setattr(gradients, 'COMPILED_SIZE', 1)
    with gradients.compiling():
        check_loss_and_gradients(tf, session, memory_saving)
    functions = [op for op in tf.get_default_graph().get_operations() if 'PartitionedCall' in op.type]
    assert functions and all(op.get_attr('_XlaMustCompile') for op in functions)


def test_the_loss_alone_is_the_same_and_makes_no_gradient(tf, session, pieces):
    import model
    tokens = tf.placeholder(tf.int32, TOKENS.shape)
    output = model.model(HPARAMS, tokens)
    load_params(session, PARAMS)
    losses = [model.loss(output, tokens), model.loss(output, tokens, differentiable=False)]
    values = session.run(losses, {tokens: TOKENS})
    assert values[0] == pytest.approx(values[1], abs=1e-6)
    # The product of the logits' gradient and the hidden layer has the shape of wte.
    products = [{tuple(tensor.shape.as_list()) for tensor in needed_for([loss]) if tensor.op.type == 'MatMul'} for loss in losses]
    assert (37, 24) in products[0] and (37, 24) not in products[1]


def needed_for(fetches):
    """All tensors that a session computes for these fetches."""
    ops, queue = set(), [fetch if not hasattr(fetch, 'op') else fetch.op for fetch in fetches]
    while queue:
        op = queue.pop()
        if op not in ops:
            ops.add(op)
            queue += [*(source.op for source in op.inputs), *op.control_inputs]
    return [output for op in ops for output in op.outputs]


def test_training_never_holds_all_logits_or_an_upper_triangle(tf, session, monkeypatch):
    import model
    from network import block_sizes
    from training import optimizer
    monkeypatch.setattr(block_sizes, 'QUERY_BLOCK', 4)
    monkeypatch.setattr(block_sizes, 'HEAD_ROWS', 8)
    tokens = tf.placeholder(tf.int32, [2, 16])
    loss = model.loss(model.model(HPARAMS, tokens), tokens)
    step = optimizer.TrainStep(loss, tf.trainable_variables())
    shapes = {tuple(tensor.shape.as_list()) for tensor in needed_for([loss, step._update])
              if tensor.shape.rank is not None}
    assert (8, 37) in shapes        # a chunk of logits
    assert not {(32, 37), (2, 16, 37), (30, 37)} & shapes
    assert (2, 3, 4, 12) in shapes  # the third block's weights
    assert (2, 3, 16, 16) not in shapes


def test_gradients_wait_for_what_arrives_from_above(tf, session):
    """What a gradient could compute from the inputs alone must not be done, and kept, during the forward pass."""
    import model
    tokens = tf.placeholder(tf.int32, TOKENS.shape)
    loss = model.loss(model.model(HPARAMS, tokens), tokens)
    tf.gradients(loss, tf.trainable_variables())
    for op in tf.get_default_graph().get_operations():
        if op.type == 'Identity' and op.name.startswith('gradients/') and 'IdentityN_grad' in op.name:
            assert op.control_inputs or op.inputs[0].op.name.startswith('gradients/'), op.name


@pytest.mark.parametrize('name', ['wte', 'wpe', 'h0/mlp/c_fc/w'])
def test_variables_are_not_copied_when_they_are_read(tf, session, name):
    """A variable that rows are gathered from directly is copied at every later read: none may be."""
    import model
    tokens = tf.placeholder(tf.int32, [None, None])
    model.model(HPARAMS, tokens)
    model.model(HPARAMS, tokens, past=tf.placeholder(tf.float32, model.past_shape(hparams=HPARAMS)))
    [variable] = [v for v in tf.trainable_variables() if v.op.name == f'model/{name}']
    assert {op.type for op in variable.handle.consumers()} <= {'ReadVariableOp', 'AssignVariableOp',
                                                               'VarIsInitializedOp'}


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
    products = [op for op in tf.get_default_graph().get_operations() if 'MatMul' in op.type]
    assert products and {op.outputs[0].dtype for op in products} == {tf.bfloat16}
    assert session.run(loss, {tokens: TOKENS}) == pytest.approx(reference.loss(TOKENS, PARAMS, HPARAMS), rel=0.02)
