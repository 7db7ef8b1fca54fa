#!/usr/bin/env python3
"""Runs the measurements one after the other, and rewrites their sections of bench/README.md.

    pip install -r bench/requirements.txt
    bench/run.py --vocabulary DIR --text FILE [--only train sample] [--quick]

DIR has GPT-2's encoder.json and vocab.bpe; FILE is English text, such as Shakespeare's plays. All of it takes hours. A section
lies between two comments, which stay; what stands outside of them is written by hand. A measurement that fails leaves its
section as it is. With --quick, which is there to see that everything works, the sections are printed instead.
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

from command import whole_files
from command.errors import UserError, run
from command.flags import Parser

README = os.path.join(HERE, 'README.md')
END = '<!-- end -->'
# Columns that compare with this toolkit, by their headers; the tables of bench/encode.py begin with theirs.
RATIOS = ('time per token', 'of this toolkit\'s time')
# What the section's own line says.
MACHINE = re.compile(rf'^{re.escape(platform.machine())}, .*?\d{{4}}-\d\d-\d\d(; Python.*|, )?', re.MULTILINE)


def tables(output: str) -> str:
    """A benchmark's tables with the ratios moved to the front, without what it says of the machine."""
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
    """What bench/faults.py found, without the line for each fault."""
    return '\n'.join(f'* {line}' for line in output.strip().splitlines() if not re.match(r'(kill|damage) \d+: ', line))


def commands(output: str) -> str:
    """The commands of bench/real_size.py, each with its time and memory, without what they print."""
    kept = [line for line in output.splitlines() if line.startswith(('$ ', '-- '))]
    return '\n'.join(['```text', *kept, '```'])


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """flags, quick: of the script bench/NAME.py, in a full and in a quick run. packages: whose versions matter."""
    flags: str
    quick: str
    packages: tuple[str, ...]
    shown: Callable[[str], str] = tables        # from what the script prints to what the section says
    corpus: bool = False                        # whether it takes VOCABULARY_DIR and TEXT


BENCHMARKS = {
    'train': Benchmark('--rounds 7', '--rounds 1 --only peers', ('tensorflow', 'torch', 'transformers')),
    'sample': Benchmark('--rounds 3', '--rounds 1', ('tensorflow', 'torch', 'transformers', 'ctranslate2')),
    'encode': Benchmark('--rounds 3 --memory', '--rounds 1 --only English', ('regex', 'numpy', 'tiktoken', 'tokenizers'),
                        corpus=True),
    'distributed': Benchmark('--rounds 7', '--rounds 1', ('tensorflow',)),
    'faults': Benchmark('--kills 100 --damages 50', '--kills 2 --damages 2', ('tensorflow',), results),
    'real_size': Benchmark('', '', ('tensorflow',), commands, corpus=True),
}


def measure(name: str, args: argparse.Namespace) -> str:
    """Runs a benchmark. Returns what its section is to say. Raises subprocess.CalledProcessError if it fails."""
    benchmark = BENCHMARKS[name]
    flags = shlex.split(benchmark.quick if args.quick else benchmark.flags)
    places = {'VOCABULARY_DIR': args.vocabulary, 'TEXT': args.text} if benchmark.corpus else {}
    corpus = {place: os.path.abspath(path) for place, path in places.items()}
    script = os.path.join(HERE, f'{name}.py')
    output = subprocess.run([sys.executable, script, *corpus.values(), *flags], stdout=subprocess.PIPE, text=True,
                            check=True).stdout
    for place, path in corpus.items():      # whose paths are this machine's alone
        output = output.replace(path, place)
    command = shlex.join([f'bench/{name}.py', *corpus, *flags])
    return f'{machine(benchmark.packages)}: `{command}`\n\n{benchmark.shown(output)}'


def machine(packages: tuple[str, ...]) -> str:
    """Processor, cores, date and versions, in a line."""
    with open('/proc/cpuinfo', encoding='utf-8') as file:
        processor = re.findall(r'^model name\s*: (.*)$', file.read(), re.MULTILINE)
    versions = [f'{package} {importlib.metadata.version(package)}' for package in packages]
    return (f'{", ".join([platform.machine(), *processor[:1]])}, {os.cpu_count()} cores, {time.strftime("%Y-%m-%d")}; '
            f'{", ".join([f"Python {platform.python_version()}", *versions])}')


def rewrite(text: str, name: str, section: str) -> str:
    """The text of bench/README.md with a section replaced. Raises UserError unless it is there exactly once."""
    begin = f'<!-- bench/run.py --only {name} -->'
    pattern = re.compile(f'{re.escape(begin)}.*?{re.escape(END)}', re.DOTALL)
    if (found := len(pattern.findall(text))) != 1:
        raise UserError(f'bench/README.md must have one section between {begin} and {END}; it has {found}')
    return pattern.sub(lambda _: f'{begin}\n{section}\n{END}', text)


def parse_flags() -> argparse.Namespace:
    parser = Parser(description=__doc__.partition('\n')[0])
    parser.add_argument('--only', metavar='NAME', nargs='+', choices=BENCHMARKS, default=list(BENCHMARKS),
                        help=f'of {", ".join(BENCHMARKS)}')
    parser.add_argument('--quick', action='store_true', help='few rounds; print the sections, and leave README.md as it is')
    parser.add_argument('--vocabulary', metavar='DIR', default=os.environ.get('GPT2_VOCABULARY'),
                        help='with GPT-2\'s encoder.json and vocab.bpe (default: $GPT2_VOCABULARY)')
    parser.add_argument('--text', metavar='FILE', help='English text')
    return parser.parse_args()


def check(args: argparse.Namespace) -> None:
    """Raises UserError, before hours have passed, for what a benchmark will lack."""
    for name in args.only:
        if BENCHMARKS[name].corpus and not (args.vocabulary and args.text):
            raise UserError(f'{name} needs --vocabulary and --text; --only leaves it out')
        for package in BENCHMARKS[name].packages:
            try:
                importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                raise UserError(f'{name} needs {package}: pip install -r bench/requirements.txt') from None
        with open(README, encoding='utf-8') as file:
            rewrite(file.read(), name, '')


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
        else:       # each at once: the next one may take an hour and fail
            with open(README, encoding='utf-8') as file:
                text = file.read()
            whole_files.write_text(README, rewrite(text, name, section))
    if failed:
        raise UserError(f'failed, their sections are as they were: {", ".join(failed)}')


if __name__ == '__main__':
    run(main)
