"""The flags that say what a corpus is, for every script that reads one."""

import argparse

from command.flags import positive_int
from command.machine import available_processors
from corpus.read_text import ERRORS, TextFormat


def add_text_flags(group) -> None:
    """Flags that say how files hold their text."""
    group.add_argument('--encoding', metavar='NAME', default='utf-8', help='of the text files')
    group.add_argument('--encoding_errors', choices=ERRORS, default='strict',
                       help='what to do about bytes that are not such text: end with their place, put U+FFFD for them, or '
                            'leave them out')
    group.add_argument('--text_column', metavar='NAME',
                       help='where the text is in .jsonl and .csv files, each record a document (without it, a .csv is '
                            'text like any other)')
    group.add_argument('--document_per_line', action='store_true',
                       help='each line of a text file is a document (default: the file is one)')


def add_token_flags(group) -> None:
    """Flags that say how text becomes chunks of tokens."""
    group.add_argument('--combine', metavar='CHARS', type=positive_int, default=50000,
                       help='put documents together, <|endoftext|> between them, into chunks of so many characters or more')
    group.add_argument('--processes', metavar='N', type=positive_int, default=available_processors(),
                       help='that encode side by side, in the case of more than a megabyte; the tokens do not depend on it')


def text_format(args: argparse.Namespace) -> TextFormat:
    """What add_text_flags was told. Raises UserError for an unknown encoding."""
    return TextFormat(args.encoding, args.encoding_errors, args.text_column, args.document_per_line)
