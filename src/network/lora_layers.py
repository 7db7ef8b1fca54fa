"""The layers of network.layers with frozen weights and trained factors.

x w + (x A) B + b, where A comes multiplied by its scale (see network.lora). A B is never added to the matrix: that would take a
copy of it in each pass, and in bfloat16 small changes would be lost next to a large weight. The gradient is that of x, A and B
alone: the matrix multiplications for the gradients of the weights, a third of all in a full step, are not there.

Shapes: rows (batch * sequence), n_in, n_out, rank, features. A and B are in the type of the matrix multiplications. A frozen
matrix is `w` [n_in, n_out], in any type: it is converted when it is needed. In int8, its scale [n_out] follows it.
"""

import tensorflow.compat.v1 as tf

from network import layers
from network.gradients import gradient_by
from network.lora import Lora, first_bound
from network.quantize import SCALE


def factors(lora: Lora, n_in: int, n_out: int):  # -> [n_in, rank], [rank, n_out]
    """The variables of the current scope; A multiplied by its scale."""
    bound = first_bound(n_in)
    a = tf.get_variable('lora_a', [n_in, lora.rank], initializer=tf.random_uniform_initializer(-bound, bound))
    b = tf.get_variable('lora_b', [lora.rank, n_out], initializer=tf.zeros_initializer())
    return a * lora.scale, b


def frozen(lora: Lora, n_in: int, n_out: int) -> list:
    """The matrix w of the current scope, as its type stores it, without a useful initial value."""
    w = tf.get_variable('w', [1, n_in, n_out], lora.base_weights, initializer=tf.zeros_initializer())
    scale = [tf.get_variable(f'w{SCALE}', [n_out], initializer=tf.zeros_initializer())] if lora.base_weights == 'int8' else []
    return [tf.squeeze(w, 0), *scale]


def frozen_matmul(x, w, *scale, transpose_b: bool = False):  # [rows, n_in], [n_in, n_out], [n_out] -> [rows, n_out]
    """x w for a w that is not trained. A scale multiplies what is smaller than w: x or the product."""
    scale = [tf.cast(one, x.dtype) for one in scale]
    if scale and transpose_b:
        x = x * scale[0]
    if w.dtype != x.dtype:
        # Together, because all matrices would be converted before the first is needed, and kept.
        x, w = tf.identity_n([x, w])
        w = tf.cast(w, x.dtype)
    y = tf.matmul(x, w, transpose_b=transpose_b)
    return y * scale[0] if scale and not transpose_b else y


def _product(x, a, b, bias, frozen_matrix):
    return tf.nn.bias_add(frozen_matmul(x, *frozen_matrix) + tf.matmul(tf.matmul(x, a), b), bias)


def _backward(dy, x, a, b, frozen_matrix) -> tuple:
    """The gradients of x, A and B."""
    dlow = tf.matmul(dy, b, transpose_b=True)       # [rows, rank]
    da = tf.matmul(x, dlow, transpose_a=True)
    db = tf.matmul(tf.matmul(x, a), dy, transpose_a=True)
    with tf.control_dependencies([da, db]):         # then x is freed before the layers below compute their gradients
        dx = frozen_matmul(dy, *frozen_matrix, transpose_b=True) + tf.matmul(dlow, a, transpose_b=True)
    return dx, da, db


def _linear_backward(dy, _, x, a, b, bias, *frozen_matrix):
    dx, da, db = _backward(dy, x, a, b, frozen_matrix)
    return [dx, da, db, None, *[None] * len(frozen_matrix)]


@gradient_by(_linear_backward)
def linear(x, a, b, bias, *frozen_matrix):  # [rows, n_in], [n_in, rank], [rank, n_out], [n_out], w -> [rows, n_out]
    return _product(x, a, b, bias, frozen_matrix)


def _gelu_linear_backward(dy, _, x, a, b, bias, *frozen_matrix):
    dactive, da, db = _backward(dy, layers.gelu(x), a, b, frozen_matrix)
    return [layers.gelu_gradient(dactive, x), da, db, None, *[None] * len(frozen_matrix)]


@gradient_by(_gelu_linear_backward)
def gelu_linear(x, a, b, bias, *frozen_matrix):  # as linear
    """linear of gelu(x). Only x is kept for the gradient."""
    return _product(layers.gelu(x), a, b, bias, frozen_matrix)


def _norm_linear_backward(dy, _, x, g, beta, a, b, bias, *frozen_matrix):
    dnorm, da, db = _backward(dy, tf.cast(layers.normalize_rows(x, g, beta), a.dtype), a, b, frozen_matrix)
    dx = layers.layer_norm_input_gradient(tf.cast(dnorm, x.dtype), x, g)
    return [dx, None, None, da, db, None, *[None] * len(frozen_matrix)]


@gradient_by(_norm_linear_backward)
def norm_linear(x, g, beta, a, b, bias, *frozen_matrix):  # [rows, n_in], [n_in], [n_in], then as linear
    """linear of layer_norm(x), in A's type. Only x is kept for the gradient."""
    return _product(tf.cast(layers.normalize_rows(x, g, beta), a.dtype), a, b, bias, frozen_matrix)


@gradient_by(lambda dy, _, x, g, beta: [layers.layer_norm_input_gradient(dy, x, g), None, None])
def layer_norm(x, g, beta):  # [..., features], [features], [features] -> [..., features]
    """network.layers.layer_norm, whose gain and bias are not trained."""
    return layers.normalize_rows(x, g, beta)


WITH_FACTORS = {layers.linear: linear, layers.gelu_linear: gelu_linear, layers.norm_linear: norm_linear}
