"""Watching the other workers of a run: a process whose others are gone or silent ends, as none can continue alone."""

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

from command.errors import leave
from workers.cluster import PARENT, Cluster


class Watch:
    """Worker 0 watches all others, the others watch worker 0: whether their ports still answer, and how long a sum waits.

    timeout: seconds that a sum may wait for the others. every: seconds between two looks. look_for: seconds for which a worker
    that is lost to TensorFlow is looked for. leave: ends the process with a message.

    undisturbed: a lock, held while nothing must be cut off although a worker is gone. waiting_since: time.monotonic() of when
    a sum began to wait for the others.
    """

    def __init__(self, cluster: Cluster, timeout: float, *, every: float = 1.0, look_for: float = 2.0,
                 leave: Callable[[str], None] = leave):
        self._cluster, self._timeout, self._every, self._look_for, self._leave = cluster, timeout, every, look_for, leave
        self.undisturbed = threading.Lock()
        self.waiting_since = math.inf
        self._ended = threading.Event()

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    def start(self) -> None:
        threading.Thread(target=self.watch, daemon=True).start()

    def end(self) -> None:
        self._ended.set()

    def watch(self) -> None:
        """Ends this process soon after another one ended, or when it is silent; returns after `end`.

        The time that sums wait is measured here: when TensorFlow's runtime itself gives one up, it may crash before the error
        is reported. Of workers that one command started (see workers.local), each stops politely when that command is gone.
        """
        others = range(1, self._cluster.count) if self._cluster.index == 0 else [0]
        parent = int(os.environ.get(PARENT, '0'))
        while not self._ended.wait(self._every):
            if parent and parent != os.getppid():
                parent = 0
                os.kill(os.getpid(), signal.SIGTERM)    # a request to stop; a second one would end the process unsaved
            gone = self._cluster.gone(others)
            if gone and not self.ended:     # the end may have come while the ports were tried
                with self.undisturbed:
                    self._leave(self._farewell(gone))
            if time.monotonic() - self.waiting_since > self._timeout:
                self._leave(silence(self._timeout))

    def report_lost(self, error: Exception) -> None:
        """Ends this process after TensorFlow's error about another worker, with the name of the one that is gone, if one is."""
        end = time.monotonic() + self._look_for
        while time.monotonic() < end:       # the connections of a process may be closed a while before its port
            if gone := self._cluster.gone(range(self._cluster.count)):
                return self._leave(self._farewell(gone))
            time.sleep(0.1)
        lines = [line for line in error.message.splitlines() if line and not line.startswith('Graph execution error')]
        self._leave(f'the workers lost each other ({lines[0] if lines else type(error).__name__}): start them all again')

    def _farewell(self, gone: list[int]) -> str:
        names = ', '.join(map(self._cluster.name, gone))
        # The command that started these workers starts them again, and prints so.
        advice = '' if PARENT in os.environ else ': start all workers again, they go on from the last checkpoint'
        return f'{names} went away{advice}'


def silence(timeout: float) -> str:
    """The message about a worker that does not answer."""
    return (f'a worker did not answer within --dist_timeout {timeout:g} seconds: it may be stopped, or cut off; '
            'start all workers again, they go on from the last checkpoint')


@contextlib.contextmanager
def alarm(seconds: float, message: str) -> Iterator[None]:
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
