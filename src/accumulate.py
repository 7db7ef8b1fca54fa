"""Gradient accumulation: one update from several small batches."""

import tensorflow.compat.v1 as tf


class Accumulator:
    """Sums gradients over several session runs.

    first, add: the ops to run for the first batch and for each later one. The sums are local variables, which are not
    saved in checkpoints; `first` overwrites them, so they are never set to zero.
    """

    def __init__(self, gradients: list):
        with tf.variable_scope('accumulate'):
            sums = [tf.Variable(tf.zeros(gradient.shape, gradient.dtype), trainable=False,
                                collections=[tf.GraphKeys.LOCAL_VARIABLES]) for gradient in gradients]
            self.first = tf.group(*(total.assign(gradient) for total, gradient in zip(sums, gradients)))
            self.add = tf.group(*(total.assign_add(gradient) for total, gradient in zip(sums, gradients)))
        self._sums = sums

    def mean(self, n: int) -> list:
        """The sums over n batches, divided by n."""
        return [total / n for total in self._sums]
