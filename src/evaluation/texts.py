"""A corpus as texts to score one by one: its lines, documents or files."""

import array
import dataclasses
import math
from collections.abc import Iterator

import numpy as np
from tqdm import tqdm

from command.errors import UserError
from corpus.encode import TASK, cut_chunks
from corpus.find_files import file_size
from corpus.read_text import TextFormat, read_documents
from encoder import Encoder
from vocabulary.spelling import well_formed

EACH = ('line', 'document', 'file')


class Texts:
    """The texts of some files, as token ids in memory: two bytes a token (for 65,536 tokens or fewer), eight a text.

    each: 'line', of a text file, or record of a .jsonl or .csv; 'document', see corpus.read_text; or 'file', its documents
    with the end-of-text token between them. Empty texts count too. Iterating yields chunks: the end-of-text token, then the
    text's own. Raises UserError that names the file and what is wrong with it, and for an .npz, which holds no text.
    """

    def __init__(self, encoder: Encoder, files: list[str], each: str, format: TextFormat):
        if npz := [file for file in files if file.endswith('.npz')]:
            raise UserError(f'{npz[0]} holds tokens in chunks, not texts: leave out --each, or give the text itself')
        self._encoder, self._each = encoder, each
        self._format = dataclasses.replace(format, document_per_line=format.document_per_line or each == 'line')
        self._tokens = array.array({2: 'H', 4: 'I'}[encoder.dtype.itemsize])    # of one chunk after the other
        self._starts = array.array('q')                                         # of the chunks
        self._files = []            # for each file its name, and the number of its first text
        size = sum(map(file_size, files))
        with tqdm(total=size, unit='B', unit_scale=True, delay=1, leave=False, disable=None) as bar:
            for file in files:
                self._files.append((file, len(self._starts)))
                self._read(file, bar.update)

    def _read(self, file: str, read) -> None:
        events = read_documents(file, self._format, read)
        if self._each == 'file':
            self._begin()
            for text, _ in cut_chunks(events, math.inf, TASK, self._encoder.special_tokens):
                self._add(text)
            return
        parts = []
        for text, ends in events:
            parts.append(text)
            if ends:
                self._begin()
                self._add(''.join(parts))
                parts.clear()

    def _begin(self) -> None:
        """Begins a text."""
        self._starts.append(len(self._tokens))
        self._tokens.append(self._encoder.end_of_text)

    def _add(self, text: str) -> None:
        self._tokens.frombytes(self._encoder.encode_array(text).tobytes())

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[np.ndarray]:
        tokens = np.frombuffer(self._tokens, self._encoder.dtype)
        for number, start in enumerate(self._starts, start=1):
            yield tokens[start:self._starts[number] if number < len(self) else len(tokens)]

    def described(self) -> Iterator[dict]:
        """What identifies each text: its file, its number in the file from 1, and the text; of a file only its name."""
        ends = [first for _, first in self._files[1:]] + [len(self)]
        chunks = iter(self)
        for (file, first), end in zip(self._files, ends):
            for number, chunk in zip(range(1, end - first + 1), chunks):
                name = {'file': well_formed(file)}      # a name that is not UTF-8 has surrogates
                if self._each != 'file':
                    name |= {self._each: number, 'text': self._encoder.decode(chunk[1:].tolist())}
                yield name
