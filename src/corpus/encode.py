"""Files -> pieces of tokens, in an order of their own however many processes encode them.

A chunk is one text: its documents with END_OF_TEXT between them. It is cut into pieces where the encoder may be cut
(`pieces.cut`), so the tokens are those of the whole text, and only a few pieces are in memory at a time.
"""

import collections
import contextlib
import dataclasses
import itertools
import multiprocessing
import multiprocessing.connection
import signal
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from tqdm import tqdm

from command.errors import UserError
from corpus.find_files import file_size
from corpus.read_text import TextFormat, read_documents
from corpus.token_files import read_npz
from vocabulary.pieces import cut
from vocabulary.spelling import END_OF_TEXT

TASK = 1 << 20     # characters that a process is given at a time


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
    """The tasks in order, encoded: here if there is only one, or one process to do it, else by as many processes."""
    first = list(itertools.islice(tasks, 2))
    tasks = itertools.chain(first, tasks)
    if processes == 1 or len(first) < 2:
        for task in tasks:
            if task.arrays is None:
                task.arrays, task.text_bytes = _encode(enc, task.texts)
            yield task
        return
    with _Workers(enc, processes) as workers:
        yield from workers.encode(tasks)


def _encode(enc, texts: list[str]) -> tuple[list[np.ndarray], int]:
    """Token ids of each text, and how many bytes of UTF-8 they all are, without the marks between documents."""
    size = sum(len(text) if text.isascii() else len(text.encode('utf-8', 'surrogatepass')) for text in texts)
    size -= len(END_OF_TEXT) * sum(text.count(END_OF_TEXT) for text in texts)
    return [enc.encode_array(text) for text in texts], size


class _Workers:
    """Processes that encode, one task each at a time; at the end of the context they are gone."""

    def __init__(self, enc, count: int):
        # Forked, so that they have the encoder at once. They run Python alone, and end when this process is gone.
        context = multiprocessing.get_context('fork')
        self._processes: dict[multiprocessing.connection.Connection, multiprocessing.Process] = {}
        # Ctrl-C is sent to all processes of a terminal: this one ends the others.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for _ in range(count):
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(theirs, [*self._processes, ours], enc), daemon=True)
                process.start()
                theirs.close()
                self._processes[ours] = process
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        for process in self._processes.values():
            process.kill()
        for connection, process in self._processes.items():
            process.join()
            connection.close()

    def encode(self, tasks: Iterator[_Task]) -> Iterator[_Task]:
        """The tasks, encoded, in order. Only so many are under way that none has to wait for the next to be read."""
        idle, busy = list(self._processes), {}
        queue, waiting = collections.deque(), collections.deque()      # all under way; those that no process has yet
        exhausted = False
        while queue or not exhausted:
            if not exhausted and len(queue) < 2 * len(self._processes) + 1:
                if (task := next(tasks, None)) is None:
                    exhausted = True
                else:
                    queue.append(task)
                    if task.arrays is None:
                        waiting.append(task)
            full = exhausted or len(queue) == 2 * len(self._processes) + 1
            self._hand_out(waiting, idle, busy)
            for connection in multiprocessing.connection.wait(busy, None if full else 0) if busy else ():
                task = busy.pop(connection)
                task.arrays, task.text_bytes = self._talk(connection, connection.recv)
                idle.append(connection)
            self._hand_out(waiting, idle, busy)
            while queue and queue[0].arrays is not None:
                yield queue.popleft()

    def _hand_out(self, waiting, idle, busy) -> None:
        while waiting and idle:
            task, connection = waiting.popleft(), idle.pop()
            self._talk(connection, connection.send, task.texts)
            busy[connection] = task

    def _talk(self, connection, function: Callable, *values):
        """What function(*values) gives. Raises UserError if the process at the other end has died."""
        try:
            return function(*values)
        except (EOFError, ConnectionError):
            process = self._processes[connection]
            process.join()
            code = process.exitcode
            how = signal.Signals(-code).name if code < 0 else f'status {code}'
            raise UserError(f'one of the processes that encode has died ({how}): is there enough memory? try fewer '
                            '--processes') from None


def _work(connection, inherited: list, enc) -> None:
    """Encodes what comes through a connection, until its other end is gone: there must be no copy of that end here."""
    for other in inherited:
        other.close()
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            connection.send(_encode(enc, connection.recv()))
