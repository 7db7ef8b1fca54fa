"""A loss far above that of guessing ends a run, keeps no ruined weights in place of good ones, and ends no healthy run."""

import math
import re

import numpy as np
import pytest

from checkpoint_files import read_checkpoint
from command.errors import UserError
from conftest import load_params
from network.hparams import load_hparams
from reference import random_params
from storage import checkpoints, run_state
from storage.run_state import RunState
from training import loop
from training.ruin import LASTING, STEPS, SUDDEN, ruin

FLAGS = ('--model_name', 'one_block', '--sample_every', 0, '--seed', 1)
N_VOCAB = 1000      # guessing costs 6.9


def ends(losses, state=None):
    """The step at which a run with these losses ends, and why; (None, None) for none."""
    state = state or RunState()
    for loss in losses:
        state.step += 1
        if why := ruin(loss, state, N_VOCAB):
            return state.step, why
    return None, None


GUESSING = math.log(N_VOCAB)


@pytest.mark.parametrize('losses', [
    [GUESSING] * 300, [GUESSING + 0.1] * 300, [3.0, 1.0, 0.1, 1e-6] * 90,
    [12.0] * 300,                                                           # a corpus unlike what the model has seen
    [800.0 * 0.99 ** i for i in range(900)],                                # weights of another scale
    [800.0, 1590.0, 7000.0] + [3.0] * 50,                                   # and a step that was too long
    [3.0] * 50 + [60.0] + [3.0] * 50,                                       # a batch of nothing but noise
    ([3.0] + [30.0] * (STEPS - 1)) * 9,                                     # bad stretches that end
], ids=range(8))
def test_healthy_runs(losses):
    assert ends(losses) == (None, None)


@pytest.mark.parametrize(('losses', 'step', 'words'), [
    ([3.0, 13557.0], 2, ('the loss of step 2 is 13557, more than 10 times that of guessing (6.91) and that of the first step '
                         '(3.00)')),
    ([3.0, 69.0, 69.1], 3, 'the loss of step 3 is 69.1, more than 10 times'),
    ([80.0, 799.0, 801.0], 3, 'and that of the first step (80.00)'),
    ([3.0] * 9 + [14.0] * STEPS, 9 + STEPS, ('the loss of step 109 is 14, and for 100 steps was more than 2 times that of '
                                             'guessing (6.91) and that of the first step (3.00)')),
    ([3.0] + [14.0] * (STEPS - 1) + [3.0] + [14.0] * STEPS, 2 * STEPS + 1, 'for 100 steps'),
    ([700.0, 7.0, 3.0] + [14.0] * 500, None, '')],       # the price of leaving weights of another scale alone
    ids=range(6))
def test_ruined_runs(losses, step, words):
    ended, why = ends(losses)
    assert ended == step
    assert words in (why or '')
    assert (SUDDEN, LASTING) == (10, 2)     # what the sentences above say


def test_a_resumed_run_continues_to_count():
    state = RunState()
    assert ends([3.0] + [14.0] * (STEPS - 1), state) == (None, None)
    assert ends([14.0], RunState(**vars(state)))[0] == STEPS + 1
    old = RunState(step=7)      # of a version that did not count: no step to compare with
    assert ends([1e6], old) == (None, None)


@pytest.fixture
def ruined_after(monkeypatch):
    """Makes the update of a step ruin the weights, as a learning rate that is too high does; None for that of no step."""
    rate = loop.learning_rate
    return lambda step: monkeypatch.setattr(loop, 'learning_rate', lambda i, **kwargs: 5.0 if i == step else rate(i, **kwargs))


def steps_saved(home, run='run1'):
    return [checkpoints.checkpoint_step(prefix) for prefix in checkpoints.list_checkpoints(str(home / f'checkpoint/{run}'))]


def test_a_ruined_run_ends_and_can_be_continued(train, home, ruined_after):
    """The checkpoint after the step that ruined the weights is removed, those before it stay, with --keep 1 too."""
    ruined_after(3)
    with pytest.raises(UserError, match=r'^the loss of step 4 is \d+.*, more than 10 times that of guessing \(5\.\d\d\) and '
                       r'that of the first step \(.*; checkpoint/run1/model-2 is safe; try --restore_from 2 with a smaller '
                       '--learning_rate, --clip_norm 1, --warmup_steps 100$'):
        train(*FLAGS, '--max_steps', 9, '--save_every', 1, '--keep', 1)
    ruined_after(None)
    assert steps_saved(home) == [2]
    assert (home / 'checkpoint/run1/counter').read_text() == '2\n'
    output = train(*FLAGS, '--max_steps', 4, '--restore_from', 2, '--save_every', 1, '--keep', 1)
    assert re.findall(r'^\[(\d+) \|', output, re.MULTILINE) == ['3', '4']
    assert steps_saved(home) == [4]


def test_the_model_is_safe_if_the_first_step_ruins_the_run(train, home, ruined_after):
    ruined_after(1)
    with pytest.raises(UserError, match='the loss of step 2 is .*; models/one_block/model.ckpt is safe; try a smaller '
                                        '--learning_rate'):
        train(*FLAGS, '--save_every', 1)
    assert steps_saved(home) == [] and not (home / 'checkpoint/run1/checkpoint').exists()


def test_an_overwritten_run_is_back_if_the_new_one_is_ruined_at_once(train, home, ruined_after, capsys):
    train(*FLAGS, '--max_steps', 2)
    before = read_checkpoint(home / 'checkpoint/run1')['model/wte']
    ruined_after(1)
    with pytest.raises(UserError, match='the loss of step 2 is '):
        train(*FLAGS, '--overwrite', '--save_every', 1, '--max_steps', 5)
    assert 'Removing checkpoint/run1/model-1, whose weights are ruined\n' in capsys.readouterr().out
    assert steps_saved(home) == [2]
    assert (read_checkpoint(home / 'checkpoint/run1')['model/wte'] == before).all()


def test_a_run_resumed_from_ruined_weights_keeps_its_checkpoint_and_says_so(train, home, ruined_after):
    ruined_after(2)
    train(*FLAGS, '--max_steps', 2, '--save_every', 1)
    with pytest.raises(UserError, match='model-2 has such weights already; try --restore_from with the step of an earlier '
                       'checkpoint, and a smaller --learning_rate'):
        train(*FLAGS, '--max_steps', 3)
    assert steps_saved(home) == [1, 2]


def test_nothing_is_saved_while_the_loss_is_far_off(train, home, monkeypatch):
    """What was due is saved when it is no longer; a run that is stopped in between removes nothing for what it saves."""
    def judged(loss, state, n_vocab):
        state.far_off = state.far_off + 1 if state.step in (2, 3, 6) else 0
    monkeypatch.setattr(loop, 'ruin', judged)
    output = train(*FLAGS, '--max_steps', 6, '--save_every', 2, '--keep', 1)
    assert re.findall(r'^Saving \S+-(\d)$', output, re.MULTILINE) == ['4', '6']
    assert steps_saved(home) == [4, 6]
    assert run_state.read(str(home / 'checkpoint/run1/model-6')).far_off == 1
    train(*FLAGS, '--max_steps', 8, '--save_every', 2, '--keep', 1)
    assert steps_saved(home) == [8]


@pytest.mark.parametrize('flags', [['--optimizer', 'sgd', '--learning_rate', 0.1], ['--learning_rate', 0.03]], ids=str)
@pytest.mark.parametrize('scale', [0.02, 3.0])
def test_models_of_any_scale_may_learn(tf, train, home, scale, flags):
    """Of random weights of the usual scale, and so large that the first loss is many times that of guessing."""
    import model
    from storage import saver
    hparams = load_hparams(str(home / 'models/one_block'))
    directory = home / 'models/random'
    directory.mkdir()
    for name in ('hparams.json', 'encoder.json', 'vocab.bpe'):
        (directory / name).write_bytes((home / 'models/one_block' / name).read_bytes())
    with tf.Graph().as_default(), tf.Session() as session:
        model.model(hparams, tf.placeholder(tf.int32, [None, None]))
        load_params(session, random_params(hparams, seed=1, scale=scale))
        saver.save_model(session, str(directory))
    output = train(*FLAGS, '--model_name', 'random', '--max_steps', 40, *flags)
    losses = [float(loss) for loss in re.findall(r' loss=(\S+)', output)]
    assert len(losses) == 40
    assert (losses[0] > 5 * math.log(hparams.n_vocab)) == (scale > 1)
    assert np.mean(losses[-5:]) < losses[0]
