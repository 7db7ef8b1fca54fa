"""Scores texts token by token, in batches of similar length; figures."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from command.errors import UserError
from corpus import windows

SORTED_BATCHES = 8      # of windows that are sorted by length together, and held in memory


class Score(NamedTuple):
    """How well a model predicts a text. The figures are None for a text without tokens, or bytes (see `figures`)."""
    tokens: np.ndarray                  # [n] their ids
    log_probabilities: np.ndarray       # [n] float32: of each token after those before it, in nats
    n_bytes: int                        # of UTF-8; the end-of-text token has none
    loss: float | None                  # mean, in nats per token
    perplexity: float | None            # exp(loss), per token
    bits_per_byte: float | None


class Batch(NamedTuple):
    """Several windows, and which of their predictions to score."""
    inputs: np.ndarray      # [rows, sequence] int32, padded on the right
    columns: np.ndarray     # [m] int32: the indices, in the flattened inputs, of the tokens after which to predict
    labels: np.ndarray      # [m] int32: the tokens that follow those


def log_probabilities(chunks: Iterable[np.ndarray], run: Callable[[Batch], np.ndarray], *, length: int, stride: int,
                      batch_size: int, scored: Callable[[int], None] = lambda count: None
                      ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields each chunk with the log-probabilities of its tokens but the first, [len(chunk) - 1] float32, in order.

    Windows of `length` tokens slide over a chunk, `stride` apart (see corpus.windows). Those of many chunks are sorted by
    length, so that little is padding; a batch has as many tokens as batch_size windows of `length`, or fewer. run: from a
    batch to the log-probabilities [m] of its labels. Calls `scored` with the number of tokens of each batch. Raises
    UserError if a log-probability is NaN or infinite.
    """
    for group in _groups(chunks, SORTED_BATCHES * batch_size * length):
        found = [np.empty(max(len(chunk) - 1, 0), np.float32) for chunk in group]
        pending = []        # windows with the token after each, and the part of `found` for its predictions
        for chunk, result in zip(group, found):
            end = 0
            for window, count in itertools.chain(windows.first_windows([chunk], length),
                                                 windows.later_windows([chunk], length, stride)):
                pending.append((window, result[end:end + count]))
                end += count
        pending.sort(key=lambda part: len(part[0]), reverse=True)
        start = 0
        while start < len(pending):
            rows = max(batch_size * length // (len(pending[start][0]) - 1), 1)
            part, start = pending[start:start + rows], start + rows
            values = run(_batch(part))
            if not np.isfinite(values).all():
                raise diverged(-values.sum())
            ends = np.cumsum([len(result) for _, result in part])
            for (_, result), new in zip(part, np.split(values, ends[:-1])):
                result[:] = new
            scored(len(values))
        yield from zip(group, found)


def _groups(chunks: Iterable[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    """Groups of successive chunks with about `size` tokens together."""
    group, held = [], 0
    for chunk in chunks:
        group.append(chunk)
        held += max(len(chunk), 1)
        if held >= size:
            yield group
            group, held = [], 0
    if group:
        yield group


def _batch(part: list[tuple[np.ndarray, np.ndarray]]) -> Batch:
    """Windows with the token after each, the longest first, and arrays of as many elements as predictions count."""
    sequence = len(part[0][0]) - 1
    inputs, columns, labels = np.zeros([len(part), sequence], np.int32), [], []
    for row, (window, result) in enumerate(part):
        n, count = len(window) - 1, len(result)
        inputs[row, :n] = window[:-1]
        columns.append(np.arange(n - count, n) + row * sequence)
        labels.append(window[len(window) - count:])
    return Batch(inputs, np.concatenate(columns), np.concatenate(labels))


def figures(total_loss: float, *, tokens: int, words: int, n_bytes: int) -> dict:
    """Mean loss, perplexities and bits per byte, from a sum of losses in nats and the size of the scored text.

    None for a figure of a text without tokens, words or bytes, and for a perplexity too large for a float.
    """
    return {'loss': total_loss / tokens if tokens else None, 'perplexity': _perplexity(total_loss, tokens),
            'word_perplexity': _perplexity(total_loss, words),
            'bits_per_byte': total_loss / math.log(2) / n_bytes if n_bytes else None}


def _perplexity(total_loss: float, n: int) -> float | None:
    try:
        return math.exp(total_loss / n) if n else None
    except OverflowError:
        return None


def score(tokens: np.ndarray, log_probabilities: np.ndarray, n_bytes: int) -> Score:
    """The score of a text from the log-probabilities of its tokens, both [n]."""
    found = figures(-float(log_probabilities.sum(dtype=np.float64)), tokens=len(tokens), words=0, n_bytes=n_bytes)
    return Score(tokens, log_probabilities, n_bytes, found['loss'], found['perplexity'], found['bits_per_byte'])


def diverged(loss: float) -> UserError:
    """The error for a loss that is NaN or infinite."""
    return UserError(f'the loss is {loss}: the model\'s weights are damaged, or its training diverged')
