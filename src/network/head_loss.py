"""The output layer and its loss together, for a few rows of logits at a time, so that the logits never exist all at once."""

import tensorflow.compat.v1 as tf

from network import block_sizes
from network.gradients import gradient_by, runs, shape_of


def _head_backward(dy, _, loss, h, wte, dh, dwte):
    if tf.get_static_value(dy) != 1:        # a product with one would be a copy of wte
        dh, dwte = tf.cast(dy, dh.dtype) * dh, tf.cast(dy, dwte.dtype) * dwte
    return [None, dh, dwte, None, None]


@gradient_by(_head_backward)
def _with_gradients(loss, h, wte, dh, dwte):
    return loss


def _cross_entropy(logits, labels, weights):
    """Each row's weight * cross-entropy, and its gradient with respect to the logits, in the logits' own memory.

    logits [rows, n_vocab] float32, which nothing else may read, labels [rows] int32, weights [rows].
    """
    rows, n_vocab = shape_of(logits)
    at_label = tf.range(rows) * n_vocab + labels
    largest = tf.reduce_max(logits, axis=-1)
    chosen = tf.gather(tf.reshape(logits, [-1]), at_label)
    with tf.control_dependencies([chosen]):
        exponent = tf.exp(logits - largest[:, None])
    total = tf.reduce_sum(exponent, axis=-1)
    share = tf.reshape(exponent * (weights / total)[:, None], [-1])
    # Nothing else reads `share`, and no two rows write to the same place. A scatter would copy it.
    dlogits = tf.raw_ops.InplaceSub(x=share, i=at_label, v=weights)
    return weights * (tf.log(total) + largest - chosen), tf.reshape(dlogits, [rows, n_vocab])


def head_loss(h, wte, labels, weights, *, differentiable=True):
    """Sum over the rows of weight * cross-entropy of the label, for the logits h wte^T. In float32.

    h [rows, features], wte [n_vocab, features], labels [rows] int32, weights [rows] -> scalar. The logits never exist all
    at once, where the graph knows how many rows there are: each chunk of them gives its part of the loss and of the
    gradients, which are made along with the loss, unless it is not differentiable. Nothing is kept for later or computed
    twice.
    """
    rows = shape_of(h)[0]
    losses, dh, dwte = [], [], None
    for start, end in runs(rows, block_sizes.HEAD_ROWS):
        with tf.control_dependencies([dwte, *dh] if dh else losses[-1:]):
            h_chunk = h[start:end]
        logits = tf.cast(tf.matmul(h_chunk, wte, transpose_b=True), tf.float32)
        loss, dlogits = _cross_entropy(logits, labels[start:end], weights[start:end])
        losses.append(tf.reduce_sum(loss))
        if differentiable:
            dlogits = tf.cast(dlogits, h.dtype)
            dh.append(tf.matmul(dlogits, wte))
            part = tf.matmul(dlogits, h_chunk, transpose_a=True)
            dwte = part if dwte is None else dwte + part
    loss = tf.add_n(losses)
    if not differentiable:
        return loss
    # The gradients of the layers below wait for wte's, which nobody asks for before the end, and which holds the logits.
    with tf.control_dependencies([dwte]):
        dh = tf.concat(dh, axis=0)
    return _with_gradients(loss, h, wte, dh, dwte)
