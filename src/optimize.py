"""From a loss to one update of the weights: gradients, accumulation, optimizer."""

import tensorflow.compat.v1 as tf

import memory_saving_gradients
from accumulate import Accumulator

OPTIMIZERS = {
    'adam': tf.train.AdamOptimizer,     # Kingma & Ba 2015
    'sgd': tf.train.GradientDescentOptimizer,
}


class TrainStep:
    """One update of `variables` against the gradient of `loss`, averaged over `accumulate` batches.

    memory_saving: recompute activations between the graph's checkpoints instead of keeping them.
    """

    def __init__(self, loss, variables, *, optimizer='adam', accumulate=1, memory_saving=False):
        self._loss = loss
        self._accumulate = accumulate
        self._learning_rate = tf.placeholder(tf.float32, [], 'learning_rate')
        differentiate = memory_saving_gradients.gradients if memory_saving else tf.gradients
        gradients = [tf.convert_to_tensor(gradient) for gradient in differentiate(loss, variables)]
        optimizer = OPTIMIZERS[optimizer](self._learning_rate)
        if accumulate == 1:
            self._update = optimizer.apply_gradients(zip(gradients, variables))
        else:
            self._accumulator = Accumulator(gradients, variables)
            applied = optimizer.apply_gradients(zip(self._accumulator.mean(accumulate), variables))
            with tf.control_dependencies([applied]):
                self._update = self._accumulator.reset()

    def run(self, session: tf.Session, feeds: list[dict], learning_rate: float) -> float:
        """Makes one update from `accumulate` feeds, one for each batch. Returns their mean loss."""
        rate = {self._learning_rate: learning_rate}
        if self._accumulate == 1:
            [feed] = feeds
            return float(session.run([self._loss, self._update], {**feed, **rate})[0])
        losses = [session.run([self._loss, self._accumulator.add], feed)[0] for feed in feeds]
        session.run(self._update, rate)
        return float(sum(losses) / len(losses))
