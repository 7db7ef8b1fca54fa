"""Merging side by side is held to merging one by one."""

import itertools
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import encoder
from encoder import Encoder, load_encoder
from text_samples import CODE, SAMPLES
from vocabulary import merge_many
from vocabulary.learn import learn_vocabulary
from vocabulary.merge import merge
from vocabulary.merge_many import PairRanks
from vocabulary.spelling import BYTE_CHARACTERS, END_OF_TEXT


TEXT = 'aabab abaab bbaa aaaa aaabbb babab éaé ' * 20


def both_ways(parts, ids, merges, dtype=np.uint16):
    """What merging side by side and one by one give for parts of a text."""
    enc = Encoder(ids, merges)
    one_by_one = [merge([enc._byte_ids[byte] for byte in part], enc._ranks, enc._made) for part in parts]
    return merge_many.merge_many(parts, *enc._arrays, np.dtype(dtype)), [np.array(ids, dtype).tobytes() for ids in one_by_one]


@settings(max_examples=150, deadline=None, database=None)
@given(parts=st.lists(st.text('aaabé', min_size=1, max_size=60).map(str.encode), min_size=1, max_size=40),
       n_vocab=st.integers(257, 300), side_by_side=st.integers(1, 50))
def test_both_ways_to_merge_agree(parts, n_vocab, side_by_side):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merge_many, 'SIDE_BY_SIDE', side_by_side)
        side, one = both_ways(parts, *learn_vocabulary([TEXT], n_vocab))
    assert side == one


def test_the_longest_part_fits():
    side, one = both_ways([b'ab' * 63, b'a', b'b' * 126, b'aab'], *learn_vocabulary([TEXT], 280))
    assert side == one
    assert merge_many.ROWS - 2 == 126 >= encoder.LONGEST_AT_ONCE


@pytest.mark.parametrize('room', [1, 4])
def test_every_pair_is_found_and_no_other(monkeypatch, room):
    """With little room many share a place."""
    monkeypatch.setattr(merge_many, 'ROOM', room)
    rng = np.random.default_rng(0)
    pairs = rng.permutation(np.unique(rng.integers(0, 70_000, [5000, 2]), axis=0)).tolist()
    ranks = [{} for _ in range(70_001)]
    for rank, (left, right) in enumerate(pairs):
        ranks[left][right] = rank
    look_up = PairRanks(ranks)
    lefts, rights = np.array(pairs, np.uint64).T
    assert look_up.never == len(pairs)
    assert look_up(lefts, rights).tolist() == list(range(len(pairs)))
    assert (look_up(rights, lefts) == [ranks[right].get(left, len(pairs)) for left, right in pairs]).all()
    assert (look_up(lefts, np.full_like(lefts, merge_many.GONE)) == len(pairs)).all()


@pytest.mark.parametrize('dtype', [np.uint16, np.uint32])
def test_without_merges(dtype):
    ids = {token: id for id, token in enumerate([*BYTE_CHARACTERS.values(), END_OF_TEXT])}
    side, one = both_ways([b'ab', b'c'], ids, [], dtype)
    assert side == one


# In the encoder

def different(text: str) -> str:
    """The text with a number in each line, so that many parts are new."""
    return '\n'.join(f'{line} {number}' for number, line in enumerate(text.splitlines()))


@pytest.mark.parametrize('fewest', [1, 10, 10 ** 9])
@pytest.mark.parametrize('blocks', [1, 3])
def test_the_encoder_gives_the_same_ids(toy_directory, toy, monkeypatch, fewest, blocks):
    text = different(CODE + SAMPLES['scripts']) + 'the' * 100 + END_OF_TEXT + CODE
    expected = [*itertools.chain.from_iterable([*toy.encode(part), toy.end_of_text] for part in text.split(END_OF_TEXT))]
    monkeypatch.setattr(encoder, 'FEWEST_AT_ONCE', fewest)
    monkeypatch.setattr(encoder, 'BLOCKS_AT_ONCE', blocks)
    monkeypatch.setattr('vocabulary.pieces.BLOCK', 200)
    enc = load_encoder(toy_directory)
    assert enc.encode_array(text).tolist() == expected[:-1]
    assert not enc._table.unknown
    assert {type(ids) for ids in enc._table.values()} == {bytes}


def test_what_an_interruption_left_unknown_is_worked_out_later(toy_directory, toy, monkeypatch):
    enc = load_encoder(toy_directory)

    def interrupted(parts):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(enc._table, 'work_out', interrupted)
        enc.encode('some words')
    assert enc.encode('words some') == toy.encode('words some')


def test_threads_do_not_see_what_is_unknown(toy_directory, toy, monkeypatch):
    enc, found = load_encoder(toy_directory), []
    other = threading.Thread(target=lambda: found.append(enc.encode('some words')))
    work_out = enc._table.work_out

    def slow(parts):
        other.start()
        other.join(0.2)         # it has time enough, but waits
        return work_out(parts)

    with monkeypatch.context() as patch:
        patch.setattr(enc._table, 'work_out', slow)
        assert enc.encode('some words') == toy.encode('some words')
    other.join()
    assert found == [toy.encode('some words')]
