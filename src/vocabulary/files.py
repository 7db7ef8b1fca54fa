"""Reading and writing a vocabulary: `encoder.json` (token -> id) and `vocab.bpe` (the merges, in the order of learning)."""

import json
import os
from collections.abc import Iterable

from command.errors import UserError, reason
from vocabulary.spelling import BYTE_CHARACTERS, END_OF_TEXT


def read_vocabulary(directory: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Reads `encoder.json` and `vocab.bpe` of a model directory: (token -> id, merges), as encoder.Encoder takes them.

    Raises UserError that names the file, and the line where it has lines, for anything that could make an encoder that
    fails later or gives wrong ids.
    """
    ids = _load_ids(os.path.join(directory, 'encoder.json'))
    return ids, _load_merges(os.path.join(directory, 'vocab.bpe'), ids)


def _load_ids(path: str) -> dict[str, int]:
    """Reads `encoder.json`: token -> id."""
    text = _read(path)
    try:
        ids = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f'{path} is not JSON: {error}') from None
    if not isinstance(ids, dict) or not all(type(id) is int for id in ids.values()):
        raise UserError(f'{path} must hold an object that gives each token its id, a whole number')
    if sorted(ids.values()) != list(range(len(ids))):
        raise UserError(f'{path} holds {len(ids)} tokens, so their ids must be 0 to {len(ids) - 1}, each once')
    if missing := [token for token in (*BYTE_CHARACTERS.values(), END_OF_TEXT) if token not in ids]:
        raise UserError(f'{path} lacks the token {missing[0]!r}')
    if foreign := set().union(*ids).difference(BYTE_CHARACTERS.values()):
        raise UserError(f'{path}: tokens are spelled in the 256 characters that stand for bytes; {min(foreign)!r} is none')
    return ids


def _load_merges(path: str, ids: dict[str, int]) -> list[tuple[str, str]]:
    """Reads `vocab.bpe`: a line with the version, then a merge to a line, its two parts separated by a space."""
    version, *lines = _read(path).rstrip().split('\n')
    if not version.startswith('#version:'):
        raise UserError(f"{path} line 1: expected '#version: 0.2', not {version!r}")
    merges = {}         # pair -> its line
    made = set(BYTE_CHARACTERS.values())
    for number, line in enumerate(lines, start=2):
        pair = tuple(line.split())
        if len(pair) != 2:
            raise UserError(f'{path} line {number}: expected two tokens, not {line!r}')
        for part in pair:
            # An order in which parts come after what is made of them cannot have been learned, and would be ambiguous.
            if part not in made:
                raise UserError(f'{path} line {number}: {part!r} is neither a byte nor made by an earlier line')
        if pair in merges:
            raise UserError(f'{path} line {number}: {line!r} is on line {merges[pair]} already')
        token = ''.join(pair)
        if token not in ids:
            raise UserError(f'{path} line {number}: {token!r} is not in encoder.json beside it')
        merges[pair] = number
        made.add(token)
    # What comes after END_OF_TEXT may have been added later, as a token of its own.
    if lost := [token for token, id in ids.items() if id < ids[END_OF_TEXT] and token not in made]:
        raise UserError(f'{path} ends after {len(merges)} merges, none of which makes {lost[0]!r} of encoder.json beside it: is it '
                        'cut off?')
    return list(merges)


def _read(path: str) -> str:
    """The text of a UTF-8 file. Raises UserError."""
    try:
        with open(path, 'rb') as file:
            return file.read().decode()
    except OSError as error:
        raise UserError(f'cannot read {path}: {reason(error)}') from None
    except UnicodeDecodeError as error:
        line = error.object.count(b'\n', 0, error.start) + 1
        raise UserError(f'{path} line {line} is not UTF-8: {error.reason}') from None


def write_vocabulary(directory: str, ids: dict[str, int], merges: Iterable[tuple[str, str]]) -> None:
    """Writes `encoder.json` and `vocab.bpe` as GPT-2's are written, byte for byte. Raises UserError if it cannot."""
    lines = ['#version: 0.2', *(' '.join(pair) for pair in merges)]
    contents = {'encoder.json': json.dumps(ids), 'vocab.bpe': ''.join(f'{line}\n' for line in lines)}
    for name, content in contents.items():
        path = os.path.join(directory, name)
        try:
            with open(path, 'w', encoding='utf-8', newline='\n') as file:
                file.write(content)
        except OSError as error:
            raise UserError(f'cannot write {path}: {reason(error)}') from None
