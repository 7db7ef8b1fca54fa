"""The flags of a corpus, shared by every script that reads one."""

import argparse

from command.flags import path, positive_int
from command.machine import available_processors
from corpus.read_text import ERRORS, TextFormat

FORMATS = 'text also as .gz, .zst, and records as .json, .jsonl, .ndjson, .csv, .tsv'


def add_dataset_flag(group, purpose: str, name: str = '--dataset', **settings) -> None:
    """The flag for one data set or several. purpose: what its help begins with."""
    group.add_argument(name, metavar='PATH', type=path, nargs='+',
                       help=f'{purpose}: files, directories, or globs in quotes ({FORMATS})', **settings)


def add_text_flags(group) -> None:
    """Flags for the format of text files."""
    group.add_argument('--encoding', metavar='NAME', default='utf-8', help='of the text files')
    group.add_argument('--encoding_errors', choices=ERRORS, default='strict',
                       help='how to handle bytes that cannot be decoded: stop with their offset, replace them with '
                            'U+FFFD, or drop them')
    group.add_argument('--text_column', metavar='NAME',
                       help='column of the text in files of records (.json, .jsonl, .ndjson, .csv, .tsv), each record a '
                            'document; in a .csv or .tsv without a header, its number from 1. Without it, a .csv or .tsv is '
                            'read as plain text, and the others must hold texts')
    group.add_argument('--skip_bad_records', action='store_true',
                       help='leave out records that are damaged or have no text, and print how many (default: stop at the '
                            'first one)')
    group.add_argument('--document_per_line', action='store_true',
                       help='each line of a text file is a document (default: the file is one)')


def add_token_flags(group) -> None:
    """Flags for the encoding of text into chunks of tokens."""
    group.add_argument('--combine', metavar='CHARS', type=positive_int, default=50000,
                       help='join documents, <|endoftext|> between them, into chunks of at least this many characters')
    group.add_argument('--processes', metavar='N', type=positive_int, default=available_processors(),
                       help='processes that encode a corpus of more than a megabyte; the tokens do not depend on it')


def text_format(args: argparse.Namespace) -> TextFormat:
    """The values of add_text_flags. Raises UserError for an unknown encoding."""
    return TextFormat(args.encoding, args.encoding_errors, args.text_column, args.document_per_line,
                      args.skip_bad_records)
