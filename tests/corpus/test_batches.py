"""batches.py: drawing ahead changes neither the order of the draws nor the generators' states that are reported."""

import threading

import numpy as np
import pytest

from corpus.batches import DrawAhead, draw_batch, validation_batches
from corpus.chunks import Corpus
from load_dataset import Sampler


@pytest.fixture
def drawing():
    """(a DrawAhead of three random numbers, its generator, the event that each draw sets)"""
    rng, drawn = np.random.default_rng(5), threading.Event()

    def draw():
        values = rng.random(3).tolist()
        drawn.set()
        return values
    ahead = DrawAhead(draw, {'data': rng})
    yield ahead, rng, drawn
    ahead.close()


def test_order(drawing):
    ahead, _, _ = drawing
    rng = np.random.default_rng(5)
    assert [ahead.take() for _ in range(4)] == [rng.random(3).tolist() for _ in range(4)]


def test_nothing_is_drawn_before_the_first_take_and_one_ahead_after_it(drawing):
    ahead, rng, drawn = drawing
    assert ahead.states() == {'data': np.random.default_rng(5).bit_generator.state} and not drawn.is_set()
    ahead.take()
    drawn.clear()
    ahead.take()
    assert drawn.wait(30)       # by the thread
    ahead.close()
    reference = np.random.default_rng(5)
    reference.random(9)
    assert rng.bit_generator.state == reference.bit_generator.state


def test_states_do_not_include_what_was_drawn_ahead(drawing):
    ahead, _, _ = drawing
    for taken in range(4):
        reference = np.random.default_rng(5)
        reference.random(3 * taken)
        assert ahead.states() == {'data': reference.bit_generator.state}
        ahead.take()


def test_take_raises_what_draw_raised():
    ahead = DrawAhead(lambda: 1 / 0, {})
    with pytest.raises(ZeroDivisionError):
        ahead.take()
    ahead.close()


def test_a_batch_is_samples_one_after_the_other_of_which_some_rows_are_kept():
    chunks = [np.arange(50), np.arange(100, 140)]
    sampler = Sampler(chunks, seed=1)
    samples = [sampler.sample(6).tolist() for _ in range(6)]
    assert draw_batch(Sampler(chunks, seed=1), 6, 6).tolist() == samples
    assert draw_batch(Sampler(chunks, seed=1), 6, 6, slice(2, 4)).tolist() == samples[2:4]
    assert [batch.tolist() for batch in validation_batches(Corpus(chunks), 3, 2, 6)] == [samples[:2], samples[2:4], samples[4:]]
