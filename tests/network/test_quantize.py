"""Weights as int8 with a scale for each output feature."""

import tracemalloc

import numpy as np
import pytest

from network import quantize as module
from network.quantize import quantize


@pytest.mark.parametrize(('shape', 'inputs', 'outputs'), [([1, 40, 6], -2, 6), ([40, 6], -2, 6), ([9, 40], -1, 9)])
def test_the_error_is_at_most_half_a_scale(shape, inputs, outputs):
    rng = np.random.default_rng(0)
    sizes = np.expand_dims(10.0 ** rng.integers(-6, 6, outputs), inputs)
    w = (rng.normal(size=shape) * sizes).astype(np.float32)
    before = w.copy()
    q, scale = quantize(w, inputs)
    assert np.array_equal(w, before)
    assert (q.dtype, scale.dtype, q.shape, scale.shape) == (np.int8, np.float32, w.shape, (outputs,))
    assert (np.abs(q.astype(int)).max(axis=inputs) == 127).all()       # the largest weight of each output, of either sign
    assert {-127, 127} <= {*q.flat} and -128 not in q
    scale = np.expand_dims(scale, inputs)
    assert (np.abs(q * scale - w) <= scale * (0.5 + 1e-5)).all()
    assert (np.abs(q * scale - w).max(axis=inputs) > 0.3 * np.squeeze(scale, inputs)).all()


@pytest.mark.parametrize('inputs', [-1, -2])
def test_pieces_make_no_difference(monkeypatch, inputs):
    w = np.random.default_rng(0).normal(size=[1, 7, 9]).astype(np.float32)
    whole = quantize(w, inputs)
    monkeypatch.setattr(module, 'PIECE', 20)
    for found, expected in zip(quantize(w, inputs), whole):
        assert np.array_equal(found, expected)


@pytest.mark.parametrize('inputs', [-1, -2])
def test_a_large_weight_is_never_in_memory_twice(monkeypatch, inputs):
    """Besides what is returned, a piece is."""
    monkeypatch.setattr(module, 'PIECE', 2 ** 12)
    w = np.ones([1024, 1024], np.float32)
    tracemalloc.start()
    quantize(w, inputs)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < w.nbytes // 4 + 2 ** 20


def test_zeros_stay_zeros():
    w = np.array([[0, 2, -0.0], [0, -4, 0]], np.float32)
    q, scale = quantize(w, -2)
    assert q.tolist() == [[0, 64, 0], [0, -127, 0]] and scale.tolist() == [0, np.float32(4) / np.float32(127), 0]


def test_the_smallest_numbers_do_not_divide_by_zero():
    with np.errstate(all='raise', under='ignore'):
        q, scale = quantize(np.array([[1e-44], [-1e-45]], np.float32), -2)
    assert np.isfinite(scale).all() and np.abs(q.astype(int)).max() <= 127
