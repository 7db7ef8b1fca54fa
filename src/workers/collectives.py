"""Workers that train together, on TensorFlow's own cluster runtime: sums over all of them, and values from the first.

Synchronous data parallelism: each worker holds the whole model and takes its share of every batch; gradients are summed by
a ring all-reduce (Patarasuk & Yuan 2009), TensorFlow's CollectiveReduceV2. With one worker every sum is the identity.
"""

import contextlib
import itertools
import math
import time
from collections.abc import Iterator

import numpy as np
import tensorflow.compat.v1 as tf

from command.errors import UserError
from command.tensorflow_setup import session_config
from workers.cluster import ONE_WORKER, Cluster
from workers.watch import Watch, alarm, silence

LEADER = '/job:worker/replica:0/task:0'
HOST_GROUP, DEVICE_GROUP = 1, 2     # keys: of a few numbers, which live on CPUs; of gradients, wherever they are
BUCKET = 32 << 20           # bytes. Larger ones are slower: glibc maps new memory for each message
BROADCAST_AT_ONCE = 16      # variables
LEAVE_LAST = 5.0            # seconds that worker 0 waits for the others to leave
# What TensorFlow says when another worker is dead, silent, or another process than it was.
LOST = (tf.errors.UnavailableError, tf.errors.DeadlineExceededError, tf.errors.FailedPreconditionError,
        tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.InternalError, tf.errors.UnknownError)


def _config(cluster: Cluster) -> tf.ConfigProto:
    config = session_config()
    if cluster.count > 1:
        config.device_filters.append(f'/job:worker/task:{cluster.index}')
        config.experimental.collective_group_leader = LEADER
    return config


def listen(cluster: Cluster) -> tf.distribute.Server:
    """Starts TensorFlow's server of this process. Raises UserError if its port is taken."""
    try:
        return tf.distribute.Server({'worker': list(cluster.addresses)}, job_name='worker', task_index=cluster.index,
                                    config=_config(cluster))
    except tf.errors.OpError as error:
        raise UserError(f'cannot listen at the port of {cluster.name(cluster.index)}: {error.message}; end what '
                        'listens there, perhaps an earlier run, or give another port') from None


class Workers:
    """All workers of a run as one of them sees them: it is number `index` of `count`; number 0 leads.

    timeout: seconds that a sum waits for the others; startup_timeout: that the first one does, and a broadcast, before which
    worker 0 reads what it sends. Sums are made in the same order by every worker.
    """

    def __init__(self, cluster: Cluster = ONE_WORKER, *, timeout: float = 600.0, startup_timeout: float = 600.0, watch=None,
                 listen=listen):
        self._cluster, self._timeout, self._startup_timeout = cluster, timeout, startup_timeout
        self.index, self.count, self.leads = cluster.index, cluster.count, cluster.index == 0
        self._watch = watch or Watch(cluster, timeout)
        self.undisturbed = self._watch.undisturbed
        self._keys = itertools.count(1)
        self._server = listen(cluster) if self.count > 1 else None

    def session(self, graph: tf.Graph) -> tf.Session:
        """A session on this process's devices, in which sums can be run."""
        return tf.Session(self._server.target if self._server else '', graph=graph, config=_config(self._cluster))

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Waits for all workers to come, watches that none goes away, and ends when all have come to the end.

        A process whose others are gone, or silent, ends here and now (errors.leave): none can go on alone.
        """
        try:
            if self.count > 1:
                self._meet()
            yield
            self._watch.end()
            self._part()
        except UserError as error:
            error.at_once = self.count > 1
            raise
        finally:
            self._watch.end()

    def run(self, session: tf.Session, fetches, feed: dict | None = None):
        """session.run of what has sums in it.

        If TensorFlow's runtime says that another worker is gone this process leaves before anything is torn down.
        """
        try:
            return session.run(fetches, feed)
        except LOST as error:
            if self.count == 1:
                raise
            if not (self._watch.ended and self.leads):      # at the end worker 0 has saved, and needs nobody any more
                self._watch.report_lost(error)
        finally:
            self._watch.waiting_since = math.inf

    def _meet(self) -> None:
        self._cluster.wait_for_all(self._startup_timeout)
        with self._until_started():
            self.barrier()
        self._watch.start()

    def _part(self) -> None:
        """Ends when all workers are here, before which none may leave: it would look like a death.

        Worker 0 leaves last: its death would mean that the run may not be saved.
        """
        self.barrier()
        end = time.monotonic() + LEAVE_LAST
        while self.leads and len(self._cluster.gone(range(self.count))) + 1 < self.count and time.monotonic() < end:
            time.sleep(0.1)

    def _until_started(self) -> contextlib.AbstractContextManager:
        return alarm(self._startup_timeout, f'not every worker answered within --dist_startup_timeout {self._startup_timeout:g} '
                                             'seconds: one of them may be stopped, belong to an earlier run, or have been given '
                                             'other --workers or the same --worker_index')

    def _collective(self, group: int) -> dict:
        return {'group_size': self.count, 'group_key': group, 'instance_key': next(self._keys), 'communication_hint': 'auto'}

    def all_reduce(self, tensor: tf.Tensor, group: int = DEVICE_GROUP) -> tf.Tensor:
        """The sum over all workers of a tensor, which has the same shape with each."""
        if self.count == 1:
            return tensor
        return tf.raw_ops.CollectiveReduceV2(input=tensor, merge_op='Add', final_op='Id', ordering_token=[],
                                             **self._collective(group))

    def mean(self, tensors: list) -> list:
        """Means over all workers of tensors, in float32. They travel as they are, in flat buckets, one after the other.

        So a network sees few large messages in place of many small ones, and little is there twice.
        """
        if self.count == 1:
            return tensors
        flat = [tf.reshape(tensor, [-1]) for tensor in tensors]
        pieces, before = [[] for _ in tensors], []
        for bucket in buckets([tensor.shape.num_elements() for tensor in tensors], [tensor.dtype for tensor in tensors]):
            with tf.control_dependencies(before):
                ours = tf.concat([flat[i][start:stop] for i, start, stop in bucket], 0)
            with tf.control_dependencies([self._waits(ours)]):
                total = self.all_reduce(ours)
            before = [total]
            mean = tf.split(tf.cast(total, tf.float32) / self.count, [stop - start for _, start, stop in bucket])
            for (i, _, _), piece in zip(bucket, mean):
                pieces[i].append(piece)
        return [tf.reshape(tf.concat(parts, 0), tensor.shape) for parts, tensor in zip(pieces, tensors)]

    def _waits(self, tensor: tf.Tensor) -> tf.Operation:
        """An op that notes when a tensor is there, from when on the others are waited for."""
        def note():
            self._watch.waiting_since = time.monotonic()

        with tf.control_dependencies([tensor]), tf.device('/cpu:0'):
            return tf.numpy_function(note, [], [])

    def sum(self, array: np.ndarray) -> np.ndarray:
        """The sum over all workers of an array, at once."""
        if self.count == 1:
            return array
        with tf.Graph().as_default() as graph, tf.device('/cpu:0'):
            total = self.all_reduce(tf.constant(array), HOST_GROUP)
        with self.session(graph) as session, alarm(self._timeout, silence(self._timeout)):
            return self.run(session, total)

    def barrier(self) -> None:
        """Waits until every worker is here."""
        self.sum(np.zeros(1, np.int32))

    def gather(self, text: str) -> list[str]:
        """The texts of all workers, in their order."""
        data = np.frombuffer(text.encode(), np.uint8)
        lengths = self.sum(self._own_row(np.array([len(data)]), 1))
        table = self.sum(self._own_row(data, lengths.max()))
        return [row[:length].astype(np.uint8).tobytes().decode() for row, [length] in zip(table, lengths)]

    def _own_row(self, values: np.ndarray, width: int) -> np.ndarray:  # -> [worker, width]
        table = np.zeros((self.count, width), np.int32)
        table[self.index, :len(values)] = values
        return table

    def broadcast(self, session: tf.Session, variables: list) -> None:
        """Gives variables the values that they have with worker 0."""
        if self.count == 1:
            return
        with session.graph.as_default():
            ops = [self._broadcast(variable) for variable in variables]
        for start in range(0, len(ops), BROADCAST_AT_ONCE):
            with self._until_started():
                self.run(session, ops[start:start + BROADCAST_AT_ONCE])

    def _broadcast(self, variable) -> tf.Operation:
        common = self._collective(DEVICE_GROUP)
        if self.leads:
            return tf.raw_ops.CollectiveBcastSendV2(input=variable.read_value(), **common).op
        value = tf.raw_ops.CollectiveBcastRecvV2(T=variable.dtype, shape=variable.shape, **common)
        return variable.assign(value, read_value=False)


def buckets(sizes: list[int], dtypes: list[tf.DType]) -> list[list[tuple[int, int, int]]]:
    """What travels together of tensors of some sizes, in their order: (tensor, start, stop) of its elements.

    A bucket takes BUCKET bytes, or what there is left of one dtype: [5, 2, 9] elements in buckets of six give
    [[(0, 0, 5), (1, 0, 1)], [(1, 1, 2), (2, 0, 5)], [(2, 5, 9)]].
    """
    found, room, dtype_before = [], 0, None
    for i, (size, dtype) in enumerate(zip(sizes, dtypes)):
        start = 0
        while start < size:
            if not room or dtype != dtype_before:
                found.append([])
                room, dtype_before = BUCKET // dtype.size, dtype
            stop = min(start + room, size)
            found[-1].append((i, start, stop))
            room -= stop - start
            start = stop
    return found
