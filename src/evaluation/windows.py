"""What an evaluation scores: windows that slide over a corpus, and the text that the scored tokens stand for. Numpy only.

A window reads `length` tokens and gives a prediction of the token after each. The first window of a chunk stands at its
beginning, and all its predictions count. Each later one stands `stride` tokens further, the last one less, so that it ends
with the chunk; of its predictions only those count that no window before it made. So every token of a chunk but the first is
scored exactly once, from at least length - stride + 1 tokens before it, or all there are:

    length 4, stride 2, tokens a b c d e f g h: abcd -> bcde, cdef -> fg, defg -> h
"""

import codecs
import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from encoder import Encoder

BLOCK = 2 ** 16     # tokens turned into text at a time


class Batch(NamedTuple):
    """Windows side by side. weights are 1 where a prediction counts, 0 elsewhere."""
    inputs: np.ndarray      # [batch, length] int32
    labels: np.ndarray      # [batch, length] int32, the token after each of the inputs
    weights: np.ndarray     # [batch, length] float32


def first_windows(chunks: Iterable[np.ndarray], length: int) -> Iterator[tuple[np.ndarray, int]]:
    """The first window of each chunk, with the token after it, and how many of its predictions count: all."""
    for chunk in chunks:
        if len(chunk) > 1:
            yield chunk[:length + 1], min(length, len(chunk) - 1)


def later_windows(chunks: Iterable[np.ndarray], length: int, stride: int) -> Iterator[tuple[np.ndarray, int]]:
    """The other windows, as `first_windows` gives the first ones: of their predictions the last ones count."""
    for chunk in chunks:
        last = len(chunk) - 1
        for scored in range(length, last, stride):
            end = min(scored + stride, last)
            yield chunk[end - length:end + 1], end - scored


def batches(windows: Iterable[tuple[np.ndarray, int]], length: int, batch_size: int) -> Iterator[Batch]:
    """batch_size windows at a time; the last batch may be smaller. A window shorter than `length` is filled up behind."""
    windows = iter(windows)
    while some := list(itertools.islice(windows, batch_size)):
        inputs, labels = np.zeros([2, len(some), length], np.int32)
        weights = np.zeros([len(some), length], np.float32)
        for row, (tokens, scored) in enumerate(some):
            n = len(tokens) - 1
            inputs[row, :n], labels[row, :n] = tokens[:-1], tokens[1:]
            weights[row, n - scored:n] = 1
        yield Batch(inputs, labels, weights)


def scored_tokens(chunks: Iterable[np.ndarray]) -> int:
    """How many tokens of a corpus are scored: all but the first of each chunk."""
    return sum(max(len(chunk) - 1, 0) for chunk in chunks)


def measure_text(encoder: Encoder, chunks: Iterable[np.ndarray]) -> tuple[int, int]:
    """UTF-8 bytes, and words, of the text that the scored tokens of a corpus stand for.

    Words are what white space separates, as Unicode knows it; chunks, and documents within a chunk, separate them too. The
    end-of-text token has no bytes.
    """
    [newline] = encoder.encode('\n')
    n_bytes = n_words = 0
    for chunk in chunks:
        decoder = codecs.getincrementaldecoder('utf-8')('replace')      # a character may lie in two blocks
        within_word = False
        for start in range(1, len(chunk), BLOCK):
            block = np.asarray(chunk[start:start + BLOCK])
            ends = block == encoder.end_of_text
            content = encoder.decode_bytes(np.where(ends, newline, block).tolist())
            text = decoder.decode(content, final=start + BLOCK >= len(chunk))
            n_bytes += len(content) - int(ends.sum())
            if text:
                n_words += len(text.split()) - (within_word and not text[0].isspace())
                within_word = not text[-1].isspace()
    return n_bytes, n_words
