"""Samples during training: what they start with, how they are drawn, the format of their files."""

import re

import pytest

from conftest import SMALL_RUN
from encoder import load_encoder
from network.hparams import load_hparams
from storage.model_directory import Model
from training.prepare import sample_prompt

FLAGS = (*SMALL_RUN, '--max_steps', 1, '--sample_every', 1, '--sample_num', 3, '--seed', 1, '--top_k', 0)


def samples(home, run='run1', step=1):
    text = (home / f'samples/{run}/samples-{step}').read_text()
    return re.findall(r'======== SAMPLE \d ========\n(.*?)\n(?:\n(?=========)|\Z)', text, re.DOTALL)


def test_each_sample_shows_and_continues_the_prompt(train, home):
    output = train(*FLAGS, '--sample_length', 4, '--sample_prompt', 'the fox<|endoftext|>jumps')
    texts = samples(home)
    assert len(texts) == len(set(texts)) == 3
    assert all(text.startswith('the fox<|endoftext|>jumps') and len(text) > len('the fox<|endoftext|>jumps') for text in texts)
    assert (home / 'samples/run1/samples-1').read_text().startswith('======== SAMPLE 1 ========\nthe fox<|endoftext|>jumps')
    assert texts[0] in output


def test_temperature(train, home):
    """0 always takes the most likely token, and 1 is the default."""
    prompt = ('--sample_prompt', 'the', '--sample_length', 6)
    train('--run_name', 'cold', *FLAGS, *prompt, '--sample_temperature', 0)
    train('--run_name', 'mild', *FLAGS, *prompt, '--sample_temperature', 0.5)
    train('--run_name', 'one', *FLAGS, *prompt, '--sample_temperature', 1)
    train('--run_name', 'default', *FLAGS, *prompt)
    assert len(set(samples(home, 'cold'))) == 1
    assert samples(home, 'mild') != samples(home, 'one') == samples(home, 'default')


@pytest.mark.parametrize(('flags', 'words'), [
    (['--sample_prompt', ''], '--sample_prompt is empty: give the beginning of the text'),
    (['--sample_prompt', ' \t'], '--sample_prompt is empty: give the beginning of the text'),
    (['--sample_prompt', 'x ' * 99], "--sample_prompt has 198 tokens, the model's window holds 32: give a shorter one"),
    (['--sample_prompt', 'abcde', '--sample_length', 32], "--sample_prompt has 5 tokens, too many for the model's window of 32 "),
    (['--sample_temperature', -1], "argument --sample_temperature: expected 0, or a number from 1e-12 to 1e+12, not '-1'"),
    (['--sample_temperature', '1e-40'], "argument --sample_temperature: expected 0, or a number from 1e-12 to 1e+12, not ")])
def test_a_mistake_is_found_before_tensorflow(mistake, home, flags, words):
    assert mistake('train.py', '--model_name', 'toy', '--dataset', 'corpus.txt', *flags).startswith(words)
    assert not (home / 'checkpoint').exists()


def test_bytes_that_are_not_utf_8(mistake):
    assert mistake('train.py', '--dataset', 'corpus.txt', '--sample_prompt', 'caf\udce9') == '--sample_prompt is not UTF-8'


def test_a_space_at_the_end_is_noted(parse, settings_directory, capsys):
    model = Model('models/toy', load_hparams(str(settings_directory)), load_encoder(str(settings_directory)), None)
    assert sample_prompt(parse(), model) is None
    assert sample_prompt(parse('--sample_prompt', 'the'), model) and capsys.readouterr().out == ''
    assert sample_prompt(parse('--sample_prompt', 'the '), model)
    assert capsys.readouterr().out.startswith('note: --sample_prompt ends in a space: ')
