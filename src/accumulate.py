"""Gradient accumulation: one update from several small batches, where a large one would not fit in memory."""

import tensorflow.compat.v1 as tf


class Accumulator:
    """Sums gradients over several session runs.

    add: the op to run once for each batch. The sums live in local variables: no checkpoint holds them, and
    local_variables_initializer clears them.
    """

    def __init__(self, gradients, variables):
        with tf.variable_scope('accumulate'):
            self._sums = [tf.Variable(tf.zeros(variable.shape, variable.dtype.base_dtype), trainable=False,
                                      collections=[tf.GraphKeys.LOCAL_VARIABLES]) for variable in variables]
            self.add = tf.group(*(total.assign_add(gradient) for total, gradient in zip(self._sums, gradients)))

    def mean(self, n: int) -> list:
        """The sums over n batches, divided by n."""
        return [total / n for total in self._sums]

    def reset(self) -> tf.Operation:
        """A new op that sets the sums to zero, behind the control dependencies that are in force."""
        return tf.group(*(total.assign(tf.zeros_like(total)) for total in self._sums))
