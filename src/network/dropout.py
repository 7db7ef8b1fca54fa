"""Dropout whose masks follow from a seed, so that they can be drawn again.

Srivastava et al. 2014: a number becomes 0 with probability `rate`; otherwise it is divided by `keep`, 1 - rate, so that the mean
stays the same. No mask is kept for the gradient: the seed gives the same one again. The shape of a mask is read from the tensor
that it is for. So it is not drawn before that is computed, and memory_saving_gradients draws it again, like all that depends on
weights, instead of keeping it.
"""

from collections.abc import Callable

import numpy as np
import tensorflow.compat.v1 as tf

from network.gradients import gradient_by, one_pass


class Dropout:
    """The dropout of one pass through a network.

    rate: above 0, below 1. seed [2] int64: for each pass others. Each mask has a seed of its own, which is the sum of this one
    and [0, i]; masks are counted in the order in which the graph is built.
    """

    def __init__(self, rate: float, seed: tf.Tensor):
        self.keep, self._seed, self._count = tf.constant(1 - rate, tf.float32), seed, 0

    def seeds(self, n: int) -> tf.Tensor:  # -> [n, 2]
        """The seeds of the next n masks."""
        places = np.arange(self._count, self._count + n)
        self._count += n
        return self._seed + np.stack([np.zeros_like(places), places], axis=1)


@one_pass
def _zero_or_divided(x, uniform, keep):
    """In float32, because 1 / keep in bfloat16 is off by up to 0.4 percent, which would change the mean."""
    return tf.cast(tf.cast(x, tf.float32) * (tf.cast(uniform < keep, tf.float32) / keep), x.dtype)


def dropping(like, keep, seed) -> Callable[[tf.Tensor], tf.Tensor]:  # seed [2]
    """A function that drops the same numbers of any tensor in the shape of `like`."""
    # Not tf.random.stateless_uniform, whose ops TensorFlow 1.15 does not know.
    uniform = tf.raw_ops.StatelessRandomUniform(shape=tf.raw_ops.Shape(input=like), seed=seed)
    uniform.set_shape(like.shape)
    return lambda x: _zero_or_divided(x, uniform, keep)


@gradient_by(lambda dy, y, x, keep, seed: [dropping(dy, keep, seed)(dy), None, None])
def _dropped(x, keep, seed):
    return dropping(x, keep, seed)(x)


def drop(x, dropout: Dropout | None):  # [..] -> [..]
    """x after dropout; x itself without one."""
    return x if dropout is None else _dropped(x, dropout.keep, dropout.seeds(1)[0])
