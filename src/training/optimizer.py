"""From a loss to an update: schedule, gradients, clipping, optimizer."""

import math

import numpy as np
import tensorflow.compat.v1 as tf

import memory_saving_gradients
from accumulate import Accumulator
from training.adafactor import AdafactorOptimizer
from workers.collectives import Workers

UPDATES = ('ResourceApply', 'AssignSub')    # how the types of the ops that update a variable begin
IN_FLIGHT = 4       # blocks whose gradients may still travel between workers while the backward pass continues

# The share of the peak learning rate at a share of the run, 0 to 1 (cosine: Loshchilov & Hutter 2017).
SCHEDULES = {
    'constant': lambda done: 1.0,
    'linear': lambda done: 1 - done,
    'cosine': lambda done: (1 + math.cos(math.pi * done)) / 2,
}


def learning_rate(step: int, *, peak: float, schedule: str = 'constant', warmup_steps: int = 0,
                  max_steps: int = 0) -> float:
    """The learning rate of update `step`, counted from 1: a linear rise over warmup_steps, then the schedule.

    'linear' and 'cosine' end at max_steps. 'relative', Adafactor's own, is min(0.01, 1 / sqrt(step)), whatever the peak
    (Shazeer & Stern 2018).
    """
    if schedule == 'relative':
        return min(0.01, step ** -0.5) * min(step / max(warmup_steps, 1), 1)
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


def make_optimizer(name: str, rate: tf.Tensor, weight_decay: float, scale_parameter: bool) -> tf.train.Optimizer:
    """'adam' (Kingma & Ba 2015), 'adamw', 'adafactor' or 'sgd'. Raises KeyError for another name."""
    return {'adam': lambda: tf.train.AdamOptimizer(rate), 'adamw': lambda: _AdamW(rate, weight_decay),
            'adafactor': lambda: AdafactorOptimizer(rate, scale_parameter),
            'sgd': lambda: tf.train.GradientDescentOptimizer(rate)}[name]()


def gradients_of(loss, variables: list, tensors: list = (), differentiate=tf.gradients) -> tuple[list, list]:
    """Dense gradients of a scalar with respect to variables, and its gradients with respect to tensors.

    differentiate: tf.gradients, or a function like it. It gets every read of a variable, whose gradients are added here:
    tf.gradients would add a dense gradient and one of a few gathered rows in several copies as large as the variable.
    """
    reads = [[op.outputs[0] for op in variable.handle.consumers() if op.type == 'ReadVariableOp']
             for variable in variables]
    arrived = iter(differentiate(loss, [read for of_variable in reads for read in of_variable] + list(tensors)))
    totals = [_total(variable, [next(arrived) for _ in of_variable]) for variable, of_variable in zip(variables, reads)]
    return totals, list(arrived)


def _total(variable, parts):
    """The sum of a variable's gradients: dense ones, some rows (IndexedSlices), or None for zero.

    Rows are added to a dense gradient in place, so nothing else may read that.
    """
    dense = [part for part in parts if isinstance(part, tf.Tensor)]
    total = tf.add_n(dense) if len(dense) > 1 else dense[0] if dense else tf.zeros(variable.shape, variable.dtype)
    for part in parts:
        if isinstance(part, tf.IndexedSlices):
            rows, segments = tf.unique(part.indices)        # each row once: a GPU writes them all at the same time
            sums = tf.math.unsorted_segment_sum(part.values, segments, tf.size(rows))
            total = tf.raw_ops.InplaceAdd(x=total, i=rows, v=sums)
    return total


def _depending(tensors: list, variables: list) -> list:
    """Those of tensors that depend on variables: the backward pass ends above the others."""
    reached = {variable.handle.op for variable in variables}
    for op in variables[0].graph.get_operations():      # ops follow their inputs
        if any(source.op in reached for source in op.inputs):
            reached.add(op)
    return [tensor for tensor in tensors if tensor.op in reached]


def update_early(variables: list, arrivals: list, behind: int = 0) -> None:
    """Makes the backward pass wait, before each of `arrivals`, for the updates that are possible `behind` arrivals earlier.

    arrivals: gradients in the order in which they are computed, each from the one before it, such as those of the blocks'
    outputs. Without this, the executor may leave all updates for the end, when the gradients together take as much memory
    as the weights.
    """
    last = {arrival.op: i for i, arrival in enumerate(arrivals)}    # op -> index of the last arrival that it depends on
    for op in arrivals[0].graph.get_operations():
        sources = [*op.control_inputs, *(source.op for source in op.inputs)]
        last[op] = max([last.get(op, -1), *(last.get(source, -1) for source in sources)])
    for op in {op for variable in variables for op in variable.handle.consumers() if op.type.startswith(UPDATES)}:
        for arrival in arrivals[last[op] + 1 + behind:][:1]:
            arrival.op._add_control_input(op)       # as TensorFlow's own automatic control dependencies do


def global_norm(gradients: list):
    """The Euclidean length of all gradients as one vector."""
    return tf.sqrt(2 * tf.add_n([tf.nn.l2_loss(gradient) for gradient in gradients]))


def clip(gradients: list, norm, most: float) -> list:
    """Scales gradients of length `norm` down to the length `most`, if they are longer (Pascanu et al. 2013)."""
    factor = most / tf.maximum(norm, most)
    return [gradient * factor for gradient in gradients]


def only_if(condition, tensors: list) -> list:
    """The tensors, for an update that must not happen if the condition is false: then no op runs that depends on them.

    A branch of a tf.cond would be a graph of its own, without the optimizer's variables. A Switch itself always runs; what reads
    it is left out: hence the identities, for ops that only wait for a tensor.
    """
    return [tf.identity(tf.raw_ops.Switch(data=tensor, pred=condition).output_true) for tensor in tensors]


class TrainStep:
    """One update of `variables` by the gradient of `loss`, averaged over `accumulate` batches and over all workers.

    memory_saving: recompute activations between the graph's checkpoints instead of keeping them. clip_norm: the largest
    length of the gradient; 0 for no limit, which lets each variable be updated as soon as its own gradient is known.
    scale_parameter: for adafactor, the learning rate is a share of a weight's size.
    reduce_dtype: the dtype of gradients on their way between workers. scale: a placeholder for what the gradients are multiplied
    by, and then divided by; with it, nothing is updated if they are NaN or infinite (see training.loss_scale).
    """

    def __init__(self, loss, variables, *, optimizer='adam', accumulate=1, memory_saving=False, clip_norm=0.0,
                 weight_decay=0.0, scale_parameter=False, workers: Workers | None = None, reduce_dtype=tf.float32, scale=None):
        self._accumulate, self._scale = accumulate, scale
        self._rate = tf.placeholder(tf.float32, [], 'learning_rate')
        self._stop = tf.placeholder(tf.float32, [], 'stop')
        differentiate = memory_saving_gradients.gradients if memory_saving else tf.gradients
        checkpoints = _depending(loss.graph.get_collection('checkpoints'), variables)
        gradients, at_checkpoints = gradients_of(loss, variables, checkpoints, differentiate)
        if accumulate > 1:
            self._accumulator = Accumulator([*gradients, loss])
            *gradients, loss = self._accumulator.mean(accumulate)
        self._workers = workers or Workers()
        gradients, self._loss, self._stops = _mean_over_workers(self._workers, gradients, loss, self._stop, reduce_dtype)
        if scale is not None:
            gradients = [gradient / scale for gradient in gradients]
        self._norm = global_norm(gradients)
        if clip_norm:
            gradients = clip(gradients, self._norm, clip_norm)
        if scale is not None:
            gradients = only_if(tf.is_finite(self._norm), gradients)
        optimizer = make_optimizer(optimizer, self._rate, weight_decay, scale_parameter)
        self._update = optimizer.apply_gradients(zip(gradients, variables))
        arrivals = [gradient for gradient in reversed(at_checkpoints) if gradient is not None]
        if arrivals and accumulate == 1:
            update_early(variables, arrivals, IN_FLIGHT if self._workers.count > 1 else 0)
        self._state = optimizer.variables()

    def initialize(self, session: tf.Session) -> None:
        """Sets the optimizer's moments to zero, and the rest of its state by its own initializers.

        The zeros are fed: those in the graph become constants, which take as much memory as the moments, and stay.
        """
        moments = [variable.initializer for variable in self._state if variable.shape.rank]
        session.run([variable.initializer for variable in self._state],
                    {assign.inputs[1]: np.zeros(assign.inputs[1].shape, np.float32) for assign in moments})

    def run(self, session: tf.Session, feeds: list[dict], rate: float, stop: bool = False,
            scale: float = 1.0) -> tuple[float, float, bool]:
        """Makes one update from `accumulate` feeds, one for each batch.

        Returns the mean loss, the gradient's norm, and whether any worker set `stop`; all workers get the same.
        """
        scaling = {} if self._scale is None else {self._scale: scale}
        feed = {self._rate: rate, self._stop: float(stop)} | scaling
        if self._accumulate == 1:
            feed |= feeds[0]
        else:
            for batch, op in zip(feeds, [self._accumulator.first] + [self._accumulator.add] * (len(feeds) - 1)):
                session.run(op, batch | scaling)
        loss, norm, stops, _ = self._workers.run(session, [self._loss, self._norm, self._stops, self._update], feed)
        return float(loss), float(norm), bool(stops > 0)


def _mean_over_workers(workers: Workers, gradients: list, loss, stop, dtype) -> tuple[list, tf.Tensor, tf.Tensor]:
    """Means over all workers: gradients, loss, and stop flag. Starts with the last gradients, which are computed first."""
    *means, report = workers.mean([*(tf.cast(gradient, dtype) for gradient in reversed(gradients)), tf.stack([loss, stop])])
    return means[::-1], report[0], report[1]
