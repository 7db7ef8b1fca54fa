"""A cluster without machines, and workers of it without a server: for tests of one process among several."""

import dataclasses
import types
from collections.abc import Callable

from workers.cluster import Cluster


@dataclasses.dataclass(frozen=True, init=False)
class FakeCluster(Cluster):
    """`count` workers a:1, b:1, …, of which all are there at first.

    gone: answers which of some workers are gone. asked: of whom that was asked, each time.
    """
    answer: Callable
    asked: list

    def __init__(self, count: int, index: int = 0, gone: Callable[[list], list] = lambda among: []):
        super().__init__(tuple(f'{chr(ord("a") + i)}:1' for i in range(count)), index)
        object.__setattr__(self, 'answer', gone)
        object.__setattr__(self, 'asked', [])

    def wait_for_all(self, timeout: float) -> None:
        pass

    def gone(self, among) -> list[int]:
        self.asked.append(list(among))
        return self.answer(among)


def fake_workers(cluster: FakeCluster, watch=None, **timeouts):
    """Workers of a fake cluster."""
    from workers.collectives import Workers
    return Workers(cluster, watch=watch, listen=lambda _: types.SimpleNamespace(target=''), **timeouts)
