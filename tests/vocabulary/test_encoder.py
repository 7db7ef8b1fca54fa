"""encoder.py against tiktoken, a textbook implementation, and examples worked by hand.

Tests with GPT-2's own vocabulary find it as optional.gpt2_directory does; the others learn a small vocabulary.
"""

import itertools
import json
import multiprocessing
import os

import numpy as np
import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

import encoder
from encoder import Encoder, load_encoder
from optional import gpt2_directory, needs
from text_samples import CODE, ENGLISH, PUBLISHED_PIECE, SAMPLES, UNICODE, vocabulary
from vocabulary.learn import learn_vocabulary
from vocabulary.pieces import cut
from vocabulary.spelling import BYTE_CHARACTERS, END_OF_TEXT, spell


@pytest.fixture(scope='session')
def gpt2():
    return load_encoder(gpt2_directory())


@pytest.fixture(scope='session', params=['toy', 'GPT-2'])
def twins(request, toy_directory):
    """(our encoder, tiktoken's) for the same two files."""
    tiktoken = needs('tiktoken')
    directory = toy_directory if request.param == 'toy' else gpt2_directory()
    with open(os.path.join(directory, 'encoder.json'), encoding='utf-8') as file:
        ids = json.load(file)
    special = {END_OF_TEXT: ids.pop(END_OF_TEXT)}
    byte = {character: byte for byte, character in BYTE_CHARACTERS.items()}
    ranks = {bytes(byte[character] for character in token): id for token, id in ids.items()}
    theirs = tiktoken.Encoding(request.param, pat_str=PUBLISHED_PIECE, mergeable_ranks=ranks, special_tokens=special)
    return load_encoder(directory), theirs


def textbook(text, ids, merges):
    """Token ids by the simplest algorithm: apply every merge to the whole piece, in the order of learning."""
    encoded = []
    for piece in regex.findall(PUBLISHED_PIECE, text):
        symbols = [BYTE_CHARACTERS[byte] for byte in piece.encode()]
        for left, right in merges:
            i = 0
            while i < len(symbols) - 1:
                if symbols[i] == left and symbols[i + 1] == right:
                    symbols[i:i + 2] = [left + right]
                i += 1
        encoded += [ids[symbol] for symbol in symbols]
    return encoded


# Cutting

@settings(max_examples=200, deadline=None, database=None)
@given(text=st.lists(st.one_of(
    st.sampled_from([END_OF_TEXT, END_OF_TEXT[:4], '|>', "'s", "'ll", "'", '   ', '\n \n', 'ab', '1½', '!', '人', '\ud83d',
                     '\ude00']),
    UNICODE), max_size=20).map(''.join), data=st.data())
def test_encoding_separately_where_cut_says_gives_the_same_ids(twins, text, data):
    ours, _ = twins
    ids = []
    start = end = 0
    while end < len(text):
        end = data.draw(st.integers(end + 1, len(text)))
        length = cut(text[start:end], end=end == len(text))
        assert length < end - start or end == len(text)
        ids += ours.encode_with_special(text[start:start + length])
        start += length
    assert start == len(text)
    assert ids == ours.encode_with_special(text)


# Against the textbook and by hand

def test_two_merges_may_make_one_token():
    """Later merges use the token, whichever of the two made it."""
    ids, merges = vocabulary('a b', 'b c', 'ab c', 'a bc', 'abc d')
    ids = {token: id for id, token in enumerate(dict.fromkeys(ids))}
    assert Encoder(ids, merges).encode('abcd') == Encoder(ids, merges[1:]).encode('abcd') == [ids['abcd']]


def test_example_worked_by_hand():
    ids, merges = vocabulary('l o', 'lo w', 'e r', 'Ġ low', 'low er')
    lo, low, er, _low, lower, end = range(256, 262)
    encoding = Encoder(ids, merges)
    assert (encoding.n_vocab, encoding.end_of_text) == (262, end)
    # Bytes: '!' is 0, so 'a' is 64; the space comes 32 places after 'ÿ', which is 187.
    space, s = 188 + 32, ord('s') - ord('!')
    assert encoding.encode('lower') == [lower]
    assert encoding.encode(' lower') == [_low, er]              # 'Ġ low' was learned before 'low er'
    assert encoding.encode('low lows  low') == [low, _low, s, space, _low]
    assert encoding.encode('slow ers lo') == [s, low, space, er, s, space, lo]
    assert encoding.decode([_low, er, space, lo, s]) == ' lower los'


@settings(max_examples=100, deadline=None, database=None)
@given(st.text('aab é', max_size=80), st.text('aab é', max_size=40))
@example('aaaa aaa aaaaaaa aaaa', 'aaaaaaaaaaa aaaaa aaa')
def test_textbook(training_text, text):
    ids, merges = learn_vocabulary([training_text], 280)
    assert Encoder(ids, merges).encode(text) == textbook(text, ids, merges)


def test_textbook_on_english():
    ids, merges = learn_vocabulary([ENGLISH[:10_000]], 700)
    assert Encoder(ids, merges).encode(ENGLISH[8_000:14_000]) == textbook(ENGLISH[8_000:14_000], ids, merges)


# GPT-2's own vocabulary

def test_gpt2_has_50257_tokens(gpt2):
    assert (gpt2.n_vocab, gpt2.end_of_text) == (50257, 50256)


@pytest.mark.parametrize('text, ids', [
    ('Hello world', [15496, 995]), (' merges', [4017, 3212]), (' lowest', [9016]), ('a<|endoftext|>b', [64, 50256, 65])])
def test_gpt2_examples(gpt2, text, ids):
    assert gpt2.encode_with_special(text) == ids


# tiktoken

@pytest.mark.parametrize('name', SAMPLES)
def test_tiktoken(twins, name):
    ours, theirs = twins
    ids = ours.encode(SAMPLES[name])
    assert ids == theirs.encode_ordinary(SAMPLES[name])
    assert ours.decode(ids) == theirs.decode(ids)


@settings(max_examples=200, deadline=None, database=None)
@given(text=UNICODE)
def test_tiktoken_on_random_unicode(twins, text):
    ours, theirs = twins
    assert ours.encode(text) == theirs.encode_ordinary(text)


@settings(max_examples=100, deadline=None, database=None)
@given(parts=st.lists(st.one_of(st.sampled_from([END_OF_TEXT, END_OF_TEXT[:-1], ' ', '\n ', '\ud83d']), UNICODE)))
@example(['a ', END_OF_TEXT, ' b', END_OF_TEXT, END_OF_TEXT])
def test_tiktoken_with_special(twins, parts):
    ours, theirs = twins
    text = ''.join(parts)
    assert ours.encode_with_special(text) == theirs.encode(text, allowed_special={END_OF_TEXT})


@settings(max_examples=50, deadline=None, database=None)
@given(data=st.data())
def test_tiktoken_decodes_any_ids(twins, data):
    ours, theirs = twins
    ids = data.draw(st.lists(st.integers(0, ours.n_vocab - 1)))
    assert ours.decode(ids) == theirs.decode(ids)


# The class

@pytest.mark.parametrize('name', [name for name, text in SAMPLES.items() if len(text) < 10_000])
def test_round_trip(toy, name):
    text = SAMPLES[name].encode('utf-16-le', 'surrogatepass').decode('utf-16-le', 'replace')
    assert toy.decode(toy.encode(SAMPLES[name])) == text
    assert toy.decode(toy.encode_with_special(SAMPLES[name])) == text


@settings(max_examples=100, deadline=None, database=None)
@given(text=st.text())
def test_round_trip_of_random_unicode(toy, text):
    assert toy.decode(toy.encode(text)) == text


def test_lone_surrogates_become_replacement_characters(toy):
    assert toy.encode('a\ud83d b\udc00') == toy.encode('a\ufffd b\ufffd')
    assert toy.encode('\ud83d\ude00') == toy.encode('😀')


def test_end_of_text_is_special_only_with_special(toy):
    text = f'if x:{END_OF_TEXT} y'
    assert toy.end_of_text not in toy.encode(text)
    assert toy.encode_with_special(text) == [*toy.encode('if x:'), toy.end_of_text, *toy.encode(' y')]
    assert toy.encode_with_special(END_OF_TEXT * 2) == [toy.end_of_text] * 2
    assert toy.encode_with_special('<|endoftext>') == toy.encode('<|endoftext>')
    assert toy.decode(toy.encode_with_special(text)) == toy.decode(toy.encode(text)) == text


def test_decode_replaces_what_is_not_utf8(toy):
    half, other_half = Encoder(*vocabulary()).encode('é')
    assert toy.decode([]) == ''
    assert toy.decode([half, other_half]) == 'é'
    assert toy.decode([half, half, other_half]) == '\ufffdé'
    assert toy.decode([other_half, 0]) == '\ufffd!'


def test_decode_takes_numpy_ids(toy):
    ids = toy.encode(CODE[:500])
    for dtype in (np.uint16, np.int32, np.int64):
        assert toy.decode(np.array(ids, dtype)) == CODE[:500]


@pytest.mark.parametrize('id', [900, -1, np.int32(-1), 50256])
def test_decode_refuses_unknown_ids(toy, id):
    with pytest.raises(ValueError, match=f'no token has the id {id}; ids go from 0 to 899'):
        toy.decode([0, id, 1])


@settings(max_examples=200, deadline=None, database=None)
@given(st.text('éè中ﾟ a', min_size=1), st.text('éè中ﾟ a', max_size=40))
@example('éé éé', 'éé é中')
def test_cutting_between_separable_bytes_gives_the_same_ids(training_text, text):
    ids, merges = learn_vocabulary([training_text], 275)
    assert Encoder(ids, merges).encode(text) == textbook(text, ids, merges)


def test_separable_characters_are_cached_one_by_one():
    """The cache of a long text without spaces holds its characters, not the text."""
    enc = Encoder(*vocabulary())
    characters = list(map(chr, range(0x4e00, 0x4e40)))
    enc.encode(''.join(characters) * 50)
    assert set(enc._cache) == {character.encode() for character in characters}


@pytest.mark.parametrize('name', [name for name, text in SAMPLES.items() if len(text) < 50_000])
def test_arrays(twins, name):
    ours, theirs = twins
    text = f'{SAMPLES[name]}{END_OF_TEXT}{SAMPLES[name]}'
    array = ours.encode_array(text)
    assert (array.dtype, array.ndim) == (np.uint16, 1)
    assert array.tolist() == theirs.encode(text, allowed_special={END_OF_TEXT})


@pytest.mark.parametrize('n_vocab, dtype', [(2 ** 16, np.uint16), (2 ** 16 + 1, np.uint32)])
def test_arrays_have_the_smallest_type(n_vocab, dtype):
    ids, merges = vocabulary()
    more = itertools.islice(map(''.join, itertools.product(BYTE_CHARACTERS.values(), repeat=3)), n_vocab - len(ids))
    ids |= {token: id for id, token in enumerate(more, start=len(ids))}
    ids['!'], ids[token] = ids[token := list(ids)[-1]], ids['!']
    enc = Encoder(ids, merges)
    assert enc.encode_array('!a').dtype == dtype
    assert enc.encode('!a') == enc.encode_array('!a').tolist() == [n_vocab - 1, ids['a']]


def test_the_cache_is_bounded(toy_directory, toy, monkeypatch):
    monkeypatch.setattr(encoder, 'CACHE_SIZE', 50)
    small = load_encoder(toy_directory)
    largest = 0
    for line in (CODE + SAMPLES['scripts'] * 3).splitlines():
        assert small.encode(line) == toy.encode(line)
        assert len(small._cache.old) <= 50
        largest = max(largest, len(small._cache))
    assert largest == 50


@pytest.mark.parametrize('length', [encoder.LONGEST_CACHED, encoder.LONGEST_CACHED + 1])
def test_long_parts_are_not_cached(toy_directory, length):
    enc = load_encoder(toy_directory)
    assert len(enc.encode('x' * length)) > 0
    assert list(enc._cache) == [b'x' * length] * (length <= encoder.LONGEST_CACHED)


def test_the_cache_keeps_what_is_used(toy_directory, monkeypatch):
    monkeypatch.setattr(encoder, 'CACHE_SIZE', 50)
    small = load_encoder(toy_directory)
    small.encode('often')
    encoded = []
    monkeypatch.setattr(small._cache, 'encode_parts', lambda parts: encoded.extend(parts) or [(part, b'') for part in parts])
    for i in range(1000):
        small.encode(f' {i}')
        small.encode('often')
    assert encoded == [f' {i}'.encode() for i in range(1000)]


def test_rare_parts_are_dropped(toy_directory, monkeypatch):
    monkeypatch.setattr(encoder, 'CACHE_SIZE', 50)
    small = load_encoder(toy_directory)
    small.encode('once')
    for i in range(100):
        small.encode(f' {i}')
    assert b'once' not in small._cache and b'once' not in small._cache.old


def test_forked_processes_encode(toy):
    context = multiprocessing.get_context('fork')
    with context.Pool(2) as pool:
        assert pool.map(toy.encode, [CODE, ENGLISH[:1000]]) == [toy.encode(CODE), toy.encode(ENGLISH[:1000])]


@pytest.mark.parametrize('text', ['\n \xa0', 'a\n\u3000\n b', '\u2028\n\n\u2028', '\xa0\n'])
def test_newlines_within_other_white_space_are_kept(text):
    ids, merges = vocabulary()
    enc = Encoder(ids, merges)
    assert enc.decode(enc.encode(text)) == text
    assert enc.encode(text) == [ids[character] for character in spell(text)]
