"""Splits a corpus into documents for training and for validation."""

import collections
import itertools

import numpy as np

from command.errors import UserError
from corpus.chunks import Chunk, Corpus, Joined
from corpus.token_files import PIECE


def hold_out(corpus: Corpus, end_of_text: int, share: float) -> tuple[Corpus, Corpus]:
    """The corpus to train on, and a random `share` of the documents, at least one, in one chunk for each weight.

    The choice is the same every time. Documents are what end_of_text separates; they are not copied. Raises UserError
    if there is only one.
    """
    documents = [_documents(chunk, end_of_text) for chunk in corpus.chunks]
    total = sum(map(len, documents))
    if total < 2:
        raise UserError('--val_split needs a corpus of two documents or more (files, or texts with <|endoftext|> '
                        'between them); give --val_dataset instead')
    count = min(max(round(share * total), 1), total - 1)
    chosen = np.zeros(total, bool)
    chosen[np.random.default_rng(1).permutation(total)[:count]] = True
    train, weights, held_out = [], [], collections.defaultdict(list)
    chosen = np.split(chosen, np.cumsum([len(bounds) for bounds in documents]))
    for chunk, weight, bounds, out in zip(corpus.chunks, corpus.weights or itertools.repeat(1.0), documents, chosen):
        if leave := _runs(chunk, bounds[out]):
            held_out[weight] += leave
        if stay := _runs(chunk, bounds[~out]):
            train.append(Joined(stay, end_of_text))
            weights.append(weight)
    joined = [Joined(parts, end_of_text) for parts in held_out.values()]
    weighted = corpus.weights is not None
    return Corpus(train, weights if weighted else None), Corpus(joined, list(held_out) if weighted else None)


def _documents(chunk: Chunk, end_of_text: int) -> np.ndarray:
    """Start and stop of each document that is not empty, [documents, 2]: 1 2 9 9 3, split at 9 -> [[0, 2], [4, 5]]."""
    ends = [np.empty(0, np.intp)]
    for start in range(0, len(chunk), PIECE):
        ends.append(start + np.flatnonzero(chunk[start:start + PIECE] == end_of_text))
    ends = np.concatenate(ends)
    bounds = np.stack([np.append(0, ends + 1), np.append(ends, len(chunk))], axis=1)
    return bounds[bounds[:, 0] < bounds[:, 1]]


def _runs(chunk: Chunk, bounds: np.ndarray) -> list[tuple[Chunk, int, int]]:
    """The documents of a chunk with these bounds, as parts of it; neighbours become one part."""
    runs = np.split(bounds, np.flatnonzero(bounds[1:, 0] != bounds[:-1, 1] + 1) + 1) if len(bounds) else []
    return [(chunk, int(run[0, 0]), int(run[-1, 1])) for run in runs]
