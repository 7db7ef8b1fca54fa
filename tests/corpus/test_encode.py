"""encode.py: the tokens depend neither on how a corpus is cut nor on how many processes encode it."""

import os
import pathlib
import random
import signal
import time
import tracemalloc

import numpy as np
import pytest

from command.errors import UserError
from corpus import encode
from corpus.data_sets import DataSet
from corpus.encode import cut_chunks
from corpus.read_text import TextFormat
from encoder import Encoder, load_encoder
from load_dataset import load_dataset, save_sets
from vocabulary.files import read_vocabulary
from vocabulary.special import ONLY_END_OF_TEXT, SpecialTokens
from vocabulary.spelling import spell

WORDS = ['the dog', ' fox', "'s", "'", ' ', '  ', '\n', '\n\n', '<|endoftext|>', '<|endof', 'text|>', '<', '3', ' 42', '语', 'é',
         '\t ', '...', '\u3000', 'jump', '\u00a0', '\U0001f600']


@pytest.fixture(scope='module')
def enc(settings_directory):
    return load_encoder(str(settings_directory))


def chunks_of(enc, pieces):
    chunks = []
    for text, begins in pieces:
        if begins:
            chunks.append([])
        chunks[-1] += enc.encode_array(text).tolist()
    return chunks


def documents_as(rng, documents, longest):
    """Events of these documents in random pieces."""
    for document in documents:
        while document:
            size = rng.randrange(longest) + 1
            yield document[:size], False
            document = document[size:]
        yield '', True


@pytest.mark.parametrize('size', [1, 2, 3, 5, 8, 13, 40, 200, 10_000])
def test_pieces_give_the_tokens_of_the_complete_text(enc, size):
    rng = random.Random(size)
    for combine in (1, 300, 10 ** 9):
        documents = [''.join(rng.choices(WORDS, k=rng.randrange(60))) for _ in range(30)]
        expected, together, characters = [], [], 0
        for document in filter(None, documents):
            together.append(document)
            characters += len(document)
            if characters >= combine:
                expected.append(together)
                together, characters = [], 0
        expected += [together] if together else []
        pieces = list(cut_chunks(documents_as(rng, documents, 9), combine, size))
        assert chunks_of(enc, pieces) == [enc.encode_with_special('<|endoftext|>'.join(chunk)) for chunk in expected]
    if size == 40:
        assert max(len(text) for text, _ in pieces) < 40 + 9 + 40 and len(pieces) > 10


@pytest.mark.parametrize('processes', [1, 2])
def test_documents_are_separated_by_the_model_s_own_end_token(settings_directory, tmp_path, monkeypatch, processes):
    """Which may have any text; its bytes are not counted."""
    monkeypatch.setattr(encode, 'TASK', 50)
    ids, merges, _ = read_vocabulary(str(settings_directory))
    end, start = '<|Ende é|>', '<|im_start|>'
    enc = Encoder(ids | {spell(end): 300, start: 301}, merges, SpecialTokens(end, (end, start)))
    documents = [f'{start}the dog {number}{start} ' * 5 for number in range(20)]
    for number, document in enumerate(documents):
        (tmp_path / f'{number:02}').write_text(document)
    (tmp_path / '20').write_text(documents[0] + end + documents[0])
    files = sorted(map(str, tmp_path.iterdir()))
    totals = save_sets(str(tmp_path / 'a.npz'), enc, '', [DataSet(files)], 10 ** 9, TextFormat(), processes)
    assert totals.chunks == [1] and totals.text_bytes == len(''.join(documents)) + 2 * len(documents[0])
    [tokens] = load_dataset(enc, str(tmp_path / 'a.npz'), 1)
    assert tokens[:].tolist() == enc.encode_with_special(end.join([*documents, documents[0], documents[0]]))
    assert tokens[:].tolist().count(300) == 21 and tokens[:].tolist().count(301) == 220


def test_one_long_word_is_one_piece(monkeypatch):
    """It is searched for a cut again only when it has doubled."""
    sizes = []
    monkeypatch.setattr(encode, 'cut', lambda text, special: sizes.append(len(text)) or 0)
    events = [('x' * 7, False)] * 1000 + [('', True)]
    [(text, begins)] = cut_chunks(events, 1, size=10)
    assert text == 'x' * 7000 and begins
    assert len(sizes) < 12 and sizes[-1] > 3500


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """Files in many tasks: of text, one of tokens, of text."""
    monkeypatch.setattr(encode, 'TASK', 500)
    rng = random.Random(0)
    (tmp_path / 'corpus').mkdir()
    for number in range(40):
        (tmp_path / 'corpus' / f'{number:02}').write_text(''.join(rng.choices(WORDS, k=rng.choice((3, 90, 900)))))
    np.savez(tmp_path / 'corpus' / '20.npz', np.arange(9), np.arange(200))
    return str(tmp_path / 'corpus')


@pytest.mark.parametrize('processes', [2, 5])
def test_processes_change_nothing(enc, corpus, tmp_path, processes):
    alone = load_dataset(enc, corpus, 3000)
    assert len(alone) > 10 and [chunk[:].tolist() for chunk in alone[:10]].count(list(range(9))) == 1
    together = load_dataset(enc, corpus, 3000, processes=processes)
    assert [chunk[:].tolist() for chunk in together] == [chunk[:].tolist() for chunk in alone]
    output = str(tmp_path / 'out.npz')
    files = sorted(os.path.join(corpus, name) for name in os.listdir(corpus))
    totals = save_sets(output, enc, corpus, [DataSet(files)], 3000, TextFormat(), processes)
    n_tokens = sum(map(len, alone))
    assert (totals.chunks, totals.tokens, totals.text_tokens) == ([len(alone)], n_tokens, n_tokens - 9 - 200)
    documents = [pathlib.Path(file).read_text() for file in files if not file.endswith('.npz')]
    assert totals.text_bytes == sum(len(text.replace('<|endoftext|>', '').encode()) for text in documents)
    assert [chunk[:].tolist() for chunk in load_dataset(enc, output, 1)] == [chunk[:].tolist() for chunk in alone]
    assert not children()


class Recording:
    """An encoder whose one token of each text is the process that encoded it."""
    n_vocab, special_tokens = 2 ** 22, ONLY_END_OF_TEXT

    def encode_array(self, text):
        time.sleep(0.01)
        return np.array([os.getpid()])


def test_several_processes_encode_and_only_a_few_tasks_are_in_memory():
    read = []

    def tasks():
        for number in range(30):
            read.append(number)
            yield encode._Task([str(number)], [True])

    encoded = encode._encoded(tasks(), Recording(), 3)
    first = next(encoded)
    assert len(read) == 7       # two for each process, and one
    found = [first, *encoded]
    assert [task.texts for task in found] == [[str(number)] for number in range(30)]
    workers = {int(task.arrays[0][0]) for task in found}
    assert 1 < len(workers) <= 3 and os.getpid() not in workers
    assert not children()


def children():
    """The processes that this one has started, and not waited for."""
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None


class Killed:
    """An encoder that kills its process."""
    n_vocab, end_of_text, special_tokens = 300, 299, ONLY_END_OF_TEXT

    def encode_array(self, text):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed(corpus):
    with pytest.raises(UserError, match='^one of the processes that encode died: .*--processes$'):
        load_dataset(Killed(), corpus, 3000, processes=2)
    assert not children()


def test_an_error_in_the_corpus_ends_the_processes(enc, corpus, tmp_path):
    (tmp_path / 'corpus' / '39').write_bytes(b'a\xff')
    with pytest.raises(UserError, match='39 is not utf-8 text: byte 0xff at offset 1'):
        load_dataset(enc, corpus, 3000, processes=3)
    assert not children()


def test_a_small_corpus_starts_no_processes(enc, tmp_path, monkeypatch):
    (tmp_path / 'a').write_text('small')
    monkeypatch.setattr(encode, 'ProcessPoolExecutor', None)
    assert len(load_dataset(enc, str(tmp_path), 1, processes=9)) == 1


def test_memory_does_not_grow_with_the_corpus(tmp_path):
    """A file of 50 MB, one chunk of 50 MB in tokens; only a few pieces are in memory."""
    class Counting:
        n_vocab, end_of_text, special_tokens = 2 ** 20, 1, ONLY_END_OF_TEXT

        def encode_array(self, text):
            return np.zeros(len(text) // 4, np.uint32)
    path = str(tmp_path / 'a.txt')
    with open(path, 'w') as file:
        file.writelines('a line of text\n' * 70_000 for _ in range(48))
    tracemalloc.start()
    try:
        save_sets(str(tmp_path / 'a.npz'), Counting(), path, [DataSet([path])], 10 ** 9, TextFormat())
        assert tracemalloc.get_traced_memory()[1] < 24e6
    finally:
        tracemalloc.stop()
