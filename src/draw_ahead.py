"""Batches drawn ahead: while a step runs, a thread prepares what the next one takes."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np


class DrawAhead:
    """Hands out what `draw()` gives, time after time; the next is drawn in a thread as soon as one has been handed out.

    generators: the sources of random numbers that `draw` takes from, and nobody else, once the first has been taken.
    """

    def __init__(self, draw: Callable[[], Any], generators: dict[str, np.random.Generator]):
        self._draw, self._generators = draw, generators
        self._thread = ThreadPoolExecutor(1)
        self._next: Future | None = None

    def take(self):
        """The next draw. Raises what `draw` raised."""
        _, drawn = (self._next or self._thread.submit(self._prepare)).result()
        self._next = self._thread.submit(self._prepare)
        return drawn

    def states(self) -> dict[str, dict]:
        """The generators' states as if nothing had been drawn ahead: those from which the next draw is made."""
        return self._next.result()[0] if self._next else self._states()

    def close(self) -> None:
        self._thread.shutdown()

    def _prepare(self) -> tuple[dict[str, dict], Any]:
        return self._states(), self._draw()

    def _states(self) -> dict[str, dict]:
        return {name: generator.bit_generator.state for name, generator in self._generators.items()}
