"""The two sampling scripts as a person runs them."""

import os
import re
import signal
import subprocess
import sys

import pytest

from conftest import ROOT, one_line_error

INTERACTIVE = 'src/interactive_conditional_samples.py'
UNCONDITIONAL = 'src/generate_unconditional_samples.py'
HEADER = re.compile(r'^======== SAMPLE (\d+) ========$', re.MULTILINE)


@pytest.fixture
def ask(tf, home, monkeypatch, capsys):
    """Runs a sampling script in this process with lines of input: ask(module, lines, flags) -> (stdout, stderr)."""
    import importlib
    import io

    def run(script, lines, *flags):
        module = importlib.import_module(os.path.basename(script).removesuffix('.py'))
        monkeypatch.chdir(home)
        monkeypatch.setattr(sys, 'argv', [script, '--model_name', 'toy', *map(str, flags)])
        monkeypatch.setattr(sys, 'stdin', io.StringIO(lines))
        capsys.readouterr()
        module.main()
        return capsys.readouterr()
    return run


def test_each_prompt_is_continued_and_an_empty_one_asked_again(ask):
    screen = ask(INTERACTIVE, 'the quick\n\n   \nthe dog', '--nsamples', 3, '--batch_size', 2, '--length', 5)
    assert HEADER.findall(screen.out) == ['1', '2', '3'] * 2
    assert screen.out.count('=' * 80) == 2
    assert screen.err.count('The prompt is empty') == 2


def test_a_seed_gives_the_same_text_for_every_batch_size(ask):
    flags = ('--seed', 7, '--nsamples', 4, '--length', 12, '--top_k', 40)
    texts = [ask(INTERACTIVE, 'the fox\n', *flags, '--batch_size', n).out for n in (1, 4, 3)]
    assert texts[0] == texts[1] == texts[2]
    assert len(set(re.split(HEADER, texts[0])[2::2])) > 1
    assert ask(INTERACTIVE, 'the fox\n', '--seed', 8, *flags[2:]).out != texts[0]
    unseeded = [ask(INTERACTIVE, 'the fox\n', *flags[2:]).out for _ in range(2)]
    assert unseeded[0] != unseeded[1]


def test_greedy_text_is_the_oracle_s(ask, model_directory, tf):
    import numpy as np

    import reference
    from encoder import load_encoder
    from hparams import load_hparams
    hparams, encoder = load_hparams(str(model_directory)), load_encoder(str(model_directory))
    reader = tf.train.load_checkpoint(str(model_directory))
    params = {name.removeprefix('model/'): reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    tokens = encoder.encode('the lazy')
    for _ in range(20):
        tokens.append(int(reference.gpt2(np.array([tokens]), params, hparams)[0, -1].argmax()))
    expected = encoder.decode(tokens[-20:])
    for setting in (['--top_k', 1], ['--temperature', 0]):
        assert expected in ask(INTERACTIVE, 'the lazy\n', '--length', 20, *setting).out


def test_a_long_prompt_shortens_the_sample_or_is_refused(ask, model_directory):
    from encoder import load_encoder
    encoder = load_encoder(str(model_directory))
    fits = 'the dog' * 5
    assert 1 < len(encoder.encode(fits)) <= 32
    screen = ask(INTERACTIVE, f'{fits}\n{"z" * 40}\nthe\n', '--length', 32)
    assert HEADER.findall(screen.out) == ['1', '1']
    assert "The prompt has 40 tokens, the model's window holds 32" in screen.err


def test_unconditional_samples(ask):
    screen = ask(UNCONDITIONAL, '', '--nsamples', 3, '--batch_size', 2, '--seed', 1, '--top_p', 0.9)
    assert HEADER.findall(screen.out) == ['1', '2', '3']
    assert screen.out == ask(UNCONDITIONAL, '', '--nsamples', 3, '--seed', 1, '--top_p', 0.9).out


def test_sampling_from_a_run(ask, train, home):
    train('--max_steps', 1, '--sample_every', 0, '--run_name', '2019')
    screen = ask(UNCONDITIONAL, '', '--nsamples', 1, '--length', 5, '--run_name', '2019')
    assert HEADER.findall(screen.out) == ['1']


def test_a_pipe_and_ctrl_c_in_a_real_process(home):
    """Ctrl-C while a sample is made returns to the prompt; the end of input leaves with status 0."""
    command = [sys.executable, os.path.join(ROOT, INTERACTIVE), '--model_name', 'toy', '--nsamples', '0', '--length', '5']
    with subprocess.Popen(command, cwd=home, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True) as process:
        process.stdin.write('the fox\n')
        process.stdin.flush()
        for line in process.stdout:
            if 'SAMPLE 3 ' in line:     # --nsamples 0 goes on until it is stopped
                break
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert errors == '\nstopped\n'
    assert 'Model prompt' not in output


@pytest.mark.parametrize('script_name', [INTERACTIVE, UNCONDITIONAL])
def test_bad_input_is_one_line_before_tensorflow(without_tensorflow, script_name, home):
    (home / 'checkpoint' / 'empty').mkdir(parents=True)
    for name in ('hparams.json', 'encoder.json', 'vocab.bpe'):
        (home / 'checkpoint' / 'empty' / name).write_bytes((home / 'models' / 'toy' / name).read_bytes())
    for flags, words in [
        (['--model_name', 'missing'], "no model 'missing' in models; models here: "),
        (['--run_name', 'missing'], "no run 'missing' in checkpoint; runs here: empty"),
        (['--run_name', 'empty'], 'holds no checkpoints'),
        (['--length', '0'], '--length must be a whole number, 1 or more, not 0'),
        (['--length', '33'], "--length 33 is more than the model's window of 32 tokens"),
        (['--length', 'long'], "--length must be a whole number, 1 or more, not 'long'"),
        (['--temperature', '-1'], '--temperature must be a number, 0 or more, not -1'),
        (['--top_p', '1.5'], '--top_p must be a number, 0 to 1, not 1.5'),
        (['--top_k', '1.5'], '--top_k must be a whole number, 0 or more, not 1.5'),
        (['--batch_size', '0'], '--batch_size must be a whole number, 1 or more, not 0'),
        (['--nsamples', '-1'], '--nsamples must be a whole number, 0 or more, not -1'),
        (['--seed', 'x'], "--seed must be a whole number, 0 or more, not 'x'"),
        (['--lenght', '5'], 'Could not consume arg: --lenght'),
    ]:
        line = one_line_error(without_tensorflow(script_name, '--model_name', 'toy', *flags))
        assert line.startswith(os.path.basename(script_name) + ': '), flags
        assert words in line, (flags, line)


@pytest.mark.parametrize('script_name', [INTERACTIVE, UNCONDITIONAL])
def test_help_names_every_flag(without_tensorflow, script_name):
    result = without_tensorflow(script_name, '--help')
    assert result.returncode == 0
    for flag in ('model_name', 'run_name', 'models_dir', 'seed', 'nsamples', 'batch_size', 'length', 'temperature', 'top_k',
                 'top_p'):
        assert f'--{flag}=' in result.stdout
