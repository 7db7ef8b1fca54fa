#!/usr/bin/env python3
"""Continues each line you type, or the prompts you give."""

import contextlib
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from command.errors import UserError, run
from sampling.flags import PromptFlags, parse
from sampling.printing import write_samples

PROMPT = 'Model prompt >>> '
SUMMARY = '''Continues each line you type, until the end of input (Ctrl-D), or the prompts you give.

Ctrl-C stops a sample and asks for the next line.'''


def typed_prompts(flags: PromptFlags):
    """Lines of standard input that can be continued; of the others it is said what is wrong with them."""
    typed = sys.stdin.isatty()
    if typed:
        with contextlib.suppress(ImportError):      # not part of every Python
            import readline  # noqa: F401  (lets input() move within the line, and bring back earlier ones)
    while True:
        try:
            line = ask() if typed else input()
            flags.check_prompt('The prompt', line)
            yield line
        except EOFError:
            if typed:
                print(file=sys.stderr)      # what comes next should not stand beside the prompt
            return
        except UnicodeDecodeError as error:
            print(f'The prompt is not UTF-8: {error.reason} at byte {error.start}', file=sys.stderr)
        except UserError as error:
            print(error, file=sys.stderr)


def ask() -> str:
    """A line that is typed. The question is no part of what goes to a file or a pipe."""
    if sys.stdout.isatty():
        return input(PROMPT)
    print(PROMPT, end='', file=sys.stderr, flush=True)
    return input()


def main():
    flags = parse(PromptFlags, SUMMARY)
    # Late: TensorFlow takes seconds to import, which a mistake in the flags should not cost.
    from command.tensorflow_setup import load_tensorflow
    load_tensorflow()
    from generator import Generator
    generator = Generator(flags.model)
    for number, prompts in enumerate([flags.prompts] if flags.prompts else ([line] for line in typed_prompts(flags))):
        try:
            write_samples(generator, flags, prompts, first=number, rule=True)
        except KeyboardInterrupt:
            print('\nstopped', file=sys.stderr)


if __name__ == '__main__':
    run(main)
