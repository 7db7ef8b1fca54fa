"""Splits a corpus into tokens for training and for validation."""

import collections
import itertools

import numpy as np

from command.errors import UserError
from corpus.chunks import Chunk, Corpus, Joined
from corpus.token_files import PIECE

NEAR = 0.25     # how far from the share whole documents may be, compared with the smaller of the two parts


def hold_out(corpus: Corpus, end_of_text: int, share: float) -> tuple[Corpus, Corpus]:
    """The corpus to train on, and a random `share` of it in one chunk for each weight. No token is in both.

    These are that share of the documents, whole, if they have about as large a share of the tokens. If documents are few or
    uneven, random documents of each weight until they have that share of its tokens, and of the last one only its end. The
    choice is the same every time. Documents are what end_of_text separates; they are not copied. Raises UserError if nothing is
    left to train on.
    """
    documents = [_documents(chunk, end_of_text) for chunk in corpus.chunks]
    given = corpus.weights or list(itertools.repeat(1.0, len(documents)))
    bounds = np.concatenate(documents)
    held = _held_out(bounds[:, 1] - bounds[:, 0], np.repeat(given, list(map(len, documents))), share)
    train, weights, held_out = [], [], collections.defaultdict(list)
    held = np.split(held, np.cumsum([len(bounds) for bounds in documents])[:-1])
    for chunk, weight, bounds, count in zip(corpus.chunks, given, documents, held):
        cut = bounds[:, 1] - count
        if leave := _runs(chunk, np.stack([cut, bounds[:, 1]], axis=1)):
            held_out[weight] += leave
        if stay := _runs(chunk, np.stack([bounds[:, 0], cut], axis=1)):
            train.append(Joined(stay, end_of_text))
            weights.append(weight)
    if not train:
        raise UserError(f'--val_split {share:g} leaves nothing to train on: give a smaller share, or more text')
    joined = [Joined(parts, end_of_text) for parts in held_out.values()]
    weighted = corpus.weights is not None
    return Corpus(train, weights if weighted else None), Corpus(joined, list(held_out) if weighted else None)


def _held_out(sizes: np.ndarray, weights: np.ndarray, share: float) -> np.ndarray:
    """How many tokens to hold out of the end of each document, which has so many tokens and such a weight; all [documents]."""
    order = np.random.default_rng(1).permutation(len(sizes))
    chosen = order[:min(max(round(share * len(sizes)), 1), len(sizes) - 1)]
    held = np.zeros_like(sizes)
    held[chosen] = sizes[chosen]
    if not _near(held.sum(), share, sizes.sum()):
        for weight in set(weights.tolist()):
            of_weight = order[weights[order] == weight]
            held[of_weight] = _held_out_in_order(sizes[of_weight], share)
    return held


def _held_out_in_order(sizes: np.ndarray, share: float) -> np.ndarray:
    """The first documents, whole, until they have a share of the tokens, then the end of the next one. [documents]

    Documents of 4, 4 and 4 tokens, share 1/2: [4, 2, 0]. Only whole ones if that comes near the share.
    """
    total = int(sizes.sum())
    most = max(total - 1, 1) if share < 1 else total
    target, before = min(max(round(share * total), 1), most), sizes.cumsum() - sizes
    held = np.clip(target - before, 0, sizes)
    last = int(np.flatnonzero(held)[-1])
    for count in (sizes[last], 0):
        if _near(before[last] + count, share, total):
            held[last] = count
    return held


def _near(count: int, share: float, total: int) -> bool:
    """Whether so many tokens are nearly a share of the total."""
    return abs(count - share * total) <= NEAR * min(share, 1 - share) * total


def _documents(chunk: Chunk, end_of_text: int) -> np.ndarray:
    """Start and stop of each document that is not empty, [documents, 2]: 1 2 9 9 3, split at 9 -> [[0, 2], [4, 5]]."""
    ends = [np.empty(0, np.intp)]
    for start in range(0, len(chunk), PIECE):
        ends.append(start + np.flatnonzero(chunk[start:start + PIECE] == end_of_text))
    ends = np.concatenate(ends)
    bounds = np.stack([np.append(0, ends + 1), np.append(ends, len(chunk))], axis=1)
    return bounds[bounds[:, 0] < bounds[:, 1]]


def _runs(chunk: Chunk, bounds: np.ndarray) -> list[tuple[Chunk, int, int]]:
    """The documents of a chunk with these bounds, as parts of it, without empty ones; neighbours become one part."""
    bounds = bounds[bounds[:, 0] < bounds[:, 1]]
    runs = np.split(bounds, np.flatnonzero(bounds[1:, 0] != bounds[:-1, 1] + 1) + 1) if len(bounds) else []
    return [(chunk, int(run[0, 0]), int(run[-1, 1])) for run in runs]
