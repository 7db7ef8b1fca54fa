"""Updates of the weights: frozen losses on the model that ships, and steps equal to the oracle's."""

import dataclasses
import os

import numpy as np
import pytest

import reference
from conftest import ROOT, load_params
from encoder import load_encoder
from graph_walk import ancestors, ancestors_without_identities, ops_of
from load_dataset import Sampler
from network.hparams import HParams, load_hparams

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
    from training import optimizer
    tokens = tf.placeholder(tf.int32, [None, None])
    loss = model.loss(model.model(HPARAMS, tokens), tokens)
    variables = tf.trainable_variables()
    step = optimizer.TrainStep(loss, variables, accumulate=accumulate, **kwargs)
    step.initialize(session)
    load_params(session, PARAMS)
    losses = [step.run(session, [{tokens: batch} for batch in batches[i:i + accumulate]], 0.1)[0]
              for i in range(0, len(batches), accumulate)]
    return losses, session.run({v.op.name.removeprefix('model/'): v for v in variables})


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


def test_sums_of_gradients_are_neither_trained_nor_saved(tf, session):
    from accumulate import Accumulator
    Accumulator([tf.constant([1.0])])
    assert tf.local_variables() and not tf.global_variables() and not tf.trainable_variables()


def test_ten_losses_are_frozen(tf, session):
    import model
    from storage import saver
    from training import optimizer
    hparams, encoder = load_hparams(TINY), load_encoder(TINY)
    with open(os.path.join(ROOT, 'LICENSE'), encoding='utf-8') as file:
        sampler = Sampler([np.array(encoder.encode(file.read()))], seed=0)
    tokens = tf.placeholder(tf.int32, [None, None])
    loss = model.loss(model.model(hparams, tokens), tokens)
    step = optimizer.TrainStep(loss, tf.trainable_variables())
    step.initialize(session)
    saver.restore(session, os.path.join(TINY, 'model.ckpt'), tf.trainable_variables())
    losses = []
    for _ in FROZEN:
        batch = np.stack([sampler.sample(hparams.n_ctx) for _ in range(2)])
        losses.append(step.run(session, [{tokens: batch}], 0.001)[0])
    assert [f'{loss:.4f}' for loss in losses] == FROZEN


def decayed(params, rate, decay):
    """AdamW's shrinking of the matrices; a [1, n, m] weight is one, gains and biases are not."""
    return {name: value * (1 - rate * decay) if sum(size > 1 for size in value.shape) > 1 else value
            for name, value in params.items()}


def test_adamw_shrinks_matrices_in_addition_to_the_step_of_adam(tf, session):
    _, weights = train_steps(tf, session, BATCHES[:1], optimizer='adamw', weight_decay=0.5)
    _, gradients = reference.loss_and_gradients(BATCHES[0], PARAMS, HPARAMS)
    params = reference.adam(decayed(PARAMS, 0.1, 0.5), gradients, {}, 1, 0.1)
    for name, value in params.items():
        if not name.endswith('c_attn/b'):       # a gradient that is zero but for rounding: see above
            assert np.mean(np.abs(weights[name] - value) > 1e-3) < 0.01, name


@pytest.mark.parametrize('accumulate', [1, 3])
@pytest.mark.parametrize('memory_saving', [False, True])
def test_clipping_scales_the_whole_gradient(tf, session, accumulate, memory_saving):
    batches = BATCHES[:accumulate]
    _, weights = train_steps(tf, session, batches, optimizer='sgd', accumulate=accumulate, clip_norm=0.25,
                             memory_saving=memory_saving)
    _, gradients = reference.loss_and_gradients(batches.reshape(-1, HPARAMS.n_ctx), PARAMS, HPARAMS)
    norm = np.sqrt(sum((gradient ** 2).sum() for gradient in gradients.values()))
    assert norm > 0.25
    params = reference.sgd(PARAMS, {name: gradient * 0.25 / norm for name, gradient in gradients.items()}, 0.1)
    for name, value in params.items():
        np.testing.assert_allclose(weights[name], value, atol=1e-5, err_msg=name)


def test_a_short_gradient_is_not_clipped_and_its_norm_is_returned(tf, session):
    import model
    from training import optimizer
    tokens = tf.placeholder(tf.int32, [None, None])
    step = optimizer.TrainStep(model.loss(model.model(HPARAMS, tokens), tokens), tf.trainable_variables(),
                              optimizer='sgd', clip_norm=1000.0)
    step.initialize(session)
    load_params(session, PARAMS)
    _, norm, _ = step.run(session, [{tokens: BATCHES[0]}], 0.0)
    _, gradients = reference.loss_and_gradients(BATCHES[0], PARAMS, HPARAMS)
    assert norm == pytest.approx(np.sqrt(sum((gradient ** 2).sum() for gradient in gradients.values())), rel=1e-4)
    assert session.run(optimizer.clip([tf.constant([3.0, 4.0])], tf.constant(5.0), 10.0))[0].tolist() == [3.0, 4.0]


def test_schedules(tf):
    from training.optimizer import learning_rate
    rates = [learning_rate(step, peak=1.0, schedule='linear', warmup_steps=2, max_steps=6) for step in range(1, 8)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0])
    rates = [learning_rate(step, peak=2.0, schedule='cosine', max_steps=4) for step in range(1, 6)]
    assert rates == pytest.approx([2.0, 1 + np.sqrt(0.5), 1.0, 1 - np.sqrt(0.5), 0.0])
    assert {learning_rate(step, peak=0.3) for step in (1, 10, 10 ** 6)} == {0.3}
    rates = [learning_rate(step, peak=2.0, schedule='relative', warmup_steps=4) for step in (1, 4, 10 ** 4, 10 ** 6)]
    assert rates == pytest.approx([0.0025, 0.01, 0.01, 0.001])


def test_the_optimizer_s_state_begins_at_zero(tf, session):
    from training import optimizer
    weight = tf.get_variable('w', [3, 2], initializer=tf.ones_initializer())
    step = optimizer.TrainStep(tf.reduce_sum(tf.square(weight.read_value())), [weight])
    step.initialize(session)
    values = {v.op.name: session.run(v) for v in tf.global_variables() if v is not weight}
    assert (values['w/Adam'] == 0).all()
    assert (values['w/Adam_1'] == 0).all()
    assert values['beta1_power'] == pytest.approx(0.9)


@pytest.mark.parametrize('memory_saving', [False, True])
def test_each_layer_is_updated_before_the_gradient_moves_on_to_the_next(tf, session, memory_saving):
    import model
    from training import optimizer
    tokens = tf.placeholder(tf.int32, [2, 12])
    loss = model.loss(model.model(HPARAMS, tokens), tokens)
    optimizer.TrainStep(loss, tf.trainable_variables(), memory_saving=memory_saving)
    updates = {op.inputs[0].op.name: op for op in ops_of(session.graph, 'ResourceApplyAdam')}
    before_lowest = ancestors(updates['model/h0/ln_1/g'])
    above = {name for name, op in updates.items() if op in before_lowest}
    assert {name for name in updates if '/h1/' in name or '/ln_f/' in name} <= above
    assert not any('/h0/' in name for name in above - {'model/h0/ln_1/g'})


@pytest.mark.parametrize('memory_saving', [False, True])
@pytest.mark.parametrize('rank', [0, 4])
def test_every_read_of_a_variable_is_complete_before_its_update_begins(tf, session, memory_saving, rank):
    import model
    from network.lora import Lora
    from training import optimizer
    tokens = tf.placeholder(tf.int32, [2, 12])
    loss = model.loss(model.model(HPARAMS, tokens, lora=Lora(rank, 8.0) if rank else None), tokens)
    variables = [v for v in tf.trainable_variables() if not rank or 'lora' in v.name]
    step = optimizer.TrainStep(loss, variables, optimizer='sgd', memory_saving=memory_saving)
    used = ancestors_without_identities(step._update)
    updates = {op.inputs[0].op: op for op in ops_of(session.graph, 'ResourceApplyGradientDescent')}
    assert len(updates) == len(variables)
    for read in used & set(ops_of(session.graph, 'ReadVariableOp')):
        if read.inputs[0].op in updates:
            assert read in ancestors_without_identities(updates[read.inputs[0].op]), read.name


@pytest.mark.parametrize('behind', [0, 1])
def test_the_gradient_may_move_on_ahead_of_updates(tf, session, behind):
    from training import optimizer
    arrivals = [tf.constant(1.0)]
    while len(arrivals) < 4:
        arrivals.append(tf.negative(arrivals[-1]))
    variables = [tf.get_variable(f'v{i}', []) for i in range(4)]
    tf.train.GradientDescentOptimizer(0.1).apply_gradients(zip(arrivals, variables))
    optimizer.update_early(variables, arrivals, behind)
    waits = [[update.inputs[0].op.name for update in arrival.op.control_inputs] for arrival in arrivals]
    assert waits == ([[]] * (1 + behind) + [['v0'], ['v1'], ['v2']])[:4]


@pytest.mark.parametrize('memory_saving', [False, True])
def test_nothing_is_differentiated_below_the_lowest_trained_block(tf, session, memory_saving):
    import model
    from training import optimizer
    tokens = tf.placeholder(tf.int32, [2, 12])
    output = model.model(dataclasses.replace(HPARAMS, n_layer=3), tokens)
    trained = [v for v in tf.trainable_variables() if '/h2/' in v.name]
    forward = set(session.graph.get_operations())
    optimizer.TrainStep(model.loss(output, tokens, wte_gradient=False), trained, memory_saving=memory_saving)
    backward = set(session.graph.get_operations()) - forward
    read = {op.inputs[0].op.name for op in forward if op.type == 'ReadVariableOp'
            and any(consumer in backward for consumer in _consumers(op.outputs[0]))}
    assert any('/h2/' in name for name in read)
    assert not any('/h0/' in name or '/h1/' in name for name in read)


def _consumers(tensor):
    """The ops that read a tensor, also through ops that pass it on unchanged."""
    for op in tensor.consumers():
        yield op
        if op.type in ('Identity', 'Squeeze', 'IdentityN'):
            yield from (c for output in op.outputs if output.shape == op.inputs[0].shape for c in _consumers(output))
