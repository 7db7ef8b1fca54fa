"""Runs with --lora_rank: what they keep, how they are read, what they start from, and mistakes."""

import json
import os
import runpy
import shutil
import sys

import numpy as np
import pytest

from checkpoint_files import read_checkpoint
from command.errors import UserError
from conftest import ROOT, TEXT
from network.hparams import load_hparams
from network.lora import Lora, is_factor

LORA = Lora(rank=3, alpha=12)
FLAGS = ('--sample_every', 0, '--batch_size', 2, '--learning_rate', 0.02, '--seed', 3, '--val_every', 2, '--val_batch_count', 1)
ADAPTERS = ('--lora_rank', 3, '--lora_alpha', 12)


def run_script(name, *arguments):
    """Runs a script of the project in this process and in the working directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', [name, *map(str, arguments)])
        runpy.run_path(os.path.join(ROOT, name), run_name='__main__')


@pytest.fixture(scope='module')
def trained(tf, model_directory, tmp_path_factory):
    """A working directory with the run `a` of adapters on models/toy, the model `merged` that is made of it, and a full run
    and one of adapters on a checkpoint of `a`."""
    home = tmp_path_factory.mktemp('lora')
    (home / 'models').mkdir()
    (home / 'models/toy').symlink_to(model_directory)
    (home / 'corpus.txt').write_text(TEXT)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        common = ('train.py', '--model_name', 'toy', '--dataset', 'corpus.txt', *FLAGS)
        run_script(*common, *ADAPTERS, '--run_name', 'a', '--max_steps', 4, '--save_every', 2)
        run_script(*common, '--run_name', 'full', '--max_steps', 1)
        run_script(*common, *ADAPTERS, '--run_name', 'int8', '--max_steps', 4, '--base_weights', 'int8', '--sample_every', 2,
                   '--sample_length', 4, '--sample_num', 1)
        run_script(*common, '--run_name', 'full-on-a', '--max_steps', 1, '--restore_from', 'a')
        run_script(*common, '--run_name', 'b', '--max_steps', 1, '--restore_from', 'a', '--lora_rank', 2)
        run_script('create_model.py', 'merged', '--from_run', 'a')
    return home


@pytest.fixture
def inside(trained, monkeypatch):
    monkeypatch.chdir(trained)
    return trained


@pytest.fixture
def copied(trained, home):
    """`home` with a copy of the runs."""
    shutil.copytree(trained / 'checkpoint', home / 'checkpoint')
    return home


def losses(run):
    """Step -> validation loss."""
    with open(f'checkpoint/{run}/metrics.jsonl') as file:
        return {row['step']: row['val_loss'] for row in map(json.loads, file) if 'val_loss' in row}


def test_at_step_0_the_model_is_the_base_to_the_bit(inside):
    assert losses('a')[0] == losses('full')[0]
    assert losses('a')[4] < losses('a')[0] - 0.1


def test_an_8_bit_base_learns_nearly_the_same_and_is_saved_as_any(inside):
    for step in (0, 2, 4):
        assert 0 < abs(losses('int8')[step] - losses('a')[step]) < 0.01
    assert {path.name for path in (inside / 'samples/int8').iterdir()} == {'samples-2', 'samples-4'}
    stored, as_float32 = read_checkpoint('checkpoint/int8'), read_checkpoint('checkpoint/a')
    assert {name: (value.shape, value.dtype) for name, value in stored.items()} == {
        name: (value.shape, value.dtype) for name, value in as_float32.items()}
    contents = [json.loads((inside / f'checkpoint/{run}/adapter.json').read_text()) for run in ('a', 'int8')]
    assert contents[0] == contents[1]


def test_a_checkpoint_holds_the_adapters_and_their_moments_alone(inside):
    hparams = load_hparams('models/toy')
    stored = read_checkpoint('checkpoint/a/model-4')
    factors = LORA.shapes(hparams)
    moments = {f'{name}/{moment}' for name in factors for moment in ('Adam', 'Adam_1')}
    assert stored.keys() == factors.keys() | moments | {'beta1_power', 'beta2_power'}
    numbers = sum(np.prod(shape) for shape in factors.values())
    assert os.path.getsize('checkpoint/a/model-4.data-00000-of-00001') == 4 * (3 * numbers + 2)
    assert all(value.any() for value in stored.values())


def test_merged_models_are_what_the_run_had_trained(inside):
    """A full run and other adapters start from the merged weights, at the loss with which the adapters ended."""
    for run in ('full-on-a', 'b'):
        assert losses(run)[0] == pytest.approx(losses('a')[4], rel=1e-6)
    base, adapters, merged = (read_checkpoint(path) for path in ('models/toy', 'checkpoint/a', 'models/merged'))
    assert merged.keys() == base.keys()
    for name, value in base.items():
        if name.endswith('/w'):
            scope = name.removesuffix('w')
            value = value + LORA.scale * adapters[f'{scope}lora_a'] @ adapters[f'{scope}lora_b']
            assert np.abs(value - base[name]).max() > 1e-3
            np.testing.assert_allclose(merged[name], value, rtol=1e-5, atol=1e-6)
        else:
            assert np.array_equal(merged[name], value), name


def test_a_run_is_read_as_the_merged_model(inside):
    from convert import checkpoint_weights
    from generator import Generator
    from storage import huggingface
    texts = [Generator(path).generate('the dog', length=12, seed=1, top_k=5) for path in (
        'checkpoint/a', 'models/merged', 'checkpoint/a/2', 'models/toy')]
    assert texts[0] == texts[1] and len(set(map(str, texts))) == 4 - 1
    tensors = huggingface.tensors(load_hparams('models/toy'))
    merged = read_checkpoint('models/merged')
    for tensor, value in zip(tensors, checkpoint_weights('checkpoint/a/model-4', tensors)):
        assert np.array_equal(value, merged[tensor.name])


def test_evaluate_measures_the_run_s_loss(inside, capsys):
    figures = []
    for model in (('--run_name', 'a'), ('--model_name', 'merged')):
        capsys.readouterr()
        run_script('evaluate.py', *model, '--dataset', 'corpus.txt', '--json')
        figures.append(json.loads(capsys.readouterr().out.splitlines()[-1])['loss'])
    assert figures[0] == figures[1]


def test_the_first_values_follow_from_the_seed(train, home):
    def values(*flags):
        train('--run_name', 'r', '--overwrite', *ADAPTERS, '--sample_every', 0, '--learning_rate', 1e-9, '--optimizer', 'sgd',
              '--max_steps', 1, *flags)
        return read_checkpoint(home / 'checkpoint/r')['model/h1/mlp/c_fc/lora_a']

    first, again, other = values('--seed', 1), values('--seed', 1), values('--seed', 2)
    assert np.array_equal(first, again)
    assert np.abs(first - other).mean() > 0.05


def test_another_optimizer_continues_the_adapters_without_its_state(train, copied):
    output = train('--run_name', 'a', *FLAGS, *ADAPTERS, '--optimizer', 'adafactor', '--learning_rate', 1e-9, '--max_steps', 5)
    assert 'checkpoint/a/model-4 holds no state of the optimizer adafactor: it starts from scratch' in output
    before, after = (read_checkpoint(copied / f'checkpoint/a/model-{step}') for step in (4, 5))
    for name in filter(is_factor, before):
        np.testing.assert_allclose(after[name], before[name], atol=1e-7)


def test_a_stale_adapter_json_of_a_start_without_checkpoint_is_replaced(train, home):
    (home / 'checkpoint/a').mkdir(parents=True)
    (home / 'checkpoint/a/adapter.json').write_text('{"base": "gone", "rank": 9}')
    train('--run_name', 'a', *FLAGS, *ADAPTERS, '--max_steps', 1)
    content = json.loads((home / 'checkpoint/a/adapter.json').read_text())
    assert len(content.pop('checksum')) == 64
    assert content == {'base': 'models/toy/model.ckpt', 'base_from_here': '../../models/toy/model.ckpt', 'rank': 3, 'alpha': 12}


def test_a_run_of_adapters_is_overwritten_with_its_adapter_json(train, copied):
    train('--run_name', 'a', *FLAGS, '--max_steps', 1, '--overwrite')
    assert not (copied / 'checkpoint/a/adapter.json').exists()
    assert 'model/wte' in read_checkpoint(copied / 'checkpoint/a')


def test_adapters_on_a_run_s_checkpoint_warn_that_it_may_be_removed(train, copied):
    output = train('--run_name', 'c', *FLAGS, *ADAPTERS, '--max_steps', 1, '--restore_from', 'full')
    assert 'The adapters of this run need checkpoint/full/model-1, which its own run may remove (--keep)' in output
    shutil.rmtree(copied / 'checkpoint/full')
    with pytest.raises(UserError, match='the base model of checkpoint/c/model-1, checkpoint/full/model-1, is missing'):
        train('--run_name', 'c', *FLAGS, *ADAPTERS, '--max_steps', 2)


def test_the_default_learning_rate_is_warned_of(train, home):
    output = train('--max_steps', 1, '--sample_every', 0, '--lora_rank', 1)
    assert 'Adapters (--lora_rank) learn slowly with --learning_rate 2e-05: try --learning_rate 0.0003' in output
    assert json.loads((home / 'checkpoint/run1/adapter.json').read_text())['alpha'] == 2


TRAIN = ('train.py', '--model_name', 'toy', '--dataset', 'corpus.txt')


@pytest.mark.parametrize(('flags', 'words'), [
    (('--lora_rank', 25), '--lora_rank 25 is more than the side of a matrix, 24 in this model'),
    (('--lora_rank', -1), "argument --lora_rank: expected a whole number, 0 or more, not '-1'"),
    (('--lora_rank', 2, '--lora_alpha', 0), "argument --lora_alpha: expected a number above 0, not '0'"),
    (('--lora_rank', 2, '--lora_alpha', 'nan'), "argument --lora_alpha: expected a number above 0, not 'nan'"),
    (('--lora_alpha', 2), '--lora_alpha works only with --lora_rank'),
    (('--lora_rank', 2, '--train_layers', 1), '--lora_rank and --train_layers: give only one of them'),
    (('--lora_rank', 2, '--only_train_transformer_layers'), '--lora_rank and --only_train_transformer_layers: give only one'),
    (('--base_weights', 'int8'), '--base_weights int8 works only with --lora_rank: weights that are trained are float32'),
    (('--base_weights', 'bfloat16', '--train_layers', 1), '--base_weights bfloat16 works only with --lora_rank'),
    (('--lora_rank', 2, '--base_weights', 'int4'), "argument --base_weights: invalid choice: 'int4'"),
])
def test_mistaken_flags(mistake, flags, words):
    assert mistake(*TRAIN, *flags).startswith(words)


@pytest.mark.parametrize(('run', 'flags', 'words'), [
    ('a', ('--lora_rank', 4, '--lora_alpha', 12),
     ('checkpoint/a is a run with --lora_rank 3 --lora_alpha 12, not with --lora_rank 4 --lora_alpha 12: continue it as '
      'it is, or give another --run_name, with --restore_from a')),
    ('a', ('--lora_rank', 3), 'checkpoint/a is a run with --lora_rank 3 --lora_alpha 12, not with --lora_rank 3 --lora_alpha 6'),
    ('a', (), 'checkpoint/a is a run with --lora_rank 3 --lora_alpha 12, not with no adapters: '),
    ('full', ADAPTERS, 'checkpoint/full is a run with no adapters, not with --lora_rank 3'),
])
def test_a_run_continues_only_as_what_it_is(mistake, copied, run, flags, words):
    assert mistake(*TRAIN, '--run_name', run, *flags).startswith(words)


def test_a_base_that_is_missing_or_has_changed_is_found_before_tensorflow(mistake, copied, model_directory):
    commands = ((*TRAIN, '--run_name', 'a', *ADAPTERS), (*TRAIN, '--run_name', 'new', '--restore_from', 'a'),
                ('evaluate.py', '--run_name', 'a', '--dataset', 'corpus.txt'), ('convert.py', 'to_hf', 'a', 'out'),
                ('create_model.py', 'new', '--from_run', 'a'))
    (copied / 'models/toy').unlink()
    shutil.copytree(model_directory, copied / 'models/toy')
    os.remove(copied / 'models/toy/model.ckpt.index')
    words = 'the base model of checkpoint/a/model-4, models/toy/model.ckpt, is missing: put it there again, or write where it is '
    assert [mistake(*command) for command in commands] == [f'{words}into checkpoint/a/adapter.json'] * len(commands)
    for suffix in ('index', 'data-00000-of-00001'):
        shutil.copyfile(copied / f'checkpoint/full/model-1.{suffix}', copied / f'models/toy/model.ckpt.{suffix}')
    words = 'the base model of checkpoint/a/model-4, models/toy/model.ckpt, has changed: '
    assert all(mistake(*command).startswith(words) for command in commands)
    assert not (copied / 'out').exists() and not (copied / 'models/new').exists()


def test_the_plan_counts_adapters(train, home):
    plan = ' '.join(train('--lora_rank', 3, '--dry_run', '--max_steps', 1).split())
    hparams = load_hparams(str(home / 'models/toy'))
    numbers = sum(np.prod(shape) for shape in LORA.shapes(hparams).values())
    assert f'trained {numbers:,} with adam, from models/toy/model.ckpt' in plan
