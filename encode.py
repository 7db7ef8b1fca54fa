#!/usr/bin/env python3
"""Encodes a text, a directory or a glob into an .npz of tokens, so that train.py need not.

Reads text, .gz, .zst (with the zstandard package), .jsonl and .csv, of any size, in bounded memory.
"""

import os
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), 'src'))
import encoder
from command import errors, flags, models
from command.errors import UserError
from corpus.find_files import find_files, would_match
from corpus.flags import add_text_flags, add_token_flags, text_format
from load_dataset import save_files


def make_parser() -> flags.Parser:
    parser = flags.Parser(description=__doc__)
    parser.add_argument('input', metavar='IN', help="a file, a directory, or a glob in quotes ('corpus/**/*.txt')")
    parser.add_argument('output', metavar='OUT.npz', help='file to write; an existing one is replaced')
    add_text_flags(parser.add_argument_group('text'))
    tokens = parser.add_argument_group('tokens')
    tokens.add_argument('--model_name', metavar='NAME', default='117M',
                        help='the model to be trained, for its vocabulary')
    tokens.add_argument('--models_dir', metavar='DIR', default='models', help='the directory of the models')
    add_token_flags(tokens)
    return parser


def check_output(output: str, source: str, files: list[str]) -> None:
    """Raises UserError if `output` cannot be written, or would be part of the corpus: `files` = find_files(source)."""
    if not output.endswith('.npz'):
        raise UserError(f'the output must end in .npz, not {output!r}')
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
    check_output(args.output, args.input, files)
    enc = encoder.load_encoder(models.find_model(args.model_name, args.models_dir))
    start = time.perf_counter()
    chunks, totals = save_files(args.output, enc, args.input, files, args.combine, format, args.processes)
    seconds = time.perf_counter() - start
    figures = f'{args.output} files={len(files)} tokens={totals.tokens} chunks={chunks}'
    if totals.text_bytes:
        figures += f' bytes={totals.text_bytes} bytes/token={totals.text_bytes / totals.text_tokens:.2f}'
    print(f'{figures} seconds={seconds:.1f} MB/s={totals.text_bytes / 1e6 / max(seconds, 1e-9):.1f}')


if __name__ == '__main__':
    errors.run(main)
