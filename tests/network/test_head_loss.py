"""The head's loss and gradients, in chunks of rows, against numpy; and that the logits never exist all together."""

import itertools

import numpy as np
import pytest

import reference
from graph_walk import ancestors, ops_of, shapes_in

RNG = np.random.default_rng(0)
H, WTE = RNG.normal(size=[13, 6]), RNG.normal(size=[11, 6])       # [rows, features], [n_vocab, features]
LABELS, WEIGHTS = RNG.integers(11, size=13), RNG.random(13)
LOG_PROBABILITIES = reference.log_softmax(H @ WTE.T)
LOSS = -(WEIGHTS * LOG_PROBABILITIES[range(13), LABELS]).sum()
DLOGITS = WEIGHTS[:, None] * (np.exp(LOG_PROBABILITIES) - np.eye(11)[LABELS])


@pytest.fixture(params=[1, 5, 13, 512])
def chunk(request, tf, monkeypatch):
    """How many rows of logits exist at a time."""
    from network import block_sizes
    monkeypatch.setattr(block_sizes, 'HEAD_ROWS', request.param)
    return request.param


def build(tf, rows=13, **kwargs):
    from network.head_loss import head_loss
    h, wte = tf.placeholder_with_default(np.float32(H), [rows, 6]), tf.constant(WTE, tf.float32)
    return head_loss(h, wte, tf.constant(LABELS, tf.int32), tf.constant(WEIGHTS, tf.float32), **kwargs), [h, wte]


@pytest.mark.parametrize('scale', [1, 3])
@pytest.mark.parametrize('rows', [13, None], ids=['known rows', 'unknown rows'])
def test_loss_and_gradients(tf, session, chunk, rows, scale):
    loss, inputs = build(tf, rows)
    loss, dh, dwte = session.run([loss, *tf.gradients(loss, inputs, tf.constant(float(scale)))])
    assert loss == pytest.approx(LOSS, rel=1e-5)
    np.testing.assert_allclose(dh, scale * DLOGITS @ WTE, atol=1e-4)
    np.testing.assert_allclose(dwte, scale * DLOGITS.T @ H, atol=1e-4)


@pytest.mark.parametrize('scale', [1, 3])
def test_without_the_embeddings_gradient_none_is_computed(tf, session, chunk, scale):
    loss, [h, wte] = build(tf, wte_gradient=False)
    dh, dwte = tf.gradients(loss, [h, wte], tf.constant(float(scale)))
    assert dwte is None
    np.testing.assert_allclose(session.run(dh), scale * DLOGITS @ WTE, atol=1e-4)
    assert (11, 6) not in shapes_in(ops_of(session.graph, 'MatMul'))


def test_large_logits_do_not_overflow(tf, session):
    from network.head_loss import head_loss
    loss = head_loss(tf.constant([[500.0]]), tf.constant([[1.0], [0.5]]), tf.constant([1]), tf.constant([1.0]))
    assert session.run(loss) == 250


def test_the_loss_alone_is_the_same_and_computes_no_gradient(tf, session, chunk):
    loss, _ = build(tf, differentiable=False)
    assert session.run(loss) == pytest.approx(LOSS, rel=1e-5)
    assert (11, 6) not in shapes_in(ops_of(session.graph, 'MatMul'))       # wte's gradient
    assert ops_of(session.graph, 'MatMul')


def test_a_gradient_of_1_is_not_multiplied(tf, session):
    """It would copy wte's gradient."""
    loss, inputs = build(tf)
    tf.gradients(loss, inputs)
    assert (11, 6) not in shapes_in(ops_of(session.graph, 'Mul'))


@pytest.mark.parametrize('differentiable', [True, False])
def test_one_chunk_of_logits_exists_at_a_time(tf, session, chunk, differentiable):
    build(tf, differentiable=differentiable)
    logits = [op for op in ops_of(session.graph, 'MatMul') if op.outputs[0].shape[-1] == 11]
    assert [op.outputs[0].shape[0] for op in logits] == [len(LABELS[i:i + chunk]) for i in range(0, 13, chunk)]
    for before, after in itertools.pairwise(logits):
        assert before in ancestors(after)


def test_the_layers_below_wait_for_wte_s_gradient(tf, session, chunk):
    """It holds the logits."""
    loss, inputs = build(tf)
    dh = tf.gradients(loss, inputs)[0]
    products = {op for op in ops_of(session.graph, 'MatMul') if op.outputs[0].shape.as_list() == [11, 6]}
    assert products and products <= ancestors(dh.op)


@pytest.mark.parametrize('wte_gradient', [True, False])
def test_the_gradient_is_scaled_before_it_is_rounded(tf, session, chunk, wte_gradient):
    """In float16 there are no numbers as small as the gradients of logits."""
    from network.head_loss import head_loss
    h, wte = tf.constant(H, tf.float16), tf.constant(WTE, tf.float16)
    weights = tf.constant(WEIGHTS * 1e-8, tf.float32)

    def gradients(**kwargs):
        loss = head_loss(h, wte, tf.constant(LABELS, tf.int32), weights, wte_gradient=wte_gradient, **kwargs)
        return session.run([loss, *tf.gradients(loss, [h, wte] if wte_gradient else [h])])
    loss, dh, *dwte = gradients(scale=tf.constant(1e8))
    assert loss == pytest.approx(1e-8 * LOSS, rel=1e-2)      # is not scaled
    np.testing.assert_allclose(dh, DLOGITS @ WTE, atol=2e-2)
    if wte_gradient:
        np.testing.assert_allclose(dwte[0], DLOGITS.T @ H, atol=2e-2)
    assert not gradients()[1].any()
