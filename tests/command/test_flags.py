"""Command-line flags: number types, the help text, and one-line errors."""

import argparse
import os
import re
import runpy
import shlex
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
    ('fraction_below_1', {'0': 0.0, '0.999': 0.999}, ['1', '-0.1', '0.99999999999999999', 'nan', 'inf', 'tenth', '']),
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


def parser_of(script, monkeypatch):
    """The parser with which a script reads its flags."""
    found = []
    with monkeypatch.context() as patch:
        patch.setattr(flags.Parser, 'parse_args', lambda self, *_: found.append(self) or sys.exit(0))
        patch.setattr(sys, 'excepthook', sys.excepthook)
        patch.setattr(sys, 'argv', [script])
        with pytest.raises(SystemExit):
            runpy.run_path(os.path.join(ROOT, script), run_name='__main__')
    return found[0]


SCRIPTS = ['train.py', 'evaluate.py', 'create_model.py', 'encode.py', 'convert.py', 'download_model.py']


@pytest.mark.parametrize('script', SCRIPTS)
def test_every_flag_for_a_path_knows_the_home_directory(script, monkeypatch):
    """Which ones are for a path is seen by their metavar."""
    paths = [action for action in actions(parser_of(script, monkeypatch))
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


@pytest.mark.parametrize(('arguments', 'message'), [
    (['--batch-size=1', 'x'], 'unknown flag --batch-size: did you mean --batch_size?'),
    (['x', '--zzz', '1'], 'unknown flag --zzz'),
    (['--val_dataset', 'a', '--val_datset', '--zzz'], 'unknown flag --val_datset: did you mean --val_dataset?'),
    (['--kind', 'linaer'], "argument --kind: invalid choice: 'linaer' (choose from 'linear', 'cosine'): did you mean linear?"),
    (['--kind', 'x'], "argument --kind: invalid choice: 'x' (choose from 'linear', 'cosine')"),
    (['w', 'x', 'y', 'z', '1', '2'], 'unrecognized arguments: w x y and 3 more'),
    (['--', '--zzz'], 'unrecognized arguments: -- --zzz'),
])
def test_what_is_wrong_is_named_with_the_nearest_right_one(parser, arguments, message):
    parser.add_argument('--kind', choices=['linear', 'cosine'])
    with pytest.raises(UserError) as error:
        parser.parse_args(arguments)
    assert re.sub('[‘’“”]', "'", str(error.value)) == f'{message} (see prog --help)'


def test_a_misspelled_flag_is_not_called_missing():
    parser = flags.Parser(prog='prog')
    parser.add_argument('--dataset', required=True)
    with pytest.raises(UserError, match=r'^unknown flag --datset: did you mean --dataset\? '):
        parser.parse_args(['--datset', 'x'])
    assert parser.parse_args(['--dataset=--x']).dataset == '--x'
    assert parser.parse_args(['--dataset', '--not a flag']).dataset == '--not a flag'


def test_commands_know_their_own_flags():
    parser = flags.Parser(prog='prog')
    command = parser.add_subparsers(required=True).add_parser('to_hf', examples=['prog to_hf --models_dir x'])
    command.add_argument('--models_dir')
    assert parser.parse_args(['to_hf', '--models_dir', 'x']).models_dir == 'x'
    for arguments, message in ((['to_hf', '--model_dir', 'x'], r'unknown flag --model_dir: did you mean --models_dir\?'),
                               (['to_fh'], r".*invalid choice: 'to_fh'.*: did you mean to_hf\?")):
        with pytest.raises(UserError, match=message):
            parser.parse_args(arguments)


def test_names_that_the_shell_made_of_a_pattern(parser, tmp_path):
    names = [str(tmp_path / f'{number}.txt') for number in range(5)]
    for name in names:
        open(name, 'w').close()
    with pytest.raises(UserError) as error:
        parser.parse_args([*names, 'out.npz'])
    assert str(error.value) == (f'unrecognized arguments: {" ".join(names[:3])} and 3 more; if the shell made these of a '
                                f"pattern, give it in quotes: '{tmp_path}/*.txt' (see prog --help)")


@pytest.mark.parametrize('script', ['train.py', 'evaluate.py', 'create_model.py'])
def test_a_corpus_may_be_many_names(script, monkeypatch):
    parser = parser_of(script, monkeypatch)
    name = ['name'] if script == 'create_model.py' else []
    assert parser.parse_args([*name, '--dataset', 'a.py', 'b.py', 'c.py']).dataset == ['a.py', 'b.py', 'c.py']


@pytest.mark.parametrize('script', SCRIPTS)
def test_help_shows_examples_that_can_be_run(script, monkeypatch):
    parser = parser_of(script, monkeypatch)
    assert 1 <= len(parser.examples) <= 2
    for example in parser.examples:
        command, *arguments = shlex.split(example)
        assert os.path.normpath(command) == script
        assert parser.parse_args(arguments)
        assert f'\n  {example}\n' in parser.format_help()


def test_help_shows_defaults_except_none_and_false():
    parser = flags.Parser(prog='prog')
    parser.add_argument('--a', default=0, help='a number')
    parser.add_argument('--b', help='a text')
    parser.add_argument('--c', action='store_true', help='a switch')
    text = parser.format_help()
    assert 'a number (default: 0)\n' in text
    assert 'a text\n' in text
    assert 'a switch\n' in text
