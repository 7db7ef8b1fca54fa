"""Adafactor: second moments of a matrix kept as its rows' and columns' alone.

Shazeer & Stern 2018, without a first moment.
"""

import tensorflow.compat.v1 as tf

DECAY = 0.8             # the second moments average over more and more steps: the share of what is new is step ** -DECAY
SMALLEST_SQUARE = 1e-30     # added to the gradient's squares
SMALLEST_SIZE = 1e-3        # with scale_parameter, a weight counts as at least this large
CLIP = 1.0                  # the root mean square of an update before the learning rate, at most


class AdafactorOptimizer(tf.train.Optimizer):
    """Of a weight [.., n, m] it keeps .., n + m numbers; of one with a single dimension a moment for each number.

    scale_parameter: multiply the learning rate by the root mean square of the weight, so that it is a share of that.
    """

    def __init__(self, learning_rate, scale_parameter: bool = False, name: str = 'Adafactor'):
        super().__init__(use_locking=False, name=name)
        self._rate, self._scale_parameter = learning_rate, scale_parameter

    def _create_slots(self, var_list) -> None:
        first = min(var_list, key=lambda variable: variable.name)
        self._create_non_slot_variable(initial_value=0.0, name='adafactor_step', colocate_with=first)
        for variable in var_list:
            shape = variable.shape.as_list()
            sizes = {'rows': shape[:-1], 'columns': shape[:-2] + shape[-1:]} if len(shape) > 1 else {'squares': shape}
            for slot, size in sizes.items():
                self._get_or_make_slot(variable, tf.zeros(size), slot, f'{self._name}_{slot}')

    def _prepare(self) -> None:
        step = self._step() + 1
        self._old_share = 1 - step ** -DECAY

    def _step(self):
        return self._get_non_slot_variable('adafactor_step', graph=tf.get_default_graph())

    def _resource_apply_dense(self, grad, handle):
        if handle.shape.rank > 1:
            # One array of squares at a time beside the gradient; later products are made in the gradient's own memory.
            squares = tf.square(grad) + SMALLEST_SQUARE
            rows = self._average(handle, 'rows', tf.reduce_mean(squares, -1))
            columns = self._average(handle, 'columns', tf.reduce_mean(squares, -2))
            rows = tf.rsqrt(rows / tf.reduce_mean(rows, -1, keepdims=True))
            update = grad * rows[..., None] * tf.rsqrt(columns)[..., None, :]
        else:
            update = grad * tf.rsqrt(self._average(handle, 'squares', tf.square(grad) + SMALLEST_SQUARE))
        rate = self._rate / tf.maximum(1.0, _root_mean_square(update) / CLIP)
        if self._scale_parameter:
            rate *= tf.maximum(_root_mean_square(handle), SMALLEST_SIZE)
        return handle.assign_sub(update * rate, read_value=False)

    def _average(self, handle, slot: str, new):
        """The running average in a slot, with `new` in it."""
        average = self.get_slot(handle, slot)
        return average.assign(self._old_share * average + (1 - self._old_share) * new, read_value=True)

    def _finish(self, update_ops, name_scope):
        with tf.control_dependencies(update_ops):
            step = self._step().assign_add(1.0, read_value=False)
        return tf.group(*update_ops, step, name=name_scope)


def _root_mean_square(x):
    return tf.sqrt(2 * tf.nn.l2_loss(x) / x.shape.num_elements())
