"""What a run prints at its end: commands that work where they are typed."""

import os
import shlex
import sys

import pytest

from training import next_steps


@pytest.fixture
def ending(parse, settings_directory, monkeypatch):
    """ending(flags, step, ended) -> the lines for a run with these flags."""
    def run(flags, step=5, ended=None, workers=1):
        from network.hparams import load_hparams
        from training.settings import make_settings
        arguments = parse(*shlex.split(flags))
        arguments.model_name = 'toy'
        monkeypatch.setattr(next_steps.shutil, 'which', lambda name: sys.executable)
        return next_steps.next_steps(make_settings(arguments, load_hparams(str(settings_directory)), workers), step,
                                     ended).splitlines()
    return run


def test_a_run_that_was_stopped(ending):
    assert ending("--overwrite --batch_size 2 --restore_from fresh --run_name 'my run'") == [
        'Sample from it:', "  ./src/interactive_conditional_samples.py --run_name 'my run' --top_k 40",
        'Continue it:', "  ./train.py --dataset corpus.txt --batch_size 2 --run_name 'my run'"]


def test_a_run_that_has_reached_its_end(ending):
    assert ending('--max_steps=5 --checkpoint_dir runs', ended='--max_steps 5 reached') == [
        'Sample from it:', '  ./src/interactive_conditional_samples.py --run_name run1 --checkpoint_dir runs --top_k 40',
        'Continue it:', '  ./train.py --dataset corpus.txt --checkpoint_dir runs --max_steps 10']
    assert ending('--epochs 1.5', ended='--epochs 1.5 reached')[-1] == '  ./train.py --dataset corpus.txt --epochs 3.0'


def test_a_run_that_gets_no_better_is_not_to_be_continued(ending):
    lines = ending('--patience 2 --val_every 1', ended='--patience 2 reached: no validation loss below 3 since step 7')
    assert [line for line in lines if 'train.py' in line or 'Continue' in line] == []
    assert lines[0] == 'Sample from it:'


def test_a_run_without_a_step_has_nothing_to_sample_from(ending):
    assert ending('', step=0) == ['Continue it:', '  ./train.py --dataset corpus.txt']


def test_several_workers(ending):
    assert ending('--max_steps 5', ended='--max_steps 5 reached', workers=2)[2:] == [
        'Continue it:', '  the same command again with --max_steps 10']


def test_a_python_that_is_not_the_first_one(ending, monkeypatch, tmp_path):
    python = tmp_path / '.venv/bin/python'
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'executable', str(python))
    commands = ending('')[1::2]
    assert commands[0].startswith('  ./src/')      # `env` takes this one
    monkeypatch.setattr(next_steps.shutil, 'which', lambda name: '/usr/bin/python3')
    assert next_steps._script('train.py') == [os.path.join('.venv', 'bin', 'python'), 'train.py']
    monkeypatch.setattr(sys, 'argv', ['/opt/gpt2/train.py'])
    assert next_steps._script('train.py')[-1] == '/opt/gpt2/train.py'


def test_they_are_the_last_lines(train):
    lines = train('--max_steps', 2, '--sample_every', 0).splitlines()
    assert lines[-4] == 'Sample from it:' and '--run_name run1' in lines[-3]
    assert lines[-2] == 'Continue it:' and lines[-1].endswith('--max_steps 4')
