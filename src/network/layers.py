"""Linear layers, GELU and layer normalisation, with gradients in little memory.

Shapes: rows (batch * sequence), n_in, n_out, features."""

import math

import tensorflow.compat.v1 as tf

from network.gradients import gradient_by, one_pass, row_mean
from network.hparams import LAYER_NORM_EPSILON


def _linear_backward(dy, _, x, w, b):
    dw = tf.matmul(x, dy, transpose_a=True)
    db = tf.raw_ops.BiasAddGrad(out_backprop=dy)
    # The weight's gradient first: then x is freed before the layers below compute their gradients. It is returned only
    # after the last read of w: an optimizer that updates a w still in use would have to copy it.
    with tf.control_dependencies([dw, db]):
        dx = tf.matmul(dy, w, transpose_b=True)
    with tf.control_dependencies([dx]):
        return [dx, tf.identity(dw), tf.identity(db)]


@gradient_by(_linear_backward)
def linear(x, w, b):  # [rows, n_in], [n_in, n_out], [n_out] -> [rows, n_out]
    return tf.nn.bias_add(tf.matmul(x, w), b)


GELU_SCALE, GELU_CUBE = math.sqrt(2 / math.pi), math.sqrt(2 / math.pi) * 0.044715


def _square(x):
    """x^2; in float16, whose cubes would overflow, at most 64, above which GELU(x) is x or 0 anyway."""
    square = x * x
    return tf.minimum(square, 64) if x.dtype == tf.float16 else square


def _gate(x, square):
    """(1 + tanh u) / 2, for u = sqrt(2 / pi) (x + 0.044715 x^3). In XLA faster than the same as a sigmoid of 2 u."""
    return 0.5 + 0.5 * tf.tanh(x * (GELU_SCALE + GELU_CUBE * square))


@one_pass
def gelu(x):
    """Hendrycks & Gimpel 2016, in the tanh approximation that the published weights were trained with."""
    return x * _gate(x, _square(x))


@one_pass
def gelu_gradient(dy, x):
    square = _square(x)
    gate = _gate(x, square)
    return dy * gate * (1 + (1 - gate) * x * (2 * GELU_SCALE + 6 * GELU_CUBE * square))


def _gelu_linear_backward(dy, _, x, w, b):
    dactive, dw, db = _linear_backward(dy, None, gelu(x), w, b)
    return [gelu_gradient(dactive, x), dw, db]


@gradient_by(_gelu_linear_backward)
def gelu_linear(x, w, b):  # [rows, n_in], [n_in, n_out], [n_out] -> [rows, n_out]
    """gelu(x) w + b. Only x is kept for the gradient."""
    return tf.nn.bias_add(tf.matmul(gelu(x), w), b)


def _standardize(x):
    """x with zero mean and unit variance over its features, and 1 / its standard deviation."""
    centred = x - row_mean(x)
    scale = tf.rsqrt(row_mean(tf.square(centred)) + LAYER_NORM_EPSILON)
    return centred * scale, scale


@one_pass
def normalize_rows(x, g, b):
    return _standardize(x)[0] * g + b


def _standardize_gradient(dnormal, normal, scale):
    return (dnormal - row_mean(dnormal) - normal * row_mean(dnormal * normal)) * scale


@one_pass
def layer_norm_gradients(dy, x, g):
    rows = list(range(len(x.shape) - 1))
    normal, scale = _standardize(x)
    return [_standardize_gradient(dy * g, normal, scale), tf.reduce_sum(dy * normal, axis=rows), tf.reduce_sum(dy, axis=rows)]


@one_pass
def layer_norm_input_gradient(dy, x, g):
    """The first of layer_norm_gradients, where gain and bias are not trained."""
    return _standardize_gradient(dy * g, *_standardize(x))


@gradient_by(lambda dy, _, x, g, b: layer_norm_gradients(dy, x, g))
def layer_norm(x, g, b):  # [..., features], [features], [features] -> [..., features]
    """Ba et al. 2016: zero mean and unit variance over the features, then a learned gain and bias."""
    return normalize_rows(x, g, b)


def _norm_linear_backward(dy, _, x, g, b, w, bias):
    dnorm, dw, dbias = _linear_backward(dy, None, tf.cast(normalize_rows(x, g, b), w.dtype), w, bias)
    return [*layer_norm_gradients(tf.cast(dnorm, x.dtype), x, g), dw, dbias]


@gradient_by(_norm_linear_backward)
def norm_linear(x, g, b, w, bias):  # [rows, n_in], [n_in], [n_in], [n_in, n_out], [n_out] -> [rows, n_out]
    """layer_norm(x) w + bias, in w's type. Only x is kept for the gradient, which the residual stream keeps anyway."""
    return tf.nn.bias_add(tf.matmul(tf.cast(normalize_rows(x, g, b), w.dtype), w), bias)
