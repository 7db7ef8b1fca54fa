"""From a loss to one update of the weights: schedule, gradients, clipping, accumulation, optimizer."""

import math

import tensorflow.compat.v1 as tf

import memory_saving_gradients
from accumulate import Accumulator

# How much of the learning rate is left at a share of the run, 0 to 1 (Loshchilov & Hutter 2017 for the cosine).
SCHEDULES = {
    'constant': lambda done: 1.0,
    'linear': lambda done: 1 - done,
    'cosine': lambda done: (1 + math.cos(math.pi * done)) / 2,
}


def learning_rate(step: int, *, peak: float, schedule: str = 'constant', warmup_steps: int = 0,
                  max_steps: int = 0) -> float:
    """The learning rate of update `step`, counted from 1: a linear rise over warmup_steps, then the schedule.

    The schedule ends at max_steps, which every one but 'constant' needs.
    """
    if step <= warmup_steps:
        return peak * step / warmup_steps
    return peak * SCHEDULES[schedule](min((step - warmup_steps - 1) / max(max_steps - warmup_steps, 1), 1))


class _AdamW(tf.train.AdamOptimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), on matrices only."""

    def __init__(self, learning_rate, weight_decay: float):
        super().__init__(learning_rate)
        self._factor = 1 - learning_rate * weight_decay

    def _resource_apply_dense(self, grad, handle):
        if sum(size > 1 for size in handle.shape) < 2:      # gains and biases
            return super()._resource_apply_dense(grad, handle)
        with tf.control_dependencies([grad]):
            decayed = handle.assign(handle * tf.cast(self._factor, handle.dtype), read_value=False)
        with tf.control_dependencies([decayed]):
            return super()._resource_apply_dense(grad, handle)


def make_optimizer(name: str, rate: tf.Tensor, weight_decay: float) -> tf.train.Optimizer:
    """'adam' (Kingma & Ba 2015), 'adamw' or 'sgd'. Raises KeyError for another name."""
    return {'adam': lambda: tf.train.AdamOptimizer(rate), 'adamw': lambda: _AdamW(rate, weight_decay),
            'sgd': lambda: tf.train.GradientDescentOptimizer(rate)}[name]()


def gradients_of(loss, variables: list, differentiate=tf.gradients) -> list:
    """Dense gradients of a scalar with respect to variables, by tf.gradients or a function like it.

    Differentiates with respect to every read of a variable, and puts the parts together itself: tf.gradients would turn a
    dense gradient, met by that of a few gathered rows, into sparse ones and back, in several copies of the whole variable.
    """
    reads = [[op.outputs[0] for op in variable.handle.consumers() if op.type == 'ReadVariableOp']
             for variable in variables]
    arrived = iter(differentiate(loss, [read for of_variable in reads for read in of_variable]))
    return [_total(variable, [next(arrived) for _ in of_variable]) for variable, of_variable in zip(variables, reads)]


def _total(variable, parts):
    """The sum of gradients of a variable, dense or of some rows (IndexedSlices); those that are None count as zero."""
    dense = [part for part in parts if isinstance(part, tf.Tensor)]
    total = tf.add_n(dense) if len(dense) > 1 else dense[0] if dense else tf.zeros(variable.shape, variable.dtype)
    for part in parts:
        if isinstance(part, tf.IndexedSlices):
            total = tf.tensor_scatter_nd_add(total, part.indices[:, None], part.values)     # in place if no one else reads
    return total


def global_norm(gradients: list):
    """The Euclidean length of all gradients as one vector."""
    return tf.sqrt(2 * tf.add_n([tf.nn.l2_loss(gradient) for gradient in gradients]))


def clip(gradients: list, norm, most: float) -> list:
    """Scales gradients of length `norm` down to the length `most`, if they are longer (Pascanu et al. 2013)."""
    factor = most / tf.maximum(norm, most)
    return [gradient * factor for gradient in gradients]


class TrainStep:
    """One update of `variables` against the gradient of `loss`, averaged over `accumulate` batches.

    memory_saving: recompute activations between the graph's checkpoints instead of keeping them. clip_norm: most length
    of the gradient; 0 leaves it as it is, and lets each variable be updated as soon as its own gradient is there.
    initializer: the op that sets the optimizer's state to its beginning.
    """

    def __init__(self, loss, variables, *, optimizer='adam', accumulate=1, memory_saving=False, clip_norm=0.0,
                 weight_decay=0.0):
        self._loss, self._accumulate = loss, accumulate
        self._rate = tf.placeholder(tf.float32, [], 'learning_rate')
        differentiate = memory_saving_gradients.gradients if memory_saving else tf.gradients
        gradients = gradients_of(loss, variables, differentiate)
        if accumulate > 1:
            self._accumulator = Accumulator(gradients)
            gradients = self._accumulator.mean(accumulate)
        self._norm = global_norm(gradients)
        if clip_norm:
            gradients = clip(gradients, self._norm, clip_norm)
        optimizer = make_optimizer(optimizer, self._rate, weight_decay)
        self._update = optimizer.apply_gradients(zip(gradients, variables))
        self.initializer = _initializer(optimizer.variables())

    def run(self, session: tf.Session, feeds: list[dict], rate: float) -> tuple[float, float]:
        """Makes one update from `accumulate` feeds, one for each batch. Returns their mean loss and the gradient's norm."""
        if self._accumulate == 1:
            [feed] = feeds
            loss, norm, _ = session.run([self._loss, self._norm, self._update], {**feed, self._rate: rate})
            return float(loss), float(norm)
        ops = [self._accumulator.first] + [self._accumulator.add] * (len(feeds) - 1)
        losses = [session.run([self._loss, op], feed)[0] for feed, op in zip(feeds, ops)]
        norm, _ = session.run([self._norm, self._update], {self._rate: rate})
        return float(sum(losses) / len(losses)), float(norm)


def _initializer(state: list) -> tf.Operation:
    """Sets an optimizer's variables to their beginning: moments to zero, the rest by their own initializers.

    Zeros that TensorFlow knows to be zeros are folded into constants, which the session keeps for good, as much memory
    again as the moments; or merged into one tensor, which the first update would have to copy. These are drawn.
    """
    return tf.group(*(v.assign(tf.floor(tf.random.uniform(v.shape))) if v.shape.rank else v.initializer for v in state))
