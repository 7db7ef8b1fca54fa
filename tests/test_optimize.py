"""Updates of the weights: frozen losses on the model that ships, and steps equal to the oracle's."""

import os

import numpy as np
import pytest

import reference
from conftest import ROOT, load_params
from encoder import load_encoder
from hparams import HParams, load_hparams
from load_dataset import Sampler

TINY = os.path.join(ROOT, 'models', 'tiny')
HPARAMS = HParams(n_vocab=37, n_ctx=12, n_embd=24, n_head=3, n_layer=2)
PARAMS = reference.random_params(HPARAMS, seed=0)
BATCHES = np.random.default_rng(1).integers(HPARAMS.n_vocab, size=(6, 2, HPARAMS.n_ctx))

# Adam at 0.001 on two windows of the MIT licence a step, from models/tiny.
FROZEN = ['8.7579', '5.1455', '4.5756', '4.8015', '4.8104', '5.4512', '4.0587', '4.7294',
          '3.5053', '3.5046']


def oracle_steps(batches, n_steps, update):
    params = PARAMS
    losses = []
    for step in range(1, n_steps + 1):
        loss, gradients = reference.loss_and_gradients(batches[step - 1], params, HPARAMS)
        losses.append(loss)
        params = update(params, gradients, step)
    return losses, params


def train_steps(tf, session, batches, *, accumulate=1, **kwargs):
    """Losses and the weights after training on `batches`, `accumulate` of them for each update, at rate 0.1."""
    import model
    import optimize
    tokens = tf.placeholder(tf.int32, [None, None])
    loss = model.loss(model.model(HPARAMS, tokens), tokens)
    variables = tf.trainable_variables()
    step = optimize.TrainStep(loss, variables, accumulate=accumulate, **kwargs)
    session.run(step.initializer)
    load_params(session, PARAMS)
    losses = [step.run(session, [{tokens: batch} for batch in batches[i:i + accumulate]], 0.1)[0]
              for i in range(0, len(batches), accumulate)]
    return losses, {v.op.name.removeprefix('model/'): session.run(v) for v in variables}


@pytest.mark.parametrize('memory_saving', [False, True])
def test_sgd_steps_equal_the_oracle(tf, session, memory_saving):
    losses, weights = train_steps(tf, session, BATCHES[:3], optimizer='sgd', memory_saving=memory_saving)
    expected, params = oracle_steps(BATCHES, 3, lambda p, g, step: reference.sgd(p, g, 0.1))
    np.testing.assert_allclose(losses, expected, atol=1e-4)
    for name, value in params.items():
        np.testing.assert_allclose(weights[name], value, atol=1e-4, err_msg=name)


def test_adam_steps_equal_the_oracle(tf, session):
    losses, weights = train_steps(tf, session, BATCHES[:3], optimizer='adam')
    state = {}
    expected, params = oracle_steps(BATCHES, 3, lambda p, g, step: reference.adam(p, g, state, step, 0.1))
    np.testing.assert_allclose(losses, expected, rtol=1e-3)
    for name, value in params.items():
        # Where a gradient is zero but for rounding, Adam's quotient is arbitrary: the key's bias changes no softmax.
        if not name.endswith('c_attn/b'):
            assert np.mean(np.abs(weights[name] - value) > 1e-3) < 0.01, name


@pytest.mark.parametrize('memory_saving', [False, True])
def test_accumulated_gradients_are_averaged(tf, session, memory_saving):
    losses, weights = train_steps(tf, session, BATCHES, accumulate=3, optimizer='sgd', memory_saving=memory_saving)
    joined = BATCHES.reshape(2, 6, HPARAMS.n_ctx)
    expected, params = oracle_steps(joined, 2, lambda p, g, step: reference.sgd(p, g, 0.1))
    np.testing.assert_allclose(losses, expected, atol=1e-4)
    for name, value in params.items():
        np.testing.assert_allclose(weights[name], value, atol=1e-4, err_msg=name)


def test_ten_losses_are_frozen(tf, session):
    import checkpoint
    import model
    import optimize
    hparams, encoder = load_hparams(TINY), load_encoder(TINY)
    with open(os.path.join(ROOT, 'LICENSE'), encoding='utf-8') as file:
        sampler = Sampler([np.array(encoder.encode(file.read()))], seed=0)
    tokens = tf.placeholder(tf.int32, [None, None])
    loss = model.loss(model.model(hparams, tokens), tokens)
    step = optimize.TrainStep(loss, tf.trainable_variables())
    session.run(step.initializer)
    checkpoint.restore(session, os.path.join(TINY, 'model.ckpt'), tf.trainable_variables())
    losses = []
    for _ in FROZEN:
        batch = np.stack([sampler.sample(hparams.n_ctx) for _ in range(2)])
        losses.append(step.run(session, [{tokens: batch}], 0.001)[0])
    assert [f'{loss:.4f}' for loss in losses] == FROZEN
