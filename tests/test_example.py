"""docs/example/make.py, and what it made: the README's output is that of its first command, on any machine nearly the same."""

import os
import re
import runpy
import sys

import pytest

from conftest import ROOT

NUMBERS = re.compile(r'^\[(\d+) \| \d+\.\d\d\] loss=([\d.]+) avg=([\d.]+) tokens/s=\d+ epoch=([\d.]+) lr=(\S+)$', re.MULTILINE)
STEPS = 3       # at the beginning, of which the README shows the lines


@pytest.fixture(scope='module')
def make():
    return runpy.run_path(os.path.join(ROOT, 'docs', 'example', 'make.py'))


@pytest.fixture(scope='module')
def readme():
    with open(os.path.join(ROOT, 'README.md'), encoding='utf-8') as file:
        return file.read()


@pytest.fixture
def command(make, readme):
    """The arguments of the README's first command."""
    return make['first_command'](readme).split(' train.py ')[1].split()


@pytest.fixture
def shown(make, readme):
    """The README's output of it."""
    return make['BLOCK'].search(readme)[0]


def value(arguments, flag):
    return arguments[arguments.index(flag) + 1]


@pytest.fixture
def printed(tf, command, tmp_path, monkeypatch, capsys):
    """What the command prints here, with STEPS steps."""
    import train
    for name in ('docs', 'models'):
        (tmp_path / name).symlink_to(os.path.join(ROOT, name))
    arguments = list(command)
    arguments[arguments.index('--max_steps') + 1] = str(STEPS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['train.py', *arguments])
    train.main()
    return capsys.readouterr().out


def test_the_output_begins_as_in_the_readme(printed, shown):
    """Line by line up to the last step that both show, except what depends on the machine: the device, times, the last digits."""
    here, there = (text[:text.index(f'\n[{STEPS} | ') + 1].splitlines() for text in (printed, shown))
    assert len(here) == len(there) > STEPS
    for line, expected in zip(here, there):
        if not expected.startswith(('[', 'Device: ')):
            assert line == expected, 'run: docs/example/make.py'
    for line, expected in zip(NUMBERS.findall(printed), NUMBERS.findall(shown)[:STEPS], strict=True):
        for number, wanted in zip(line, expected, strict=True):
            assert float(number) == pytest.approx(float(wanted), rel=0.02), 'run: docs/example/make.py'


def test_the_end_of_the_output(shown, command, make):
    """That the command continues to, and in words of today."""
    steps = value(command, '--max_steps')
    end = shown[shown.index('\n...\n') + 5:]
    assert NUMBERS.match(end)[1] == steps
    assert float(NUMBERS.match(end)[2]) < float(NUMBERS.search(shown)[2]) - 2       # it has learnt
    assert 'Generating samples...\n======== SAMPLE 1 ========\n' in end
    run = value(command, '--run_name')
    [last] = re.findall(rf'\n--max_steps {steps} reached\nSaving checkpoint/{run}/model-{steps}\nSample from it:\n'
                        rf'  \.venv/bin/python src/\S+ --run_name {run} --top_k 40\nContinue it:\n  (.*)\n$', end)
    assert last.split() == ['.venv/bin/python', 'train.py', *without(command, '--max_steps'), '--max_steps', str(2 * int(steps))]


def without(arguments, flag):
    at = arguments.index(flag)
    return arguments[:at] + arguments[at + 2:]


def test_the_command_shows_the_same_to_everybody(command):
    assert value(command, '--dataset') == 'docs/example/alice.txt'
    assert '--seed' in command


def test_shortened_output(make):
    lines = ['Training...', *(f'[{step} | 1.0] loss' for step in range(1, 8)), 'Saving']
    assert make['shorten']('\n'.join(lines)).splitlines() == [*lines[:4], '...', *lines[7:]]
    assert NUMBERS.match('[1 | 1.10] loss=9.02 avg=9.02 tokens/s=1872 epoch=0.007 lr=0.002')


def test_the_commands_of_the_pictures(make):
    with open(os.path.join(ROOT, 'docs', 'fine-tuning.md'), encoding='utf-8') as file:
        commands = [command.split() for command in make['curve_commands'](file.read())]
    assert [value(command, '--run_name') for command in commands] == ['faster', 'slower']
    assert '--plot' in commands[0]
    assert {value(command, '--dataset') for command in commands} == {'docs/example/alice.txt'}
