"""Workers that train together, on TensorFlow's own cluster runtime: sums over all of them, and values from the first.

Synchronous data parallelism: each worker holds the whole model and takes its share of every batch; gradients are summed by
a ring all-reduce (Patarasuk & Yuan 2009), TensorFlow's CollectiveReduceV2. With one worker every sum is the identity.
"""

import contextlib
import itertools
import math
import os
import signal
import threading
import time
from collections.abc import Iterator

import numpy as np
import tensorflow.compat.v1 as tf

import cluster as clusters
from cluster import ONE_WORKER, Cluster
from errors import UserError, leave
from runtime import session_config

LEADER = '/job:worker/replica:0/task:0'
HOST_GROUP, DEVICE_GROUP = 1, 2     # keys: of a few numbers, which live on CPUs; of gradients, wherever they are
BUCKET = 32 << 20           # bytes. Larger ones are slower: glibc maps new memory for each message
BROADCAST_AT_ONCE = 16      # variables
WATCH_EVERY = 1.0           # seconds
LOOK_FOR = 2.0              # seconds for one that is gone
LEAVE_LAST = 5.0            # seconds that worker 0 waits for the others to leave
# What TensorFlow says when another worker is dead, silent, or another process than it was.
LOST = (tf.errors.UnavailableError, tf.errors.DeadlineExceededError, tf.errors.FailedPreconditionError,
        tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.InternalError, tf.errors.UnknownError)


class Workers:
    """All workers of a run as one of them sees them: it is number `index` of `count`; number 0 leads.

    timeout: seconds that a sum waits for the others; startup_timeout: that the first one does, and a broadcast, before which
    worker 0 reads what it sends. Sums are made in the same order by every worker.
    """

    def __init__(self, cluster: Cluster = ONE_WORKER, *, timeout: float = 600.0, startup_timeout: float = 600.0):
        self._cluster, self._timeout, self._startup_timeout = cluster, timeout, startup_timeout
        self.index, self.count, self.leads = cluster.index, cluster.count, cluster.index == 0
        self.undisturbed = threading.Lock()     # to be held while nothing must be cut off, although a worker is gone
        self._keys = itertools.count(1)
        self._ended = threading.Event()
        self._waiting_since = math.inf      # time.monotonic() of when a sum in a step began to wait for the others
        self._server = self._listen() if self.count > 1 else None

    def _listen(self) -> tf.distribute.Server:
        try:
            return tf.distribute.Server({'worker': list(self._cluster.addresses)}, job_name='worker',
                                        task_index=self.index, config=self._config())
        except tf.errors.OpError as error:
            raise UserError(f'cannot listen at the port of {self._cluster.name(self.index)}: {error.message}; end what '
                            'listens there, perhaps an earlier run, or give another port') from None

    def _config(self) -> tf.ConfigProto:
        config = session_config()
        if self.count > 1:
            config.device_filters.append(f'/job:worker/task:{self.index}')
            config.experimental.collective_group_leader = LEADER
        return config

    def session(self, graph: tf.Graph) -> tf.Session:
        """A session on this process's devices, in which sums can be run."""
        return tf.Session(self._server.target if self._server else '', graph=graph, config=self._config())

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Waits for all workers to come, watches that none goes away, and ends when all have come to the end.

        A process whose others are gone, or silent, ends here and now (errors.leave): none can go on alone.
        """
        try:
            if self.count > 1:
                self._meet()
            yield
            self._ended.set()
            self._part()
        except UserError as error:
            error.at_once = self.count > 1
            raise
        finally:
            self._ended.set()

    def run(self, session: tf.Session, fetches, feed: dict | None = None):
        """session.run of what has sums in it.

        If TensorFlow's runtime says that another worker is gone this process leaves before anything is torn down.
        """
        try:
            return session.run(fetches, feed)
        except LOST as error:
            if self.count == 1:
                raise
            if not (self._ended.is_set() and self.leads):   # at the end worker 0 has saved, and needs nobody any more
                leave(self._what_is_lost(error))
        finally:
            self._waiting_since = math.inf

    def _meet(self) -> None:
        clusters.wait_for_all(self._cluster, self._startup_timeout)
        with self._until_started():
            self.barrier()
        threading.Thread(target=self._watch, daemon=True).start()

    def _part(self) -> None:
        """Ends when all workers are here, before which none may leave: it would look like a death.

        Worker 0 leaves last: its death would mean that the run may not be saved.
        """
        self.barrier()
        end = time.monotonic() + LEAVE_LAST
        while self.leads and len(clusters.gone(self._cluster, range(self.count))) + 1 < self.count and time.monotonic() < end:
            time.sleep(0.1)

    def _until_started(self) -> contextlib.AbstractContextManager:
        return _alarm(self._startup_timeout, f'not every worker answered within --dist_startup_timeout {self._startup_timeout:g} '
                                             'seconds: one of them may be stopped, belong to an earlier run, or have been given '
                                             'other --workers or the same --worker_index')

    def _watch(self) -> None:
        """Ends this process soon after another one ended, or when it is silent.

        Worker 0 looks after all, the others after worker 0. The time that sums wait is measured here: where TensorFlow's
        runtime itself gives one up, it may crash before it says so. Of workers that one command started (see
        local_workers), each stops politely when that command is gone.
        """
        others = range(1, self.count) if self.leads else [0]
        parent = int(os.environ.get(clusters.PARENT, '0'))
        while not self._ended.wait(WATCH_EVERY):
            if parent and parent != os.getppid():
                parent = 0
                os.kill(os.getpid(), signal.SIGTERM)    # a request to stop, which is once enough
            gone = clusters.gone(self._cluster, others)
            if gone and not self._ended.is_set():       # while it was looked for them
                with self.undisturbed:
                    leave(self._farewell(gone))
            if time.monotonic() - self._waiting_since > self._timeout:
                leave(self._silence())

    def _what_is_lost(self, error: tf.errors.OpError) -> str:
        end = time.monotonic() + LOOK_FOR
        while time.monotonic() < end:       # the connections of a process may be closed a while before its port
            if gone := clusters.gone(self._cluster, range(self.count)):
                return self._farewell(gone)
            time.sleep(0.1)
        lines = [line for line in error.message.splitlines() if line and not line.startswith('Graph execution error')]
        return f'the workers lost each other ({lines[0] if lines else type(error).__name__}): start them all again'

    def _silence(self) -> str:
        return (f'a worker did not answer within --dist_timeout {self._timeout:g} seconds: it may be stopped, or cut off; '
                'start all workers again, they go on from the last checkpoint')

    def _farewell(self, gone: list[int]) -> str:
        names = ', '.join(map(self._cluster.name, gone))
        # The command that started these workers starts them again, and says so.
        advice = '' if clusters.PARENT in os.environ else ': start all workers again, they go on from the last checkpoint'
        return f'{names} went away{advice}'

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
            self._waiting_since = time.monotonic()

        with tf.control_dependencies([tensor]), tf.device('/cpu:0'):
            return tf.numpy_function(note, [], [])

    def sum(self, array: np.ndarray) -> np.ndarray:
        """The sum over all workers of an array, at once."""
        if self.count == 1:
            return array
        with tf.Graph().as_default() as graph, tf.device('/cpu:0'):
            total = self.all_reduce(tf.constant(array), HOST_GROUP)
        with self.session(graph) as session, _alarm(self._timeout, self._silence()):
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


@contextlib.contextmanager
def _alarm(seconds: float, message: str) -> Iterator[None]:
    """Leaves with a message if what is done takes longer.

    TensorFlow asks worker 0 before the first run of a graph with sums, and waits for its answer past every timeout.
    """
    timer = threading.Timer(seconds, leave, [message])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


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
