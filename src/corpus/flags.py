"""The flags of a corpus, shared by every script that reads one."""

import argparse

from command.flags import positive_int
from command.machine import available_processors
from corpus.read_text import ERRORS, TextFormat


def add_text_flags(group) -> None:
    """Flags for the format of text files."""
    group.add_argument('--encoding', metavar='NAME', default='utf-8', help='of the text files')
    group.add_argument('--encoding_errors', choices=ERRORS, default='strict',
                       help='how to handle bytes that cannot be decoded: stop with their offset, replace them with '
                            'U+FFFD, or drop them')
    group.add_argument('--text_column', metavar='NAME',
                       help='column of the text in .jsonl and .csv files, each record a document (without it, a .csv '
                            'is read as plain text)')
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
    return TextFormat(args.encoding, args.encoding_errors, args.text_column, args.document_per_line)
