"""Command-line flags: argparse with one-line errors, and number types."""

import argparse
import difflib
import math
import os
from collections.abc import Callable

from command.errors import UserError


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Appends '(default: …)' to a flag's help, except for None and False."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UserError instead of printing its usage.

    A flag can be abbreviated to a prefix that only one flag has: --batch for --batch_size.
    """

    def __init__(self, **kwargs):
        super().__init__(formatter_class=_Formatter, **kwargs)

    def parse_args(self, args: list[str] | None = None, namespace: argparse.Namespace | None = None) -> argparse.Namespace:
        namespace, unknown = self.parse_known_args(args, namespace)
        if unknown:
            names = [argument.partition('=')[0] for argument in unknown if argument.startswith('--')]
            similar = [f'{name}: did you mean {found[0]}?' for name in names
                       if (found := difflib.get_close_matches(name, self._option_string_actions, n=1))]
            self.error('; '.join([f'unrecognized arguments: {" ".join(unknown)}', *similar]))
        return namespace

    def error(self, message: str) -> None:
        raise UserError(f'{message} (see {self.prog} --help)')


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
