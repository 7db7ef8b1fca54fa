"""Batches of sequences: drawing one, drawing those for validation, drawing the next while a step runs."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from load_dataset import Sampler


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


def validation_batches(chunks: list[np.ndarray], count: int, batch_size: int, length: int) -> list[np.ndarray]:
    """Batches [batch, sequence] with a seed of their own, so that every run and every step validates on the same."""
    sampler = Sampler(chunks, seed=1)
    return [draw_batch(sampler, batch_size, length) for _ in range(count)]


def draw_batch(sampler: Sampler, batch_size: int, length: int, own: slice = slice(None)) -> np.ndarray:
    """Draws a batch of sequences; returns those of the rows `own`, [batch, sequence]."""
    return np.stack([sampler.sample(length) for _ in range(batch_size)][own])
