"""The layers of network.layers with frozen weights and trained factors.

x w + (x A) B + b, where A comes multiplied by its scale (see network.lora). A B is never added to the matrix: that would take a
copy of it in each pass, and in bfloat16 small changes would be lost next to a large weight. The gradient is that of x, A and B
alone: the matrix multiplications for the gradients of the weights, a third of all in a full step, are not there.

Shapes: rows (batch * sequence), n_in, n_out, rank, features. A and B are in the type of the matrix multiplications. w may be
stored in another one, and is converted when it is needed.
"""

import tensorflow.compat.v1 as tf

from network import layers
from network.gradients import gradient_by
from network.lora import Lora, first_bound


def factors(lora: Lora, n_in: int, n_out: int):  # -> [n_in, rank], [rank, n_out]
    """The variables of the current scope; A multiplied by its scale."""
    bound = first_bound(n_in)
    a = tf.get_variable('lora_a', [n_in, lora.rank], initializer=tf.random_uniform_initializer(-bound, bound))
    b = tf.get_variable('lora_b', [lora.rank, n_out], initializer=tf.zeros_initializer())
    return a * lora.scale, b


def frozen_matmul(x, w, transpose_b: bool = False):  # [rows, n_in], [n_in, n_out] -> [rows, n_out]
    """x w, for a w that is not trained."""
    if w.dtype != x.dtype:
        # Together, because all matrices would be converted before the first is needed, and kept.
        x, w = tf.identity_n([x, w])
        w = tf.cast(w, x.dtype)
    return tf.matmul(x, w, transpose_b=transpose_b)


def _product(x, w, a, b, bias):
    return tf.nn.bias_add(frozen_matmul(x, w) + tf.matmul(tf.matmul(x, a), b), bias)


def _backward(dy, x, w, a, b) -> tuple:
    """The gradients of x, A and B."""
    dlow = tf.matmul(dy, b, transpose_b=True)       # [rows, rank]
    da = tf.matmul(x, dlow, transpose_a=True)
    db = tf.matmul(tf.matmul(x, a), dy, transpose_a=True)
    with tf.control_dependencies([da, db]):         # then x is freed before the layers below compute their gradients
        dx = frozen_matmul(dy, w, transpose_b=True) + tf.matmul(dlow, a, transpose_b=True)
    return dx, da, db


def _linear_backward(dy, _, x, w, a, b, bias):
    dx, da, db = _backward(dy, x, w, a, b)
    return [dx, None, da, db, None]


@gradient_by(_linear_backward)
def linear(x, w, a, b, bias):  # [rows, n_in], [n_in, n_out], [n_in, rank], [rank, n_out], [n_out] -> [rows, n_out]
    return _product(x, w, a, b, bias)


def _gelu_linear_backward(dy, _, x, w, a, b, bias):
    dactive, da, db = _backward(dy, layers.gelu(x), w, a, b)
    return [layers.gelu_gradient(dactive, x), None, da, db, None]


@gradient_by(_gelu_linear_backward)
def gelu_linear(x, w, a, b, bias):  # as linear
    """linear of gelu(x). Only x is kept for the gradient."""
    return _product(layers.gelu(x), w, a, b, bias)


def _norm_linear_backward(dy, _, x, g, beta, w, a, b, bias):
    dnorm, da, db = _backward(dy, tf.cast(layers.normalize_rows(x, g, beta), a.dtype), w, a, b)
    return [layers.layer_norm_input_gradient(tf.cast(dnorm, x.dtype), x, g), None, None, None, da, db, None]


@gradient_by(_norm_linear_backward)
def norm_linear(x, g, beta, w, a, b, bias):  # [rows, n_in], [n_in], [n_in], then as linear
    """linear of layer_norm(x), in A's type. Only x is kept for the gradient."""
    return _product(tf.cast(layers.normalize_rows(x, g, beta), a.dtype), w, a, b, bias)


@gradient_by(lambda dy, _, x, g, beta: [layers.layer_norm_input_gradient(dy, x, g), None, None])
def layer_norm(x, g, beta):  # [..., features], [features], [features] -> [..., features]
    """network.layers.layer_norm, whose gain and bias are not trained."""
    return layers.normalize_rows(x, g, beta)


WITH_FACTORS = {layers.linear: linear, layers.gelu_linear: gelu_linear, layers.norm_linear: norm_linear}
