"""merge_many.py against merge.py, and the encoder that uses both."""

import itertools
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import encoder
from encoder import Encoder, load_encoder
from text_samples import CODE, SAMPLES, vocabulary
from vocabulary import merge_many
from vocabulary.learn import learn_vocabulary
from vocabulary.merge import merge
from vocabulary.merge_many import PairRanks
from vocabulary.spelling import END_OF_TEXT

TEXT = 'aabab abaab bbaa aaaa aaabbb babab éaé ' * 20


def both_ways(parts, ids, merges, dtype=np.uint16):
    """The results of merge_many and of merge for parts of a text."""
    enc = Encoder(ids, merges)
    one_by_one = [merge([enc._byte_ids[byte] for byte in part], enc._ranks, enc._merged_ids) for part in parts]
    return merge_many.merge_many(parts, *enc._arrays, np.dtype(dtype)), [np.array(ids, dtype).tobytes() for ids in one_by_one]


@settings(max_examples=150, deadline=None, database=None)
@given(parts=st.lists(st.text('aaabé', min_size=1, max_size=60).map(str.encode), min_size=1, max_size=40),
       n_vocab=st.integers(257, 300), width=st.integers(1, 50))
def test_merge_many_agrees_with_merge(parts, n_vocab, width):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merge_many, 'WIDTH', width)
        many, one_by_one = both_ways(parts, *learn_vocabulary([TEXT], n_vocab))
    assert many == one_by_one


def test_example_worked_by_hand():
    """The first merges learned from TEXT are a a and a b, a later one aa b."""
    ids, merges = learn_vocabulary([TEXT], 300)
    assert len(merges) == 20
    expected = [np.array([ids[token] for token in tokens], np.uint16).tobytes() for tokens in (['ab', 'aab'], ['aa', 'aa', 'a'])]
    assert both_ways([b'abaab', b'aaaaa'], ids, merges) == (expected, expected)


def test_the_longest_part_fits():
    many, one_by_one = both_ways([b'ab' * 63, b'a', b'b' * 126, b'aab'], *learn_vocabulary([TEXT], 280))
    assert many == one_by_one
    assert merge_many.MOST_ROWS - 2 == 126 >= encoder.LONGEST_PARALLEL


@pytest.mark.parametrize('slots_per_pair, most_overflow', [(1, 0.5), (4, 0.2)])
def test_pair_ranks_finds_every_pair_and_no_other(monkeypatch, slots_per_pair, most_overflow):
    monkeypatch.setattr(merge_many, 'SLOTS_PER_PAIR', slots_per_pair)
    rng = np.random.default_rng(0)
    pairs = np.concatenate([rng.integers(0, 70_000, [5000, 2]), [[1, right] for right in range(100)]])
    pairs = rng.permutation(np.unique(pairs, axis=0)).tolist()
    ranks = [{} for _ in range(70_001)]
    for rank, (left, right) in enumerate(pairs):
        ranks[left][right] = rank
    look_up = PairRanks(ranks)
    lefts, rights = np.array(pairs, np.uint64).T
    assert look_up.no_rank == len(pairs)
    assert look_up(lefts, rights).tolist() == list(range(len(pairs)))
    assert (look_up(rights, lefts) == [ranks[right].get(left, len(pairs)) for left, right in pairs]).all()
    gone = np.full_like(lefts, merge_many.GONE)
    assert (look_up(lefts, gone) == len(pairs)).all() and (look_up(gone, rights) == len(pairs)).all()
    assert 1 < len(look_up.overflow_keys) < most_overflow * len(pairs)


@pytest.mark.parametrize('dtype', [np.uint16, np.uint32])
def test_without_merges(dtype):
    many, one_by_one = both_ways([b'ab', b'c'], *vocabulary(), dtype)
    assert many == one_by_one


# In the encoder

def different(text: str) -> str:
    """The text with a number in each line, so that it has many new parts."""
    return '\n'.join(f'{line} {number}' for number, line in enumerate(text.splitlines()))


@pytest.mark.parametrize('fewest', [1, 10, 10 ** 9])
@pytest.mark.parametrize('blocks', [1, 3])
def test_the_encoder_gives_the_same_ids(toy_directory, toy, monkeypatch, fewest, blocks):
    text = different(CODE + SAMPLES['scripts']) + 'the' * 100 + END_OF_TEXT + CODE
    expected = [*itertools.chain.from_iterable([*toy.encode(part), toy.end_of_text] for part in text.split(END_OF_TEXT))]
    monkeypatch.setattr(encoder, 'FEWEST_PARALLEL', fewest)
    monkeypatch.setattr(encoder, 'MOST_BLOCKS', blocks)
    monkeypatch.setattr('vocabulary.pieces.BLOCK', 200)
    enc = load_encoder(toy_directory)
    assert enc.encode_array(text).tolist() == expected[:-1]
    assert not enc._cache.pending
    assert {type(ids) for ids in enc._cache.values()} == {bytes}


@pytest.mark.parametrize('count, length, parallel', [(200, 32, True), (199, 32, False), (200, 33, False)])
def test_the_encoder_merges_many_short_parts_in_parallel(toy_directory, monkeypatch, count, length, parallel):
    seen = []
    monkeypatch.setattr(encoder, 'merge_many', lambda parts, *rest: seen.extend(parts) or merge_many.merge_many(parts, *rest))
    parts = [f' {n:0{length - 1}}' for n in range(count)]
    assert load_encoder(toy_directory).decode(load_encoder(toy_directory).encode(''.join(parts))) == ''.join(parts)
    assert sorted(seen) == sorted(part.encode() for part in parts) * parallel


@pytest.mark.parametrize('blocks', [1, 3])
def test_new_parts_of_several_blocks_are_encoded_together(toy_directory, monkeypatch, blocks):
    monkeypatch.setattr(encoder, 'MOST_BLOCKS', blocks)
    monkeypatch.setattr('vocabulary.pieces.BLOCK', 4)
    enc = load_encoder(toy_directory)
    calls = []
    encode_parts = enc._cache.encode_parts
    monkeypatch.setattr(enc._cache, 'encode_parts', lambda parts: calls.append(len(parts)) or encode_parts(parts))
    enc.encode(' ab cd ef gh ij kl')
    assert calls == [blocks] * (6 // blocks)


def test_parts_that_an_interruption_left_pending_are_encoded_later(toy_directory, toy, monkeypatch):
    enc = load_encoder(toy_directory)

    def interrupted(parts):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(enc._cache, 'encode_parts', interrupted)
        enc.encode('some words')
    assert enc.encode('words some') == toy.encode('words some')


def test_a_thread_waits_while_another_encodes(toy_directory, toy):
    enc, results = load_encoder(toy_directory), []
    other = threading.Thread(target=lambda: results.append(enc.encode('some words')))
    encode_parts = enc._cache.encode_parts

    def slow(parts):
        enc._cache.encode_parts = encode_parts
        other.start()
        other.join(0.2)         # enough time to encode
        assert not results
        return encode_parts(parts)

    enc._cache.encode_parts = slow
    assert enc.encode('some words') == toy.encode('some words')
    other.join()
    assert results == [toy.encode('some words')]
