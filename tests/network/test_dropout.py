"""Dropout: which numbers it drops, its gradient, and the network with it against the oracle with the same masks."""

import numpy as np
import pytest

import reference
from conftest import load_params
from graph_walk import ancestors, ops_of
from network.hparams import HParams

HPARAMS = HParams(n_vocab=37, n_ctx=12, n_embd=24, n_head=3, n_layer=2)
TOKENS = np.random.default_rng(1).integers(HPARAMS.n_vocab, size=(2, HPARAMS.n_ctx))
PARAMS = reference.random_params(HPARAMS, seed=0)
RATE, SEED, BLOCK = 0.3, [2 ** 62 + 3, 5 << 32], 5      # queries in a block of attention


@pytest.fixture
def in_blocks(monkeypatch):
    from network import block_sizes
    monkeypatch.setattr(block_sizes, 'QUERY_BLOCK', BLOCK)


def mask(tf, place, *shape):
    """What dropout number `place` of a pass multiplies an array of this shape by, computed apart from the network."""
    with tf.Graph().as_default(), tf.Session() as session:
        uniform = session.run(tf.raw_ops.StatelessRandomUniform(shape=list(shape), seed=[SEED[0], SEED[1] + place]))
    return np.where(uniform < np.float32(1 - RATE), 1 / (1 - RATE), 0)


@pytest.fixture
def masks(tf):
    """Of the embeddings; then for each block of the network of the attention (each block of queries), and of what it adds."""
    batch, length = TOKENS.shape
    residual = [batch, length, HPARAMS.n_embd]
    places, made = iter(range(99)), []
    made.append(mask(tf, next(places), *residual))
    for _ in range(HPARAMS.n_layer):
        attention = np.ones([batch, HPARAMS.n_head, length, length])
        for start in range(0, length, BLOCK):
            end = min(start + BLOCK, length)
            attention[:, :, start:end, :end] = mask(tf, next(places), batch, HPARAMS.n_head, end - start, end)
        made.append((attention, mask(tf, next(places), *residual), mask(tf, next(places), *residual)))
    return made


def oracle_loss(params, masks):
    """reference.loss with dropout by these masks."""
    params = reference.float64(params)
    embedding, *of_blocks = masks
    x = (params['wte'][TOKENS] + params['wpe']) * embedding
    for layer, (in_attention, after_attention, after_mlp) in enumerate(of_blocks):
        name = f'h{layer}'
        qkv = reference.linear(reference.layer_norm(x, params, f'{name}/ln_1'), params, f'{name}/attn/c_attn')
        q, k, v = (reference.split_heads(part, HPARAMS.n_head) for part in np.split(qkv, 3, axis=-1))
        attended = reference.merge_heads(reference.attention_weights(q, k) * in_attention @ v)
        x = x + reference.linear(attended, params, f'{name}/attn/c_proj') * after_attention
        x = x + reference.mlp(reference.layer_norm(x, params, f'{name}/ln_2'), params, f'{name}/mlp') * after_mlp
    log_probabilities = reference.log_softmax(reference.layer_norm(x, params, 'ln_f') @ params['wte'].T)[:, :-1]
    return -np.take_along_axis(log_probabilities, TOKENS[:, 1:, None], axis=-1).mean()


def loss_and_gradients(tf, session, memory_saving=False, dtype=None):
    import memory_saving_gradients
    import model
    from network.dropout import Dropout
    from training import optimizer
    tokens, seed = tf.placeholder(tf.int32, TOKENS.shape), tf.placeholder(tf.int64, [2])
    loss = model.loss(model.model(HPARAMS, tokens, dropout=Dropout(RATE, seed), dtype=dtype or tf.float32), tokens)
    variables = tf.trainable_variables()
    gradients, _ = optimizer.gradients_of(loss, variables, differentiate=memory_saving_gradients.gradients if memory_saving
                                          else tf.gradients)
    load_params(session, PARAMS)
    loss, gradients = session.run([loss, gradients], {tokens: TOKENS, seed: SEED})
    return loss, {v.op.name.removeprefix('model/'): gradient for v, gradient in zip(variables, gradients)}


@pytest.mark.parametrize('compiled', [False, True])
@pytest.mark.parametrize('memory_saving', [False, True])
def test_loss_and_every_gradient_equal_those_with_the_same_masks(tf, session, masks, in_blocks, monkeypatch, memory_saving,
                                                                 compiled):
    """The gradients are compared with differences of the oracle's loss along a random direction of each parameter."""
    from network import gradients as decorators
    monkeypatch.setattr(decorators, 'COMPILED_SIZE', 1)
    monkeypatch.setattr(decorators, '_compiling', compiled)
    loss, gradients = loss_and_gradients(tf, session, memory_saving)
    assert loss == pytest.approx(oracle_loss(PARAMS, masks), abs=1e-5)
    assert abs(loss - reference.loss(TOKENS, PARAMS, HPARAMS)) > 0.03
    rng = np.random.default_rng(2)
    for name, gradient in gradients.items():
        for direction in rng.normal(size=(2, *gradient.shape)):
            after, before = (oracle_loss(PARAMS | {name: PARAMS[name] + step * direction}, masks) for step in (1e-5, -1e-5))
            assert (gradient * direction).sum() == pytest.approx((after - before) / 2e-5, rel=1e-3, abs=1e-4), name


def test_recomputation_changes_no_gradient(tf, session, in_blocks):
    _, plain = loss_and_gradients(tf, session)
    with tf.Graph().as_default(), tf.Session() as other:
        _, recomputed = loss_and_gradients(tf, other, memory_saving=True)
    for name, gradient in plain.items():
        np.testing.assert_allclose(recomputed[name], gradient, atol=1e-6, err_msg=name)


def test_bfloat16_has_the_same_masks_and_the_same_mean(tf, session):
    from network.dropout import Dropout, drop
    dropped = {dtype: session.run(tf.cast(drop(tf.ones([400, 100], dtype), Dropout(RATE, tf.constant(SEED, tf.int64))),
                                          tf.float32)) for dtype in (tf.float32, tf.bfloat16)}
    assert ((dropped[tf.bfloat16] == 0) == (dropped[tf.float32] == 0)).all()
    assert dropped[tf.bfloat16].max() == pytest.approx(1 / (1 - RATE), rel=2 ** -8)


@pytest.mark.parametrize('rate', [0.001, 0.1, 0.5, 0.9])
def test_how_many_numbers_are_dropped_and_what_becomes_of_the_others(tf, session, rate):
    from network.dropout import Dropout, drop
    n = 100_000
    first, second = session.run([drop(tf.fill([n // 10, 10], 3.0), dropout) for dropout in [Dropout(
        rate, tf.constant([7, 0], tf.int64))] for _ in range(2)])
    for dropped in (first, second):
        assert set(np.unique(dropped)) == {0, np.float32(3) * (np.float32(1) / np.float32(1 - rate))}
        assert abs((dropped == 0).mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / n)
        assert abs(dropped.mean() / 3 - 1) < 4 * np.sqrt(rate / (1 - rate) / n)
    # Different masks are independent.
    assert abs(((first == 0) & (second == 0)).mean() - rate ** 2) < 4 * np.sqrt(rate ** 2 * (1 - rate ** 2) / n)


def test_each_mask_of_a_pass_and_each_seed_is_another(tf, session, in_blocks):
    import model
    from network.dropout import Dropout
    seed = tf.placeholder(tf.int64, [2])
    model.model(HPARAMS, tf.placeholder(tf.int32, TOKENS.shape), dropout=Dropout(RATE, seed))
    seeds = [op.inputs[1] for op in ops_of(session.graph, 'StatelessRandomUniform')]
    assert len(seeds) == 1 + HPARAMS.n_layer * (3 + 2)      # three blocks of queries
    used = [tuple(value) for given in ([1, 0], [2, 0], [1, 1 << 32]) for value in session.run(seeds, {seed: given})]
    assert len(set(used)) == 3 * len(seeds)


def test_no_mask_is_drawn_early_or_kept(tf, session):
    """Each is drawn from the shape of a tensor that is there then: in a recomputed segment that of the copy."""
    import memory_saving_gradients
    import model
    from network.dropout import Dropout
    tokens, seed = tf.placeholder(tf.int32, TOKENS.shape), tf.placeholder(tf.int64, [2])
    output = model.model(HPARAMS, tokens, dropout=Dropout(RATE, seed))
    loss = model.loss(output, tokens)
    draws = ops_of(session.graph, 'StatelessRandomUniform')
    variables = {variable.handle.op for variable in tf.trainable_variables()}
    assert all(variables & ancestors(draw) for draw in draws)
    memory_saving_gradients.gradients(loss, tf.trainable_variables())
    later = [op for op in ops_of(session.graph, 'StatelessRandomUniform') if op not in draws]
    assert sum(op.name.startswith('recompute') for op in later) == len(draws)
    assert all(output['hidden'].op in ancestors(op) for op in later)
    forward = ancestors(loss.op)
    readers = {reader for draw in draws for output in draw.outputs for reader in output.consumers()}
    assert readers <= forward


def test_without_dropout_nothing_is_in_the_graph(tf, session):
    import model
    from network.dropout import drop
    model.model(HPARAMS, tf.placeholder(tf.int32, TOKENS.shape))
    assert not ops_of(session.graph, 'StatelessRandomUniform')
    x = tf.ones([2])
    assert drop(x, None) is x


def test_dropout_while_sampling_is_an_error(tf, session):
    import model
    from network.dropout import Dropout
    past = tf.placeholder(tf.float32, model.past_shape(hparams=HPARAMS))
    with pytest.raises(ValueError, match='no past'):
        model.model(HPARAMS, tf.placeholder(tf.int32, [1, 1]), past=past, dropout=Dropout(RATE, tf.constant(SEED, tf.int64)))
