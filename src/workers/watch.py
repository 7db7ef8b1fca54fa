"""Exiting when another worker of the run has died or does not answer."""

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

from command.errors import exit_now
from workers.cluster import PARENT, Cluster

RESTART = 'start all workers again; they resume from the last checkpoint'


class Watch:
    """Worker 0 watches all others, and they watch worker 0: whether the ports are open, and how long a sum waits.

    timeout: seconds that a sum may wait for the others. interval: seconds between two checks. search_seconds: how long
    to look for the dead worker after TensorFlow reported a lost one. exit: ends the process with a message.

    exit_lock: hold it during work that the death of another worker must not interrupt, such as a save. waiting_since:
    the time.monotonic() at which the current sum began to wait for the others.
    """

    def __init__(self, cluster: Cluster, timeout: float, *, interval: float = 1.0, search_seconds: float = 2.0,
                 exit: Callable[[str], None] = exit_now):
        self._cluster, self._timeout, self._exit = cluster, timeout, exit
        self._interval, self._search_seconds = interval, search_seconds
        self.exit_lock = threading.Lock()
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
        """Until `end`, checks whether a watched worker has died or a sum waits too long, and then ends this process.

        Sums are timed here because TensorFlow's runtime may crash when its own timeout ends one, before it reports the
        error. A worker of --local_workers (see workers.local) stops, after saving, when the command that started it has
        died.
        """
        others = range(1, self._cluster.count) if self._cluster.index == 0 else [0]
        parent = int(os.environ.get(PARENT, '0'))
        while not self._ended.wait(self._interval):
            if parent and parent != os.getppid():
                parent = 0
                os.kill(os.getpid(), signal.SIGTERM)    # a request to stop; a second one would end the process unsaved
            gone = self._cluster.gone(others)
            # What ended the other, such as a loss of NaN, may be ending this one too, which then reports it.
            if gone and not self._ended.wait(self._interval):
                with self.exit_lock:
                    self._exit(self._death_message(gone))
            if time.monotonic() - self.waiting_since > self._timeout:
                self._exit(silence_message(self._timeout))

    def report_lost(self, error: Exception) -> None:
        """Ends this process after TensorFlow reported a lost worker; the message names it if its port is closed."""
        end = time.monotonic() + self._search_seconds
        while time.monotonic() < end:       # the connections of a process may close a while before its port
            if gone := self._cluster.gone(range(self._cluster.count)):
                return self._exit(self._death_message(gone))
            time.sleep(0.1)
        lines = [line for line in error.message.splitlines() if line and not line.startswith('Graph execution error')]
        self._exit(f'lost the connection to another worker ({lines[0] if lines else type(error).__name__}): {RESTART}')

    def _death_message(self, gone: list[int]) -> str:
        # A command that started its workers starts them again, and reports that itself.
        advice = '' if PARENT in os.environ else f': {RESTART}'
        return f'{", ".join(map(self._cluster.name, gone))} died{advice}'


def silence_message(timeout: float) -> str:
    return (f'a worker did not answer within --dist_timeout {timeout:g} seconds, it may be frozen or its network down: '
            f'{RESTART}')


@contextlib.contextmanager
def alarm(seconds: float, message: str) -> Iterator[None]:
    """Ends this process with a message if the block takes longer.

    TensorFlow asks worker 0 before the first run of a graph with sums, and no timeout of its own limits that wait.
    """
    timer = threading.Timer(seconds, exit_now, [message])
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
