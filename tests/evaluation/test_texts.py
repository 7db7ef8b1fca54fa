"""A corpus as texts: which there are, how they are named, and their tokens."""

import gzip
import json
import os
import types

import numpy as np
import pytest

from command.errors import UserError
from corpus.read_text import TextFormat
from encoder import load_encoder
from evaluation.texts import Texts
from vocabulary.spelling import END_OF_TEXT


@pytest.fixture(scope='module')
def encoder(settings_directory):
    return load_encoder(str(settings_directory))


@pytest.fixture
def found(encoder, tmp_path, monkeypatch):
    """found(each, {file: content}, text_column=…) -> what describes each text; checks the chunks."""
    monkeypatch.chdir(tmp_path)

    def read(each, files, **format):
        for name, content in files.items():
            with open(name, 'wb') as file:
                file.write(content if isinstance(content, bytes) else content.encode())
        texts = Texts(encoder, list(files), each, TextFormat(**format))
        described, chunks = list(texts.described()), list(texts)
        assert len(texts) == len(chunks) == len(described)
        for text, chunk in zip(described, chunks):
            assert (chunk[0], chunk.dtype) == (encoder.end_of_text, np.uint16)
            if 'text' in text:
                assert chunk[1:].tolist() == encoder.encode_with_special(text['text'])
        return described
    return read


def test_lines(found):
    files = {'a.txt': '\ufeffone\r\n\r\ntwo\u2028 \x0b"\\\té☃𝄞\rthree\n', 'empty': '', 'b.gz': gzip.compress(b'\nlast')}
    assert found('line', files) == [
        {'file': 'a.txt', 'line': 1, 'text': 'one'}, {'file': 'a.txt', 'line': 2, 'text': ''},
        {'file': 'a.txt', 'line': 3, 'text': 'two\u2028 \x0b"\\\té☃𝄞'}, {'file': 'a.txt', 'line': 4, 'text': 'three'},
        {'file': 'b.gz', 'line': 1, 'text': ''}, {'file': 'b.gz', 'line': 2, 'text': 'last'}]


def test_documents_are_files_lines_or_records(found):
    records = '\n'.join(json.dumps({'t': text}) for text in ('a\nb', '', '\ud83d x', 'last')) + '\n\n'
    files = {'a.txt': 'one\ntwo\n', 'b.jsonl': records, 'c.csv': 't,u\n"x\ny",1\nz,2\n', 'd.txt': ''}
    expected = [{'file': 'b.jsonl', 'document': 1, 'text': 'a\nb'}, {'file': 'b.jsonl', 'document': 2, 'text': ''},
                {'file': 'b.jsonl', 'document': 3, 'text': '\ufffd x'}, {'file': 'b.jsonl', 'document': 4, 'text': 'last'},
                {'file': 'c.csv', 'document': 1, 'text': 'x\ny'}, {'file': 'c.csv', 'document': 2, 'text': 'z'}]
    assert found('document', files, text_column='t') == [
        {'file': 'a.txt', 'document': 1, 'text': 'one\ntwo\n'}, *expected, {'file': 'd.txt', 'document': 1, 'text': ''}]
    lines = [{'file': 'a.txt', 'document': 1, 'text': 'one'}, {'file': 'a.txt', 'document': 2, 'text': 'two'}]
    assert found('document', files, text_column='t', document_per_line=True) == lines + expected
    # A record is a line, too, whatever is in its text.
    assert found('line', files, text_column='t') == [
        {'file': text['file'], 'line': text['document'], 'text': text['text']} for text in lines + expected]


def test_files_and_the_end_of_text_token_between_their_documents(found, encoder):
    files = {'a.txt': 'one\ntwo\n', 'b.jsonl': '{"t": "x"}\n{"t": ""}\n{"t": "y z"}\n', 'empty.txt': ''}
    assert found('file', files, text_column='t') == [{'file': name} for name in files]
    texts = Texts(encoder, list(files), 'file', TextFormat(text_column='t'))
    assert [encoder.decode(chunk[1:].tolist()) for chunk in texts] == ['one\ntwo\n', f'x{END_OF_TEXT}y z', '']


def test_a_long_file_is_encoded_in_pieces(found, encoder, monkeypatch):
    from evaluation import texts
    monkeypatch.setattr(texts, 'TASK', 7)
    found('file', {'a.txt': (content := 'the quick brown fox; the dog sleeps\n' * 9)})
    [chunk] = Texts(encoder, ['a.txt'], 'file', TextFormat())
    assert chunk[1:].tolist() == encoder.encode(content)


def test_a_name_that_is_not_utf_8(found):
    name = os.fsdecode(b'caf\xe9')
    try:
        open(name, 'w').close()
    except OSError:
        pytest.skip('this file system has only names in UTF-8')
    assert found('file', {name: 'x'}) == [{'file': 'caf\ufffd'}]


def test_tokens_are_no_texts(encoder, tmp_path):
    with pytest.raises(UserError, match='b.npz holds tokens'):
        Texts(encoder, ['none.txt', 'b.npz'], 'line', TextFormat())


def test_a_large_vocabulary_takes_four_bytes(tmp_path):
    (tmp_path / 'a.txt').write_text('ab\nc')
    large = types.SimpleNamespace(dtype=np.dtype(np.uint32), end_of_text=70_000,
                                  encode_array=lambda text: np.array([70_000 + ord(letter) for letter in text], np.uint32))
    chunks = list(Texts(large, [str(tmp_path / 'a.txt')], 'line', TextFormat()))
    assert [chunk.tolist() for chunk in chunks] == [[70_000, 70_097, 70_098], [70_000, 70_099]]
