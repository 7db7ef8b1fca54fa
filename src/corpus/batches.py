"""Draws batches for training and validation, the next one ahead."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from corpus.chunks import Corpus
from load_dataset import Sampler


class DrawAhead:
    """Calls `draw()` ahead of time: whenever a result is taken, a thread draws the next one.

    generators: the random number generators that `draw` uses; nothing else may use them after the first `take`.
    """

    def __init__(self, draw: Callable[[], Any], generators: dict[str, np.random.Generator]):
        self._draw, self._generators = draw, generators
        self._thread = ThreadPoolExecutor(1)
        self._next: Future | None = None

    def take(self):
        """The next result of `draw`. Raises what `draw` raised."""
        _, drawn = (self._next or self._thread.submit(self._prepare)).result()
        self._next = self._thread.submit(self._prepare)
        return drawn

    def states(self) -> dict[str, dict]:
        """The generators' states before the draw that `take` returns next, as if nothing had been drawn ahead."""
        return self._next.result()[0] if self._next else self._states()

    def close(self) -> None:
        self._thread.shutdown()

    def _prepare(self) -> tuple[dict[str, dict], Any]:
        return self._states(), self._draw()

    def _states(self) -> dict[str, dict]:
        return {name: generator.bit_generator.state for name, generator in self._generators.items()}


def validation_batches(corpus: Corpus, count: int, batch_size: int, length: int) -> list[np.ndarray]:
    """`count` batches [batch, sequence] of the same samples every time: the seed is fixed."""
    sampler = Sampler(corpus.chunks, seed=1, weights=corpus.weights)
    return [draw_batch(sampler, batch_size, length) for _ in range(count)]


def draw_batch(sampler: Sampler, batch_size: int, length: int, own: slice = slice(None)) -> np.ndarray:
    """Draws a batch of sequences; returns the rows `own` of it, [rows, sequence]."""
    return np.stack([sampler.sample(length) for _ in range(batch_size)][own])
