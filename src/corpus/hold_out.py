"""Splitting a corpus into documents to train on and documents to validate on."""

import numpy as np

from command.errors import UserError
from corpus.token_files import PIECE, Joined, joined, release


def hold_out(chunks: list[np.ndarray], end_of_text: int, share: float
             ) -> tuple[list[np.ndarray | Joined], list[np.ndarray | Joined]]:
    """Splits a corpus into chunks to train on, and one of the documents that are held out: `share` of them, at least one.

    The same ones each time. Documents are what end_of_text separates; they stay where they are, and are not copied.
    Raises UserError if there is only one.
    """
    documents = [_documents(chunk, end_of_text) for chunk in chunks]
    total = sum(map(len, documents))
    if total < 2:
        raise UserError('--val_split needs a corpus of two documents or more (files, or texts with <|endoftext|> between '
                        'them); give --val_dataset in its place')
    count = min(max(round(share * total), 1), total - 1)
    chosen = np.zeros(total, bool)
    chosen[np.random.default_rng(1).permutation(total)[:count]] = True
    train, held_out = [], []
    for chunk, places, out in zip(chunks, documents, np.split(chosen, np.cumsum([len(places) for places in documents]))):
        held_out += _runs(chunk, places[out])
        if stay := _runs(chunk, places[~out]):
            train.append(joined(stay, end_of_text))
    return train, [joined(held_out, end_of_text)]


def _documents(chunk: np.ndarray, end_of_text: int) -> np.ndarray:
    """Where documents start and stop that are not empty, [documents, 2]: 1 2 9 9 3 with end_of_text 9 -> [0, 2], [4, 5]."""
    ends = [np.empty(0, np.intp)]
    for start in range(0, len(chunk), PIECE):
        ends.append(start + np.flatnonzero(chunk[start:start + PIECE] == end_of_text))
        release([chunk])
    ends = np.concatenate(ends)
    places = np.stack([np.append(0, ends + 1), np.append(ends, len(chunk))], axis=1)
    return places[places[:, 0] < places[:, 1]]


def _runs(chunk: np.ndarray, places: np.ndarray) -> list[np.ndarray]:
    """Views of the documents of a chunk at these places, neighbours together with the end-of-text token between them."""
    runs = np.split(places, np.flatnonzero(places[1:, 0] != places[:-1, 1] + 1) + 1) if len(places) else []
    return [chunk[run[0, 0]:run[-1, 1]] for run in runs]
