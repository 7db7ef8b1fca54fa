"""Windows that slide over a corpus to score each token once; numpy only.

A window has `length` tokens and predicts the token after each. All predictions of a chunk's first window count. Each later
window starts `stride` tokens further, the last one less, so that it ends with the chunk; of its predictions, those count
that no earlier window made. So every token of a chunk but the first is scored exactly once, from the length - stride + 1
tokens before it or more, if there are so many:

    length 4, stride 2, tokens a b c d e f g h: abcd -> bcde, cdef -> fg, defg -> h
"""

import codecs
import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from corpus.chunks import Chunk
from encoder import Encoder

BLOCK = 2 ** 16     # tokens to decode at a time


class Batch(NamedTuple):
    """Several windows. weights: 1 for predictions that count, else 0."""
    inputs: np.ndarray      # [batch, length] int32
    labels: np.ndarray      # [batch, length] int32, the token after each of the inputs
    weights: np.ndarray     # [batch, length] float32


def first_windows(chunks: Iterable[Chunk], length: int) -> Iterator[tuple[np.ndarray, int]]:
    """The first window of each chunk, with the token after it, and how many of its last predictions count: all."""
    for chunk in chunks:
        if len(chunk) > 1:
            yield chunk[:length + 1], min(length, len(chunk) - 1)


def later_windows(chunks: Iterable[Chunk], length: int, stride: int) -> Iterator[tuple[np.ndarray, int]]:
    """The other windows, each with the token after it, and how many of its last predictions count."""
    for chunk in chunks:
        last = len(chunk) - 1
        for scored in range(length, last, stride):
            end = min(scored + stride, last)
            yield chunk[end - length:end + 1], end - scored


def batches(windows: Iterable[tuple[np.ndarray, int]], length: int, batch_size: int) -> Iterator[Batch]:
    """Batches of batch_size windows, the last one of those left. Pads windows shorter than `length` on the right."""
    windows = iter(windows)
    while batch := list(itertools.islice(windows, batch_size)):
        inputs, labels = np.zeros([2, len(batch), length], np.int32)
        weights = np.zeros([len(batch), length], np.float32)
        for row, (tokens, scored) in enumerate(batch):
            n = len(tokens) - 1
            inputs[row, :n], labels[row, :n] = tokens[:-1], tokens[1:]
            weights[row, n - scored:n] = 1
        yield Batch(inputs, labels, weights)


def scored_tokens(chunks: Iterable[Chunk]) -> int:
    """How many tokens of a corpus are scored: all but the first of each chunk."""
    return sum(max(len(chunk) - 1, 0) for chunk in chunks)


def measure_text(encoder: Encoder, chunks: Iterable[Chunk]) -> tuple[int, int]:
    """How many UTF-8 bytes, and how many words, the scored tokens of a corpus make.

    Unicode's white space, chunks, and documents within a chunk separate words. The end-of-text token has no bytes.
    """
    [newline] = encoder.encode('\n')
    n_bytes = n_words = 0
    for chunk in chunks:
        decoder = codecs.getincrementaldecoder('utf-8')('replace')      # a character may span two blocks
        in_word = False
        for start in range(1, len(chunk), BLOCK):
            block = np.asarray(chunk[start:start + BLOCK])
            ends = block == encoder.end_of_text
            content = encoder.decode_bytes(np.where(ends, newline, block).tolist())
            text = decoder.decode(content, final=start + BLOCK >= len(chunk))
            n_bytes += len(content) - int(ends.sum())
            if text:
                n_words += len(text.split()) - (in_word and not text[0].isspace())      # it was counted in the last block
                in_word = not text[-1].isspace()
    return n_bytes, n_words
