"""The key/value cache: rows of unequal length, writes in place, and a change of its size."""

import numpy as np
import pytest

import reference
from conftest import load_params
from network.hparams import HParams

HPARAMS = HParams(n_vocab=37, n_ctx=12, n_embd=24, n_head=3, n_layer=2)
PROMPTS = [[5, 0, 36, 18, 19], [7], [3, 3]]
NEXT = [[18, 36, 1], [19, 0, 7], [2, 2, 2]]


def test_rows_of_unequal_length_equal_the_oracle(tf, session):
    """Prompts padded to one length, then token by token, each row at its own position."""
    import sample
    from network.cache import Cache
    params = reference.random_params(HPARAMS, seed=0)
    lengths = np.array([len(prompt) for prompt in PROMPTS], np.int32)
    padded = tf.constant([prompt + [9] * (5 - len(prompt)) for prompt in PROMPTS])
    logits, memory = sample.read_context(HPARAMS, padded, tf.constant(lengths), capacity=8)
    steps = [logits]
    for n in range(3):
        cache = Cache(memory, [HPARAMS.n_head], 8)
        logits, memory = sample.read_token(HPARAMS, tf.constant([row[n] for row in NEXT]), cache, tf.constant(lengths + n))
        steps.append(logits)
    load_params(session, params)
    for n, logits in enumerate(session.run(steps)):
        for row, (prompt, following) in enumerate(zip(PROMPTS, NEXT)):
            expected = reference.gpt2(np.array([prompt + following[:n]]), params, HPARAMS)[0, -1]
            np.testing.assert_allclose(logits[row], expected, atol=1e-4)


def test_offsets_of_rows_and_heads_in_each_shard(tf, session):
    from network.cache import Cache
    offsets = Cache({}, [2, 1], 10).offsets(tf.constant([0, 2]), tf.constant([[3], [5]]))
    assert [offset.tolist() for offset in session.run(offsets)] == [[3, 13, 45, 55], [3, 25]]
    offsets = Cache({}, [2], 10).offsets(tf.constant([1]), tf.constant([[0, 1]]))
    assert session.run(offsets)[0].tolist() == [20, 21, 30, 31]


def test_the_mask_hides_what_is_after_a_row_s_position(tf, session):
    from network.cache import Cache
    mask = session.run(Cache({}, [1], 4).mask(tf.constant([0, 2])))
    assert mask.shape == (2, 1, 1, 4)
    assert (mask[:, 0, 0] == 0).tolist() == [[True, False, False, False], [True, True, True, False]]
    assert mask.min() == np.finfo(np.float32).min


@pytest.fixture
def cache(tf, session):
    """Two layers, and two shards with two heads and one, of 8 features; empty."""
    from network.cache import ResizableCache
    cache = ResizableCache(HPARAMS, [2, 1])
    session.run(cache.initializer)
    return cache


def content(session, cache):
    """By (layer, shard) keys and values [rows, heads, capacity], of which only the first feature counts here."""
    memory, capacity = session.run([cache.memory, cache.capacity])
    return {(layer, shard): [x[:, 0].reshape(-1, cache.heads[shard], capacity).tolist() for x in pair]
            for (layer, shard), pair in memory.items()}


def write(tf, session, cache, layer, shard, rows, positions, first):
    """Writes first, first + 1, ... as keys, and their negatives as values. Returns what `write` returned."""
    offsets = cache.offsets(tf.constant(rows), tf.constant(positions))
    keys = tf.range(first, first + float(len(rows) * len(positions[0]) * cache.heads[shard]))[:, None] * tf.ones([1, 8])
    return session.run(cache.write(layer, shard, offsets, keys, -keys))


def test_writes_stay_in_the_variables_and_touch_nothing_else(tf, session, cache):
    session.run(cache.resize, {cache.kept_rows: [], cache.new_size: [2, 3]})
    empty = content(session, cache)
    assert empty[1, 0] == [np.zeros([2, 2, 3]).tolist()] * 2
    returned = write(tf, session, cache, 1, 0, [0, 1], [[2], [0]], 1.0)
    after = content(session, cache)
    expected = [[[0, 0, 1], [0, 0, 2]], [[3, 0, 0], [4, 0, 0]]]
    assert after.pop((1, 0)) == [expected, (-np.array(expected)).tolist()]
    assert after == {key: value for key, value in empty.items() if key != (1, 0)}
    assert returned[0][:, 0].tolist() == np.ravel(expected).tolist()


def test_a_new_size_keeps_rows_in_the_given_order(tf, session, cache):
    session.run(cache.resize, {cache.kept_rows: [], cache.new_size: [3, 2]})
    write(tf, session, cache, 0, 1, [0, 1, 2], [[0, 1]] * 3, 1.0)
    assert content(session, cache)[0, 1][0] == [[[1, 2]], [[3, 4]], [[5, 6]]]
    session.run(cache.resize, {cache.kept_rows: [2, 0], cache.new_size: [3, 4]})        # more room, one new row
    assert content(session, cache)[0, 1][0] == [[[5, 6, 0, 0]], [[1, 2, 0, 0]], [[0, 0, 0, 0]]]
    session.run(cache.resize, {cache.kept_rows: [1], cache.new_size: [1, 1]})
    assert content(session, cache)[0, 1] == [[[[1]]], [[[-1]]]]
