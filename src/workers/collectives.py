"""Sums over all workers, and values from worker 0, through TensorFlow.

Synchronous data parallelism: each worker holds the complete model and takes its share of every batch; gradients are
summed by a ring all-reduce (Patarasuk & Yuan 2009), TensorFlow's CollectiveReduceV2. Where each worker has a GPU of its own,
NVIDIA's NCCL sums what is on them, and copies nothing through the host. With one worker every sum is the identity.
"""

import contextlib
import hashlib
import itertools
import math
import time
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow.compat.v1 as tf

from command.errors import UserError
from command.machine import gpu_id
from command.tensorflow_setup import open_session, session_config
from workers.cluster import ONE_WORKER, Cluster
from workers.watch import Watch, alarm, silence_message

LEADER = '/job:worker/replica:0/task:0'
HOST_GROUP, DEVICE_GROUP = 1, 2     # group keys: of small arrays on CPUs; of gradients and variables on any device
BUCKET = 32 << 20           # bytes. Larger ones are slower: glibc maps new memory for each message
BROADCAST_TOGETHER = 16     # variables
EXIT_WAIT = 5.0             # seconds that a worker waits for those after it to exit
# What TensorFlow raises when another worker has died, does not answer, or was restarted.
LOST_ERRORS = (tf.errors.UnavailableError, tf.errors.DeadlineExceededError, tf.errors.FailedPreconditionError,
               tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.InternalError, tf.errors.UnknownError)


def _config(cluster: Cluster) -> tf.ConfigProto:
    config = session_config()
    if cluster.count > 1:
        config.device_filters.append(f'/job:worker/task:{cluster.index}')
        config.experimental.collective_group_leader = LEADER
    return config


def start_server(cluster: Cluster) -> tf.distribute.Server:
    """TensorFlow's server of this process. Raises UserError if its port is taken."""
    try:
        return tf.distribute.Server({'worker': list(cluster.addresses)}, job_name='worker', task_index=cluster.index,
                                    config=_config(cluster))
    except tf.errors.OpError as error:
        raise UserError(f'cannot listen at the port of {cluster.name(cluster.index)}: {error.message}; end the process '
                        'that listens there, perhaps an earlier run, or give another port') from None


class Workers:
    """This worker, number `index` of `count`, and its communication with the others; `leads` is True for worker 0.

    timeout: seconds that a sum waits for the other workers. startup_timeout: seconds that the first sum and each
    broadcast wait, as worker 0 first reads the weights. nccl: whether NCCL may sum what is on GPUs; one worker that does not
    want it is enough. All workers must run the same sums in the same order.
    """

    def __init__(self, cluster: Cluster = ONE_WORKER, *, timeout: float = 600.0, startup_timeout: float = 600.0,
                 nccl: bool = True, watch: Watch | None = None,
                 start_server: Callable[[Cluster], tf.distribute.Server] = start_server):
        self._cluster, self._timeout, self._startup_timeout = cluster, timeout, startup_timeout
        self.index, self.count, self.leads = cluster.index, cluster.count, cluster.index == 0
        self._watch = watch or Watch(cluster, timeout)
        self.exit_lock = self._watch.exit_lock
        self._keys, self._may_use_nccl, self._hint = itertools.count(1), nccl, 'auto'
        self._server = start_server(cluster) if self.count > 1 else None

    def session(self, graph: tf.Graph) -> tf.Session:
        """A session on this process's devices that can run sums."""
        return open_session(graph, _config(self._cluster), self._server.target if self._server else '')

    @contextlib.contextmanager
    def connected(self) -> Iterator[None]:
        """Waits at its start for all workers to start, at its end for all to finish; in between, watches for lost ones.

        When another worker is lost this process exits (errors.exit_now), as no worker can continue alone.
        """
        try:
            if self.count > 1:
                self._wait_for_start()
            yield
            self._wait_for_end()
        except UserError as error:
            if error.in_all_workers:
                self._wait_for_end()
            error.skip_cleanup = self.count > 1
            raise
        finally:
            self._watch.end()

    def run(self, session: tf.Session, fetches, feed: dict | None = None):
        """session.run for fetches that contain sums. If TensorFlow reports a lost worker, this process exits."""
        try:
            return session.run(fetches, feed)
        except LOST_ERRORS as error:
            if self.count == 1:
                raise
            if not (self._watch.ended and self.leads):      # at the end worker 0 has saved and needs no others
                self._watch.report_lost(error)
        finally:
            self._watch.waiting_since = math.inf

    def _wait_for_start(self) -> None:
        self._cluster.wait_for_all(self._startup_timeout)
        gpus = np.zeros(self.count, np.int64)
        gpus[self.index] = self._gpu_number()
        with self._startup_alarm():
            gpus = self.sum(gpus)
        if np.all(gpus) and len(np.unique(gpus)) == self.count:     # NCCL does not work with one GPU for two workers
            self._hint = 'nccl'
        self._watch.start()

    def _gpu_number(self) -> int:
        """A number that stands for this worker's GPU; 0 without one, or if NCCL must not use it."""
        used = self._may_use_nccl and tf.config.list_physical_devices('GPU')
        name = gpu_id() if used else None
        return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], 'big') if name else 0

    def _wait_for_end(self) -> None:
        """No worker exits before all have finished: it would look as if it had died.

        The last one exits first: in the ring of the barrier, each still reads from the one before it. To the others, the death
        of worker 0 means that the run may not be saved.
        """
        self._watch.end()
        self.barrier()
        after, end = range(self.index + 1, self.count), time.monotonic() + EXIT_WAIT
        while len(self._cluster.gone(after)) < len(after) and time.monotonic() < end:
            time.sleep(0.1)

    def _startup_alarm(self) -> contextlib.AbstractContextManager:
        return alarm(self._startup_timeout,
                     f'not every worker answered within --dist_startup_timeout {self._startup_timeout:g} seconds: '
                     'one may be frozen, belong to an earlier run, or have other --workers or the same --worker_index')

    def _collective(self, group: int) -> dict:
        return {'group_size': self.count, 'group_key': group, 'instance_key': next(self._keys),
                'communication_hint': self._hint if group == DEVICE_GROUP else 'auto'}

    def all_reduce(self, tensor: tf.Tensor, group: int = DEVICE_GROUP) -> tf.Tensor:
        """The sum of a tensor over all workers; it must have the same shape in each."""
        if self.count == 1:
            return tensor
        return tf.raw_ops.CollectiveReduceV2(input=tensor, merge_op='Add', final_op='Id', ordering_token=[],
                                             **self._collective(group))

    def mean(self, tensors: list) -> list:
        """Means of tensors over all workers, in float32. They are sent in their own dtypes, one flat bucket at a time.

        The network carries few large messages instead of many small ones, and few copies are in memory at a time.
        """
        if self.count == 1:
            return tensors
        flat = [tf.reshape(tensor, [-1]) for tensor in tensors]
        pieces, before = [[] for _ in tensors], []
        for bucket in buckets([tensor.shape.num_elements() for tensor in flat], [tensor.dtype for tensor in flat]):
            with tf.control_dependencies(before):
                local = tf.concat([flat[i][start:stop] for i, start, stop in bucket], 0)
            with tf.control_dependencies([self._note_waiting(local)]):
                total = self.all_reduce(local)
            before = [total]
            mean = tf.split(tf.cast(total, tf.float32) / self.count, [stop - start for _, start, stop in bucket])
            for (i, _, _), piece in zip(bucket, mean):
                pieces[i].append(piece)
        return [tf.reshape(tf.concat(parts, 0), tensor.shape) for parts, tensor in zip(pieces, tensors)]

    def _note_waiting(self, tensor: tf.Tensor) -> tf.Operation:
        """An op that notes the time at which a tensor is computed: its sum waits for the other workers from then on."""
        def note():
            self._watch.waiting_since = time.monotonic()

        with tf.control_dependencies([tensor]), tf.device('/cpu:0'):
            return tf.numpy_function(note, [], [])

    def sum(self, array: np.ndarray) -> np.ndarray:
        """The sum of an array over all workers, in a graph of its own, run immediately."""
        if self.count == 1:
            return array
        with tf.Graph().as_default() as graph, tf.device('/cpu:0'):
            total = self.all_reduce(tf.constant(array), HOST_GROUP)
        with self.session(graph) as session, alarm(self._timeout, silence_message(self._timeout)):
            return self.run(session, total)

    def barrier(self) -> None:
        """Waits until every worker has called it."""
        self.sum(np.zeros(1, np.int32))

    def gather(self, text: str) -> list[str]:
        """The texts of all workers, by index."""
        data = np.frombuffer(text.encode(), np.uint8)
        lengths = self.sum(self._own_row(np.array([len(data)]), 1))
        table = self.sum(self._own_row(data, lengths.max()))
        return [row[:length].astype(np.uint8).tobytes().decode() for row, [length] in zip(table, lengths)]

    def _own_row(self, values: np.ndarray, width: int) -> np.ndarray:
        """[count, width], zero except for this worker's row; the sum of all workers' tables has every row."""
        table = np.zeros((self.count, width), np.int32)
        table[self.index, :len(values)] = values
        return table

    def broadcast(self, session: tf.Session, variables: list) -> None:
        """Sets variables to the values that they have in worker 0."""
        if self.count == 1:
            return
        with session.graph.as_default():
            ops = [self._broadcast_op(variable) for variable in variables]
        for start in range(0, len(ops), BROADCAST_TOGETHER):
            with self._startup_alarm():
                self.run(session, ops[start:start + BROADCAST_TOGETHER])

    def _broadcast_op(self, variable) -> tf.Operation:
        common = self._collective(DEVICE_GROUP)
        # Smaller types cannot travel; float32 has all their values.
        dtype = tf.float32 if variable.dtype in (tf.int8, tf.bfloat16) else variable.dtype
        if self.leads:
            return tf.raw_ops.CollectiveBcastSendV2(input=tf.cast(variable.read_value(), dtype), **common).op
        value = tf.raw_ops.CollectiveBcastRecvV2(T=dtype, shape=variable.shape, **common)
        return variable.assign(tf.cast(value, variable.dtype), read_value=False)


def buckets(sizes: list[int], dtypes: list[tf.DType]) -> list[list[tuple[int, int, int]]]:
    """Divides flat tensors, in their order, into messages: lists of (tensor, start, stop), in elements.

    A bucket has at most BUCKET bytes, of one dtype: [5, 2, 9] elements in buckets of six give
    [[(0, 0, 5), (1, 0, 1)], [(1, 1, 2), (2, 0, 5)], [(2, 5, 9)]].
    """
    result, room, dtype_before = [], 0, None
    for i, (size, dtype) in enumerate(zip(sizes, dtypes)):
        start = 0
        while start < size:
            if not room or dtype != dtype_before:
                result.append([])
                room, dtype_before = BUCKET // dtype.size, dtype
            stop = min(start + room, size)
            result[-1].append((i, start, stop))
            room -= stop - start
            start = stop
    return result
