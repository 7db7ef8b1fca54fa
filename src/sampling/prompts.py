"""Prompts from the command line, from files and from a terminal."""

import re
import sys

from command.errors import UserError, reason
from command.read_files import read_any

STDIN_CLOSED = 'standard input is closed: give --prompt or --prompt_file FILE'
ENDS_IN_SPACE = ('ends in a space: tokens begin with the space before their word, so the text is usually better without that '
                 'space')
ESCAPES = {r'\n': '\n', r'\t': '\t', r'\r': '\r', r'\\': '\\'}


def given_text(source: str, text: str, escapes: bool = False) -> str:
    r"""A text that was typed or given as a flag; with `escapes`, \n in it is a line break. source: how messages begin.

    Bytes that the locale's encoding lacks, which are surrogates in Python, are read as UTF-8. Raises UserError.
    """
    try:
        text = text.encode(errors='surrogateescape').decode()
    except UnicodeError:
        raise UserError(f'{source} is not UTF-8') from None
    try:
        return re.sub(r'\\.?', lambda match: ESCAPES[match[0]], text, flags=re.DOTALL) if escapes else text
    except KeyError as error:
        raise UserError(f'{source}: {error.args[0]} is none of the escapes {" ".join(ESCAPES)}; write {chr(92) * 2} for a '
                        'backslash') from None


def check_not_empty(source: str, prompt: str) -> str:
    """The prompt. Raises UserError if it is empty, or spaces and tabs only. source: how messages begin."""
    if not prompt.strip(' \t'):
        raise UserError(f'{source} is empty: give the beginning of the text')
    return prompt


def read_prompts(path: str, separator: str | None = None) -> dict[str, str]:
    """What messages call a prompt -> the prompt, of a UTF-8 file, or of standard input for '-'.

    Without a separator, each line is one. A separator without a line break must be a line of its own. Line breaks may be
    \\r\\n, and the file may begin with a byte order mark. Raises UserError if it cannot be read or is empty.
    """
    content = read_standard_input() if path == '-' else read_any(path)
    try:
        text = content.decode('utf-8-sig').replace('\r\n', '\n')
    except UnicodeDecodeError as error:
        line = error.object.count(b'\n', 0, error.start) + 1
        raise UserError(f'{path} line {line} is not UTF-8: {error.reason}') from None
    if not text:
        raise UserError(f'{path} is empty: expected a prompt in each line')
    if separator is None:
        return {f'{path} line {number}': line for number, line in enumerate(text.removesuffix('\n').split('\n'), start=1)}
    return {f'{path} prompt {number}': prompt for number, prompt in enumerate(split_at(text, separator), start=1)}


def read_standard_input() -> bytes:
    """All of standard input. Raises UserError if it is closed or cannot be read."""
    try:
        return sys.stdin.buffer.read()
    except AttributeError:      # sys.stdin is None
        raise UserError(STDIN_CLOSED) from None
    except OSError as error:
        raise UserError(f'cannot read standard input: {reason(error)}') from None


def split_at(text: str, separator: str) -> list[str]:
    """'a\\n---\\nb\\n' at '---', or 'a\\n\\nb\\n' at '\\n\\n' -> ['a', 'b']. A separator at the end ends the last prompt."""
    if '\n' in separator:
        *prompts, last = text.split(separator.replace('\r\n', '\n'))
        return [*prompts, last.removesuffix('\n')] if last else prompts
    prompts = [[]]
    for line in text.removesuffix('\n').split('\n'):
        if line == separator:
            prompts.append([])
        else:
            prompts[-1].append(line)
    return ['\n'.join(lines) for lines in (prompts if prompts[-1] else prompts[:-1])]
