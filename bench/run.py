#!/usr/bin/env python3
"""Runs all measurements and writes the results into bench/README.md.

    pip install -r bench/requirements.txt
    bench/run.py --vocabulary DIR --text FILE [--only train sample] [--quick]

DIR holds GPT-2's encoder.json and vocab.bpe; FILE is English text, such as Shakespeare's plays. All measurements together take
hours. Each one replaces its section of bench/README.md, the text between two comments; the rest is written by hand. The section
of a measurement that fails stays as it is. --quick only checks that everything works: it prints the sections instead.
"""

import argparse
import dataclasses
import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', 'src'))

from command import atomic_files
from command.errors import UserError, run
from command.flags import Parser

README = os.path.join(HERE, 'README.md')
END = '<!-- end -->'
# Placeholder in a command -> the flag of this script that has the path.
INPUTS = {'VOCABULARY_DIR': 'vocabulary', 'TEXT': 'text'}
# Headers of the columns that compare with this toolkit. (In the tables of bench/encode.py they come first already.)
RATIOS = ('time per token', 'of this toolkit\'s time')
# A benchmark's line about the machine, which the section's first line repeats.
MACHINE = re.compile(rf'^{re.escape(platform.machine())}, .*?\d{{4}}-\d\d-\d\d(; Python.*|, )?', re.MULTILINE)


def tables(output: str) -> str:
    """A benchmark's output, with the ratios as the first columns of its tables, and without its line about the machine."""
    lines, order = [], []
    for line in MACHINE.sub('', output).strip().splitlines():
        if not line.startswith('|'):
            lines, order = [*lines, line], []
            continue
        cells = line.strip('|').split('|')
        order = order or sorted(range(len(cells)), key=lambda i: (i > 0, cells[i].strip() not in RATIOS))
        lines.append(f'|{"|".join(cells[i] for i in order)}|')
    return '\n'.join(lines)


def results(output: str) -> str:
    """The results of bench/faults.py, without the line for each fault."""
    return '\n'.join(f'* {line}' for line in output.strip().splitlines() if not re.match(r'(kill|damage) \d+: ', line))


def commands(output: str) -> str:
    """The commands of bench/real_size.py, each with its time and memory, without their output."""
    kept = [line for line in output.splitlines() if line.startswith(('$ ', '-- '))]
    return '\n'.join(['```text', *kept, '```'])


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """flags, quick: arguments of bench/NAME.py in a full and in a quick run. packages: the section names their versions."""
    flags: str
    quick: str
    packages: tuple[str, ...]
    format: Callable[[str], str] = tables       # from the script's output to the section's text
    files: tuple[str, ...] = ()                 # those of INPUTS that the script takes, in this order


BENCHMARKS = {
    'train': Benchmark('--rounds 7', '--rounds 1 --only peers', ('tensorflow', 'torch', 'transformers', 'peft')),
    'memory': Benchmark('', '--only 124M int8', ('tensorflow', 'numpy'), files=('VOCABULARY_DIR',)),
    'sample': Benchmark('--rounds 3', '--rounds 1', ('tensorflow', 'torch', 'transformers', 'ctranslate2')),
    'serve': Benchmark('', '--tiny --rounds 1 --requests 100', ('tensorflow', 'torch', 'transformers', 'starlette', 'uvicorn')),
    'encode': Benchmark('--rounds 3 --memory', '--rounds 1 --only English', ('regex', 'numpy', 'tiktoken', 'tokenizers'),
                        files=('VOCABULARY_DIR', 'TEXT')),
    'distributed': Benchmark('--rounds 7', '--rounds 1', ('tensorflow',)),
    'faults': Benchmark('--kills 100 --damages 50', '--kills 2 --damages 2', ('tensorflow',), results),
    'real_size': Benchmark('', '', ('tensorflow',), commands, files=('VOCABULARY_DIR', 'TEXT')),
}


def measure(name: str, args: argparse.Namespace) -> str:
    """Runs a benchmark and returns its section. Raises subprocess.CalledProcessError if it fails."""
    benchmark = BENCHMARKS[name]
    flags = shlex.split(benchmark.quick if args.quick else benchmark.flags)
    files = {placeholder: os.path.abspath(getattr(args, INPUTS[placeholder])) for placeholder in benchmark.files}
    script = os.path.join(HERE, f'{name}.py')
    output = subprocess.run([sys.executable, script, *files.values(), *flags], stdout=subprocess.PIPE, text=True,
                            check=True).stdout
    for placeholder, file in files.items():         # a path of this machine would mean nothing to a reader
        output = output.replace(file, placeholder)
    command = shlex.join([f'bench/{name}.py', *files, *flags])
    return f'{describe_machine(benchmark.packages)}: `{command}`\n\n{benchmark.format(output)}'


def describe_machine(packages: tuple[str, ...]) -> str:
    """Processor, cores, date and versions, in one line."""
    with open('/proc/cpuinfo', encoding='utf-8') as file:
        processor = re.findall(r'^model name\s*: (.*)$', file.read(), re.MULTILINE)
    versions = [f'{package} {importlib.metadata.version(package)}' for package in packages]
    return (f'{", ".join([platform.machine(), *processor[:1]])}, {os.cpu_count()} cores, {time.strftime("%Y-%m-%d")}; '
            f'{", ".join([f"Python {platform.python_version()}", *versions])}')


def replace_section(text: str, name: str, section: str) -> str:
    """The text of bench/README.md with one section replaced. Raises UserError unless it has exactly one of this name."""
    begin = f'<!-- bench/run.py --only {name} -->'
    pattern = re.compile(f'{re.escape(begin)}.*?{re.escape(END)}', re.DOTALL)
    if (count := len(pattern.findall(text))) != 1:
        raise UserError(f'bench/README.md must have one section between {begin} and {END}; it has {count}')
    return pattern.sub(lambda _: f'{begin}\n{section}\n{END}', text)


def parse_flags() -> argparse.Namespace:
    parser = Parser(description=__doc__.partition('\n')[0])
    parser.add_argument('--only', metavar='NAME', nargs='+', choices=BENCHMARKS, default=list(BENCHMARKS),
                        help=f'run only these, of {", ".join(BENCHMARKS)} (default: all)')
    parser.add_argument('--quick', action='store_true',
                        help='few rounds; print the sections, and leave bench/README.md unchanged')
    parser.add_argument('--vocabulary', metavar='DIR', default=os.environ.get('GPT2_VOCABULARY'),
                        help='directory of GPT-2\'s encoder.json and vocab.bpe (default: $GPT2_VOCABULARY)')
    parser.add_argument('--text', metavar='FILE', help='English text file')
    return parser.parse_args()


def check(args: argparse.Namespace) -> None:
    """Raises UserError for anything that a benchmark will lack, before the first one runs for an hour."""
    for name in args.only:
        inputs = [INPUTS[placeholder] for placeholder in BENCHMARKS[name].files]
        if not all(getattr(args, flag) for flag in inputs):
            raise UserError(f'{name} needs {" and ".join(f"--{flag}" for flag in inputs)}; or select others with --only')
        for package in BENCHMARKS[name].packages:
            try:
                importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                raise UserError(f'{name} needs {package}: pip install -r bench/requirements.txt') from None
        with open(README, encoding='utf-8') as file:
            replace_section(file.read(), name, '')


def main() -> None:
    args = parse_flags()
    check(args)
    failed = []
    for name in args.only:
        print(f'== {name}', file=sys.stderr, flush=True)
        try:
            section = measure(name, args)
        except subprocess.CalledProcessError as error:
            failed.append(f'{name} (status {error.returncode})')
            continue
        if args.quick:
            print(f'{section}\n', flush=True)
        else:       # before the next one, which may take an hour and fail
            with open(README, encoding='utf-8') as file:
                text = file.read()
            atomic_files.write_text(README, replace_section(text, name, section))
    if failed:
        raise UserError(f'these failed, and their sections are unchanged: {", ".join(failed)}')


if __name__ == '__main__':
    run(main)
