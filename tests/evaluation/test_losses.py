"""The graph that scores windows."""

import math

import pytest

from storage.model_directory import open_model


@pytest.mark.parametrize(('rows', 'positions'), [(6, 2), (2, 1)])
def test_only_the_logits_that_count_are_computed(tf, model_directory, monkeypatch, rows, positions):
    from evaluation import losses
    from network import block_sizes
    computed, head_loss = [], losses.head_loss
    monkeypatch.setattr(block_sizes, 'HEAD_ROWS', rows)       # of three windows: so many positions at a time, at least one
    monkeypatch.setattr(losses, 'head_loss', lambda h, *rest, **more: computed.append(h) or head_loss(h, *rest, **more))
    evaluation = losses.Evaluation(open_model(str(model_directory)), length=20, stride=5, batch_size=3)
    # For the first windows; for the others.
    assert len(computed) == math.ceil(20 / positions) + math.ceil(5 / positions)
    assert evaluation._session.graph.finalized      # no batch adds to it
