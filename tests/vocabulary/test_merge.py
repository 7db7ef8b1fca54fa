"""merge.py: both ways to merge one part, and the bytes between which a text can be cut."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from text_samples import LETTERS, vocabulary
from vocabulary import merge as merge_module
from vocabulary.learn import learn_vocabulary
from vocabulary.merge import merge, merge_long, separable_bytes
from vocabulary.spelling import BYTE_CHARACTERS, spell


def merged(text, *pairs, how=merge):
    """The tokens of a text of single letters, after the merges 'a b', 'ab c', …"""
    pairs = [tuple(pair.split()) for pair in pairs]
    tokens = list(dict.fromkeys([*text, *itertools.chain(*pairs), *map(''.join, pairs)]))
    ranks = [{} for _ in tokens] + [{}]
    for rank, (left, right) in enumerate(pairs):
        ranks[tokens.index(left)][tokens.index(right)] = rank
    ids = how(map(tokens.index, text), ranks, [tokens.index(left + right) for left, right in pairs])
    return [tokens[id] for id in ids]


@pytest.mark.parametrize('how', [merge, merge_long])
def test_the_lowest_rank_is_merged_first(how):
    assert merged('abab', 'b a', 'a ba', how=how) == ['aba', 'b']
    assert merged('abc', 'b c', 'a b', how=how) == ['a', 'bc']


@pytest.mark.parametrize('how', [merge, merge_long])
def test_of_equal_ranks_the_leftmost_is_merged_first(how):
    assert merged('aaaaa', 'a a', how=how) == ['aa', 'aa', 'a']
    assert merged('aaaaa', 'a a', 'aa a', how=how) == ['aa', 'aaa']


@pytest.mark.parametrize('how', [merge, merge_long])
def test_nothing_to_merge(how):
    assert merged('', how=how) == []
    assert merged('a', 'a a', how=how) == ['a']
    assert merged('ab', 'b a', how=how) == ['a', 'b']


@settings(max_examples=100, deadline=None, database=None)
@given(st.text('aab', min_size=1, max_size=200), st.text('aab', max_size=200))
def test_merge_long_agrees_with_merge(training_text, text):
    pairs = list(map(' '.join, learn_vocabulary([training_text], 280)[1]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merge_module, 'LONGEST_SIMPLE', len(text))
        assert merged(text, *pairs) == merged(text, *pairs, how=merge_long)


def test_long_pieces_give_the_same_ids(toy, monkeypatch):
    text = ''.join(LETTERS[:3_000])
    ids = toy.encode(text)
    monkeypatch.setattr(merge_module, 'LONGEST_SIMPLE', len(text))
    toy._cache.clear()
    assert toy.encode(text) == ids


def test_merge_leaves_long_pieces_to_merge_long(monkeypatch):
    monkeypatch.setattr(merge_module, 'merge_long', lambda symbols, ranks, merged_ids: 'merge_long')
    assert merge('a' * merge_module.LONGEST_SIMPLE, {'a': {}}, []) == ['a'] * merge_module.LONGEST_SIMPLE
    assert merge('a' * (merge_module.LONGEST_SIMPLE + 1), {'a': {}}, []) == 'merge_long'


@pytest.mark.parametrize('tokens', [['a', 'Ġ'], [*map(spell, ('aé', 'éa', '\n\n', ' a'))], list(vocabulary('Ġ a', 'Ã ©')[0])])
def test_separable_bytes(tokens):
    adjacent = {pair for token in tokens for pair in itertools.pairwise(token)}
    separable = separable_bytes(tokens)
    for (first, left), (second, right) in itertools.product(BYTE_CHARACTERS.items(), repeat=2):
        assert separable[first * 256 + second] == ((left, right) not in adjacent and not 0x80 <= second < 0xc0)
