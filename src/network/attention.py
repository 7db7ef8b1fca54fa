"""Attention: which positions a query may see, the weights of the values, and the causal attention that training uses.

Shapes: batch, sequence, heads, head (features of one head), n_query and n_key (positions that ask, positions that are seen)."""

import math

import tensorflow.compat.v1 as tf

from network import block_sizes
from network.gradients import gradient_by, one_pass, runs


def causal_mask(n_query, n_key):  # -> [1, 1, n_query, n_key]: 0 where a query may look, -inf on what comes after it
    """For queries that are the last of the keys."""
    position = tf.range(n_query)[:, None] + n_key - n_query
    visible = tf.range(n_key)[None, :] <= position
    return tf.where(visible, tf.zeros([n_query, n_key]), tf.fill([n_query, n_key], tf.float32.min))[None, None]


def causal_masks(length) -> list:
    """The masks of causal_attention: of each block of queries to the keys up to its last."""
    return [causal_mask(end - start, end) for start, end in runs(length, block_sizes.QUERY_BLOCK)]


def attention_weights(q, k, mask):  # [batch, heads, n_query, head], [.., n_key, head] -> [batch, heads, n_query, n_key]
    """softmax of q k + mask."""
    scores = tf.cast(tf.matmul(q, k, transpose_b=True), tf.float32)
    return tf.cast(tf.nn.softmax(scores + mask), q.dtype)


def attend(q, keys, values, mask):  # [batch, heads, n_query, head], [.., n_key, head] twice -> [batch, heads, n_query, head]
    """Attention (Vaswani et al. 2017): each query's mean of the values, weighted by softmax(q keys + mask)."""
    return tf.matmul(attention_weights(q, keys, mask), values)


def split_heads(qkv):  # [batch, sequence, 3, heads, head] -> q / sqrt(head), k, v, each [batch, heads, sequence, head]
    q, k, v = tf.unstack(tf.transpose(qkv, [2, 0, 3, 1, 4]))
    return q * (1 / math.sqrt(qkv.shape[-1])), k, v


def swap_heads(x):  # [batch, sequence, heads, head] <-> [batch, heads, sequence, head]
    return tf.transpose(x, [0, 2, 1, 3])


def _split_queries(x, masks) -> list:
    """x [batch, heads, length, head] in the runs of queries that masks belong to."""
    return tf.split(x, [mask.shape[2] for mask in masks], axis=2) if len(masks) > 1 else [x]


def _visible(x, mask):
    """As much of x [batch, heads, length, head] as the queries of a mask may see."""
    n = mask.shape[3]
    return x if n == x.shape[2] else tf.slice(x, [0, 0, 0, 0], [-1, -1, n, -1])


def _sum_prefixes(parts, masks):  # a tensor [batch, heads, n_key, head] for each mask -> their sum, as long as the longest
    pieces = [_split_queries(part, masks[:i]) for i, part in enumerate(parts, start=1)]
    return tf.concat([tf.add_n([piece[i] for piece in pieces[i:]]) for i in range(len(masks))], axis=2)


@one_pass
def softmax_gradient(dy, y, delta):
    """delta [.., 1]: the sum of dy y over a row."""
    return y * (dy - delta)


def _attention_backward(dy, y, qkv, *masks):
    q, k, v = split_heads(qkv)
    # sum over keys of P dP, as in Dao et al. 2022, from what is at hand: the softmax's gradient is P (dP - delta).
    delta = swap_heads(tf.reduce_sum(dy * y, axis=-1, keepdims=True))
    dq, dk, dv = [], [], []
    for mask, *blocks in zip(masks, *(_split_queries(x, masks) for x in (q, swap_heads(dy), delta))):
        with tf.control_dependencies(dq[-1:]):      # one block's weights at a time
            q_block, dy_block, delta_block = tf.identity_n(blocks)
            k_seen, v_seen = _visible(k, mask), _visible(v, mask)
        weights = attention_weights(q_block, k_seen, mask)
        dv.append(tf.matmul(weights, dy_block, transpose_a=True))
        dscores = softmax_gradient(tf.matmul(dy_block, v_seen, transpose_b=True), weights, delta_block)
        dk.append(tf.matmul(dscores, q_block, transpose_a=True))
        dq.append(tf.matmul(dscores, k_seen))
    dq = tf.concat(dq, axis=2) * (1 / math.sqrt(qkv.shape[-1]))
    dqkv = tf.stack([dq, _sum_prefixes(dk, masks), _sum_prefixes(dv, masks)])
    return [tf.transpose(dqkv, [1, 3, 0, 2, 4]), *[None] * len(masks)]


@gradient_by(_attention_backward)
def causal_attention(qkv, *masks):  # [batch, sequence, 3, heads, head] -> [batch, sequence, heads, head]
    """Each query's mean of the values up to its own position, weighted by softmax(q k / sqrt(head)).

    Block by block of queries, as causal_masks gives them: what lies above a block's diagonal is neither computed nor
    stored. No weights are kept for the gradient, which computes them again from q and k.
    """
    q, k, v = split_heads(qkv)
    y = []
    for q_block, mask in zip(_split_queries(q, masks), masks):
        with tf.control_dependencies(y[-1:]):
            q_block, k_seen, v_seen = tf.identity(q_block), _visible(k, mask), _visible(v, mask)
        y.append(attend(q_block, k_seen, v_seen, mask))
    return swap_heads(tf.concat(y, axis=2))


def self_attention(qkv, layer, past, masks):  # [batch, sequence, 3, heads, head] -> [batch, sequence, heads, head], present
    """Attention of each position to those up to its own, and to a past if there is one (see network.cache).

    masks: of causal_masks without a past, else the past's only one. present [batch, 2, heads, sequence, head]: keys and values.
    """
    q, k, v = split_heads(qkv)
    present = tf.stack([k, v], axis=1)
    if past is None:
        return causal_attention(qkv, *masks), present
    return swap_heads(attend(q, *past.extend(layer, k, v), *masks)), present
