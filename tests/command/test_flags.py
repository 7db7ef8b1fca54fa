"""Command-line flags: number types, the help text, and one-line errors."""

import pytest

from command import flags
from command.errors import UserError


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


def test_flags_cannot_be_abbreviated():
    parser = flags.Parser(prog='prog')
    parser.add_argument('--number')
    with pytest.raises(UserError, match='unrecognized arguments: --num=1'):
        parser.parse_args(['--num=1'])


def test_help_shows_defaults_except_none_and_false():
    parser = flags.Parser(prog='prog')
    parser.add_argument('--a', default=0, help='a number')
    parser.add_argument('--b', help='a text')
    parser.add_argument('--c', action='store_true', help='a switch')
    text = parser.format_help()
    assert 'a number (default: 0)\n' in text
    assert 'a text\n' in text
    assert 'a switch\n' in text
