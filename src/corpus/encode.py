"""Files -> pieces of tokens, in an order of their own however many processes encode them.

A chunk is one text: its documents with END_OF_TEXT between them. It is cut into pieces where the encoder may be cut
(`pieces.cut`), so the tokens are those of the whole text, and only a few pieces are in memory at a time.
"""

import collections
import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
from tqdm import tqdm

from command.errors import UserError
from corpus.find_files import file_size
from corpus.read_text import TextFormat, read_documents
from corpus.token_files import read_npz
from vocabulary.pieces import cut
from vocabulary.spelling import END_OF_TEXT

TASK = 1 << 20     # characters that a process is given at a time

_pool_encoder = None        # in a process of the pool: what it encodes with


@dataclasses.dataclass
class Totals:
    """What was encoded: bytes of the text in UTF-8, tokens that came from text, and all tokens."""
    text_bytes: int = 0
    text_tokens: int = 0
    tokens: int = 0


@dataclasses.dataclass
class _Task:
    """Pieces of text to encode, or an array that is encoded; `begins` says for each whether a chunk begins with it."""
    texts: list[str]
    begins: list[bool]
    read: int = 0                           # bytes of the corpus's files that were read for it
    arrays: list[np.ndarray] | None = None
    text_bytes: int = 0


def encode_files(enc, files: list[str], combine: int, format: TextFormat, processes: int = 1, totals: Totals | None = None
                 ) -> Iterator[tuple[np.ndarray, bool]]:
    """Pieces (tokens, whether a chunk begins with them) of a corpus, in order. Shows progress on a terminal.

    An .npz gives its arrays, each a chunk. Documents of all other files are put together, the end-of-text token between
    them, until they have `combine` characters: that is a chunk, and what is left at the end, or before an .npz, is one
    too. Empty documents leave no trace, nor do empty pieces. Raises UserError that names the file and the fault.
    """
    totals = totals or Totals()
    encoded = _encoded(_tasks(enc.n_vocab, files, combine, format), enc, processes)
    bar = tqdm(total=sum(map(file_size, files)), unit='B', unit_scale=True, delay=1, leave=False, disable=None)
    with bar, contextlib.closing(encoded) as tasks:
        for task in tasks:
            for array, begins in zip(task.arrays, task.begins):
                totals.tokens += len(array)
                totals.text_tokens += len(array) if task.texts else 0
                yield array, begins
            totals.text_bytes += task.text_bytes
            bar.update(task.read)


def _tasks(n_vocab: int, files: list[str], combine: int, format: TextFormat) -> Iterator[_Task]:
    """The corpus in tasks of about TASK characters, or one array."""
    task, characters, meter = _Task([], []), 0, _Meter()
    for is_text, run in itertools.groupby(files, lambda file: not file.endswith('.npz')):
        if not is_text:
            for file in run:
                meter.add(file_size(file))
                for array in read_npz(file, n_vocab):
                    yield _Task([], [True], meter.take(), [array])
            continue
        events = itertools.chain.from_iterable(read_documents(file, format, meter.add) for file in run)
        for text, begins in cut_chunks(events, combine, TASK):
            task.texts.append(text)
            task.begins.append(begins)
            characters += len(text)
            if characters >= TASK:
                task.read = meter.take()
                yield task
                task, characters = _Task([], []), 0
        if task.texts:
            task.read = meter.take()
            yield task
            task, characters = _Task([], []), 0


class _Meter:
    """Counts the bytes that were read since it was last asked."""

    def __init__(self):
        self._count = 0

    def add(self, count: int) -> None:
        self._count += count

    def take(self) -> int:
        count, self._count = self._count, 0
        return count


def cut_chunks(events: Iterable[tuple[str, bool]], combine: int, size: int) -> Iterator[tuple[str, bool]]:
    """Pieces (text, whether a chunk begins with it) of chunks made of documents, told as events (see read_text).

    Pieces have about `size` characters. Their tokens, one after the other, are those of the whole chunk.
    """
    parts, held, wanted = [], 0, size       # of the chunk, not handed out yet; how much that is; when to try to cut it
    begins, characters, inside = True, 0, False         # of the chunk, its characters; whether in a document with text
    for text, ends in events:
        for start in range(0, len(text), size):
            part = text[start:start + size] if len(text) > size else text
            if not inside and characters:
                parts.append(END_OF_TEXT)
            parts.append(part)
            inside = True
            characters += len(part)
            held += len(part)
            if held >= wanted:
                whole = ''.join(parts)
                if end := cut(whole):
                    yield whole[:end], begins
                    begins = False
                parts, held = [whole[end:]], len(whole) - end
                wanted = max(size, 2 * held)        # twice: so that one long word is not joined over and over
        if ends:
            if inside and characters >= combine:
                yield ''.join(parts), begins
                parts, held, wanted, begins, characters = [], 0, size, True, 0
            inside = False
    if characters:
        yield ''.join(parts), begins


def _encoded(tasks: Iterator[_Task], enc, processes: int) -> Iterator[_Task]:
    """The tasks in order, encoded: in this process if there is only one task or `processes` is 1, else by a pool."""
    first = list(itertools.islice(tasks, 2))
    tasks = itertools.chain(first, tasks)
    if processes > 1 and len(first) == 2:
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
        raise UserError('one of the processes that encode died: is there enough memory? try fewer --processes') from None
    finally:
        pool.shutdown(cancel_futures=True)


def _initialize(enc) -> None:
    """Prepares a process of the pool: `enc` is what it encodes with."""
    global _pool_encoder
    _pool_encoder = enc
    signal.signal(signal.SIGINT, signal.SIG_IGN)        # Ctrl-C reaches every process of a terminal; the parent ends the pool
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """Ends this process when its parent is gone, which was killed if it did not end the pool."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _encode_in_pool(texts: list[str]) -> tuple[list[np.ndarray], int]:
    return _encode(_pool_encoder, texts)


def _encode(enc, texts: list[str]) -> tuple[list[np.ndarray], int]:
    """Token ids of each text, and how many bytes of UTF-8 they all are, without the marks between documents."""
    size = sum(len(text) if text.isascii() else len(text.encode('utf-8', 'surrogatepass')) for text in texts)
    size -= len(END_OF_TEXT) * sum(text.count(END_OF_TEXT) for text in texts)
    return [enc.encode_array(text) for text in texts], size
