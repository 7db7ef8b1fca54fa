"""The graph against the numpy oracle: logits, the cache at every split, the loss, every gradient."""

import numpy as np
import pytest

import reference
from conftest import load_params
from network.hparams import HParams

HPARAMS = HParams(n_vocab=37, n_ctx=12, n_embd=24, n_head=3, n_layer=3)
TOKENS = np.random.default_rng(1).integers(HPARAMS.n_vocab, size=(2, HPARAMS.n_ctx))
PARAMS = reference.random_params(HPARAMS, seed=0)


@pytest.fixture
def tokens(tf):
    return tf.placeholder(tf.int32, [None, None])


@pytest.fixture
def output(session, tokens):
    import model
    output = model.model(HPARAMS, tokens)
    load_params(session, PARAMS)
    return output


def test_logits_equal_the_oracle(session, tokens, output):
    logits = session.run(output['logits'], {tokens: TOKENS})
    np.testing.assert_allclose(logits, reference.gpt2(TOKENS, PARAMS, HPARAMS), atol=1e-4)


def test_logits_are_the_same_split_at_every_position(tf, session, tokens, output):
    import model
    whole, present = session.run([output['logits'], output['present']], {tokens: TOKENS})
    assert list(present.shape) == model.past_shape(hparams=HPARAMS, batch_size=2, sequence=HPARAMS.n_ctx)
    past = tf.placeholder(tf.float32, model.past_shape(hparams=HPARAMS))
    continued = model.model(HPARAMS, tokens, past=past)
    for split in range(1, HPARAMS.n_ctx):
        logits, added = session.run([continued['logits'], continued['present']],
                                    {tokens: TOKENS[:, split:], past: present[..., :split, :]})
        np.testing.assert_allclose(logits, whole[:, split:], atol=1e-4)
        np.testing.assert_allclose(added, present[..., split:, :], atol=1e-5)


def test_every_block_is_a_checkpoint(tf, output):
    collection = tf.get_collection('checkpoints')
    assert len(collection) == HPARAMS.n_layer
    assert all(h.shape.as_list() == [None, None, HPARAMS.n_embd] for h in collection)


def test_variables_have_the_published_names_and_shapes(tf, output):
    shapes = {v.op.name: tuple(v.shape.as_list()) for v in tf.global_variables()}
    assert shapes == {f'model/{name}': value.shape for name, value in PARAMS.items()}
    assert shapes['model/h0/attn/c_attn/w'] == (1, 24, 72)


def test_loss_and_every_gradient_equal_the_oracle(tf, session, tokens, output):
    import model
    labels = (TOKENS + 5) % HPARAMS.n_vocab
    label_input = tf.placeholder(tf.int32, [None, None])
    loss = model.loss(output, label_input)
    variables = tf.trainable_variables()
    gradients = [tf.convert_to_tensor(g) for g in tf.gradients(loss, variables)]
    value, gradients = session.run([loss, gradients], {tokens: TOKENS, label_input: labels})
    expected, expected_gradients = reference.loss_and_gradients(TOKENS, PARAMS, HPARAMS, labels)
    assert value == pytest.approx(expected, abs=1e-5)
    for variable, gradient in zip(variables, gradients):
        np.testing.assert_allclose(gradient, expected_gradients[variable.op.name.removeprefix('model/')], atol=1e-4,
                                   err_msg=variable.name)


def test_new_weights_have_the_spread_of_gpt2(tf, session, tokens):
    import model
    hparams = HParams(n_vocab=500, n_ctx=200, n_embd=128, n_head=2, n_layer=8)
    model.model(hparams, tokens)
    session.run(tf.global_variables_initializer())
    weights = {v.op.name: session.run(v) for v in tf.trainable_variables()}
    for name, stddev in (('wte', 0.02), ('wpe', 0.01), ('h3/attn/c_attn/w', 0.02), ('h3/mlp/c_fc/w', 0.02),
                         ('h3/attn/c_proj/w', 0.02 / 4), ('h3/mlp/c_proj/w', 0.02 / 4)):
        assert weights[f'model/{name}'].std() == pytest.approx(stddev, rel=0.05), name
    assert (weights['model/h3/ln_1/g'] == 1).all()
    assert (weights['model/h3/mlp/c_fc/b'] == 0).all()
