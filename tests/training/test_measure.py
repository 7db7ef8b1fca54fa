"""train.py --dry_run --measure_steps: real steps, and nothing written; and what a run then takes, compared with its plan."""

import re

import pytest

from command.errors import UserError
from network.hparams import HParams
from training.dry_run import duration
from training.graph import TrainingGraph

SMALLEST = HParams(n_vocab=50257, n_ctx=32, n_embd=64, n_head=1, n_layer=1)


def files(home):
    return {path: path.is_file() and path.read_bytes() for path in home.rglob('*')}


def test_steps_are_measured_and_nothing_is_written(train, home, monkeypatch):
    made, update = [], TrainingGraph.update

    def counted(graph, batches, *args, **kwargs):
        made.append([batch.shape for batch, *_ in batches])
        return update(graph, batches, *args, **kwargs)
    monkeypatch.setattr(TrainingGraph, 'update', counted)
    before = files(home)
    output = train('--dry_run', '--measure_steps', 2, '--batch_size', 3, '--accumulate_gradients', 2, '--seq_length', 16,
                   '--max_steps', 1000, '--val_every', 1)
    assert files(home) == before
    assert made == [[(3, 16)] * 2] * 3      # the first is not counted
    plan, time = output.split('time, by the median of 2 steps on this machine:\n')
    assert 'disk:\n' in plan and 'Loading checkpoint models/toy/model.ckpt' in plan
    seconds, tokens, total = (re.split('  +', line.strip()) for line in time.splitlines())
    assert (seconds[0], tokens[0]) == ('seconds in a step', 'tokens in a second')
    assert float(tokens[1].replace(',', '')) == pytest.approx(96 / float(seconds[1]), rel=0.01)
    assert total == ['1,000 steps', duration(1000 * float(seconds[1])), 'without validation, samples and saving']


def test_a_model_that_is_not_downloaded_is_measured_with_random_weights(train, home, monkeypatch):
    from command import models
    from training import not_downloaded
    monkeypatch.setitem(models.SIZES, '124M', (1, 64))
    monkeypatch.setattr(not_downloaded, 'default_hparams', lambda: SMALLEST)
    output = train('--model_name', '124M', '--dry_run', '--measure_steps', 1, '--seq_length', 16)
    assert 'Loading checkpoint' not in output
    assert re.search(r'^  1,000 steps  ', output, re.MULTILINE)      # of a run without a limit
    assert not (home / 'checkpoint').exists()


def test_memory_that_runs_out(tf, train, monkeypatch):
    def fail(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, 'OOM')
    monkeypatch.setattr(TrainingGraph, 'update', fail)
    with pytest.raises(UserError, match='^--measure_steps: out of memory; the plan names flags that take less$'):
        train('--dry_run', '--measure_steps', 1)


@pytest.mark.parametrize(('flags', 'words'), [
    (['--measure_steps', 1], '--measure_steps works only with --dry_run'),
    (['--measure_steps', 1, '--dry_run', '--workers', 'a:1,b:1', '--worker_index', 0],
     '--measure_steps measures a single worker, and this run has 2: leave it out'),
    (['--measure_steps', -1, '--dry_run'], "argument --measure_steps: expected a whole number, 0 or more, not '-1'")])
def test_a_mistake(mistake, flags, words):
    assert mistake('train.py', '--model_name', 'toy', '--dataset', 'corpus.txt', *flags).startswith(words)


def test_a_run_takes_the_disk_of_its_plan(train, home):
    flags = ('--model_name', 'one_block', '--max_steps', 3, '--save_every', 1, '--keep', 1, '--sample_every', 0,
             '--only_train_transformer_layers')
    plan = train('--dry_run', *flags)
    train(*flags)
    [data] = (home / 'checkpoint/run1').glob('model-*.data*')
    weights, trained = (int(re.search(rf'{name} +([0-9,]+)', plan)[1].replace(',', '')) for name in ('parameters', 'trained'))
    assert 0 <= data.stat().st_size - 4 * (weights + 2 * trained) < 100
    [count] = re.findall(r'checkpoints at a time, at most +(\d+)', plan)
    assert count == '2'


@pytest.mark.parametrize(('seconds', 'words'), [
    (0.4, '0 s'), (99.4, '99 s'), (100, '2 min'), (3569, '59 min'), (3571, '1 h 0 min'), (9000, '2 h 30 min'),
    (90_000, '25 h 0 min'), (3.6e6, '1,000 h 0 min')])
def test_durations(seconds, words):
    assert duration(seconds) == words
