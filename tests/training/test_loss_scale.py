"""--precision float16: the oracle's gradients, steps that overflow, and runs that resume with their scale."""

import json
import math

import numpy as np
import pytest

import reference
from checkpoint_files import read_checkpoint
from command.errors import UserError
from conftest import SMALL_RUN, load_params
from fake_cluster import FakeCluster, fake_workers
from graph_walk import ancestors, ops_of
from network.hparams import HParams
from storage.run_state import RunState
from training import loss_scale

HPARAMS = HParams(n_vocab=37, n_ctx=12, n_embd=24, n_head=3, n_layer=2)
PARAMS = reference.random_params(HPARAMS, seed=0)
BATCHES = np.random.default_rng(1).integers(HPARAMS.n_vocab, size=(2, 2, HPARAMS.n_ctx))
SCALE, OVERFLOWING = 2.0 ** 10, 2.0 ** 30


def test_the_scale_halves_after_an_overflow_and_doubles_after_good_steps():
    state = RunState()
    assert state.loss_scale == 2 ** 15
    assert loss_scale.adjust(state, math.inf) and loss_scale.adjust(state, math.nan)
    assert (state.loss_scale, state.good_steps, state.skipped) == (2 ** 13, 0, 2)
    assert not any(loss_scale.adjust(state, 1.5) for _ in range(1999))
    assert loss_scale.adjust(state, math.inf)       # begins to count again
    for _ in range(1999):
        loss_scale.adjust(state, 1.5)
    assert (state.loss_scale, state.good_steps, state.skipped) == (2 ** 12, 1999, 3)
    assert not loss_scale.adjust(state, 1.5)
    assert (state.loss_scale, state.good_steps, state.skipped) == (2 ** 13, 0, 3)


def test_the_scale_has_bounds():
    state = RunState(loss_scale=2.0 ** 24, good_steps=1999)
    loss_scale.adjust(state, 1.0)
    assert (state.loss_scale, state.good_steps) == (2 ** 24, 0)
    state = RunState(loss_scale=1.0)
    assert not loss_scale.adjust(state, math.inf)       # no overflow that another scale would mend
    assert state.skipped == 0


def build(tf, **flags):
    """The step of a network in float16, the placeholder of its tokens."""
    import model
    from training.optimizer import TrainStep
    tokens, scale = tf.placeholder(tf.int32, [2, HPARAMS.n_ctx]), tf.placeholder(tf.float32, [])
    loss = model.loss(model.model(HPARAMS, tokens, dtype=tf.float16), tokens, scale=scale)
    return TrainStep(loss, tf.trainable_variables(), scale=scale, **flags), tokens


@pytest.mark.parametrize('memory_saving', [False, True])
@pytest.mark.parametrize('accumulate', [1, 2])
def test_gradients_are_those_of_the_oracle(tf, session, memory_saving, accumulate):
    step, tokens = build(tf, optimizer='sgd', memory_saving=memory_saving, accumulate=accumulate)
    load_params(session, PARAMS)
    before = session.run(tf.trainable_variables())
    batches = BATCHES[:accumulate]
    loss, norm, _ = step.run(session, [{tokens: batch} for batch in batches], 1.0, scale=SCALE)
    expected, gradients = reference.loss_and_gradients(batches.reshape(-1, HPARAMS.n_ctx), PARAMS, HPARAMS)
    assert loss == pytest.approx(expected, rel=1e-3)
    assert norm == pytest.approx(np.sqrt(sum((gradient ** 2).sum() for gradient in gradients.values())), rel=1e-2)
    for variable, old, new in zip(tf.trainable_variables(), before, session.run(tf.trainable_variables())):
        gradient = gradients[variable.op.name.removeprefix('model/')]
        assert np.linalg.norm(old - new - gradient) < 1e-2 * np.linalg.norm(gradient), variable.op.name


def test_weights_residual_stream_and_loss_are_float32(tf, session):
    build(tf, optimizer='sgd')
    products = ops_of(session.graph, 'MatMul', 'BatchMatMulV2')
    assert products and {op.outputs[0].dtype for op in products} == {tf.float16}
    for op in ops_of(session.graph, 'Softmax', 'Exp', 'Rsqrt', 'ResourceApplyGradientDescent'):
        assert op.inputs[-1].dtype == tf.float32, op.name
    assert {each.dtype for each in session.graph.get_collection('checkpoints')} == {tf.float32}


@pytest.mark.parametrize('flags', [
    {'optimizer': 'adam'}, {'optimizer': 'adamw', 'weight_decay': 0.5, 'clip_norm': 1.0, 'memory_saving': True},
    {'optimizer': 'adafactor', 'accumulate': 2}, {'optimizer': 'sgd'}], ids=str)
def test_a_step_that_overflows_changes_no_variable(tf, session, flags):
    step, tokens = build(tf, **flags)
    step.initialize(session)
    load_params(session, PARAMS)
    feeds = [{tokens: batch} for batch in BATCHES[:flags.get('accumulate', 1)]]
    step.run(session, feeds, 0.1, scale=SCALE)
    before = session.run(tf.global_variables())
    loss, norm, _ = step.run(session, feeds, 0.1, scale=OVERFLOWING)
    assert math.isfinite(loss) and not math.isfinite(norm)
    assert [value.tobytes() for value in session.run(tf.global_variables())] == [value.tobytes() for value in before]
    assert math.isfinite(step.run(session, feeds, 0.1, scale=SCALE)[1])
    assert all((value != old).any() for value, old in zip(session.run(tf.trainable_variables()), before))


def test_workers_decide_together(tf, session):
    """Each looks at the gradient that all have after their sum."""
    step, _ = build(tf, optimizer='sgd', workers=fake_workers(FakeCluster(2)))
    sums = set(ops_of(session.graph, 'CollectiveReduceV2'))
    [decision] = {op.inputs[1].op for op in ops_of(session.graph, 'Switch')}
    assert decision.type == 'IsFinite' and sums and sums <= ancestors(decision)
    assert decision in ancestors(step._update)


def rows(home, run):
    found = [json.loads(line) for line in (home / f'checkpoint/{run}/metrics.jsonl').read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != 'tokens_per_second'} for row in found]


@pytest.fixture
def overflowing(monkeypatch):
    """overflowing(scale): every step with a larger scale overflows."""
    from training.graph import TrainingGraph

    def above(scale):
        update = TrainingGraph.update

        def overflow(graph, batches, rate, stop, scale):
            return update(graph, batches, rate, stop, scale if scale <= largest else OVERFLOWING ** 2)
        largest = scale
        monkeypatch.setattr(TrainingGraph, 'update', overflow)
    return above


FLAGS = (*SMALL_RUN, '--precision', 'float16', '--batch_size', 2, '--learning_rate', 0.01, '--seed', 3)


def test_a_run_skips_and_counts_the_steps_that_overflow(tf, train, home, overflowing):
    overflowing(2 ** 14)
    output = train(*FLAGS, '--max_steps', 1, '--save_every', 1)
    assert output.count(' skipped=1\n') == 1
    before, after = (read_checkpoint(home / place) for place in ('models/one_block', 'checkpoint/run1'))
    assert all((after[name] == before[name]).all() for name in before)
    output = train(*FLAGS, '--max_steps', 3)
    assert output.count(' skipped=1\n') == 2
    found = rows(home, 'run1')
    assert [(row['step'], row['loss_scale'], row['skipped'], 'gradient_norm' in row) for row in found] == [
        (1, 2 ** 14, 1, False), (2, 2 ** 14, 1, True), (3, 2 ** 14, 1, True)]
    assert any((after[name] != value).any() for name, value in read_checkpoint(home / 'checkpoint/run1').items())


def test_a_gradient_that_no_scale_mends_ends_the_run(tf, train, overflowing):
    overflowing(0)
    with pytest.raises(UserError, match=r'the loss of step 16 is 6\.\d+, the norm of its gradient nan; .*, --precision float32$'):
        train(*FLAGS, '--max_steps', 100)


@pytest.mark.parametrize('flags', [
    ('--optimizer', 'adam', '--accumulate_gradients', 2, '--clip_norm', 1),
    ('--model_name', 'toy', '--lora_rank', 3, '--base_weights', 'int8', '--memory_saving_gradients', '--dropout', 0.1,
     '--optimizer', 'adafactor', '--val_every', 2, '--val_batch_count', 1)], ids=lambda flags: flags[0])
def test_a_run_that_stopped_equals_one_that_did_not(tf, train, home, monkeypatch, overflowing, flags):
    monkeypatch.setattr(loss_scale, 'GOOD_STEPS', 2)
    overflowing(2 ** 13)
    flags = (*FLAGS, *flags)
    train('--run_name', 'complete', '--max_steps', 8, *flags)
    train('--run_name', 'parts', '--max_steps', 3, *flags)      # after two that are skipped, between two that are good
    train('--run_name', 'parts', '--max_steps', 8, *flags)
    found = rows(home, 'complete')
    assert found == rows(home, 'parts')
    assert [row['loss_scale'] / 2 ** 13 for row in found if 'loss' in row] == [2, 1, 1, 2, 1, 1, 2, 1]
    complete, parts = (read_checkpoint(home / 'checkpoint' / run) for run in ('complete', 'parts'))
    assert {name: value.tobytes() for name, value in complete.items()} == {
        name: value.tobytes() for name, value in parts.items()}


def test_a_run_may_change_its_precision_and_keeps_the_state_of_its_optimizer(train, home):
    flags = (*FLAGS, '--optimizer', 'adam')
    train(*flags, '--precision', 'float32', '--max_steps', 1)
    output = train(*flags, '--max_steps', 2)
    assert 'precision: float32 before, float16 now' in output
    assert 'it starts from scratch' not in output
    output = train(*flags, '--precision', 'float32', '--max_steps', 3)
    assert 'it starts from scratch' not in output and 'skipped' not in rows(home, 'run1')[-1]
