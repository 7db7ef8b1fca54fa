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


class AccumulatingOptimizer:
    """The gradient accumulation of 2019: run reset, then compute_gradients for each batch, then apply_gradients.

    opt: a tf.train.Optimizer; var_list: the variables that it updates. The sums are global variables, as they were. The
    gradients are averaged over the batches, where the original applied their sum.
    """

    def __init__(self, opt, var_list):
        self._optimizer, self._variables = opt, list(var_list)
        with tf.variable_scope('accumulate'):
            self._sums = [tf.Variable(tf.zeros(variable.shape, variable.dtype.base_dtype), trainable=False)
                          for variable in self._variables]
            self._loss, self._count = (tf.Variable(0.0, trainable=False) for _ in range(2))

    def reset(self):
        """The op that sets the sums to zero."""
        return tf.variables_initializer([*self._sums, self._loss, self._count])

    def compute_gradients(self, loss):
        """The op that adds the gradients of a batch, and its loss."""
        gradients = self._optimizer.compute_gradients(loss, self._variables)
        return tf.group(self._loss.assign_add(loss), self._count.assign_add(1.0),
                        *(total.assign_add(tf.convert_to_tensor(gradient))
                          for total, (gradient, _) in zip(self._sums, gradients) if gradient is not None))

    def apply_gradients(self):
        """A tensor: the mean loss of the batches, once the variables are updated by the mean of their gradients."""
        means = [total / tf.cast(self._count, total.dtype.base_dtype) for total in self._sums]
        with tf.control_dependencies([self._optimizer.apply_gradients(zip(means, self._variables))]):
            return self._loss / self._count
