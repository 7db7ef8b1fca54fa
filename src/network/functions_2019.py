"""The functions of 2019's model.py, for code that calls them by name.

`model` imports them: `model.conv1d` and the others take the same arguments and make the same variables as then. The
network in `model` is built from faster ones. Shapes as there; heads and head: number and features of the heads.
"""

import tensorflow.compat.v1 as tf

from network.attention import attend, causal_mask, swap_heads
from network.gradients import shape_of as shape_list
from network.hparams import LAYER_NORM_EPSILON
from network.layers import gelu

__all__ = ['attention_mask', 'attn', 'block', 'conv1d', 'expand_tile', 'gelu', 'merge_states', 'mlp', 'norm', 'positions_for',
           'shape_list', 'softmax', 'split_states']


def softmax(x, axis=-1):
    return tf.nn.softmax(x, axis=axis)


def norm(x, scope, *, axis=-1, epsilon=LAYER_NORM_EPSILON):  # [.., features] -> the same
    """Zero mean and unit variance along an axis, then the gain g and the bias b of each feature."""
    with tf.variable_scope(scope):
        g = tf.get_variable('g', [shape_list(x)[-1]], initializer=tf.ones_initializer())
        b = tf.get_variable('b', [shape_list(x)[-1]], initializer=tf.zeros_initializer())
        centred = x - tf.reduce_mean(x, axis=axis, keepdims=True)
        return centred * tf.rsqrt(tf.reduce_mean(tf.square(centred), axis=axis, keepdims=True) + epsilon) * g + b


def split_states(x, n):  # [.., features] -> [.., n, features / n]
    *start, features = shape_list(x)
    return tf.reshape(x, [*start, n, features // n])


def merge_states(x):  # [.., a, b] -> [.., a * b]
    *start, a, b = shape_list(x)
    return tf.reshape(x, [*start, a * b])


def conv1d(x, scope, nf, *, w_init_stdev=0.02):  # [.., n_in] -> [.., nf]
    with tf.variable_scope(scope):
        *start, n_in = shape_list(x)
        w = tf.get_variable('w', [1, n_in, nf], initializer=tf.random_normal_initializer(stddev=w_init_stdev))
        b = tf.get_variable('b', [nf], initializer=tf.zeros_initializer())
        return tf.reshape(tf.matmul(tf.reshape(x, [-1, n_in]), tf.reshape(w, [n_in, nf])) + b, [*start, nf])


def attention_mask(nd, ns, *, dtype):  # -> [nd, ns]
    """1 for each of the ns keys up to the position of each of the nd queries, which are the last ones; else 0."""
    return tf.cast(tf.range(nd)[:, None] >= tf.range(ns)[None] - ns + nd, dtype)


def attn(x, scope, n_state, *, past, hparams):  # [batch, sequence, features] -> the same, [batch, 2, heads, sequence, head]
    with tf.variable_scope(scope):
        qkv = conv1d(x, 'c_attn', 3 * n_state)
        q, k, v = (swap_heads(split_states(part, hparams.n_head)) for part in tf.split(qkv, 3, axis=2))
        present = tf.stack([k, v], axis=1)
        if past is not None:
            past_k, past_v = tf.unstack(past, axis=1)
            k, v = tf.concat([past_k, k], axis=-2), tf.concat([past_v, v], axis=-2)
        q = q * tf.rsqrt(tf.cast(shape_list(q)[-1], q.dtype))
        y = attend(q, k, v, causal_mask(shape_list(q)[-2], shape_list(k)[-2]))
        return conv1d(merge_states(swap_heads(y)), 'c_proj', n_state), present


def mlp(x, scope, n_state, *, hparams):  # [.., features] -> the same
    with tf.variable_scope(scope):
        return conv1d(gelu(conv1d(x, 'c_fc', n_state)), 'c_proj', shape_list(x)[-1])


def block(x, scope, *, past, hparams):  # [batch, sequence, features] -> the same, [batch, 2, heads, sequence, head]
    with tf.variable_scope(scope):
        n_features = shape_list(x)[-1]
        y, present = attn(norm(x, 'ln_1'), 'attn', n_features, past=past, hparams=hparams)
        x = x + y
        return x + mlp(norm(x, 'ln_2'), 'mlp', 4 * n_features, hparams=hparams), present


def expand_tile(value, size):  # [..] -> [size, ..]
    value = tf.convert_to_tensor(value)
    return tf.tile(value[None], [size] + [1] * value.shape.rank)


def positions_for(tokens, past_length):  # [batch, sequence] -> the same
    batch, sequence = shape_list(tokens)
    return expand_tile(past_length + tf.range(sequence), batch)
