"""The graph that scores windows, and the figures that follow from a sum of losses."""

from storage.model_directory import open_model


def test_only_the_logits_that_count_are_computed(tf, model_directory, monkeypatch):
    from evaluation import losses
    from network import block_sizes
    computed, head_loss = [], losses.head_loss
    monkeypatch.setattr(block_sizes, 'HEAD_ROWS', 6)      # of three windows: two positions at a time
    monkeypatch.setattr(losses, 'head_loss', lambda h, *rest, **more: computed.append(h) or head_loss(h, *rest, **more))
    losses.Evaluation(open_model(str(model_directory)), length=20, stride=5, batch_size=3)
    assert len(computed) == 10 + 3      # for the first windows; for the others


def test_figures_that_do_not_exist():
    from evaluation.losses import figures
    found = figures(10.0, tokens=2, words=0, n_bytes=0)
    assert (found['loss'], found['word_perplexity'], found['bits_per_byte']) == (5, None, None)
    assert figures(1e6, tokens=100000, words=1, n_bytes=1)['word_perplexity'] is None
