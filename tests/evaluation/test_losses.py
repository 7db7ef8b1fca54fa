"""The graph that scores windows."""

from storage.model_directory import open_model


def test_only_the_logits_that_count_are_computed(tf, model_directory, monkeypatch):
    from evaluation import losses
    from network import block_sizes
    computed, head_loss = [], losses.head_loss
    monkeypatch.setattr(block_sizes, 'HEAD_ROWS', 6)      # of three windows: two positions at a time
    monkeypatch.setattr(losses, 'head_loss', lambda h, *rest, **more: computed.append(h) or head_loss(h, *rest, **more))
    evaluation = losses.Evaluation(open_model(str(model_directory)), length=20, stride=5, batch_size=3)
    assert len(computed) == 10 + 3      # for the first windows; for the others
    assert evaluation._session.graph.finalized      # no batch adds to it
