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
    # If they were asked for, of each token: the tokens that were the most likely there, the first one most so, and their
    # log-probabilities, as pairs.
    alternatives: list[list[tuple[int, float]]] | None = None


class Batch(NamedTuple):
    """Several windows, and which of their predictions to score."""
    inputs: np.ndarray      # [rows, sequence] int32, padded on the right
    columns: np.ndarray     # [m] int32: the indices, in the flattened inputs, of the tokens after which to predict
    labels: np.ndarray      # [m] int32: the tokens that follow those


def log_probabilities(chunks: Iterable[np.ndarray], run: Callable[[Batch], list[np.ndarray]], *, length: int, stride: int,
                      batch_size: int, count: int | None = None, scored: Callable[[int], None] = lambda count: None
                      ) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """Yields each chunk with what was found of its tokens but the first, [len(chunk) - 1, ...], in order.

    That is the log-probabilities, float32, and, with a count, so many of the most likely tokens and their log-probabilities.

    Windows of `length` tokens slide over a chunk, `stride` apart (see corpus.windows). Those of many chunks are sorted by
    length, so that little is padding; a batch has as many tokens as batch_size windows of `length`, or fewer. run: from a
    batch to these arrays, [m, ...] for its m labels. Calls `scored` with the number of tokens of each batch. Raises
    UserError if a log-probability is NaN or infinite.
    """
    for group in _groups(chunks, SORTED_BATCHES * batch_size * length):
        found = [_empty(max(len(chunk) - 1, 0), count) for chunk in group]
        pending = []        # windows with the token after each, and the parts of `found` for its predictions
        for chunk, result in zip(group, found):
            end = 0
            for window, new in itertools.chain(windows.first_windows([chunk], length),
                                               windows.later_windows([chunk], length, stride)):
                pending.append((window, [array[end:end + new] for array in result]))
                end += new
        pending.sort(key=lambda part: len(part[0]), reverse=True)
        start = 0
        while start < len(pending):
            rows = max(batch_size * length // (len(pending[start][0]) - 1), 1)
            part, start = pending[start:start + rows], start + rows
            values = run(_batch(part))
            if not np.isfinite(values[0]).all():
                raise diverged(-values[0].sum())
            ends = np.cumsum([len(result[0]) for _, result in part])
            for array, value in zip(zip(*(result for _, result in part)), values, strict=True):
                for each, new in zip(array, np.split(value, ends[:-1])):
                    each[:] = new
            scored(len(values[0]))
        yield from zip(group, found)


def _empty(n: int, count: int | None) -> list[np.ndarray]:
    """Arrays for what is found of n tokens (see log_probabilities)."""
    best = [] if count is None else [np.empty([n, count], np.int32), np.empty([n, count], np.float32)]
    return [np.empty(n, np.float32), *best]


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


def _batch(part: list[tuple[np.ndarray, list[np.ndarray]]]) -> Batch:
    """Windows with the token after each, the longest first, and arrays of as many elements as predictions count."""
    sequence = len(part[0][0]) - 1
    inputs, columns, labels = np.zeros([len(part), sequence], np.int32), [], []
    for row, (window, result) in enumerate(part):
        n, count = len(window) - 1, len(result[0])
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


def score(tokens: np.ndarray, found: list[np.ndarray], n_bytes: int) -> Score:
    """The score of a text from its tokens [n], and what `log_probabilities` found of them."""
    values, *best = found
    alternatives = [list(zip(*pair)) for pair in zip(*(each.tolist() for each in best))] if best else None
    result = figures(-float(values.sum(dtype=np.float64)), tokens=len(tokens), words=0, n_bytes=n_bytes)
    return Score(tokens, values, n_bytes, result['loss'], result['perplexity'], result['bits_per_byte'], alternatives)


def diverged(loss: float) -> UserError:
    """The error for a loss that is NaN or infinite."""
    return UserError(f'the loss is {loss}: the model\'s weights are damaged, or its training diverged')
