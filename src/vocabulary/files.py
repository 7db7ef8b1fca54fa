"""Reads and writes encoder.json (token -> id) and vocab.bpe (the merges)."""

import json
import os
from collections.abc import Iterable

from command.errors import UserError, reason
from command.read_files import read_bytes
from vocabulary.special import SpecialTokens, read_special_tokens, special_ids
from vocabulary.spelling import BYTE_CHARACTERS, END_OF_TEXT

Merges = list[tuple[str, str]]


def read_vocabulary(directory: str) -> tuple[dict[str, int], Merges, SpecialTokens]:
    """Reads the vocabulary of a model directory, for encoder.Encoder.

    Returns token -> id, the merges in the order of learning, and the special tokens. Raises UserError that names the file,
    and the line of vocab.bpe, for anything that would make an encoder fail later or give wrong ids.
    """
    ids, special = _read_ids(os.path.join(directory, 'encoder.json')), read_special_tokens(directory)
    unmade = special_ids(special, ids, directory).values()
    return ids, _read_merges(os.path.join(directory, 'vocab.bpe'), ids, set(unmade)), special


def _read_ids(path: str) -> dict[str, int]:
    text = _read(path)
    try:
        ids = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f'{path} is not JSON: {error}') from None
    if not isinstance(ids, dict) or not all(type(id) is int for id in ids.values()):
        raise UserError(f'{path} must hold an object that gives each token its id, a whole number')
    if sorted(ids.values()) != list(range(len(ids))):
        raise UserError(f'{path} has {len(ids)} tokens, so their ids must be 0 to {len(ids) - 1}, each exactly once')
    if missing := [token for token in BYTE_CHARACTERS.values() if token not in ids]:
        raise UserError(f'{path} lacks the token {missing[0]!r}')
    if foreign := set().union(*ids).difference(BYTE_CHARACTERS.values()):
        raise UserError(f'{path}: tokens may only use the 256 characters that stand for bytes, not {min(foreign)!r}')
    return ids


def _read_merges(path: str, ids: dict[str, int], special: set[int]) -> Merges:
    """The first line is the version; each other line is a merge, two tokens separated by a space.

    special: ids of the special tokens, which no merge need make.
    """
    version, *lines = _read(path).rstrip().split('\n')
    if not version.startswith('#version:'):
        raise UserError(f"{path} line 1: expected '#version: 0.2', not {version!r}")
    merges = {}         # pair -> its line
    made = set(BYTE_CHARACTERS.values())
    for number, line in enumerate(lines, start=2):
        pair = tuple(line.split())
        if len(pair) != 2:
            raise UserError(f'{path} line {number}: expected two tokens, not {line!r}')
        for token in pair:
            # Learning never uses a token before it has made it; merges in another order would be ambiguous.
            if token not in made:
                raise UserError(f'{path} line {number}: {token!r} is neither a byte nor made by an earlier line')
        if pair in merges:
            raise UserError(f'{path} line {number}: {line!r} repeats line {merges[pair]}')
        if ''.join(pair) not in ids:
            raise UserError(f'{path} line {number}: the merged token {"".join(pair)!r} is not in encoder.json')
        merges[pair] = number
        made.add(''.join(pair))
    # Tokens after END_OF_TEXT may have been added later, without a merge. Vocabularies without it have such tokens anywhere.
    first_added = ids.get(END_OF_TEXT, 0)
    if unmade := [token for token, id in ids.items() if id < first_added and id not in special and token not in made]:
        raise UserError(f'{path} ends after {len(merges)} merges, none of which makes the token {unmade[0]!r} of encoder.json: '
                        'the file is incomplete, or belongs to another encoder.json')
    return list(merges)


def _read(path: str) -> str:
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError as error:
        line = error.object.count(b'\n', 0, error.start) + 1
        raise UserError(f'{path} line {line} is not UTF-8: {error.reason}') from None


def write_vocabulary(directory: str, ids: dict[str, int], merges: Iterable[tuple[str, str]]) -> None:
    """Writes both files, byte for byte as GPT-2's are written. Raises UserError if it cannot."""
    lines = ['#version: 0.2', *(' '.join(pair) for pair in merges)]
    contents = {'encoder.json': json.dumps(ids), 'vocab.bpe': ''.join(f'{line}\n' for line in lines)}
    for name, content in contents.items():
        path = os.path.join(directory, name)
        try:
            with open(path, 'w', encoding='utf-8', newline='\n') as file:
                file.write(content)
        except OSError as error:
            raise UserError(f'cannot write {path}: {reason(error)}') from None
