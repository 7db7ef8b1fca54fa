"""Windows of many texts in batches, against each token by itself; figures of a text by hand."""

import math

import numpy as np
import pytest

from command.errors import UserError
from sampling import scores

SIZES = [3, 1, 2, 40, 0, 9, 2, 8, 25, 1, 10, 2]     # tokens, the first one included, which is not scored


def chunks_of(sizes):
    rng = np.random.default_rng(1)
    return [rng.integers(1, 50, size).astype(np.uint16) for size in sizes]


def value(context, label):
    """Stands for a log-probability: no two contexts or labels of a test have the same."""
    return np.float32(-(label + 50.0 * sum(token * 1.1 ** i for i, token in enumerate(context))))


class Reader:
    """A `run` for log_probabilities that keeps its batches."""

    def __init__(self):
        self.batches = []

    def __call__(self, batch):
        self.batches.append(batch)
        rows, places = np.divmod(batch.columns, batch.inputs.shape[1])
        return [np.array([value(batch.inputs[row, :place + 1].tolist(), int(label))
                          for row, place, label in zip(rows, places, batch.labels)])]


def expected(chunk, length, stride):
    found = []
    for i in range(1, len(chunk)):
        # The window's end: that of the first, or a multiple of the stride further, but not beyond the chunk.
        end = min(length + -(-max(i - length, 0) // stride) * stride, len(chunk) - 1)
        found.append(value(chunk[max(end - length, 0):i].tolist(), int(chunk[i])))
    return found


@pytest.mark.parametrize('batch_size', [1, 2, 3, 100])
@pytest.mark.parametrize(('length', 'stride'), [(8, 4), (8, 8), (8, 3), (5, 1), (1, 1), (64, 32)])
def test_each_token_is_predicted_from_its_window(length, stride, batch_size):
    chunks, scored = chunks_of(SIZES), []
    reader = Reader()
    found = list(scores.log_probabilities(iter(chunks), reader, length=length, stride=stride, batch_size=batch_size,
                                          scored=scored.append))
    assert [chunk.tolist() for chunk, _ in found] == [chunk.tolist() for chunk in chunks]
    for chunk, [values] in found:
        assert values.tolist() == expected(chunk, length, stride)
    assert sum(scored) == sum(max(size - 1, 0) for size in SIZES)
    assert scored == [len(batch.labels) for batch in reader.batches]
    assert max(batch.inputs.size for batch in reader.batches) <= batch_size * length
    assert all(batch.inputs.dtype == np.int32 for batch in reader.batches)


def test_little_is_padding_and_short_texts_share_a_batch():
    reader = Reader()
    sizes = np.random.default_rng(2).permutation([3] * 80 + [33] * 8 + [17] * 8)
    list(scores.log_probabilities(chunks_of(sizes), reader, length=32, stride=16, batch_size=4))
    assert [batch.inputs.shape for batch in reader.batches] == [(4, 32), (4, 32), (8, 16), (64, 2), (16, 2)]


def test_few_texts_are_in_memory():
    taken = []
    source = (taken.append(1) or np.ones(size, np.uint16) for size in [3] * 1000 + [1] * 1000)
    results = scores.log_probabilities(source, Reader(), length=4, stride=2, batch_size=2)
    group = -(-scores.SORTED_BATCHES * 8 // 3)
    next(results)
    assert len(taken) == group
    for _ in range(group):
        next(results)
    assert len(taken) == 2 * group
    for _ in range(1000):       # on to those without a token to score
        next(results)
    assert len(taken) < 1000 + 2 * scores.SORTED_BATCHES * 8


@pytest.mark.parametrize(('bad', 'name'), [(np.nan, 'nan'), (-np.inf, 'inf')])
def test_a_log_probability_that_is_no_number_is_refused(bad, name):
    def run(batch):
        return [np.where(batch.labels == 7, bad, -1.0)]
    fine, wrong = np.array([1, 2, 3]), np.array([1, 7, 3])
    assert len(list(scores.log_probabilities([fine], run, length=4, stride=2, batch_size=2))) == 1
    with pytest.raises(UserError, match=f'the loss is {name}: the model'):
        list(scores.log_probabilities([fine, wrong], run, length=4, stride=2, batch_size=2))


def test_a_score_by_hand():
    # Half, a quarter, half: 4 bits, of 3 tokens and 5 bytes.
    found = scores.score(np.array([5, 6, 7]), [np.float32([-math.log(2), -math.log(4), -math.log(2)])], 5)
    assert (found.tokens.tolist(), found.n_bytes) == ([5, 6, 7], 5)
    assert found.loss == pytest.approx(4 * math.log(2) / 3)
    assert found.perplexity == pytest.approx(2 ** (4 / 3))
    assert found.bits_per_byte == pytest.approx(4 / 5)
    assert found.alternatives is None


def test_alternatives_belong_to_their_tokens():
    def run(batch):
        best = np.stack([batch.labels, batch.labels + 1], axis=1)
        return [-1.0 - batch.labels, best, -best.astype(np.float32)]
    chunks = chunks_of(SIZES)
    for chunk, found in scores.log_probabilities(chunks, run, length=8, stride=3, batch_size=2, count=2):
        score = scores.score(chunk[1:], found, 1)
        assert score.alternatives == [[(token, -token), (token + 1, -token - 1)] for token in chunk[1:].tolist()]


def test_many_tokens_are_summed_in_double_precision():
    found = scores.score(np.zeros(2 ** 24 + 8), [np.full(2 ** 24 + 8, -1, np.float32)], 1)
    assert found.loss == 1
    ones = np.full(10 ** 6, -0.1, np.float32)
    assert scores.score(ones, [ones], 1).loss == pytest.approx(float(np.float32(0.1)), rel=1e-12)


def test_figures_that_do_not_exist():
    found = scores.figures(10.0, tokens=2, words=0, n_bytes=0)
    assert (found['loss'], found['word_perplexity'], found['bits_per_byte']) == (5, None, None)
    assert scores.figures(1e6, tokens=100000, words=1, n_bytes=1)['word_perplexity'] is None
    empty = scores.score(np.array([]), [np.array([], np.float32)], 0)
    assert (empty.loss, empty.perplexity, empty.bits_per_byte) == (None, None, None)
    assert math.copysign(1, scores.figures(0.0, tokens=1, words=1, n_bytes=1)['loss']) == 1
