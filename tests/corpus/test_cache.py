"""cache.py: tokens are encoded once, and again when anything that they depend on has changed."""

import json
import os
import re

import numpy as np
import pytest

from command.errors import UserError
from conftest import SMALL_RUN
from corpus import cache, token_files
from corpus.data_sets import find_data_sets
from corpus.read_text import TextFormat
from corpus.token_files import TokenArray
from encoder import load_encoder

PLAIN = TextFormat()


class CachedCorpus:
    """A corpus, a run directory for the cache, and load(), which sets `printed` and how often text was `encoded`."""

    def __init__(self, directory, enc, capsys, monkeypatch):
        self.corpus, self.cache = directory / 'a.txt', directory / 'run'
        self.corpus.write_text('the quick brown fox')
        self.cache.mkdir()
        self.enc, self.capsys, self.encoded = enc, capsys, 0
        for name in ('load_sets', 'save_sets'):
            monkeypatch.setattr(cache, name, self.counting(getattr(cache, name)))

    def counting(self, function):
        def counted(*args):
            self.encoded += 1
            return function(*args)
        return counted

    def load(self, path=None, combine=50000, format=PLAIN, name='dataset', vocabulary='v', write=True):
        self.encoded = 0
        paths = [str(path or self.corpus)] if not isinstance(path, list) else path
        corpus, self.key = cache.load_corpus(self.enc, 'it', find_data_sets(paths), combine, format, 1,
                                             prefix=name and str(self.cache / name), vocabulary=vocabulary, write=write)
        self.printed = self.capsys.readouterr().out.replace(str(self.cache), 'RUN')
        self.weights = corpus.weights
        return corpus.chunks

    def files(self):
        return sorted(os.listdir(self.cache))


@pytest.fixture
def cached(tmp_path, settings_directory, capsys, monkeypatch):
    return CachedCorpus(tmp_path, load_encoder(str(settings_directory)), capsys, monkeypatch)


def test_the_second_start_does_not_encode(cached):
    expected = cached.enc.encode('the quick brown fox')
    [chunk] = cached.load()
    assert chunk[:].tolist() == expected and cached.encoded == 1
    assert cached.printed == 'encoding it into RUN/dataset.npz, for later starts too (--no_cache: for this one only)\n'
    assert cached.files() == ['dataset.json', 'dataset.npz']
    key = cached.key
    [again] = cached.load()
    assert again[:].tolist() == expected and again.dtype == chunk.dtype and cached.encoded == 0
    assert cached.printed == 'reading its tokens from RUN/dataset.npz\n'
    assert cached.key == key and isinstance(again, TokenArray)


def test_no_cache(cached):
    [chunk] = cached.load(name=None)
    assert cached.encoded == 1 and cached.printed == '' and cached.files() == []
    assert chunk[:].tolist() == cached.load()[0][:].tolist()


@pytest.mark.parametrize('change', [{'combine': 3}, {'format': TextFormat(document_per_line=True)}, {'vocabulary': 'w'},
                                    {'format': TextFormat(encoding_errors='ignore')},
                                    {'format': TextFormat(skip_bad_records=True)}])
def test_other_flags_or_another_vocabulary(cached, change):
    cached.load()
    key = cached.key
    cached.load(**change)
    assert cached.encoded == 1 and cached.key != key
    cached.load(**change)
    assert cached.encoded == 0


def test_another_text(cached):
    cached.load()
    cached.corpus.write_text('the lazy dog jumps.')       # of the same size
    os.utime(cached.corpus, ns=(1, 1))
    assert cached.enc.decode(cached.load()[0][:].tolist()) == 'the lazy dog jumps.'
    assert cached.printed.endswith('for later starts too (--no_cache: for this one only)\n')


def flip(path):
    content = bytearray(path.read_bytes())
    content[188] ^= 1       # in a token: only the modification time shows it
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))       # or it might have the same time as before


@pytest.mark.parametrize('harm', [
    lambda run: flip(run / 'dataset.npz'),
    lambda run: (run / 'dataset.npz').write_bytes((run / 'dataset.npz').read_bytes()[:-40]),
    lambda run: (run / 'dataset.npz').unlink(),
    lambda run: (run / 'dataset.json').unlink(),
    lambda run: (run / 'dataset.json').write_text('{"key'),
    lambda run: (run / 'dataset.json').write_text('[]'),
])
def test_a_damaged_cache_is_encoded_again(cached, harm):
    expected = cached.load()[0][:].tolist()     # now: it is read when it is sliced
    before = (cached.cache / 'dataset.npz').read_bytes()
    harm(cached.cache)
    assert cached.load()[0][:].tolist() == expected and cached.encoded == 1
    assert cached.printed.startswith('encoding it into RUN/dataset.npz, ')
    assert (cached.cache / 'dataset.npz').read_bytes() == before
    cached.load()
    assert cached.encoded == 0


def test_a_truncated_cache_with_the_note_of_its_size(cached):
    """The zip archive itself shows the damage."""
    expected = cached.load()[0][:].tolist()     # now: it is read when it is sliced
    note, cache = cached.cache / 'dataset.json', cached.cache / 'dataset.npz'
    cache.write_bytes(cache.read_bytes()[:-40])
    status = cache.stat()
    note.write_text(json.dumps(json.loads(note.read_text()) | {'cache': [status.st_size, status.st_mtime_ns]}))
    assert cached.load()[0][:].tolist() == expected and cached.encoded == 1
    assert 'again, as it is damaged or has changed' in cached.printed


def test_a_corpus_of_tokens_is_checked_once_and_not_copied(cached, tmp_path, monkeypatch):
    cached.load()
    np.savez(tmp_path / 'a.npz', np.arange(5))
    assert cached.load(tmp_path / 'a.npz')[0][:].tolist() == [*range(5)] and cached.encoded == 1
    assert cached.files() == ['dataset.json'] and cached.printed == ''
    with monkeypatch.context() as patch:
        patch.setattr(token_files, '_check_array', None)
        assert cached.load(tmp_path / 'a.npz')[0][:].tolist() == [*range(5)] and cached.encoded == 0
    np.savez(tmp_path / 'a.npz', np.arange(7) + 999)
    with pytest.raises(UserError, match='holds the id 999'):
        cached.load(tmp_path / 'a.npz')


def test_weighted_data_sets_are_read_from_the_cache_with_their_weights(cached, tmp_path):
    """Weights are no part of what is encoded, but which files share a weight is: they share chunks."""
    for name, text in (('b', 'the lazy dog'), ('c', 'jumps')):
        (tmp_path / name).write_text(text)
    a, b, c = str(cached.corpus), str(tmp_path / 'b'), str(tmp_path / 'c')
    alone = cached.load([a, b, c])
    assert len(alone) == 1 and cached.weights is None
    for paths, weights, encoded in (([a, f'{b}=3', c], [1, 3], 1), ([a, f'{b}=2', c], [1, 2], 0), ([a, c, f'{b}=2'], [1, 2], 0),
                                    ([a, b, f'{c}=2'], [1, 2], 1), ([f'{a}=2', f'{b}=2', f'{c}=2'], None, 1)):
        chunks = cached.load(paths)
        assert (cached.weights, cached.encoded) == (weights, encoded), paths
        assert len(chunks) == (2 if weights else 1)
    for encoded in (1, 0):
        assert len(cached.load([a, f'{b}=3', c], combine=1)) == 3
        assert (cached.weights, cached.encoded) == ([1, 1, 3], encoded)
    for paths in ([a, b, c], [a, c, b]):
        cached.load(paths, combine=1)
        assert cached.encoded == 1


def test_weighted_token_files_are_not_copied(cached, tmp_path):
    np.savez(tmp_path / 'a.npz', np.arange(5), np.array([], int), np.arange(4))
    np.savez(tmp_path / 'b.npz', np.arange(3))
    paths = [str(tmp_path / 'a.npz'), f'{tmp_path}/b.npz=0.5']
    for encoded in (1, 0):
        assert [len(chunk) for chunk in cached.load(paths)] == [5, 4, 3]
        assert cached.weights == [1, 1, 0.5] and cached.encoded == encoded and cached.files() == ['dataset.json']


def contents(cached):
    return {name: (cached.cache / name).read_bytes() for name in cached.files()}


def test_write_false_reads_a_cache_but_writes_none(cached, tmp_path):
    expected = cached.enc.encode('the quick brown fox')
    assert cached.load(write=False)[0][:].tolist() == expected and cached.encoded == 1
    assert cached.files() == [] and cached.printed == ''
    cached.load()
    before = contents(cached)
    assert cached.load(write=False)[0][:].tolist() == expected and cached.encoded == 0
    assert cached.printed == 'reading its tokens from RUN/dataset.npz\n'
    cached.load(combine=3, write=False)
    assert cached.encoded == 1 and cached.printed == ''
    np.savez(tmp_path / 'a.npz', np.arange(5))
    assert cached.load(tmp_path / 'a.npz', write=False)[0][:].tolist() == [*range(5)]
    flip(cached.cache / 'dataset.npz')
    damaged = (cached.cache / 'dataset.npz').read_bytes()
    assert cached.load(write=False)[0][:].tolist() == expected and cached.encoded == 1
    assert contents(cached) == before | {'dataset.npz': damaged}


def test_a_pipe_is_not_cached(cached):
    reader, writer = os.pipe()
    os.write(writer, b'hi')
    os.close(writer)
    assert cached.load(f'/dev/fd/{reader}')[0][:].tolist() == cached.enc.encode('hi')
    assert cached.key is None and cached.files() == []
    os.close(reader)


def test_a_text_that_cannot_be_read_leaves_what_was_there(cached):
    cached.load()
    cached.corpus.write_bytes(b'\xff' * 19)
    before = [(cached.cache / name).read_bytes() for name in cached.files()]
    with pytest.raises(UserError, match='is not utf-8 text'):
        cached.load()
    assert [(cached.cache / name).read_bytes() for name in cached.files()] == before


def test_the_checksum_depends_on_the_content(tmp_path):
    for name, content in (('a', 'x'), ('b', 'y'), ('c', 'x')):
        (tmp_path / name).write_text(content)
    one, other, same = (cache.checksum([tmp_path / name, tmp_path / 'a']) for name in 'abc')
    assert one == same != other


# train.py

FLAGS = (*SMALL_RUN, '--batch_size', 2, '--learning_rate', 0.01, '--seed', 4)


def losses(output):
    return re.findall(r'\[(\d+) .* loss=(\S+)', output)


def test_training_is_the_same_from_text_cache_or_npz(train, home, settings_directory):
    kept = train('--run_name', 'kept', '--max_steps', 3, *FLAGS)
    assert 'encoding it into checkpoint/kept/dataset.npz, for later starts too' in kept
    fresh = train('--run_name', 'fresh', '--max_steps', 3, '--no_cache', *FLAGS)
    assert not (home / 'checkpoint/fresh/dataset.npz').exists()
    for name, save in (('stored', np.savez), ('compressed', np.savez_compressed)):
        save(home / f'{name}.npz', np.load(home / 'checkpoint/kept/dataset.npz')['arr_0'])
    given = [train('--run_name', name, '--max_steps', 3, '--dataset', f'{name}.npz', *FLAGS)
             for name in ('stored', 'compressed')]
    assert losses(kept) == losses(fresh) == losses(given[0]) == losses(given[1]) != []
    settings = [json.loads((home / f'checkpoint/{name}/settings.json').read_text())['corpus']['sha256']
                for name in ('kept', 'fresh', 'stored', 'compressed')]
    assert len(set(settings)) == 1
    again = train('--run_name', 'kept', '--max_steps', 4, *FLAGS)
    assert 'reading its tokens from checkpoint/kept/dataset.npz' in again and 'other settings' not in again


def test_a_run_on_weighted_data_sets_continues_as_if_it_had_not_stopped(train, home):
    (home / 'other.txt').write_text('the fox goes on and on. ' * 30)
    flags = ('--dataset', 'corpus.txt', 'other.txt=3', *FLAGS)
    complete = train('--run_name', 'complete', '--max_steps', 4, *flags)
    train('--run_name', 'stopped', '--max_steps', 2, *flags)
    again = train('--run_name', 'stopped', '--max_steps', 4, *flags)
    assert losses(again) == losses(complete)[2:] != []
    assert 'reading its tokens from checkpoint/stopped/dataset.npz' in again and 'other settings' not in again
    lighter = train('--run_name', 'stopped', '--max_steps', 5, '--dataset', 'corpus.txt', 'other.txt', *FLAGS)
    assert 'This run continues with other settings: the weights of the data sets: 1 for ' in lighter
    assert 'tokens, 3 for ' in lighter and ' tokens before, none now\n' in lighter


def test_the_second_start_of_a_run_does_not_read_the_tokens(train, home, monkeypatch):
    from training import record
    train('--max_steps', 1, *FLAGS)
    monkeypatch.setattr(record, '_checksum', None)
    train('--max_steps', 2, *FLAGS)


def test_tokens_that_are_truncated_during_training_end_it_in_one_line(train, home, monkeypatch):
    from training import loop
    np.savez(home / 'given.npz', np.arange(5000) % 250)
    update = loop.Training.update

    def cut(self):
        os.truncate(home / 'given.npz', 100)
        update(self)
    monkeypatch.setattr(loop.Training, 'update', cut)
    with pytest.raises(UserError, match='given.npz was truncated while it was in use'):
        train('--dataset', 'given.npz', '--max_steps', 9, *FLAGS)


def test_validation_texts_are_cached_too(train, home):
    (home / 'other.txt').write_text('the fox goes on and on. ' * 30)
    flags = ('--val_dataset', 'other.txt', '--val_every', 1, '--val_batch_count', 2, *FLAGS)
    one = train('--max_steps', 1, *flags)
    two = train('--max_steps', 2, *flags)
    assert 'encoding it into checkpoint/run1/val_dataset.npz' in one
    assert 'reading its tokens from checkpoint/run1/val_dataset.npz' in two
    assert re.findall(r'\[1 .*validation loss = (\S+)', one) != []


@pytest.mark.parametrize('flags', [['--val_split', 1], ['--dataset', 'short.txt'], ['--dataset', 'latin.txt']])
def test_a_run_that_cannot_begin_leaves_nothing(train, home, flags):
    (home / 'short.txt').write_text('short')
    (home / 'latin.txt').write_bytes(b'\xe9')
    before = sorted(os.listdir(home))
    with pytest.raises(UserError):
        train('--run_name', 'sub/run', *flags)
    assert sorted(os.listdir(home)) == before
