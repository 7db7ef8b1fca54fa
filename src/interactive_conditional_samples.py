#!/usr/bin/env python3
"""Continues each line you type, or the prompts you give."""

import contextlib
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

from command.missing_packages import explain_missing_packages

if __name__ == '__main__':
    explain_missing_packages()

from command.errors import UserError, reason, run
from sampling.flags import PromptFlags, parse
from sampling.printing import write_samples
from sampling.prompts import STDIN_CLOSED

QUESTION = 'Model prompt >>> '
SUMMARY = '''Continues each line you type, until the end of input (Ctrl-D), or the prompts you give.

Ctrl-C stops a sample and asks for the next line.'''
EXAMPLES = ("src/interactive_conditional_samples.py --model_name tiny --prompt 'ROMEO:' --length 60 --temperature 0.8",
            'src/interactive_conditional_samples.py --run_name run1 --top_k 40')


def typed_prompts(flags: PromptFlags):
    """Yields the lines of standard input that can be continued, and prints what is wrong with the others.

    Raises UserError if it cannot be read.
    """
    if sys.stdin is None:
        raise UserError(STDIN_CLOSED)
    terminal = sys.stdin.isatty()
    if terminal:
        with contextlib.suppress(ImportError):      # not part of every Python
            import readline  # noqa: F401  (lets input() edit the line and bring back earlier ones)
    while True:
        try:
            line = ask() if terminal else input()
            yield flags.read_prompt('The prompt', line.removeprefix('\ufeff'))
        except EOFError:
            if terminal:
                print(file=sys.stderr)      # ends the line of the question
            return
        except OSError as error:        # a terminal that is gone, for example
            raise UserError(f'cannot read standard input: {reason(error)}') from None
        except UnicodeDecodeError as error:
            print(f'The prompt is not UTF-8: {error.reason} at byte {error.start}', file=sys.stderr)
        except UserError as error:
            print(error, file=sys.stderr)


def ask() -> str:
    """A typed line. The question must not go to a file or a pipe."""
    if sys.stdout.isatty():
        return input(QUESTION)
    print(QUESTION, end='', file=sys.stderr, flush=True)
    return input()


def main():
    flags = parse(PromptFlags, SUMMARY, EXAMPLES)
    # TensorFlow takes seconds to import, so it comes after all checks.
    from command.device import load_and_report
    load_and_report()
    from generator import Generator
    generator = Generator(flags.model, flags.weights)
    for number, prompts in enumerate([flags.prompts] if flags.prompts else ([line] for line in typed_prompts(flags))):
        try:
            write_samples(generator, flags, prompts, first=number, line=True)
        except KeyboardInterrupt:
            print('\nstopped', file=sys.stderr)


if __name__ == '__main__':
    run(main)
