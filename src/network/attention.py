"""Attention, and the memory-saving causal attention for training.

Shapes: batch, sequence, heads, head (features of one head), n_query and n_key (how many queries and keys there are)."""

import math

import tensorflow.compat.v1 as tf

from network import block_sizes
from network.dropout import Dropout, dropping
from network.gradients import chunks, gradient_by, one_pass


def positions_from(start, n):  # -> [n] float32
    """start, start + 1, ..., to be compared: of int32, a mask would come from the host to the GPU."""
    return tf.cast(tf.range(start, start + n), tf.float32)


def causal_mask(n_query, n_key):  # -> [1, 1, n_query, n_key]: 0 up to the query's own position, -inf after it
    """For queries at the last n_query of the n_key positions."""
    position = positions_from(n_key - n_query, n_query)[:, None]
    visible = positions_from(0, n_key)[None, :] <= position
    return tf.where(visible, tf.zeros([n_query, n_key]), tf.fill([n_query, n_key], tf.float32.min))[None, None]


def block_masks(batch, heads: int, length) -> list:
    """For each block of queries, its mask over the keys up to the last of them."""
    size = block_sizes.query_block(block_sizes.gpu(), batch, heads, length)
    return [causal_mask(end - start, end) for start, end in chunks(length, size)]


def attention_weights(q, k, mask):  # [batch, heads, n_query, head], [.., n_key, head] -> [batch, heads, n_query, n_key]
    """softmax(q k^T + mask)"""
    scores = tf.cast(tf.matmul(q, k, transpose_b=True), tf.float32)
    return tf.cast(tf.nn.softmax(scores + mask), q.dtype)


def attend(q, k, v, mask):  # [batch, heads, n_query, head], [.., n_key, head] twice -> [batch, heads, n_query, head]
    """softmax(q k^T + mask) v (Vaswani et al. 2017)"""
    return tf.matmul(attention_weights(q, k, mask), v)


@one_pass
def split_heads(qkv):  # [batch, sequence, 3, heads, head] -> q / sqrt(head), k, v, each [batch, heads, sequence, head]
    q, k, v = tf.unstack(tf.transpose(qkv, [2, 0, 3, 1, 4]))
    return q * (1 / math.sqrt(qkv.shape.as_list()[-1])), k, v


def swap_heads(x):  # [batch, sequence, heads, head] <-> [batch, heads, sequence, head]
    return tf.transpose(x, [0, 2, 1, 3])


def _split_queries(x, masks) -> list:  # [batch, heads, length, head] -> for each mask its block of queries
    return tf.split(x, [mask.shape.as_list()[2] for mask in masks], axis=2) if len(masks) > 1 else [x]


def _visible(x, mask):  # [batch, heads, length, head] -> the keys or values that the mask covers
    n_key = mask.shape.as_list()[3]
    return x if n_key == x.shape.as_list()[2] else tf.slice(x, [0, 0, 0, 0], [-1, -1, n_key, -1])


@one_pass
def softmax_gradient(dy, y, delta):
    """delta [.., 1]: the sum of dy y over each row."""
    return y * (dy - delta)


@one_pass
def _join_blocks(*gradients):
    """Of each block the gradients of q / sqrt(head), of the keys and of the values that it sees -> the gradient of qkv.

    [batch, heads, n_query, head], [.., n_key, head] twice -> [batch, sequence, 3, heads, head]
    """
    dq, dk, dv = (gradients[i::3] for i in range(3))
    parts = [tf.concat(dq, axis=2) * (1 / math.sqrt(dq[0].shape.as_list()[-1])), _sum_prefixes(dk, dq), _sum_prefixes(dv, dq)]
    return tf.transpose(tf.stack(parts), [1, 3, 0, 2, 4])


def _sum_prefixes(parts, blocks):  # for each block [batch, heads, n_key, head] -> their sum, as long as the longest
    if len(parts) == 1:
        return parts[0]
    sizes = [block.shape.as_list()[2] for block in blocks]
    pieces = [tf.split(part, sizes[:i], axis=2) for i, part in enumerate(parts, start=1)]
    return tf.concat([tf.add_n([piece[i] for piece in pieces[i:]]) for i in range(len(parts))], axis=2)


def _attend_in_blocks(qkv, masks, drop_in_block=lambda i, weights: lambda x: x):
    """drop_in_block: from a block's number and its attention weights to the function that drops some of them."""
    q, k, v = split_heads(qkv)
    y = []
    for i, (q_block, mask) in enumerate(zip(_split_queries(q, masks), masks)):
        with tf.control_dependencies(y[-1:]):
            q_block, k_visible, v_visible = tf.identity(q_block), _visible(k, mask), _visible(v, mask)
        weights = attention_weights(q_block, k_visible, mask)
        y.append(tf.matmul(drop_in_block(i, weights)(weights), v_visible))
    return swap_heads(tf.concat(y, axis=2))


def _gradient_in_blocks(dy, y, qkv, masks, drop_in_block=lambda i, weights: lambda x: x):
    """The gradient of _attend_in_blocks with respect to qkv."""
    q, k, v = split_heads(qkv)
    # The softmax's gradient is P (dP - delta), where delta, the sum of P dP over keys, is that of dy y (Dao et al. 2022), also
    # after dropout: P (D dP), with D for what that multiplies by, is (D P) dP.
    delta = swap_heads(tf.reduce_sum(dy * y, axis=-1, keepdims=True))
    gradients = []
    for i, (mask, *blocks) in enumerate(zip(masks, *(_split_queries(x, masks) for x in (q, swap_heads(dy), delta)))):
        with tf.control_dependencies(gradients[-3:]):      # the weights of one block at a time
            q_block, dy_block, delta_block = tf.identity_n(blocks)
            k_visible, v_visible = _visible(k, mask), _visible(v, mask)
        weights = attention_weights(q_block, k_visible, mask)
        drop = drop_in_block(i, weights)
        dv = tf.matmul(drop(weights), dy_block, transpose_a=True)
        dweights = drop(tf.matmul(dy_block, v_visible, transpose_b=True))
        dscores = softmax_gradient(dweights, weights, delta_block)
        gradients += [tf.matmul(dscores, k_visible), tf.matmul(dscores, q_block, transpose_a=True), dv]
    return _join_blocks(*gradients)


@gradient_by(lambda dy, y, qkv, *masks: [_gradient_in_blocks(dy, y, qkv, masks), *[None] * len(masks)])
def causal_attention(qkv, *masks):  # [batch, sequence, 3, heads, head] -> [batch, sequence, heads, head]
    """Attention of each position to those up to its own, one block of queries after the other. masks: see block_masks.

    What lies above a block's diagonal is neither computed nor stored. The gradient recomputes the weights from q and k.
    """
    return _attend_in_blocks(qkv, masks)


def _drop_by(keep, seeds):
    return lambda i, weights: dropping(weights, keep, seeds[i])


def _dropout_attention_backward(dy, y, qkv, keep, seeds, *masks):
    return [_gradient_in_blocks(dy, y, qkv, masks, _drop_by(keep, seeds)), *[None] * (2 + len(masks))]


@gradient_by(_dropout_attention_backward)
def dropout_attention(qkv, keep, seeds, *masks):  # as causal_attention; seeds [blocks, 2]
    """causal_attention after dropout of the attention weights; the gradient draws the same masks again (see network.dropout)."""
    return _attend_in_blocks(qkv, masks, _drop_by(keep, seeds))


def self_attention(qkv, layer, past, masks, dropout: Dropout | None = None):
    """Attention of each position to those up to its own, and to those of a past if there is one (see network.cache).

    [batch, sequence, 3, heads, head] -> [.., heads, head], present. masks: block_masks, or the one mask of the past, with which
    there is no dropout. present [batch, 2, heads, sequence, head]: the new keys and values.
    """
    q, k, v = split_heads(qkv)
    present = tf.stack([k, v], axis=1)
    if dropout is not None:
        return dropout_attention(qkv, dropout.keep, dropout.seeds(len(masks)), *masks), present
    if past is None:
        return causal_attention(qkv, *masks), present
    return swap_heads(attend(q, *past.extend(layer, k, v), *masks)), present
