"""The best checkpoint of a run, and any other, in every script that takes a model or a run."""

import importlib
import json
import os
import re
import shutil
import sys

import pytest

import generator
from checkpoint_files import read_checkpoint, write_checkpoint
from conftest import ROOT, SMALL_RUN
from encoder import get_encoder
from network.hparams import HParams
from sampling.flags import Flags
from storage import run_state
from storage.run_state import RunState
from training.next_steps import best_line, next_steps
from training.prepare import prepare
from training.settings import make_settings as settings_of

BEST, NEWEST = 1, 2


@pytest.fixture
def over(home, one_block):
    """A run `over` with --keep_best: at step 1 it has the weights of the model, at step 2 smaller ones, and a worse loss."""
    directory = home / 'checkpoint/over'
    shutil.copytree(one_block, directory, ignore=shutil.ignore_patterns('model.ckpt*'))
    weights = read_checkpoint(one_block)
    for step, factor in ((BEST, 1.0), (NEWEST, 0.1)):
        write_checkpoint(directory / f'model-{step}', {name: factor * value for name, value in weights.items()})
        run_state.write(str(directory / f'model-{step}'),
                        RunState(step=step, validated=step, best_step=BEST, best_loss=5.25, not_better=step - BEST))
    (directory / 'checkpoint').write_text(f'model_checkpoint_path: "model-{NEWEST}"\n')
    (directory / 'settings.json').write_text(json.dumps({'flags': {'keep_best': True}, 'corpus': {}}))


@pytest.fixture
def make_settings(parse):
    return lambda *flags: settings_of(parse(*flags), HParams(n_vocab=9, n_ctx=8, n_embd=6, n_head=2, n_layer=1))


@pytest.fixture
def start(home, monkeypatch, capsys):
    """Runs a script in this process: start('evaluate', '--run_name', …) -> what it prints on standard output and error."""
    def run(name, *flags):
        monkeypatch.chdir(home)
        monkeypatch.syspath_prepend(ROOT)
        monkeypatch.setattr(sys, 'argv', [f'{name}.py', *map(str, flags)])
        capsys.readouterr()
        importlib.import_module(name).main()
        return capsys.readouterr()
    return run


def test_a_run_ends_with_how_to_use_its_best(train):
    flags = ('--model_name', 'one_block', '--val_every', 1, '--val_batch_count', 1, '--sample_every', 0, '--keep_best',
             '--learning_rate')
    *_, line, _, sample, _, again = train('--max_steps', 2, *flags, 0.01).splitlines()
    assert re.fullmatch(r'The best checkpoint is checkpoint/run1/model-2 \(validation loss \d\.\d{4}\)', line)
    assert 'interactive_conditional_samples.py --run_name run1/best --top_k 40' in sample
    assert again.endswith('--max_steps 4')
    assert line in train('--max_steps', 3, *flags, 5).splitlines()
    *_, why, best, _, same, _, again = train('--max_steps', 3, *flags, 5).splitlines()
    assert why.startswith('checkpoint/run1 has already ended') and (best, same) == (line, sample)
    assert again.endswith('--max_steps 6')
    assert '\ncheckpoint/worse has no best checkpoint: the lowest validation loss, ' in train(
        '--run_name', 'worse', '--max_steps', 1, *flags, 1)
    assert 'est checkpoint' not in train('--run_name', 'other', '--max_steps', 1, *SMALL_RUN)


def test_a_command_that_the_shell_reads_as_meant(over, home, make_settings, monkeypatch):
    monkeypatch.chdir(home)
    (home / 'my runs').mkdir()
    (home / 'checkpoint/over').rename(home / 'my runs/a b')
    settings = make_settings('--run_name', 'a b', '--checkpoint_dir', 'my runs')
    best, _, sample, *_ = next_steps(settings, NEWEST, None).splitlines()
    assert sample.endswith("--run_name 'a b/best' --checkpoint_dir 'my runs' --top_k 40")
    assert best == best_line(settings) == 'The best checkpoint is my runs/a b/model-1 (validation loss 5.2500)'


@pytest.mark.parametrize(('flags', 'step'), [
    (['--run_name', 'over'], NEWEST), (['--run_name', 'over', '--restore_from', 'over'], NEWEST),
    (['--run_name', 'over', '--restore_from', 'best'], BEST), (['--restore_from', 'over'], BEST),
    (['--restore_from', 'over/latest'], NEWEST), (['--model_name', 'checkpoint/over/best'], BEST),
    (['--model_name', 'checkpoint/over/2'], NEWEST)])
def test_training_continues_from_the_newest_and_another_run_starts_from_the_best(over, parse, home, monkeypatch, flags, step):
    monkeypatch.chdir(home)
    job = prepare(parse('--model_name', 'one_block', *flags))
    job.close()
    assert job.checkpoint == f'checkpoint/over/model-{step}'
    assert job.state.step == (step if 'over' in flags[1:2] and flags[0] == '--run_name' else 0)


@pytest.mark.parametrize(('name', 'step', 'notes'), [
    ('over', BEST, 1), ('over/best', BEST, 1), ('over/2', NEWEST, 0), ('checkpoint/over/model-2.index', NEWEST, 0)])
def test_the_names_of_a_run_and_its_checkpoints(over, start, name, step, notes):
    evaluated = start('evaluate', '--run_name', name, '--dataset', 'corpus.txt', '--json')
    assert os.path.basename(json.loads(evaluated.out)['checkpoint']) == f'model-{step}'
    assert evaluated.err.count('note: ') == notes
    if name.count('/') > 1:
        evaluated = start('evaluate', '--model_name', name, '--dataset', 'corpus.txt', '--json')
        assert os.path.basename(json.loads(evaluated.out)['checkpoint']) == f'model-{step}'


def test_a_model_of_a_run_and_its_conversion(over, start, home):
    for name, step in (('over', BEST), ('checkpoint/over/latest', NEWEST)):
        start('create_model', f'new{step}', '--from_run', name)
        expected, weights = read_checkpoint(home / f'checkpoint/over/model-{step}'), read_checkpoint(home / f'models/new{step}')
        assert all((expected[key] == value).all() for key, value in weights.items())
        assert start('convert', 'to_hf', name, f'hf{step}').out.endswith(f'weights of checkpoint/over/model-{step}\n')
        assert f'\n- weights: checkpoint `model-{step}`, after {step} steps\n' in (home / f'hf{step}/README.md').read_text()
    start('encode', 'corpus.txt', 'corpus.npz', '--model_name', 'checkpoint/over/best')
    assert get_encoder('checkpoint/over/best').n_vocab == get_encoder('one_block').n_vocab


@pytest.mark.parametrize(('flags', 'step'), [
    ({'run_name': 'over'}, BEST), ({'run_name': 'over/latest'}, NEWEST), ({'run_name': 'checkpoint/over/model-1'}, BEST),
    ({'model_name': 'checkpoint/over/latest'}, NEWEST), ({'model_name': 'checkpoint/over/model-2.index'}, NEWEST)])
def test_the_sampling_scripts(over, home, monkeypatch, flags, step):
    monkeypatch.chdir(home)
    assert Flags(**flags).model.checkpoint == f'checkpoint/over/model-{step}'


def test_a_generator_of_a_checkpoint(over, home, monkeypatch):
    monkeypatch.chdir(home)
    loaded = []
    monkeypatch.setattr(generator.ShardedNetwork, 'load', lambda self, session, prefix: loaded.append(prefix))
    generator.Generator('checkpoint/over/latest')
    assert loaded == [f'checkpoint/over/model-{NEWEST}']


def test_a_checkpoint_that_is_not_there_is_one_line(over, mistake):
    words = "no checkpoint 'checkpoint/over/model-99'; checkpoints there: checkpoint/over/model-1, checkpoint/over/model-2"
    for name in ('over/99', 'over/model-99', 'checkpoint/over/model-99'):
        assert mistake('evaluate.py', '--dataset', 'corpus.txt', '--run_name', name) == words
        assert mistake('create_model.py', 'new', '--from_run', name) == words
        assert mistake('convert.py', 'to_hf', name, 'out') == words
        assert mistake('train.py', '--dataset', 'corpus.txt', '--model_name', 'one_block', '--restore_from', name,
                       '--run_name', 'new') == words
