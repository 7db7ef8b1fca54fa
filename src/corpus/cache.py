"""A run's corpus in tokens, kept beside the run, so that the next start need not encode and check it again.

ROLE.npz holds the tokens, ROLE.json tells what they are the tokens of (a key) and which file was written (its size and
time of change): what does not agree is made anew. A corpus that is nothing but .npz files is not copied; the note alone
tells that it was found good.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import stat
from collections.abc import Iterable

import numpy as np

from command import whole_files
from command.errors import UserError, reason
from corpus.find_files import find_files
from corpus.read_text import TextFormat
from corpus.token_files import read_npz
from load_dataset import load_files, save_files

VERSION = 1     # of how text becomes tokens: to be raised when the same files and flags give other tokens


def load_corpus(enc, path: str, combine: int, format: TextFormat, processes: int, *, place: str | None, vocabulary: str,
                write: bool = True) -> tuple[list[np.ndarray], str | None]:
    """The chunks of load_dataset, and a key that tells whether they are the same another time.

    place: what the names of the cache's files begin with (checkpoint/run1/dataset); None for no cache. vocabulary: a
    checksum of the encoder's files. write: whether a cache may be made; one that is there is read in any case. The key is
    None if there is no telling (a pipe). Raises UserError as `load_dataset`.
    """
    found = find_files(path)
    key = _key(found, combine, format, vocabulary)
    if place is None or key is None:
        return load_files(enc, path, found, combine, format, processes), key
    note, cache = f'{place}.json', f'{place}.npz'
    kept = _read_note(note)
    known = kept.get('key') == key
    if all(file.endswith('.npz') for file in found):
        if known:
            return [array for file in found for array in read_npz(file, enc.n_vocab, check=False)], key
        chunks = load_files(enc, path, found, combine, format)
        if write:
            _write_note(note, {'key': key})
            with contextlib.suppress(FileNotFoundError):
                os.remove(cache)        # of another corpus, before
        return chunks, key
    if known and kept.get('cache') == _signature(cache):
        with contextlib.suppress(UserError):        # a damaged one, which is made anew
            chunks = list(read_npz(cache, enc.n_vocab, check=False))
            print(f'its tokens are in {cache}', flush=True)
            return chunks, key
    if not write:
        return load_files(enc, path, found, combine, format, processes), key
    why = 'which is not as it was written' if known else 'for the next start (--no_cache: only for this one)'
    print(f'encoding it into {cache}, {why}', flush=True)
    save_files(cache, enc, path, found, combine, format, processes)
    _write_note(note, {'key': key, 'cache': _signature(cache)})
    return list(read_npz(cache, enc.n_vocab, check=False)), key


def checksum(paths: Iterable[str]) -> str:
    """One checksum of several files."""
    return hashlib.sha256(''.join(map(whole_files.sha256, paths)).encode()).hexdigest()


def _key(found: list[str], combine: int, format: TextFormat, vocabulary: str) -> str | None:
    """A checksum of all that the tokens depend on, files by name, size and time of change; None for other than files."""
    described = []
    for file in found:
        try:
            status = os.stat(file)
        except OSError:
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        described.append([os.path.realpath(file), status.st_size, status.st_mtime_ns])
    content = [VERSION, vocabulary, combine, dataclasses.astuple(format), described]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _signature(path: str) -> list[int] | None:
    """Size and time of change of a file; None without one."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def _read_note(path: str) -> dict:
    """What a note says; nothing for one that is not there or cannot be read."""
    try:
        with open(path, encoding='utf-8') as file:
            note = json.load(file)
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def _write_note(path: str, note: dict) -> None:
    try:
        whole_files.write_text(path, json.dumps(note) + '\n')
    except OSError as error:
        raise UserError(f'cannot write {path}: {reason(error)}') from None
