"""evaluate.py: its loss against the oracle's, its figures against a hand-computed example, its mistakes."""

import json
import math
import shutil
import sys

import numpy as np
import pytest

import reference
from checkpoint_files import read_checkpoint, write_checkpoint
from command.errors import UserError
from conftest import one_line_error
from encoder import load_encoder
from network.hparams import load_hparams


@pytest.fixture
def evaluate(tf, home, monkeypatch, capsys):
    """Runs evaluate.py in this process: evaluate(*flags) -> what it prints."""
    def run(*flags):
        import evaluate
        monkeypatch.chdir(home)
        which = [] if {'--model_name', '--run_name'} & set(flags) else ['--model_name', 'toy']
        monkeypatch.setattr(sys, 'argv', ['evaluate.py', *which, *map(str, flags)])
        capsys.readouterr()
        evaluate.main()
        return capsys.readouterr().out
    return run


@pytest.fixture(scope='module')
def params(tf, model_directory):
    return read_checkpoint(model_directory, 'model/')


def oracle(chunk, params, hparams, length, stride):
    """Sum of the losses of chunk[1:], each token by itself from the context that the definition gives it."""
    total = 0.0
    for i in range(1, len(chunk)):
        # The window's end: that of the first, or a multiple of the stride further, but not beyond the chunk.
        end = min(length + -(-max(i - length, 0) // stride) * stride, len(chunk) - 1)
        context = chunk[max(end - length, 0):i]
        total -= reference.log_softmax(reference.gpt2(np.array([context]), params, hparams)[0, -1])[chunk[i]]
    return total


@pytest.mark.parametrize(('length', 'stride'), [(8, 8), (8, 1), (8, 3), (32, 16), (1, 1)])
def test_the_loss_is_the_oracle_s(evaluate, home, params, model_directory, length, stride):
    hparams = load_hparams(str(model_directory))
    rng = np.random.default_rng(length)
    chunks = [rng.integers(hparams.n_vocab, size=size) for size in (30, 1, 5, 9, 8, 17)]
    np.savez(home / 'tokens.npz', *chunks)
    result = json.loads(evaluate('--dataset', 'tokens.npz', '--seq_length', length, '--stride', stride, '--batch_size', 3,
                                 '--json'))
    expected = sum(oracle(chunk, params, hparams, length, stride) for chunk in chunks)
    assert result['tokens'] == 29 + 4 + 8 + 7 + 16
    assert result['loss'] * result['tokens'] == pytest.approx(expected, rel=1e-5)


def test_the_batch_size_makes_no_difference_and_half_the_window_is_the_stride(evaluate):
    results = [json.loads(evaluate('--dataset', 'corpus.txt', '--json', '--batch_size', n)) for n in (1, 7, 800)]
    again = json.loads(evaluate('--dataset', 'corpus.txt', '--json', '--batch_size', 7, '--stride', 16))
    assert [result['loss'] for result in results] == pytest.approx([results[0]['loss']] * 3, rel=1e-6)
    assert again | {'seconds': 0} == results[1] | {'seconds': 0}
    assert (again['seq_length'], again['stride'], again['chunks']) == (32, 16, 1)


def unigram_params(hparams, probabilities):
    """Weights of a model that predicts these probabilities at every position."""
    params = {name: np.zeros_like(array) for name, array in reference.random_params(hparams, seed=0).items()}
    params['wte'][:, 0] = np.log(probabilities)
    params['ln_f/b'][0] = 1
    return params


def test_a_hand_computed_example(evaluate, home, model_directory):
    hparams, encoder = load_hparams(str(model_directory)), load_encoder(str(model_directory))
    # One token in two is a space, one in four an x; the others share the last quarter.
    [x], [space] = encoder.encode('x'), encoder.encode(' ')
    probabilities = np.full(hparams.n_vocab, 0.25 / (hparams.n_vocab - 2))
    probabilities[[space, x]] = 0.5, 0.25
    shutil.copytree(model_directory, home / 'models/unigram')
    write_checkpoint(home / 'models/unigram/model.ckpt', unigram_params(hparams, probabilities), 'model/')
    chunk = [space, x, space, space, x, x, space, x]       # ' x  xx x': scored are 'x  xx x', 3 words, 7 bytes
    np.savez(home / 'tokens.npz', chunk)
    result = json.loads(evaluate('--model_name', 'unigram', '--dataset', 'tokens.npz', '--json', '--seq_length', 4))
    bits = 4 * 2 + 3 * 1        # 4 x of a quarter, 3 spaces of a half
    assert (result['tokens'], result['words'], result['bytes']) == (7, 3, 7)
    assert result['loss'] == pytest.approx(bits * math.log(2) / 7, rel=1e-6)
    assert result['perplexity'] == pytest.approx(2 ** (bits / 7), rel=1e-6)
    assert result['word_perplexity'] == pytest.approx(2 ** (bits / 3), rel=1e-6)
    assert result['bits_per_byte'] == pytest.approx(bits / 7, rel=1e-6)
    text = evaluate('--model_name', 'unigram', '--dataset', 'tokens.npz', '--seq_length', 4)
    assert 'bits per byte         1.57143' in text


def test_a_run_is_evaluated_and_a_damaged_one_refused(evaluate, train, home):
    train('--max_steps', 2, '--sample_every', 0, '--learning_rate', 0.01, '--run_name', 'r')
    before, after = (json.loads(evaluate(*which, '--dataset', 'corpus.txt', '--json'))
                     for which in (['--model_name', 'toy'], ['--run_name', 'r']))
    assert after['loss'] < before['loss'] - 0.01
    assert after['checkpoint'] == 'checkpoint/r/model-2'
    data = home / 'checkpoint/r/model-2.data-00000-of-00001'
    content = bytearray(data.read_bytes())
    content[100] ^= 1
    data.write_bytes(content)
    with pytest.raises(UserError, match='model-2.data-00000-of-00001 is damaged'):
        evaluate('--run_name', 'r', '--dataset', 'corpus.txt')


def test_a_damaged_model_and_one_whose_loss_is_nan_are_refused(evaluate, home, model_directory, params):
    for name in ('cut', 'nan'):
        shutil.copytree(model_directory, home / 'models' / name)
    data = home / 'models/cut/model.ckpt.data-00000-of-00001'
    data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(UserError, match='cannot read the checkpoint models/cut/model.ckpt'):
        evaluate('--model_name', 'cut', '--dataset', 'corpus.txt')
    write_checkpoint(home / 'models/nan/model.ckpt', params | {'wpe': np.full_like(params['wpe'], np.nan)}, 'model/')
    with pytest.raises(UserError, match='the loss is nan'):
        evaluate('--model_name', 'nan', '--dataset', 'corpus.txt')


@pytest.mark.parametrize(('flags', 'words'), [
    (['--stride', '40', '--seq_length', '20'], ['--stride 40', '20 tokens']),
    (['--stride', '0'], ['--stride', 'above 0']),
    (['--seq_length', '33'], ['--seq_length 33', '32 tokens']),
    (['--dataset', 'one.txt'], ['one.txt', 'no chunk']),
    (['--dataset', 'empty.txt'], ['empty.txt', '0 tokens']),
    (['--dataset', 'nothing.txt'], ['nothing.txt']),
    (['--dataset', 'one.txt', 'corpus.txt=2'], ['corpus.txt=2: weights are for training']),
    (['--dataset', 'one.txt', 'one.txt'], ['one.txt is in the data set one.txt and in one.txt']),
    (['--text_column', 'x'], ['--text_column x has no effect']),
    (['--model_name', 'other'], ['other', 'toy']),
    (['--run_name', 'other'], ['other', 'no runs are here']),
    (['--run_name', 'r', '--model_name', 'toy'], ['--run_name', 'not allowed with', '--model_name']),
    (['--batch_size', 'x'], ['--batch_size', "'x'"]),
    (['--strid', '3'], ['--strid'])])
def test_a_mistake_is_one_line_before_tensorflow(mistake, home, flags, words):
    (home / 'one.txt').write_text('x')
    (home / 'empty.txt').write_text('')
    which = [] if {'--model_name', '--run_name'} & set(flags) else ['--model_name', 'toy']
    error = mistake('evaluate.py', '--dataset', 'corpus.txt', *which, *flags)
    assert all(word in error for word in words), error


def test_a_process_with_a_mistake_ends_so(without_tensorflow):
    line = one_line_error(without_tensorflow('evaluate.py', '--dataset', 'corpus.txt', '--run_name', 'none'))
    assert line == "evaluate.py: no run 'none' in checkpoint; no runs are here; ./train.py makes one"


def test_an_encoder_that_does_not_fit_is_refused_before_tensorflow(mistake, home, model_directory):
    directory = home / 'models' / 'small'
    shutil.copytree(model_directory, directory)
    sizes = json.loads((directory / 'hparams.json').read_text())
    (directory / 'hparams.json').write_text(json.dumps(sizes | {'n_vocab': 260}))
    line = mistake('evaluate.py', '--dataset', 'corpus.txt', '--model_name', 'small')
    assert line.startswith('models/small: encoder.json has ')
