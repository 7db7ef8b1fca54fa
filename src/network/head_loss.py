"""The output layer and its loss, a chunk of the logits at a time."""

import tensorflow.compat.v1 as tf

from network import block_sizes
from network.gradients import chunks, gradient_by, shape_of


def _head_backward(dy, _, loss, h, wte, dh, dwte):
    if tf.get_static_value(dy) != 1:        # a product with 1 would copy wte
        dh, dwte = tf.cast(dy, dh.dtype) * dh, tf.cast(dy, dwte.dtype) * dwte
    return [None, dh, dwte, None, None]


@gradient_by(_head_backward)
def _with_gradients(loss, h, wte, dh, dwte):
    return loss


@gradient_by(lambda dy, _, loss, h, dh: [None, dh if tf.get_static_value(dy) == 1 else tf.cast(dy, dh.dtype) * dh, None])
def _with_gradient(loss, h, dh):
    return loss


def _cross_entropy(logits, labels, weights, scale):
    """Each row's weight * cross-entropy, and its gradient, times the scale if not None, with respect to the logits.

    The gradient is in the logits' memory.

    logits [rows, n_vocab] float32, which nothing else may read, labels [rows] int32, weights [rows].
    """
    rows, n_vocab = shape_of(logits)
    label_index = tf.range(rows) * n_vocab + labels      # in the flat logits
    largest = tf.reduce_max(logits, axis=-1)
    label_logit = tf.gather(tf.reshape(logits, [-1]), label_index)
    with tf.control_dependencies([label_logit]):
        exponent = tf.exp(logits - largest[:, None])
    total = tf.reduce_sum(exponent, axis=-1)
    dlosses = weights if scale is None else weights * scale
    softmax = tf.reshape(exponent * (dlosses / total)[:, None], [-1])      # times dlosses
    # In place, where a scatter would copy: nothing else reads `softmax`, and each row writes to an element of its own.
    dlogits = tf.raw_ops.InplaceSub(x=softmax, i=label_index, v=dlosses)
    return weights * (tf.log(total) + largest - label_logit), tf.reshape(dlogits, [rows, n_vocab])


def head_loss(h, wte, labels, weights, *, differentiable=True, wte_gradient=True, scale=None):
    """Sum over the rows of weight * cross-entropy of the label, for the logits h wte^T. In float32.

    h [rows, features], wte [n_vocab, features], labels [rows] int32, weights [rows] -> scalar. If the graph knows how
    many rows there are, only block_sizes.head_rows of logits exist at a time. With differentiable, each chunk's
    gradients are computed together with its loss, so that its logits need not be kept or computed twice; without wte_gradient
    only that of h. scale: a scalar that the gradients, not the loss, are multiplied by, while they are still in float32.
    """
    rows, size = shape_of(h)[0], block_sizes.head_rows(block_sizes.gpu(), wte.shape.as_list()[0])
    losses, dh, dwte = [], [], None
    for start, end in chunks(rows, size):
        with tf.control_dependencies([*dh, *([] if dwte is None else [dwte])] or losses[-1:]):
            h_chunk = h[start:end]
        logits = tf.cast(tf.matmul(h_chunk, wte, transpose_b=True), tf.float32)
        loss, dlogits = _cross_entropy(logits, labels[start:end], weights[start:end], scale)
        losses.append(tf.reduce_sum(loss))
        if differentiable:
            dlogits = tf.cast(dlogits, h.dtype)
            dh.append(tf.matmul(dlogits, wte))
            if wte_gradient:
                part = tf.matmul(dlogits, h_chunk, transpose_a=True)
                dwte = part if dwte is None else dwte + part
    loss = tf.add_n(losses)
    if not differentiable:
        return loss
    if not wte_gradient:
        return _with_gradient(loss, h, tf.concat(dh, axis=0))
    # wte's gradient first: it holds the logits, and nothing else would make TensorFlow compute it before the very end.
    with tf.control_dependencies([dwte]):
        dh = tf.concat(dh, axis=0)
    return _with_gradients(loss, h, wte, dh, dwte)
