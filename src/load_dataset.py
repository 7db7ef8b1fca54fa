"""Files -> chunks of token ids -> Sampler.

A chunk is one document or several with the end-of-text token between them; what is drawn lies within one chunk. On disk
chunks are an .npz of one integer array each, as the 2019 tools keep them.
"""

import codecs
import glob
import os
import re
import tokenize
import zipfile
import zlib
from collections.abc import Iterator

import numpy as np
from tqdm import tqdm

from errors import UserError, reason
from files import replacing

_ZIP_MAGIC = (b'PK\x03\x04', b'PK\x05\x06')     # of an archive with members, and of an empty one
# What reading a damaged archive raises, found by damaging some at random: numpy parses an array's header as Python.
_DAMAGE = (ArithmeticError, EOFError, LookupError, MemoryError, RuntimeError, SyntaxError, TypeError, ValueError,
           tokenize.TokenError, zipfile.BadZipFile, zlib.error)


def token_dtype(n_vocab: int) -> np.dtype:
    """The smallest dtype for the ids 0 .. n_vocab - 1: two bytes a token for every published vocabulary."""
    return np.dtype(np.uint16 if n_vocab <= 2 ** 16 else np.uint32)


def check_encoding(encoding: str) -> None:
    """Raises UserError unless Python can decode text in the encoding of this name."""
    try:
        b'x'.decode(encoding)
    except UnicodeDecodeError:
        pass        # known, but a character takes more than the one byte
    except (LookupError, UnicodeError):
        raise UserError(f'unknown text encoding {encoding!r}; expected a name such as utf-8, utf-16, latin-1 or '
                        'cp1252 (--encoding)') from None


def find_files(path: str) -> list[str]:
    """The files that `path` stands for: one file, all below a directory, or what a glob (`**` too) matches.

    Sorted. Hidden files and directories are left out of a directory and a glob, and so is what is neither a file nor a
    directory (a FIFO would wait for ever); named directly, a pipe is read. Links to directories are not followed.

    Raises UserError if there is none, or a directory cannot be read.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        if files := [file for file in _walk(path) if _is_readable(file)]:
            return files
        raise UserError(f'no files in the directory {path} (hidden ones are skipped)')
    try:
        os.stat(path)
        return [path]
    except OSError as error:
        if not any(character in path for character in '*?['):
            raise UserError(f'cannot find {path!r}: {reason(error)}') from None
    matches = sorted(glob.glob(path, recursive=True))
    if files := [match for match in matches if _is_readable(match)]:
        return files
    if any(os.path.isdir(match) for match in matches):
        raise UserError(f'the pattern {path} matches only directories; name one of them, or end in /** for their files')
    raise UserError(f'nothing matches the pattern {path}')


def _walk(directory: str) -> list[str]:
    """Paths of all that is not hidden below a directory, sorted, directories themselves excepted."""
    def fail(error: OSError) -> None:
        raise UserError(f'cannot read {error.filename}: {reason(error)}') from None

    found = []
    for parent, directories, names in os.walk(directory, onerror=fail):
        directories[:] = [name for name in directories if not name.startswith('.')]
        found += [os.path.join(parent, name) for name in names if not name.startswith('.')]
    return sorted(found)


def _is_readable(path: str) -> bool:
    """True for a file; for a broken link too, which is better an error than a document silently missing."""
    return os.path.isfile(path) or not os.path.exists(path)


def read_text(path: str, encoding: str) -> str:
    """The text of a file, without a byte order mark, lines ended by \\n.

    Raises UserError if the file cannot be read, or holds a byte (named by its offset) that is not `encoding`.
    """
    # This codec counts the offsets in its errors from behind the mark; the mark is dropped below in any case.
    codec = 'utf-8' if codecs.lookup(encoding).name == 'utf-8-sig' else encoding
    try:
        with open(path, 'rb') as file:
            text = file.read().decode(codec)
    except OSError as error:
        raise UserError(f'cannot read {path}: {reason(error)}') from None
    except UnicodeDecodeError as error:
        byte = f'byte 0x{error.object[error.start]:02x} at offset {error.start}'
        raise UserError(f'{path} is not {encoding} text: {byte} ({error.reason}); give its --encoding, or leave the '
                        'file out by a glob such as *.txt') from None
    # The 2019 tools opened files in Python's text mode, which reads \r\n and \r as \n: the same text, the same tokens.
    return text.removeprefix('\ufeff').replace('\r\n', '\n').replace('\r', '\n')


def _read_npz(path: str, n_vocab: int) -> list[np.ndarray]:
    """The arrays of an .npz that are not empty, as chunks of token ids.

    Raises UserError, naming file and array, for anything but 1-D integer arrays of ids 0 .. n_vocab - 1.
    """
    chunks = []
    for name, array in _read_arrays(path):
        _check_array(array, n_vocab, f'array {name} in {path}')
        chunks.append(array.astype(token_dtype(n_vocab), copy=False))
    if not chunks:
        raise UserError(f'{path} holds no arrays; ./encode.py makes it from text')
    return [chunk for chunk in chunks if chunk.size]


def _read_arrays(path: str) -> Iterator[tuple[str, np.ndarray]]:
    """Names and arrays of an .npz: arr_0, arr_1, ... arr_10, ..., then any others. Raises UserError."""
    name = None
    try:
        with open(path, 'rb') as file:
            if file.read(4) not in _ZIP_MAGIC:
                raise ValueError('it is not a zip archive of arrays')
            file.seek(0)
            with np.load(file, allow_pickle=False) as npz:
                for name in sorted(npz.files, key=_array_order):
                    yield name, npz[name]
    except OSError as error:
        raise UserError(f'cannot read {path}: {reason(error)}') from None
    except _DAMAGE as error:
        if 'allow_pickle' in str(error):
            raise UserError(f'array {name} in {path} holds pickled objects, which are never loaded; expected whole '
                            'numbers, the ids of tokens') from None
        raise UserError(f'cannot read {path}: {str(error) or type(error).__name__}; is it damaged? ./encode.py makes '
                        'it from text') from None


def _array_order(name: str) -> float:
    """Sort key: arr_N by number, where the names themselves would put arr_10 before arr_2; other names last."""
    match = re.fullmatch(r'arr_(\d+)', name)
    return int(match[1]) if match else float('inf')


def _check_array(array: np.ndarray, n_vocab: int, what: str) -> None:
    """Raises UserError, beginning with `what`, unless `array` is 1-D and of integers 0 .. n_vocab - 1."""
    if not isinstance(array, np.ndarray):       # numpy hands out as bytes what is no array
        raise UserError(f'{what} is not an array')
    if not np.issubdtype(array.dtype, np.integer):
        raise UserError(f'{what} holds {array.dtype}; expected whole numbers, the ids of tokens')
    if array.ndim != 1:
        raise UserError(f'{what} has {array.ndim} dimensions; expected 1')
    for token in (array.min(), array.max()) if array.size else ():
        if not 0 <= token < n_vocab:
            raise UserError(f'{what} holds the id {token}; the vocabulary has 0 to {n_vocab - 1} (encoded for another '
                            'model?)')


def _join(documents: list[np.ndarray], end_of_text: int) -> np.ndarray:
    """One chunk of several documents' tokens: [1, 2], [3] with end_of_text 9 -> [1, 2, 9, 3]."""
    separator = np.array([end_of_text], documents[0].dtype)
    parts = [part for document in documents for part in (separator, document)]
    return np.concatenate(parts[1:])


def _file_size(path: str) -> int:
    """Bytes of a file, 0 where there is no telling (a pipe)."""
    try:
        return os.path.getsize(path)
    except OSError:
        return 0        # whoever opens the file reports what is wrong with it


def _empty(path: str, files: list[str]) -> UserError:
    matched = ', '.join(files[:3]) + (f' and {len(files) - 3} more' if len(files) > 3 else '')
    return UserError(f'the corpus {path} is empty: 0 tokens in {matched}')


def read_texts(path: str, encoding: str = 'utf-8') -> Iterator[str]:
    """The texts of a corpus (see find_files), one file after the other, without those that are empty.

    Raises UserError as `load_dataset` does, and for an .npz, which holds tokens in place of text.
    """
    check_encoding(encoding)
    files = find_files(path)
    found = False
    for file in files:
        if file.endswith('.npz'):
            raise UserError(f'{file} holds tokens; expected text')
        if text := read_text(file, encoding):
            found = True
            yield text
    if not found:
        raise _empty(path, files)


def load_dataset(enc, path: str, combine: int, encoding: str = 'utf-8') -> list[np.ndarray]:
    """Chunks of token ids, each 1-D, of the files that `path` stands for (see find_files).

    An .npz gives its arrays. Any other file is one document of text, in which a literal <|endoftext|> is that token.
    Documents are put together in order, the end-of-text token between them, until they have `combine` characters: that
    is a chunk, and what is left at the end is the last. Empty documents leave no trace.

    Raises UserError that names the file and the fault, also if there is not a single token.
    """
    check_encoding(encoding)
    files = find_files(path)
    sizes = [_file_size(file) for file in files]
    chunks, documents, characters = [], [], 0
    with tqdm(total=sum(sizes), unit='B', unit_scale=True, delay=1, leave=False, disable=None) as bar:
        for file, size in zip(files, sizes):
            if file.endswith('.npz'):
                chunks += _read_npz(file, enc.n_vocab)
            elif text := read_text(file, encoding):
                documents.append(np.array(enc.encode_with_special(text), token_dtype(enc.n_vocab)))
                characters += len(text)
                if characters >= combine:
                    chunks.append(_join(documents, enc.end_of_text))
                    documents, characters = [], 0
            bar.update(size)
    if documents:
        chunks.append(_join(documents, enc.end_of_text))
    if not chunks:
        raise _empty(path, files)
    return chunks


def hold_out(chunks: list[np.ndarray], end_of_text: int, share: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Splits a corpus into chunks to train on, and one of the documents that are held out: `share` of them, at least one.

    The same ones each time. Documents are what end_of_text separates. Raises UserError if there is only one.
    """
    documents = [[piece for piece in _documents(chunk, end_of_text) if len(piece)] for chunk in chunks]
    total = sum(map(len, documents))
    if total < 2:
        raise UserError('--val_split needs a corpus of two documents or more (files, or texts with <|endoftext|> between '
                        'them); give --val_dataset in its place')
    count = min(max(round(share * total), 1), total - 1)
    chosen = np.zeros(total, bool)
    chosen[np.random.default_rng(1).permutation(total)[:count]] = True
    chosen = iter(chosen)
    train, held_out = [], []
    for of_chunk in documents:
        marked = [(next(chosen), document) for document in of_chunk]
        held_out += [document for out, document in marked if out]
        if stay := [document for out, document in marked if not out]:
            train.append(_join(stay, end_of_text))
    return train, [_join(held_out, end_of_text)]


def _documents(chunk: np.ndarray, end_of_text: int) -> list[np.ndarray]:
    """What end_of_text separates: [1, 2, 9, 3] with end_of_text 9 -> [1, 2], [3]."""
    ends = np.flatnonzero(chunk == end_of_text)
    return [piece[1:] if i else piece for i, piece in enumerate(np.split(chunk, ends))]


def save_chunks(path: str, chunks: list[np.ndarray]) -> None:
    """Writes chunks as the arrays arr_0, arr_1, ... of an .npz, for load_dataset here and in the 2019 tools.

    Not compressed, so that it can be mapped into memory. Complete or not at all. Raises UserError if it cannot be
    written.
    """
    try:
        with replacing(path) as file:
            np.savez(file, *chunks)
    except OSError as error:
        raise UserError(f'cannot write {path}: {reason(error)}') from None


class Sampler:
    """Draws pieces of a corpus: every place in a chunk where a piece can start is equally likely.

    chunks: 1-D arrays of tokens; a piece lies within one. seed: an int, a SeedSequence, or None for another order in
    every run. `total_size` is the corpus's size in tokens; `rng` the generator, one draw of which a sample takes.
    """

    def __init__(self, chunks: list[np.ndarray], seed=None):
        self.chunks = chunks
        self.sizes = np.array([len(chunk) for chunk in chunks], np.int64)
        self.total_size = int(self.sizes.sum())
        self.rng = np.random.default_rng(seed)
        self._tables = {}

    def check(self, length: int) -> None:
        """Raises UserError if no chunk has `length` (1 or more) tokens; for use before anything that takes long."""
        self._starts(length)

    def _starts(self, length: int) -> np.ndarray:
        """How many places there are to start a piece of `length` tokens, cumulative over the chunks.

        Chunks of 3, 1 and 2 tokens and length 2: there are 2, 0 and 1 such places, so [2, 2, 3]. Raises as `check`.
        """
        if length not in self._tables:
            if length > (longest := self.sizes.max(initial=0)):
                raise UserError(f'the corpus is too short: {length} tokens are needed in one piece, and its longest '
                                f'chunk has {longest}; give a smaller --seq_length, or more text')
            self._tables[length] = np.maximum(self.sizes - length + 1, 0).cumsum()
        return self._tables[length]

    def sample(self, length: int) -> np.ndarray:
        """A random piece of `length` tokens, [length]: a view of the chunk, not to be written to. Raises as `check`."""
        starts = self._starts(length)
        place = self.rng.integers(starts[-1])
        index = np.searchsorted(starts, place, side='right')    # 'right' steps over the chunks that are too short
        start = place - (starts[index - 1] if index else 0)
        return self.chunks[index][start:start + length]
