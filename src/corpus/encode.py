"""Encodes files into pieces of chunks of tokens, with several processes.

A chunk is one text: its documents with the end token between them. It is cut into pieces where `pieces.cut` allows it, so
the tokens are those of the complete text, while only a few pieces are in memory.
"""

import collections
import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
from tqdm import tqdm

from command.errors import UserError
from corpus.chunks import Chunk
from corpus.find_files import file_size
from corpus.read_text import TextFormat, read_documents
from corpus.records import Skipped
from corpus.token_files import read_npz
from vocabulary.pieces import cut
from vocabulary.special import ONLY_END_OF_TEXT, SpecialTokens

TASK = 1 << 20     # characters that a process encodes at a time

_pool_encoder = None        # in a process of the pool: what it encodes with


@dataclasses.dataclass
class Totals:
    """Bytes of the encoded text in UTF-8, tokens that come from text, all tokens, and the chunks of each data set."""
    text_bytes: int = 0
    text_tokens: int = 0
    tokens: int = 0
    chunks: list[int] = dataclasses.field(default_factory=list)
    skipped: Skipped = dataclasses.field(default_factory=Skipped)


@dataclasses.dataclass
class _Task:
    """Pieces of text to encode, or an array of an .npz; `begins` says of each whether a chunk begins with it."""
    texts: list[str]
    begins: list[bool]
    arrays: list[Chunk] | None = None
    text_bytes: int = 0


def encode_files(enc, files: list[str], combine: int, format: TextFormat, processes: int = 1,
                 totals: Totals | None = None) -> Iterator[tuple[Chunk, bool]]:
    """Pieces (tokens, whether a chunk begins with them) of a corpus, in order. Shows progress on a terminal.

    Each array of an .npz is a chunk. Documents of other files are joined, the end-of-text token between them, until
    they have `combine` characters: that is a chunk. What is left at the end, or before an .npz, is a chunk too. Empty
    documents are left out. Adds to `totals` (but no chunks). Raises UserError that names the file and what is wrong with it.
    """
    totals = totals or Totals()
    bar = tqdm(total=sum(map(file_size, files)), unit='B', unit_scale=True, delay=1, leave=False, disable=None)
    encoded = _encoded(_tasks(enc, files, combine, format, bar.update, totals.skipped), enc, processes)
    with bar, contextlib.closing(encoded) as tasks:
        for task in tasks:
            for array, begins in zip(task.arrays, task.begins):
                totals.tokens += len(array)
                totals.text_tokens += len(array) if task.texts else 0
                yield array, begins
            totals.text_bytes += task.text_bytes


def _tasks(enc, files: list[str], combine: int, format: TextFormat, read: Callable[[int], None], skipped: Skipped
           ) -> Iterator[_Task]:
    """The corpus in tasks of about TASK characters, or one array. Calls `read` with the bytes read, each time."""
    for is_text, run in itertools.groupby(files, lambda file: not file.endswith('.npz')):
        if not is_text:
            for file in run:
                for array in read_npz(file, enc.n_vocab):
                    yield _Task([], [True], [array])
                read(file_size(file))
            continue
        task, characters = _Task([], []), 0
        events = itertools.chain.from_iterable(read_documents(file, format, read, skipped) for file in run)
        for text, begins in cut_chunks(events, combine, TASK, enc.special_tokens):
            task.texts.append(text)
            task.begins.append(begins)
            characters += len(text)
            if characters >= TASK:
                yield task
                task, characters = _Task([], []), 0
        if task.texts:
            yield task


def cut_chunks(events: Iterable[tuple[str, bool]], combine: int, size: int, special: SpecialTokens = ONLY_END_OF_TEXT
               ) -> Iterator[tuple[str, bool]]:
    """Cuts documents, given as events (see read_text), into pieces (text, whether a chunk begins with it).

    Pieces have about `size` characters. Their tokens, one after the other, are those of the complete chunk.
    """
    parts, held, wanted = [], 0, size       # of the chunk, not yielded yet; their characters; how many before a cut
    begins, characters, inside = True, 0, False     # of the chunk; its characters; whether in a document with text
    for text, ends in events:
        for start in range(0, len(text), size):
            part = text[start:start + size] if len(text) > size else text
            if not inside and characters:
                parts.append(special.end_of_text)
            parts.append(part)
            inside = True
            characters += len(part)
            held += len(part)
            if held >= wanted:
                joined = ''.join(parts)
                if end := cut(joined, special=special):
                    yield joined[:end], begins
                    begins = False
                parts, held = [joined[end:]], len(joined) - end
                wanted = max(size, 2 * held)        # doubled, or a long word would be joined again for each part
        if ends:
            if inside and characters >= combine:
                yield ''.join(parts), begins
                parts, held, wanted, begins, characters = [], 0, size, True, 0
            inside = False
    if characters:
        yield ''.join(parts), begins


def _encoded(tasks: Iterator[_Task], enc, processes: int) -> Iterator[_Task]:
    """The tasks in order, encoded: by a pool, or in this process if there is only one task, or it cannot fork."""
    first = list(itertools.islice(tasks, 2))
    tasks = itertools.chain(first, tasks)
    if processes > 1 and len(first) == 2 and 'fork' in multiprocessing.get_all_start_methods():     # not on Windows
        yield from _encoded_by_pool(tasks, enc, processes)
        return
    for task in tasks:
        if task.arrays is None:
            task.arrays, task.text_bytes = _encode(enc, task.texts)
        yield task


def _encoded_by_pool(tasks: Iterator[_Task], enc, processes: int) -> Iterator[_Task]:
    """The tasks in order, encoded by several processes; at most 2 * processes + 1 tasks are in memory."""
    # The processes are forked, so the encoder is not pickled.
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context('fork'), _initialize, (enc,))
    window = collections.deque()        # tasks in order, each with its Future, or None if it is already encoded

    def finish_first() -> _Task:
        task, future = window.popleft()
        if future:
            task.arrays, task.text_bytes = future.result()
        return task

    try:
        for task in tasks:
            window.append((task, pool.submit(_encode_in_pool, task.texts) if task.arrays is None else None))
            if len(window) > 2 * processes:
                yield finish_first()
        while window:
            yield finish_first()
    except BrokenProcessPool:
        raise UserError('one of the processes that encode died: is there enough memory? try fewer --processes'
                        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _initialize(enc) -> None:
    """Prepares a process of the pool: `enc` is what it encodes with."""
    global _pool_encoder
    _pool_encoder = enc
    signal.signal(signal.SIGINT, signal.SIG_IGN)     # Ctrl-C reaches them all; the parent ends them
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """Ends this process of the pool if its parent was killed and could not end it."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _encode_in_pool(texts: list[str]) -> tuple[list[np.ndarray], int]:
    return _encode(_pool_encoder, texts)


def _encode(enc, texts: list[str]) -> tuple[list[np.ndarray], int]:
    """Token ids of each text, and the UTF-8 bytes of all, those of end tokens not counted."""
    size = sum(len(text) if text.isascii() else len(text.encode('utf-8', 'surrogatepass')) for text in texts)
    end = enc.special_tokens.end_of_text
    size -= len(end.encode()) * sum(text.count(end) for text in texts)
    return [enc.encode_array(text) for text in texts], size
