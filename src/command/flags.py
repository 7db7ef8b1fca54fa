"""Command-line flags: argparse with one-line errors, and number types."""

import argparse
import contextlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence

from command.did_you_mean import did_you_mean
from command.errors import UserError

LONGEST_SHOWN = 60      # characters of a wrong value in a message

class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Appends '(default: …)' to a flag's help, except for None and False."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UserError instead of printing its usage.

    A flag can be abbreviated to a prefix that only one flag has: --batch for --batch_size. examples: commands that --help
    shows.
    """

    def __init__(self, examples: Sequence[str] = (), **kwargs):
        super().__init__(formatter_class=_Formatter, **kwargs)
        self.examples = examples

    def format_help(self) -> str:
        examples = ''.join(f'  {example}\n' for example in self.examples)
        return super().format_help() + (f'\nexamples:\n{examples}' if examples else '')

    def parse_args(self, args: list[str] | None = None, namespace: argparse.Namespace | None = None) -> argparse.Namespace:
        namespace, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(f'unrecognized arguments: {_at_most_three(unknown)}{_quoted_pattern(unknown)}')
        return namespace

    def parse_known_args(self, args: list[str] | None = None, namespace: argparse.Namespace | None = None
                         ) -> tuple[argparse.Namespace, list[str]]:
        """As ArgumentParser's, but an unknown flag is an error, before any other: a misspelled one is not called missing."""
        args = sys.argv[1:] if args is None else list(args)
        if self._subparsers is None:        # else those of the command, which its own parser knows
            known = list(self._option_string_actions)
            is_known = (lambda name: any(flag.startswith(name) for flag in known)) if self.allow_abbrev else known.__contains__
            for argument in args[:args.index('--')] if '--' in args else args:
                name = argument.partition('=')[0]
                if name.startswith('--') and ' ' not in name and not is_known(name):
                    self.error(f'unknown flag {name}{did_you_mean(name, known)}')
        return super().parse_known_args(args, namespace)

    @contextlib.contextmanager
    def nothing_required(self) -> Iterator[None]:
        """In this context, a required flag may be missing, to look at others first."""
        required = [action for action in self._actions if action.required]
        for action in required:
            action.required = False
        try:
            yield
        finally:
            for action in required:
                action.required = True

    def set_values(self, values: dict[str, object], source: str) -> None:
        """Makes values the defaults of flags, given by their names without dashes, as a TOML or JSON file has them.

        Raises UserError that begins with `source` and the name if there is no such flag, or for a value of the wrong type or
        one that the command line would refuse.
        """
        flags = {action.dest: action for action in self._actions if action.dest != 'help'}
        for name, value in values.items():
            if name not in flags:
                raise UserError(f'{source}: unknown flag {name}{did_you_mean(name, flags)} (see {self.prog} --help)')
            try:
                self.set_defaults(**{name: self._typed(flags[name], value)})
            except (argparse.ArgumentError, UserError) as error:
                raise UserError(f'{source}: {name}: {getattr(error, "message", error)}') from None
            flags[name].required = False

    def _typed(self, action: argparse.Action, value: object) -> object:
        """A flag's value, given with the type that a file has for it. Raises ArgumentError for another one."""
        def check(correct: bool, expected: str) -> None:
            if not correct:
                raise argparse.ArgumentError(action, f'expected {expected}, not {shown(value)}')
        if action.nargs == 0:
            check(isinstance(value, bool), 'true or false')
            return value
        if action.nargs == '+':
            values = [value] if isinstance(value, str) else value
            check(isinstance(values, list) and values and all(isinstance(each, str) for each in values),
                  'a text in quotes, or a list of them')
            return [self._get_value(action, each) for each in values]
        check(isinstance(value, str | int | float) and not isinstance(value, bool), 'one text or number')
        typed = self._get_value(action, str(value))
        check(isinstance(value, str) == isinstance(typed, str), 'a text in quotes' if isinstance(typed, str) else 'a number')
        self._check_value(action, typed)
        return typed

    def _check_value(self, action: argparse.Action, value: object) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            error.message += did_you_mean(str(value), map(str, action.choices))
            raise

    def error(self, message: str) -> None:
        raise UserError(f'{message} (see {self.prog} --help)')


def shown(value: object) -> str:
    """A value in a message, as JSON and TOML write it, if that is short enough."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= LONGEST_SHOWN else f'{text[:LONGEST_SHOWN]}…'


def _at_most_three(names: list[str]) -> str:
    return ' '.join(names[:3]) + (f' and {len(names) - 3} more' if len(names) > 3 else '')


def _quoted_pattern(names: list[str]) -> str:
    """What to write if these are the files that the shell made of a pattern: 'src/*.py' in quotes. Otherwise ''."""
    files = [name for name in names if os.path.exists(name)]
    if not files:
        return ''
    directory, ending = os.path.dirname(files[0]), os.path.splitext(files[0])[1]
    pattern = os.path.join(directory, f'*{ending}')
    return f"; if the shell made these of a pattern, give it in quotes: '{pattern}'"


def number(kind: type, expected: str, accept: Callable[[float], bool]) -> Callable[[str], float]:
    """An argparse type for finite numbers that `accept` returns True for; `expected` describes them in errors."""
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or not accept(value):
            raise argparse.ArgumentTypeError(f'expected {expected}, not {text!r}')
        return value
    return parse


def path(text: str) -> str:
    """An argparse type for paths: a ~ at the beginning is the home directory, which the shell does not see in quotes."""
    return os.path.expanduser(text)


positive_int = number(int, 'a whole number above 0', lambda value: value > 0)
non_negative_int = number(int, 'a whole number, 0 or more', lambda value: value >= 0)
non_negative_int32 = number(int, 'a whole number from 0 to 2147483647', lambda value: 0 <= value < 2 ** 31)     # for TensorFlow
positive_float = number(float, 'a number above 0', lambda value: value > 0)
non_negative_float = number(float, 'a number, 0 or more', lambda value: value >= 0)
fraction = number(float, 'a number from 0 to 1', lambda value: 0 <= value <= 1)
fraction_below_1 = number(float, 'a number from 0 to below 1', lambda value: 0 <= value < 1)
