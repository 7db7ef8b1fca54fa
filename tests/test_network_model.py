"""bench/network_model.py: the times of a ring all-reduce and of a training step, checked by hand for small numbers."""

import os
import subprocess
import sys

import pytest

from bench import network_model
from network.hparams import HParams


def test_a_ring_of_three_in_two_buckets():
    # 4 rounds, each with a piece of either bucket: 5 bytes that begin to arrive after 1 s; both together take 5 s to receive.
    assert network_model.reduction_seconds(30, 3, bandwidth=2, latency=1, buckets=2) == 4 * (2 * 1 + 5)


def test_one_worker_has_nothing_to_reduce():
    assert network_model.reduction_seconds(1e9, 1, bandwidth=1, latency=1, buckets=5) == 0


def test_many_workers_send_twice_the_bytes_at_most():
    seconds = [network_model.reduction_seconds(100, workers, bandwidth=10, latency=0) for workers in (2, 8, 512)]
    assert seconds == sorted(seconds) and seconds[0] == 10 and 19.9 < seconds[-1] < 20


@pytest.mark.parametrize('overlap, step', [(0, 13), (4, 9), (50, 8)])
def test_only_the_reduction_that_does_not_overlap_is_added(overlap, step):
    assert network_model.step_seconds(8, 5, overlap) == step


def test_flops_of_a_model_counted_matrix_by_matrix():
    size = HParams(n_vocab=10, n_ctx=4, n_embd=2, n_head=1, n_layer=3)
    block = 2 * 6 + 2 * 2 + 2 * 8 + 8 * 2           # weights of c_attn, c_proj, c_fc, c_proj
    attention = 2 * 2 * (4 / 2)                     # queries times keys, weights times values: half of 4 tokens on average
    assert network_model.training_flops(size, 5, 4) == 5 * 4 * 3 * 2 * (3 * (block + attention) + 10 * 2)


def test_a_published_size():
    size = network_model.published('1558M')
    assert (size.n_layer, size.n_head, size.n_embd, size.n_vocab, size.n_ctx) == (48, 25, 1600, 50257, 1024)


def test_the_buckets_of_the_gradients(tf):
    from workers import collectives
    size = network_model.published('124M')
    parameters = 124_439_808
    assert sum(network_model.gradient_buckets(size, 'float32')) == 4 * parameters + 8    # 8: loss and request to stop
    bfloat16 = network_model.gradient_buckets(size, 'bfloat16')
    assert sum(bfloat16) == 2 * parameters + 8 and bfloat16[-1] == 8        # of another dtype: a bucket of its own
    assert set(bfloat16[:-2]) == {collectives.BUCKET}


def test_the_tables_have_every_size_and_network(tf):
    text = network_model.paper_tables()
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in text.splitlines() if line.startswith('|')]
    assert len(rows) == 2 * (2 + 8) and {len(row) for row in rows} == {4 + 9}
    heads, by_name = rows[0], {row[0]: row for row in rows[2:10]}
    row = by_name['355M, bfloat16']
    assert row[1] == '710'
    # 710 MB in buckets at 1.25 GB/s, 8 workers: 14 rounds of 20 µs for each bucket, and 14/8 of the bytes.
    reduction = 14 * (int(row[2]) * 20e-6 + 709_646_344 / 8 / 1.25e9)
    seconds = 0.37117 + reduction
    assert row[heads.index('8 at 10 Gbit/s')].startswith(f'{seconds:.2f} (')


def test_runs_as_a_script(tf):
    environment = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    result = subprocess.run([sys.executable, network_model.__file__], capture_output=True, text=True, encoding='utf-8',
                            env=environment, check=False)
    assert (result.stdout, result.stderr, result.returncode) == (network_model.paper_tables() + '\n', '', 0)
