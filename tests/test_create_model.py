"""create_model.py: a complete model directory, or nothing at all."""

import contextlib
import json
import shutil
import sys

import pytest

from checkpoint_files import read_checkpoint
from command.errors import UserError
from command.models import FILES
from conftest import SMALL_RUN, one_line_error
from encoder import load_encoder
from network.hparams import load_hparams
from vocabulary.special import SpecialTokens, write_special_tokens

SIZE = ['--vocab_size', '280', '--n_ctx', '16', '--n_embd', '12', '--n_head', '2', '--n_layer', '1']


@pytest.fixture
def create(tf, home, monkeypatch, capsys):
    """Runs create_model.py in this process; returns what it prints."""
    def run(*flags):
        import create_model
        monkeypatch.chdir(home)
        monkeypatch.setattr('sys.argv', ['create_model.py', *map(str, flags)])
        capsys.readouterr()
        create_model.main()
        return capsys.readouterr().out
    return run


def test_a_new_model_is_complete_and_trains(create, train, home):
    output = create('new', '--dataset', 'corpus.txt', '--seed', 1, *SIZE)
    assert output.startswith('models/new: ')
    assert {path.name for path in (home / 'models/new').iterdir()} == set(FILES)
    encoder = load_encoder(str(home / 'models/new'))
    assert vars(load_hparams(str(home / 'models/new'))) == {'n_vocab': 280, 'n_ctx': 16, 'n_embd': 12, 'n_head': 2,
                                                            'n_layer': 1}
    assert encoder.decode(encoder.encode('the quick dog ☃')) == 'the quick dog ☃'
    output = train(*SMALL_RUN, '--model_name', 'new', '--max_steps', 1)
    assert 'loss=5.6' in output     # ln 280 = 5.63
    warning = 'has new weights, which --learning_rate 2e-05, a rate for fine-tuning, changes slowly'
    assert f'models/new/model.ckpt {warning}' in output
    create('after_a_step', '--from_run', 'run1')
    assert warning not in train(*SMALL_RUN, '--model_name', 'after_a_step', '--run_name', 'run2', '--max_steps', 1)


def test_a_seed_gives_the_same_weights(tf, create, home):
    def weights(name, *seed):
        create(name, '--dataset', 'corpus.txt', *SIZE, *seed)
        return read_checkpoint(home / 'models' / name)['model/h0/mlp/c_fc/w']

    one, same, other, unseeded = (weights('a', '--seed', 1), weights('b', '--seed', 1), weights('c', '--seed', 2),
                                  weights('d'))
    assert (one == same).all()
    assert (one != other).any()
    assert (one != unseeded).any()


def test_a_text_too_small_for_the_vocabulary_is_reported(create, home):
    (home / 'small.txt').write_text('abab abab')
    output = create('small', '--dataset', 'small.txt', *SIZE)
    n_vocab = json.loads((home / 'models/small/hparams.json').read_text())['n_vocab']
    assert f'The text has no pair of tokens left that occurs twice: n_vocab is {n_vocab}, not 280\n' in output
    assert 257 < n_vocab < 262


def test_a_lean_model_from_a_run(tf, create, train, home):
    train('--model_name', 'one_block', '--max_steps', 2, '--sample_every', 0, '--learning_rate', 0.01)
    create('tuned', '--from_run', 'run1')
    assert {path.name for path in (home / 'models/tuned').iterdir()} == set(FILES)
    run, lean = (read_checkpoint(home / directory) for directory in ('checkpoint/run1', 'models/tuned'))
    assert lean.keys() == {name for name in run if name.startswith('model/') and 'Adam' not in name}
    assert len(run) > 2 * len(lean)
    assert all((array == run[name]).all() for name, array in lean.items())


def test_special_tokens_of_a_run_are_copied(create, train, home, one_block):
    (home / 'models/one_block').unlink()
    shutil.copytree(one_block, home / 'models/one_block')
    write_special_tokens(str(home / 'models/one_block'), SpecialTokens('<|endoftext|>', ('<|endoftext|>',), ('the',)))
    train('--max_steps', 1, *SMALL_RUN)
    create('tuned', '--from_run', 'run1')
    assert {path.name for path in (home / 'models/tuned').iterdir()} == {*FILES, 'special_tokens.json'}
    assert load_encoder('models/tuned').special_tokens.added == ('the',)


def test_nothing_is_overwritten(create, home):
    with pytest.raises(UserError, match='models/toy exists already'):
        create('toy', '--dataset', 'corpus.txt', *SIZE)


def small_files():
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))


def test_a_disk_that_fills_up_leaves_nothing(script, home):
    before = sorted(path.name for path in (home / 'models').iterdir())
    line = one_line_error(script('create_model.py', 'new', '--dataset', 'corpus.txt', *SIZE, preexec_fn=small_files))
    assert line == 'create_model.py: cannot write models/new.part: File too large'
    assert sorted(path.name for path in (home / 'models').iterdir()) == before


def test_memory_that_runs_out_is_reported(tf, create, home, monkeypatch):
    def exhausted():
        raise tf.errors.ResourceExhaustedError(None, None, 'OOM when allocating tensor')
    monkeypatch.setattr(tf, 'global_variables_initializer', exhausted)
    with pytest.raises(UserError, match='out of memory: give a smaller --n_embd, --n_layer, --n_ctx or --vocab_size'):
        create('new', '--dataset', 'corpus.txt', *SIZE)
    assert not list((home / 'models').glob('new*'))


@pytest.mark.parametrize(('flags', 'words'), [
    (['--dataset', 'nowhere.txt', *SIZE], "cannot find 'nowhere.txt'"),
    (['--dataset', 'corpus.txt', *SIZE, '--n_head', '5'], 'invalid sizes: n_embd 12 is not divisible by n_head 5'),
    (['--dataset', 'corpus.txt', *SIZE, '--vocab_size', '256'], '--vocab_size 256 is too small'),
    (['--dataset', 'corpus.txt', *SIZE, '--n_layer', '0'], 'argument --n_layer: expected a whole number above 0'),
    (['--dataset', 'corpus.txt', *SIZE, '--n_embd', '9000000000'], 'a model of these sizes needs '),
    (['--dataset', 'corpus.txt=2', *SIZE], 'corpus.txt=2: weights are for training, here each text is read once; give corpus'),
    (['--dataset', 'corpus.txt', 'corpus*', *SIZE], 'corpus.txt is in the data set corpus.txt and in corpus*: name it once'),
    (['--dataset', 'corpus.txt', *SIZE, '--text_column', 'x'], '--text_column x has no effect'),
    (['--from_run', 'nowhere'], "no run 'nowhere' in checkpoint"),
    (['--dataset', 'corpus.txt', *SIZE, '--models_dir', 'r\udce9'], "the name 'r\\udce9/new' is not UTF-8"),
    ([], 'one of the arguments --dataset --from_run is required'),
    (['--dataset', 'corpus.txt', *SIZE, '--models_dir', 'corpus.txt'], 'cannot write corpus.txt/new')])
def test_bad_input_is_refused_before_tensorflow_and_leaves_nothing(create, home, monkeypatch, flags, words):
    for name in ('tensorflow', 'tensorflow.compat.v1'):     # makes importing it fail
        monkeypatch.setitem(sys.modules, name, None)
    before = sorted(home.rglob('*'))
    with pytest.raises(UserError) as error:
        create('new', *flags)
    assert words in str(error.value) and '\n' not in str(error.value)
    assert sorted(home.rglob('*')) == before


@pytest.mark.parametrize(('available', 'fits'), [(4 * 257 * 12, False), (10 ** 6, True), (None, True)])
def test_memory_is_checked_against_the_smallest_vocabulary(create, monkeypatch, available, fits):
    import create_model
    monkeypatch.setattr(create_model, 'available_memory', lambda: available)
    message = r'needs 0.0 GB for its weights, 0.0 GB are available'
    with contextlib.nullcontext() if fits else pytest.raises(UserError, match=message):
        create('new', '--dataset', 'corpus.txt', *SIZE)


def test_bad_input_is_one_line(without_tensorflow, home):
    line = one_line_error(without_tensorflow('create_model.py', 'new', '--from_run', 'nowhere'))
    assert line.startswith("create_model.py: no run 'nowhere' in checkpoint")
