"""Command-line flags: number types, the help text, and one-line errors."""

import argparse
import os
import re
import runpy
import sys

import pytest

from command import flags
from command.errors import UserError
from conftest import ROOT


@pytest.mark.parametrize(('kind', 'valid', 'invalid'), [
    ('positive_int', {'1': 1, '70': 70}, ['0', '-1', '1.5', 'x', '']),
    ('non_negative_int', {'0': 0, '3': 3}, ['-1', '0.5']),
    ('positive_float', {'1e-5': 1e-5, '2': 2.0}, ['0', '-1', 'inf', 'nan']),
    ('non_negative_float', {'0': 0.0, '0.5': 0.5}, ['-0.1', 'inf']),
    ('fraction', {'0': 0.0, '1': 1.0, '0.3': 0.3}, ['-0.1', '1.1', 'nan']),
])
def test_numbers(kind, valid, invalid):
    parser = flags.Parser(prog='prog')
    parser.add_argument('--x', type=getattr(flags, kind))
    for text, value in valid.items():
        assert parser.parse_args([f'--x={text}']).x == value
    for text in invalid:
        with pytest.raises(UserError, match=rf'^argument --x: expected a .*number.*, not {text!r} \(see prog --help\)$'):
            parser.parse_args([f'--x={text}'])


def test_paths_begin_in_the_home_directory(monkeypatch):
    monkeypatch.setenv('HOME', '/home/someone')
    assert [flags.path(text) for text in ('~/a', '~', 'a/~', './~')] == ['/home/someone/a', '/home/someone', 'a/~', './~']


def actions(parser):
    """The flags of a parser and of its subcommands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from actions(command)
        else:
            yield action


@pytest.mark.parametrize('script', ['train.py', 'evaluate.py', 'create_model.py', 'encode.py', 'convert.py', 'download_model.py'])
def test_every_flag_for_a_path_knows_the_home_directory(script, monkeypatch):
    """Which ones are for a path is seen by their metavar."""
    parsers = []
    monkeypatch.setattr(flags.Parser, 'parse_args', lambda self: parsers.append(self) or sys.exit(0))
    with pytest.raises(SystemExit):
        runpy.run_path(os.path.join(ROOT, script), run_name='__main__')
    paths = [action for parser in parsers for action in actions(parser)
             if set(re.split(r'\W', action.metavar or '')) & {'PATH', 'DIR', 'FILE', 'WHERE', 'IN', 'OUT', 'MODEL_OR_RUN'}]
    assert paths and [action.dest for action in paths if action.type is not flags.path] == []


@pytest.fixture
def parser():
    parser = flags.Parser(prog='prog')
    for name in ('--val_every', '--val_dataset', '--batch_size', '--val'):
        parser.add_argument(name)
    return parser


def test_a_flag_can_be_abbreviated_if_only_one_begins_so(parser):
    args = parser.parse_args(['--batch', '1', '--val_e=2', '--val', '3'])
    assert (args.batch_size, args.val_every, args.val) == ('1', '2', '3')
    with pytest.raises(UserError, match='ambiguous option: --val_ could match --val_every, --val_dataset'):
        parser.parse_args(['--val_', '1'])


def test_an_unknown_flag_is_compared_with_the_known_ones(parser):
    with pytest.raises(UserError, match=r'unrecognized arguments: --batch-size=1 x; --batch-size: did you mean --batch_size\?'):
        parser.parse_args(['--batch-size=1', 'x'])
    with pytest.raises(UserError, match=r'^unrecognized arguments: --zzz 1 \(see prog --help\)$'):
        parser.parse_args(['--zzz', '1'])


def test_help_shows_defaults_except_none_and_false():
    parser = flags.Parser(prog='prog')
    parser.add_argument('--a', default=0, help='a number')
    parser.add_argument('--b', help='a text')
    parser.add_argument('--c', action='store_true', help='a switch')
    text = parser.format_help()
    assert 'a number (default: 0)\n' in text
    assert 'a text\n' in text
    assert 'a switch\n' in text
