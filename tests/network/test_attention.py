"""Causal attention in blocks of queries against the oracle, and what it keeps in memory."""

import itertools

import numpy as np
import pytest

import reference
from graph_walk import ancestors, ops_of, shapes_in

RNG = np.random.default_rng(0)
QKV = RNG.normal(size=[2, 13, 3, 3, 4]).astype(np.float32)      # [batch, sequence, 3, heads, head]
DY = RNG.normal(size=[2, 13, 3, 4]).astype(np.float32)          # [batch, sequence, heads, head]


def attend(tf, monkeypatch, block, qkv):
    """The attention and its gradient, in blocks of `block` queries."""
    from network import attention, block_sizes
    from network.gradients import shape_of
    monkeypatch.setattr(block_sizes, 'QUERY_BLOCK', block)
    batch, length, _, heads, _ = shape_of(qkv)
    y = attention.causal_attention(qkv, *attention.block_masks(batch, heads, length))
    return y, tf.gradients(y, qkv, DY)[0]


@pytest.mark.parametrize('length', [13, None], ids=['known length', 'unknown length'])
@pytest.mark.parametrize('block', [1, 5, 12, 13, 256])
def test_attention_and_its_gradient_equal_the_oracle(tf, session, monkeypatch, block, length):
    qkv = tf.placeholder(tf.float32, [2, length, 3, 3, 4])
    y, gradient = session.run(attend(tf, monkeypatch, block, qkv), {qkv: QKV})
    q, k, v = np.moveaxis(QKV, 2, 0).swapaxes(2, 3)
    np.testing.assert_allclose(y, (reference.attention_weights(q, k) @ v).swapaxes(1, 2), atol=1e-5)
    expected = np.stack(reference.attend_backward(DY.swapaxes(1, 2), q, k, v))
    np.testing.assert_allclose(gradient, expected.transpose(1, 3, 0, 2, 4), atol=1e-5)


def test_what_is_above_a_block_s_diagonal_is_never_computed(tf, session, monkeypatch):
    attend(tf, monkeypatch, 5, tf.constant(QKV))
    shapes = shapes_in(session.graph.get_operations())
    assert {(2, 3, 5, 5), (2, 3, 5, 10), (2, 3, 3, 13)} <= shapes
    assert not {(2, 3, 13, 13), (2, 3, 5, 13)} & shapes


def test_the_weights_of_only_one_block_exist_at_a_time(tf, session, monkeypatch):
    attend(tf, monkeypatch, 5, tf.constant(QKV))
    weights = ops_of(session.graph, 'Softmax')
    assert len(weights) == 6        # three blocks, forwards and backwards
    for before, after in itertools.pairwise(weights):
        # the gradient's weights need not wait for the last block's
        assert before in ancestors(after) or before is weights[2]


def test_a_mask_of_later_queries_lets_them_see_all_earlier_keys(tf, session):
    from network.attention import causal_mask
    visible = session.run(causal_mask(2, 5))[0, 0] == 0
    assert visible.tolist() == [[True, True, True, True, False], [True] * 5]
