"""A cluster without processes or servers, to test one worker of several in this process."""

import types
from collections.abc import Callable

from workers.cluster import Cluster


class FakeCluster(Cluster):
    """`count` workers a:1, b:1, …, which have all started.

    gone: stands in for Cluster.gone; by default no worker has died. asked: the indices of each call of it. timeouts:
    those of each call of wait_for_all.
    """

    def __init__(self, count: int, index: int = 0, gone: Callable[[list], list] = lambda indices: []):
        super().__init__(tuple(f'{chr(ord("a") + i)}:1' for i in range(count)), index)
        self.__dict__.update(_gone=gone, asked=[], timeouts=[])     # Cluster is frozen

    def wait_for_all(self, timeout: float) -> None:
        self.timeouts.append(timeout)

    def gone(self, indices) -> list[int]:
        self.asked.append(list(indices))
        return self._gone(indices)


def fake_workers(cluster: FakeCluster, watch=None, sum: Callable | None = None, **timeouts):
    """Workers of a fake cluster. sum: stands in for Workers.sum, which would wait for the others."""
    from workers.collectives import Workers
    workers = Workers(cluster, watch=watch, start_server=lambda _: types.SimpleNamespace(target=''), **timeouts)
    if sum:
        workers.sum = sum
    return workers
