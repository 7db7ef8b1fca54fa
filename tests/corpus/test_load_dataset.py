"""load_dataset.py and hold_out.py: files -> chunks -> samples, with a fake encoder."""

import itertools
import os
import sys
import tracemalloc

import numpy as np
import pytest

from byte_encoder import ENC, END, WideEncoder, error_of, load, write
from command.errors import UserError
from corpus.chunks import Corpus, Joined
from corpus.data_sets import find_data_sets
from corpus.hold_out import hold_out
from corpus.read_text import TextFormat, check_encoding
from corpus.token_files import token_dtype
from load_dataset import Sampler, load_dataset, load_sets, read_texts
from vocabulary.learn import count_pieces

# Text


def test_one_document_is_its_tokens_and_nothing_else(tmp_path):
    text = 'a line\n<|endoftext|>another – with a dash\n'
    chunks = load_dataset(ENC, write(tmp_path / 'a.txt', text), 50000)
    assert [chunk.tolist() for chunk in chunks] == [ENC.encode_with_special(text)]
    assert chunks[0].dtype == np.uint16


def test_dtype_holds_every_id():
    assert token_dtype(50257) == token_dtype(65536) == np.uint16
    assert token_dtype(65537) == np.uint32


@pytest.mark.parametrize('name', ['a.txt', 'a.npz'])
def test_wide_vocabulary_takes_four_bytes(tmp_path, name):
    path = write(tmp_path / name, 'ab')
    if name.endswith('.npz'):
        np.savez_compressed(path, np.array([65536]))
    assert load_dataset(WideEncoder(), path, 50000)[0].dtype == np.uint32


def test_documents_are_separated_by_end_of_text(tmp_path):
    for name, text in (('1', 'a'), ('2', ''), ('3', 'bc'), ('4', '\ufeff'), ('5', 'd')):
        write(tmp_path / name, text)
    assert load(tmp_path) == [[*b'a', END, *b'bc', END, *b'd']]


@pytest.mark.parametrize('combine, chunks', [
    (1, ['aaa', 'bb', 'cccc', 'd']),
    (3, ['aaa', 'bb|cccc', 'd']),
    (4, ['aaa|bb', 'cccc', 'd']),
    (5, ['aaa|bb', 'cccc|d']),
    (6, ['aaa|bb|cccc', 'd']),
    (10, ['aaa|bb|cccc|d']),
    (11, ['aaa|bb|cccc|d']),
])
def test_combine_joins_complete_documents(tmp_path, combine, chunks):
    for name, text in (('1', 'aaa'), ('2', 'bb'), ('3', 'cccc'), ('4', 'd')):
        write(tmp_path / name, text)
    expected = [ENC.encode_with_special(chunk.replace('|', '<|endoftext|>')) for chunk in chunks]
    assert load(tmp_path, combine) == expected


def test_combine_counts_characters_not_bytes(tmp_path):
    write(tmp_path / '1', 'äöü')
    write(tmp_path / '2', 'b')
    assert len(load(tmp_path, combine=4)) == 1
    assert len(load(tmp_path, combine=3)) == 2


def test_text_between_arrays(tmp_path):
    write(tmp_path / '1.txt', 'a')
    np.savez(tmp_path / '2.npz', np.array([7, 8]))
    write(tmp_path / '3.txt', 'b')
    assert load(tmp_path) == [[*b'a'], [7, 8], [*b'b']]


def test_newlines_and_byte_order_mark(tmp_path):
    path = write(tmp_path / 'a.txt', b'\xef\xbb\xbfa\r\nb\rc\n\r\nd')
    assert load(path) == load(path, encoding='utf-8-sig') == [[*b'a\nb\nc\n\nd']]
    with open(path, encoding='utf-8-sig') as file:
        assert list(read_texts(path)) == [file.read()]


@pytest.mark.parametrize('encoding', ['utf-16', 'utf-16-le', 'utf-32', 'latin-1', 'UTF8'])
def test_other_encodings(tmp_path, encoding):
    path = write(tmp_path / 'a.txt', 'é\r\n'.encode(encoding))
    assert load(path, encoding=encoding) == [[*'é\n'.encode()]]


@pytest.mark.parametrize('content, encoding, message', [
    (b'abc\xff', 'utf-8', 'is not utf-8 text: byte 0xff at offset 3 (invalid start byte)'),
    (b'\xef\xbb\xbfabc\xff', 'utf-8', 'byte 0xff at offset 6 '),
    (b'\xef\xbb\xbfabc\xff', 'UTF_8_SIG', 'is not UTF_8_SIG text: byte 0xff at offset 6 '),
    (b'\r\n' * 100_000 + b'\xe9', 'utf-8', 'byte 0xe9 at offset 200000 (unexpected end of data)'),
    (b'a\xe9', 'ascii', 'is not ascii text: byte 0xe9 at offset 1 '),
    (b'a\0b', 'utf-16-le', 'byte 0x62 at offset 2 (truncated data)'),
])
def test_undecodable_text_names_file_and_offset(tmp_path, content, encoding, message):
    write(tmp_path / 'a.txt', 'good')
    path = write(tmp_path / 'b.txt', content)
    error = error_of(load, tmp_path, encoding=encoding)
    assert error.startswith(path) and message in error
    assert error.endswith('; give its --encoding, or --encoding_errors replace, or leave the file out by a glob such as '
                          '*.txt')


@pytest.mark.parametrize('encoding', ['utf8x', 'rot13', 'base64', 'undefined', ''])
def test_unknown_encoding(tmp_path, encoding):
    assert error_of(check_encoding, encoding).startswith(f'unknown text encoding {encoding!r}; expected ')
    path = write(tmp_path / 'a.txt', '')
    assert 'unknown text encoding' in error_of(load, path, encoding=encoding)


def test_an_empty_corpus_is_an_error_that_names_its_files(tmp_path):
    path = write(tmp_path / '1.txt', '')
    assert error_of(load, path) == f'the corpus {path} is empty: 0 tokens in {path}'
    for name in '2345':
        write(tmp_path / f'{name}.txt', '')
    for function in (load, lambda path: list(read_texts(path))):
        assert error_of(function, f'{tmp_path}/*') == (
            f'the corpus {tmp_path}/* is empty: 0 tokens in {path}, {tmp_path}/2.txt, {tmp_path}/3.txt and 2 more')


def test_read_texts(tmp_path):
    for name, text in (('b', 'two\r\n'), ('a', 'one'), ('c', '')):
        write(tmp_path / name, text)
    assert list(read_texts(str(tmp_path))) == ['one', 'two\n']
    np.savez(tmp_path / 'd.npz', np.array([1]))
    assert error_of(list, read_texts(str(tmp_path))) == f'{tmp_path}/d.npz holds tokens; expected text'


def test_texts_are_read_in_pieces_that_are_cut_between_words(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules['load_dataset'], 'TASK', 50)
    texts = ['many words ' * 60, 'x' * 200, 'the end<|endoftext|>' * 20]
    for number, text in enumerate(texts):
        write(tmp_path / str(number), text)
    found = list(read_texts(str(tmp_path)))
    assert ''.join(found) == ''.join(texts) and len(found) > 20
    assert max(map(len, found)) == 200
    assert count_pieces(found) == count_pieces(texts)


def test_no_progress_bar_where_standard_error_is_no_terminal(tmp_path, capfd):
    load(write(tmp_path / 'a.txt', 'a'))
    assert capfd.readouterr() == ('', '')


# Held-out documents


def split(chunks, end_of_text, share):
    train, held_out = hold_out(Corpus(chunks), end_of_text, share)
    assert train.weights is held_out.weights is None
    return train.chunks, held_out.chunks


def test_documents_that_are_held_out_are_not_trained_on():
    chunks = [np.array([1, 1, 9, 2, 2, 9, 3]), np.array([9, 4, 9]), np.array([5, 9, 6, 6])]
    train, [held_out] = split(chunks, 9, 0.34)
    documents = {token for chunk in train for token in chunk[:].tolist()} - {9}
    held_out = held_out[:].tolist()
    assert documents | set(held_out) - {9} == {1, 2, 3, 4, 5, 6}
    assert not documents & set(held_out)
    assert len(set(held_out) - {9}) == 2
    assert [len(chunk.parts) for chunk in train] == [1, 1, 1]       # neighbours are one part
    again, _ = split(chunks, 9, 0.34)
    assert [chunk[:].tolist() for chunk in again] == [chunk[:].tolist() for chunk in train]
    for chunks, share in (([np.array([1, 2, 9])], 1), ([np.array([1])], 0.5), ([np.array([9, 9])], 0.5)):
        with pytest.raises(UserError, match=f'^--val_split {share} leaves nothing to train on: give a smaller share'):
            split(chunks, 9, share)


@pytest.mark.parametrize(('sizes', 'share'), [
    ([1000], 0.1), ([1000], 0.5), ([1000], 0.9), ([500, 500], 0.1), ([900, 50, 50], 0.1), ([300, 300, 400], 0.1),
    ([10] * 9 + [910], 0.1), ([10] * 9 + [910], 0.5), ([2] * 50 + [300] * 3, 0.25), ([1, 999], 0.02)])
@pytest.mark.parametrize('ends', [True, False])
def test_a_share_of_the_tokens_of_few_or_uneven_documents(sizes, share, ends):
    """Every token is different, so that one in both parts would show."""
    starts = np.cumsum([10, *sizes])
    documents = [np.arange(start, start + size) for start, size in zip(starts, sizes)]
    chunk = np.concatenate([np.append(document, 9) for document in documents])
    chunk = chunk if ends else chunk[:-1]
    [train], [held_out] = split([chunk], 9, share)
    parts = [train[:].tolist(), held_out[:].tolist()]
    kept, out = (set(part) - {9} for part in parts)
    assert not kept & out and kept | out == set(range(10, 1010))
    assert abs(len(out) - share * 1000) <= 0.25 * min(share, 1 - share) * 1000
    cut = [document for document in documents if kept & set(document) and out & set(document)]
    assert len(cut) <= 1
    for document in cut:    # only its end is held out, and exactly as much as is missing
        assert min(out & set(document)) > max(kept & set(document)) and len(out) == round(share * 1000)
    for part in parts:      # in order, and with an end-of-text token between documents, neither doubled nor at an end
        assert sorted(token for token in part if token != 9) == [token for token in part if token != 9]
        assert part.count(9) == sum(bool(set(document) & set(part)) for document in documents) - 1
        assert 9 not in (part[0], part[-1])


def test_many_documents_are_split_as_in_earlier_versions():
    sizes = np.random.default_rng(0).integers(5, 15, 200)
    chunk = np.concatenate([np.append(np.full(size, 10 + number), 9) for number, size in enumerate(sizes)])
    _, [held_out] = split([chunk], 9, 0.1)
    assert set(held_out[:].tolist()) - {9} == set(10 + np.random.default_rng(1).permutation(200)[:20])


def test_each_weight_has_its_share_of_one_long_document():
    chunks = [np.arange(1000, 2000), np.arange(2000, 2500)]
    train, held_out = hold_out(Corpus(chunks, [3.0, 1.0]), 9, 0.1)
    assert [chunk[:].tolist() for chunk in train.chunks] == [list(range(1000, 1900)), list(range(2000, 2450))]
    assert dict(zip(held_out.weights, (chunk[:].tolist() for chunk in held_out.chunks))) == {
        3.0: list(range(1900, 2000)), 1.0: list(range(2450, 2500))}


def test_one_long_document_stays_in_its_file(tmp_path):
    np.savez(tmp_path / 'a.npz', np.zeros(4_000_000, int))
    [chunk] = load_dataset(ENC, str(tmp_path / 'a.npz'), 1)
    tracemalloc.start()
    try:
        [train], [held_out] = split([chunk], 9, 0.1)
        assert (len(train), len(held_out)) == (3_600_000, 400_000)
        assert tracemalloc.get_traced_memory()[1] < 0.4 * chunk.nbytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize('seed', range(20))
def test_held_out_documents_are_complete_and_in_order(seed):
    rng = np.random.default_rng(seed)
    chunks = [np.concatenate([np.append(np.full(rng.integers(4), document + 10 * number), 0) for document in range(1, 8)])
              for number in range(4)]
    documents = [sorted(set(chunk.tolist()) - {0}) for chunk in chunks]
    train, [held_out] = split(chunks, 0, 0.3)
    out = split_at_zero(held_out[:])
    assert len(out) == round(0.3 * sum(map(len, documents))) and held_out[:].tolist().count(0) == len(out) - 1
    expected = [[part for part in split_at_zero(chunk) if part not in out] for chunk in chunks]
    assert [split_at_zero(chunk[:]) for chunk in train] == [parts for parts in expected if parts]
    assert all(chunk[:].tolist().count(0) == len(parts) - 1 for chunk, parts in zip(train, filter(None, expected)))


def split_at_zero(tokens):
    return [part for part in (list(group) for is_zero, group in itertools.groupby(tokens.tolist(), lambda token: token == 0)
                              if not is_zero)]


def test_held_out_documents_stay_in_their_file(tmp_path):
    """Only a piece of the file is in memory at a time."""
    np.savez(tmp_path / 'a.npz', np.tile(np.append(np.zeros(99_999, int), 9), 40))
    [chunk] = load_dataset(ENC, str(tmp_path / 'a.npz'), 1)
    tracemalloc.start()
    try:
        train, held_out = split([chunk], 9, 0.5)
        for joined in (*train, *held_out):
            assert len(joined) == 20 * 100_000 - 1
            assert Sampler([joined], seed=0).sample(100_001).tolist().count(9) in (1, 2)
        assert tracemalloc.get_traced_memory()[1] < 0.4 * chunk.nbytes
    finally:
        tracemalloc.stop()


def test_joined_parts_are_one():
    arrays = [np.array(array) for array in ([0, 1, 2, 0], [3], [4, 5, 6, 0])]
    parts = [(arrays[0], 1, 3), (arrays[1], 0, 1), (arrays[2], 0, 3)]
    together = [1, 2, 9, 3, 9, 4, 5, 6]
    joined = Joined(parts, 9)
    assert len(joined) == 8 and joined[:].tolist() == together and joined[:].dtype == joined.dtype == arrays[0].dtype
    for start in range(10):
        for stop in range(10):
            assert joined[start:stop].tolist() == together[start:stop]


def test_what_is_held_out_keeps_its_weights():
    """The second chunk has nothing to train on, or nothing held out, for some shares."""
    chunks = [np.array([1, 9, 1, 9, 1]), np.array([2]), np.array([3, 9, 3]), np.array([9])]
    weights = [1.0, 5.0, 5.0, 7.0]
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        train, held_out = hold_out(Corpus(chunks, weights), 9, share)
        for corpus in (train, held_out):
            tokens = {(weight, token) for chunk, weight in zip(corpus.chunks, corpus.weights) for token in chunk[:].tolist()}
            assert tokens <= {(1, 1), (1, 9), (5, 2), (5, 3), (5, 9)}
            assert len(corpus.chunks) == len(corpus.weights)
        assert len(set(held_out.weights)) == len(held_out.weights)
        if share in (0.1, 0.9):     # no number of these documents is near: each weight has its own share
            assert set(held_out.weights) == {1.0, 5.0}
            continue
        plain, [together] = split(chunks, 9, share)
        assert [chunk[:].tolist() for chunk in train.chunks] == [chunk[:].tolist() for chunk in plain]
        assert sorted(token for chunk in held_out.chunks for token in chunk[:].tolist() if token != 9) == sorted(
            token for token in together[:].tolist() if token != 9)


# Sampler


def numbered(*sizes):
    """Chunks in which each token is different, so that a sample shows where it starts."""
    return [np.arange(size) + 100 * number for number, size in enumerate(sizes)]


@pytest.mark.parametrize('share', [0, 0.5])
def test_an_error_names_a_file_that_is_truncated_while_samples_are_drawn(tmp_path, share):
    np.savez(tmp_path / 'a.npz', np.arange(9_000) % 50)
    chunks = load_dataset(ENC, str(tmp_path / 'a.npz'), 1)
    if share:
        chunks, _ = split(chunks, 9, share)
    sampler = Sampler(chunks, seed=1)
    with open(tmp_path / 'a.npz', 'ab') as file:
        file.write(b'more')     # does no harm
    sampler.sample(5)
    os.truncate(tmp_path / 'a.npz', 200)
    with pytest.raises(UserError, match='a.npz was truncated while it was in use: it ended before offset [0-9,]+; make it again'):
        sampler.sample(5)


def test_every_start_is_equally_likely():
    sampler = Sampler(numbered(7, 2, 3, 12, 1, 5), seed=0)
    starts = [*range(5), *range(200, 201), *range(300, 310), *range(500, 503)]      # of three tokens
    draws = [int(sampler.sample(3)[0]) for _ in range(20_000)]
    assert set(draws) == set(starts)
    expected = len(draws) / len(starts)
    chi_square = sum((draws.count(start) - expected) ** 2 / expected for start in starts)
    assert chi_square < 42.3        # 18 degrees of freedom, p = 0.001


def test_each_start_is_drawn_once():
    """With the draws replaced by 0, 1, 2, ..., every possible start comes once, in order."""
    sampler = Sampler(numbered(1, 4, 2, 3, 1), seed=0)

    class Counter:
        def integers(self, high):
            self.high, self.count = high, getattr(self, 'count', -1) + 1
            return np.int64(self.count)

    sampler.rng = Counter()
    samples = [sampler.sample(2).tolist() for _ in range(6)]
    assert sampler.rng.high == 6
    assert samples == [[100, 101], [101, 102], [102, 103], [200, 201], [300, 301], [301, 302]]


def test_sample_lies_within_one_chunk():
    sampler = Sampler(numbered(9, 3, 5), seed=1)
    for length in (1, 2, 3, 4, 5, 6, 9):
        for _ in range(200):
            sample = sampler.sample(length)
            assert sample.shape == (length,)
            assert sample.tolist() == list(range(sample[0], sample[0] + length))
            assert sample[0] // 100 == sample[-1] // 100


def test_exact_fit_is_accepted_and_shorter_chunks_ignored():
    sampler = Sampler(numbered(3, 5, 4), seed=2)
    sampler.check(5)
    assert all(sampler.sample(5).tolist() == [100, 101, 102, 103, 104] for _ in range(50))


def test_all_chunks_too_short():
    sampler = Sampler(numbered(3, 5, 4))
    for function in (sampler.check, sampler.sample):
        assert error_of(function, 6) == ('the corpus is too short: 6 tokens are needed in one piece, and its longest '
                                         'chunk has 5; give a smaller --seq_length, or more text')
    assert 'longest chunk has 0;' in error_of(Sampler([]).sample, 1)


def test_total_size():
    assert Sampler(numbered(3, 5, 4)).total_size == 12
    assert Sampler([]).total_size == 0


def test_seed_makes_samples_repeat():
    def draw(seed):
        sampler = Sampler(numbered(90, 50), seed=seed)
        return [sampler.sample(length).tolist() for length in (2, 3, 2, 10) * 10]

    assert draw(7) == draw(7) != draw(8)
    assert draw(np.random.SeedSequence(7)) == draw(7)
    assert draw(None) != draw(None)


def test_check_takes_no_draw():
    plain, checked = Sampler(numbered(90), seed=3), Sampler(numbered(90), seed=3)
    checked.check(5)
    assert plain.sample(5).tolist() == checked.sample(5).tolist()


def test_weights_say_how_often_each_start_is_drawn():
    """Starts of three tokens: 5 of weight 1, none of weight 9, 10 of weight 0.5, 2 of weight 3."""
    chunks = numbered(7, 2, 12, 4)
    sampler = Sampler(chunks, seed=0, weights=[1, 9, 0.5, 3])
    weight = {**dict.fromkeys(range(5), 1), **dict.fromkeys(range(200, 210), 0.5), 300: 3, 301: 3}
    draws = [sampler.sample(3).tolist() for _ in range(20_000)]
    assert all(draw == list(range(draw[0], draw[0] + 3)) for draw in draws)
    starts = [draw[0] for draw in draws]
    assert set(starts) == weight.keys()
    expected = {start: len(starts) * value / sum(weight.values()) for start, value in weight.items()}
    chi_square = sum((starts.count(start) - count) ** 2 / count for start, count in expected.items())
    assert chi_square < 39.3        # 16 degrees of freedom, p = 0.001
    assert sampler.total_size == 25


@pytest.mark.parametrize('number', [0.0, 1 - 2 ** -53])
def test_the_first_and_the_last_start_of_weighted_chunks(number):
    class Fixed:
        def random(self):
            return number

    for weights in ([0.1, 0.3], [0.3, 0.1], [7, 1e-9], [1e9, 3], [0.7, 3]):     # the last quotient of the last is 3.0
        sampler = Sampler(numbered(5, 4), weights=weights)
        sampler.rng = Fixed()
        assert sampler.sample(2).tolist() == ([0, 1] if not number else [102, 103])


# Several data sets


def test_texts_of_several_paths(tmp_path):
    paths = [write(tmp_path / name, name) for name in 'ba']
    assert list(read_texts(paths)) == ['b', 'a']
    assert error_of(list, read_texts([*paths, str(tmp_path / '*')])).startswith(f'{tmp_path}/a is in the data set ')
    assert error_of(list, read_texts([f'{paths[0]}=2'])) == (
        f'{paths[0]}=2: weights are for training, here each text is read once; give {paths[0]}')
    write(tmp_path / 'c.jsonl', '{}\n"c"\n')
    assert 'has no effect' in error_of(list, read_texts(paths, text_column='t'))


def test_skipped_records_of_texts_are_reported(tmp_path, capsys):
    path = write(tmp_path / 'c.jsonl', '2\n"c"\n3\n')
    assert list(read_texts(path, skip_bad_records=True)) == ['c']
    assert capsys.readouterr().err == f'skipped bad records: 2; the first: {path} line 1 holds 2; expected text, or an object\n'
    write(tmp_path / 'c.jsonl', '2\n')
    assert error_of(list, read_texts(path, skip_bad_records=True)).endswith('; skipped bad records: 1; the first: '
                                                                           f'{path} line 1 holds 2; expected text, or an object')


def test_data_sets_of_different_weights_share_no_chunk(tmp_path):
    a, b, c = (write(tmp_path / name, name) for name in 'abc')
    for paths, expected, weights in (([a, b, c], [['a', 'b', 'c']], None),
                                     ([f'{a}=2', b, f'{c}=2'], [['a', 'c'], ['b']], [2, 1])):
        corpus = load_sets(ENC, 'it', find_data_sets(paths), 50000, TextFormat())
        texts = ['<|endoftext|>'.join(group) for group in expected]
        assert [chunk.tolist() for chunk in corpus.chunks] == [ENC.encode_with_special(text) for text in texts]
        assert corpus.weights == weights
    empty = write(tmp_path / 'empty', '')
    assert error_of(load_sets, ENC, 'it', find_data_sets([a, f'{empty}=2']), 1, TextFormat()) == (
        f'the corpus it is empty: 0 tokens in {empty}')
