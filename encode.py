#!/usr/bin/env python3
"""Encodes a text, a directory or a glob into an .npz of tokens, so that train.py need not.

Reads text, .gz, .zst (with the zstandard package), .json, .jsonl, .ndjson, .csv and .tsv, of any size, in bounded memory.
"""

import os
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), 'src'))

from command.missing_packages import explain_missing_packages

if __name__ == '__main__':
    explain_missing_packages()

import encoder
from command import errors, flags, models
from command.errors import UserError
from corpus.data_sets import DataSet
from corpus.find_files import find_files, would_match
from corpus.flags import add_text_flags, add_token_flags, text_format
from corpus.read_text import check_text_column
from load_dataset import save_sets

EXAMPLES = ('./encode.py corpus.txt corpus.npz --model_name tiny',
            "./encode.py 'corpus/**/*.txt' corpus.npz")


def make_parser() -> flags.Parser:
    parser = flags.Parser(description=__doc__, examples=EXAMPLES)
    parser.add_argument('input', metavar='IN', type=flags.path,
                        help="a file, a directory, or a glob in quotes ('corpus/**/*.txt')")
    parser.add_argument('output', metavar='OUT.npz', type=flags.path,
                        help='file to write; an existing one is replaced, and .npz is added if the name lacks it')
    add_text_flags(parser.add_argument_group('text'))
    tokens = parser.add_argument_group('tokens')
    tokens.add_argument('--model_name', metavar='NAME', default='117M',
                        help='the model to be trained, for its vocabulary')
    tokens.add_argument('--models_dir', metavar='DIR', type=flags.path, default='models', help='the directory of the models')
    add_token_flags(tokens)
    return parser


def with_suffix(output: str) -> str:
    """The name with .npz, which numpy adds too if it is missing. Raises UserError if it ends in a slash."""
    if not os.path.basename(output):
        raise UserError(f'the output {output} is a directory; expected the name of a file')
    return output if output.endswith('.npz') else f'{output}.npz'


def check_output(output: str, source: str, files: list[str]) -> None:
    """Raises UserError if `output` cannot be written, or would be part of the corpus: `files` = find_files(source)."""
    if os.path.isdir(output):
        raise UserError(f'the output {output} is a directory; expected the name of a file')
    real_output = os.path.realpath(output)
    if real_output in map(os.path.realpath, files):
        raise UserError(f'the output {output} is one of the files to encode; choose another name')
    if os.path.isdir(source) and real_output.startswith(os.path.join(os.path.realpath(source), '')):
        raise UserError(f'the output {output} lies in the directory to encode, {source}: it would be part of the '
                        'corpus the next time; choose another directory')
    if not os.path.exists(source) and would_match(source, output):
        raise UserError(f'the output {output} would match {source}: it would be part of the corpus the next time; '
                        'choose another name')
    directory = os.path.dirname(output) or '.'
    try:
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        raise UserError(f'cannot write into the directory {directory}: {errors.reason(error)}') from None


def main() -> None:
    args = make_parser().parse_args()
    format = text_format(args)
    files = find_files(args.input)
    check_text_column(format, files)
    output = with_suffix(args.output)
    check_output(output, args.input, files)
    enc = encoder.load_encoder(models.directory_of(models.find_model(args.model_name, args.models_dir)))
    start = time.perf_counter()
    totals = save_sets(output, enc, args.input, [DataSet(files)], args.combine, format, args.processes)
    seconds = time.perf_counter() - start
    figures = f'{output} files={len(files)} tokens={totals.tokens} chunks={sum(totals.chunks)}'
    if totals.text_bytes:
        figures += f' bytes={totals.text_bytes} bytes/token={totals.text_bytes / totals.text_tokens:.2f}'
    print(f'{figures} seconds={seconds:.1f} MB/s={totals.text_bytes / 1e6 / max(seconds, 1e-9):.1f}')


if __name__ == '__main__':
    errors.run(main)
