"""Keeps a run's encoded corpus, so that later starts need not encode.

PREFIX.npz holds the tokens. PREFIX.json, the note, holds a key of the files and flags they were encoded from, and the
size and modification time of the .npz; if either differs, the corpus is encoded again. A corpus of .npz files alone is
not copied: its note only records that their tokens have been checked.
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import stat
from collections.abc import Iterable

from command import atomic_files
from command.errors import UserError, reason
from corpus.chunks import Corpus
from corpus.data_sets import DataSet
from corpus.read_text import TextFormat
from corpus.token_files import read_npz
from load_dataset import corpus_of, load_sets, save_sets

VERSION = 2     # to be raised when the same files and flags give other tokens


def load_corpus(enc, name: str, sets: list[DataSet], combine: int, format: TextFormat, processes: int, *,
                prefix: str | None, vocabulary: str, write: bool = True) -> tuple[Corpus, str | None]:
    """The corpus of load_sets, and a key of the files and flags it comes from; None for the key of a pipe.

    prefix: of the cache's two files (checkpoint/run1/dataset); None for no cache. vocabulary: a checksum of the
    encoder's files. write: whether to write a cache; an existing one is read in any case. Raises UserError as
    `load_sets`.
    """
    key = _key(sets, combine, format, vocabulary)
    load = functools.partial(load_sets, enc, name, sets, combine, format, processes)
    if prefix is None or key is None:
        return load(), key
    note_file, cache = f'{prefix}.json', f'{prefix}.npz'
    note = _read_note(note_file)
    same = note.get('key') == key
    if all(file.endswith('.npz') for data_set in sets for file in data_set.files):
        if same:
            return _read_token_files(sets, enc.n_vocab), key
        corpus = load()
        if write:
            _write_note(note_file, {'key': key})
            with contextlib.suppress(FileNotFoundError):
                os.remove(cache)        # of an earlier corpus
        return corpus, key
    if same and note.get('cache') == _size_and_time(cache):
        with contextlib.suppress(UserError):        # damaged: encode again
            corpus = corpus_of(list(read_npz(cache, enc.n_vocab, check=False)), sets, note.get('chunks', []))
            print(f'reading its tokens from {cache}', flush=True)
            return corpus, key
    if not write:
        return load(), key
    why = 'again, as it is damaged or has changed' if same else 'for later starts too (--no_cache: for this one only)'
    print(f'encoding it into {cache}, {why}', flush=True)
    totals = save_sets(cache, enc, name, sets, combine, format, processes)
    _write_note(note_file, {'key': key, 'cache': _size_and_time(cache), 'chunks': totals.chunks})
    return corpus_of(list(read_npz(cache, enc.n_vocab, check=False)), sets, totals.chunks), key


def _read_token_files(sets: list[DataSet], n_vocab: int) -> Corpus:
    """The corpus of .npz files whose tokens have been checked before."""
    arrays = [[array for file in data_set.files for array in read_npz(file, n_vocab, check=False)] for data_set in sets]
    return corpus_of(list(itertools.chain.from_iterable(arrays)), sets, list(map(len, arrays)))


def checksum(paths: Iterable[str]) -> str:
    """One checksum of several files."""
    return hashlib.sha256(''.join(map(atomic_files.sha256, paths)).encode()).hexdigest()


def _key(sets: list[DataSet], combine: int, format: TextFormat, vocabulary: str) -> str | None:
    """A checksum of all that the tokens depend on: of files, name, size and modification time. None for a pipe."""
    described = []
    for data_set in sets:
        described.append([])
        for file in data_set.files:
            if (size_and_time := _size_and_time(file)) is None:
                return None
            described[-1].append([os.path.realpath(file), *size_and_time])
    content = [VERSION, vocabulary, combine, dataclasses.astuple(format), described]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _size_and_time(path: str) -> list[int] | None:
    """Size and modification time of a regular file; None for anything else."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns] if stat.S_ISREG(status.st_mode) else None


def _read_note(path: str) -> dict:
    """The content of a note; empty if it does not exist or cannot be read."""
    try:
        with open(path, encoding='utf-8') as file:
            note = json.load(file)
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def _write_note(path: str, note: dict) -> None:
    try:
        atomic_files.write_text(path, json.dumps(note) + '\n')
    except OSError as error:
        raise UserError(f'cannot write {path}: {reason(error)}') from None
