"""Which blocks attention and the head have, by device."""

import pytest

from network import block_sizes

GB = 10 ** 9


def test_a_cpu_and_a_gpu_of_unknown_memory_have_the_blocks_that_fit_caches():
    assert block_sizes.query_block(None, 1, 12, 1024) == block_sizes.QUERY_BLOCK == 256
    assert block_sizes.head_rows(None, 50257) == block_sizes.HEAD_ROWS == 512


@pytest.mark.parametrize(('gb', 'batch', 'heads', 'length', 'block'), [
    (16, 1, 12, 1024, 1024), (16, 2, 12, 1024, 1024), (16, 3, 12, 1024, 512), (16, 4, 12, 1024, 512), (16, 8, 12, 1024, 256),
    (80, 64, 12, 1024, 256), (80, 1, 25, 1024, 512), (80, 1, 12, 100_000, 256), (80, 1, 12, 16_384, 1024), (2, 1, 16, 1024, 512),
    (1, 1, 25, 1024, 256), (16, None, 12, 1024, 256), (16, 1, 12, None, 256)])
def test_queries_by_memory_and_by_how_many_sequences_and_heads_there_are(gb, batch, heads, length, block):
    """None: not known to the graph."""
    assert block_sizes.query_block(gb * GB, batch, heads, length) == block
    if block > block_sizes.QUERY_BLOCK:
        assert 3 * 4 * batch * heads * block * length <= gb * GB / 16


@pytest.mark.parametrize(('gb', 'n_vocab', 'rows'), [
    (4, 50257, 512), (8, 50257, 512), (12, 50257, 1024), (16, 50257, 1024), (24, 50257, 2048), (40, 50257, 4096),
    (80, 50257, 4096), (8, 1000, 4096)])
def test_rows_of_logits_by_memory_and_vocabulary(gb, n_vocab, rows):
    assert block_sizes.head_rows(gb * GB, n_vocab) == rows
    assert rows == 512 or 3 * 4 * rows * n_vocab <= gb * GB / 16


def test_the_memory_is_that_of_a_gpu_that_tensorflow_uses(tf, monkeypatch):
    monkeypatch.setattr(block_sizes, '_memory', lambda: 8 * GB)
    for gpus, memory in ((['GPU:0'], 8 * GB), ([], None)):
        monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind, gpus=gpus: gpus)
        assert block_sizes.gpu() == memory
