"""encoder.py against tiktoken, the textbook's algorithm, examples worked by hand, and broken files.

Tests with GPT-2's own vocabulary need the environment variable GPT2_VOCABULARY, a directory with its encoder.json and
vocab.bpe; the others learn a small vocabulary.
"""

import argparse
import inspect
import itertools
import json
import multiprocessing
import os
import pydoc_data.topics
import random

import numpy as np
import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

import encoder
from encoder import (
    BLOCK,
    BYTE_CHARACTERS,
    END_OF_TEXT,
    PART,
    PIECE,
    Encoder,
    atom_pattern,
    blocks,
    cut,
    get_encoder,
    load_encoder,
    merge,
    merge_long,
    spell,
)
from errors import UserError
from learn_vocabulary import learn_vocabulary, write_vocabulary

# As published: alternatives that share nothing, against which encoder.PIECE is held.
PUBLISHED_PIECE = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

LETTERS = random.Random(0).choices('etaoinshrdlu', k=200_000)
ENGLISH = ''.join(pydoc_data.topics.topics.values())
CODE = inspect.getsource(argparse)
CHINESE = '千里之行，始於足下。一二三四五六七八九十，人之初，性本善。'
SAMPLES = {
    'nothing': '',
    'English': ENGLISH[:300_000],
    'code': CODE,
    'Chinese': CHINESE * 3,
    'scripts': 'Привет, мир! שלום عليكم ١٢٣ नमस्ते สวัสดี こんにちは 안녕 ½ Ⅷ ² ª',
    'emoji': 'a👩‍👩‍👧‍👦 👍🏽👍 🇨🇭🏳️‍🌈 ☺️1️⃣',
    'combining marks': 'e\u0301 Z\u0351\u036b\u0343\u036a a\u0308\u0323 \u0301 \u0301x',
    'line ends': 'a\r\nb\r\n\r\n  c\rd\n\n\ne \r\n',
    'tabs': '\tif x:\n\t\ty \t = 1\t\n \t',
    'other white space': 'a\u00a0b \u00a0 c\u2003d\u3000\u3000e\u0085f\x0b\x0cg\u2028h\u200bi\x1cj\x1fk',
    'NULs': 'a\x00b\x00\x00 \x00\n\x7f\x80\x9f\xad',
    'contractions': "I'm you're he's it'S we'll they'd I've can't 'tis 's'd'll '' 'x don''t '1 O'Neil ’s ' 're",
    'numbers and signs': '3.14 1,000 0x1F -- !!! ?! (a) $5 a_b __x__ <|endoftext|> <|endof text|>',
    'lone surrogates': '\ud800 a\udc00b\ud83d\ud83d\ude00\ude00 \udfff',
    'a surrogate at each end': '\udc00x\ud800',
    'a pair of surrogates': 'x\ud83d\ude00y',
    'byte order mark': '\ufeffa\ufeff',
    'spaces': ' ' * 100_000,
    'spaces, then a letter': ' ' * 100_000 + 'x',
    'line feeds, then a letter': '\n' * 100_000 + 'x',
    'one word': ''.join(LETTERS),
    'one letter': 'a' * 50_000,
    'one run of Chinese': CHINESE.replace('，', '').replace('。', '') * 600,
    'punctuation': "'" * 30_000 + ' !' * 1_000,
}

# Characters that Python's Unicode tables lack may be known to tiktoken's or the regex package's, and not to both.
ASSIGNED = st.characters(exclude_categories=['Cn'])
COMMON = " \t\r\n'saZ0é½中😀\u0301\u200d\ud83d\ude00"
UNICODE = st.text(st.one_of(st.sampled_from(COMMON), ASSIGNED), max_size=60)


@pytest.fixture(scope='session')
def toy_directory(tmp_path_factory):
    """The directory of a vocabulary of 900 tokens, whose merges reach into most of SAMPLES."""
    directory = tmp_path_factory.mktemp('toy')
    texts = [CODE, *(text[:2_000] for text in SAMPLES.values()), ''.join(LETTERS[:2_000]) * 2]
    write_vocabulary(directory, *learn_vocabulary(texts, 900))
    return directory


@pytest.fixture(scope='session')
def toy(toy_directory):
    return load_encoder(toy_directory)


def gpt2_directory():
    if not os.environ.get('GPT2_VOCABULARY'):
        pytest.skip('GPT2_VOCABULARY does not name a directory with encoder.json and vocab.bpe of GPT-2')
    return os.environ['GPT2_VOCABULARY']


@pytest.fixture(scope='session')
def gpt2():
    return load_encoder(gpt2_directory())


@pytest.fixture(scope='session', params=['toy', 'GPT-2'])
def twins(request, toy_directory):
    """(our encoder, tiktoken's) for the same two files."""
    tiktoken = pytest.importorskip('tiktoken', reason='tiktoken is not installed')
    directory = toy_directory if request.param == 'toy' else gpt2_directory()
    with open(os.path.join(directory, 'encoder.json'), encoding='utf-8') as file:
        ids = json.load(file)
    special = {END_OF_TEXT: ids.pop(END_OF_TEXT)}
    byte = {character: byte for byte, character in BYTE_CHARACTERS.items()}
    ranks = {bytes(byte[character] for character in token): id for token, id in ids.items()}
    theirs = tiktoken.Encoding(request.param, pat_str=PUBLISHED_PIECE, mergeable_ranks=ranks, special_tokens=special)
    return load_encoder(directory), theirs


def textbook(text, ids, merges):
    """Token ids by the algorithm as it is told: merge by merge, in the order in which they were learned."""
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


def vocabulary(*pairs):
    """(ids, merges) of the bytes and the merges 'l o', 'lo w', …"""
    merges = [tuple(pair.split()) for pair in pairs]
    tokens = [*BYTE_CHARACTERS.values(), *map(''.join, merges), END_OF_TEXT]
    return {token: id for id, token in enumerate(tokens)}, merges


# The alphabet of bytes

def test_byte_characters_are_gpt2s():
    characters = list(BYTE_CHARACTERS.values())
    assert len(set(characters)) == len(BYTE_CHARACTERS) == 256
    assert ''.join(characters[:5] + characters[93:96] + characters[186:190]) == '!"#$%~¡¢þÿĀā'
    assert {byte: BYTE_CHARACTERS[byte] for byte in b' \n\t\0\x7f\xa0\xad'} == {
        ord(' '): 'Ġ', ord('\n'): 'Ċ', ord('\t'): 'ĉ', 0: 'Ā', 0x7f: 'ġ', 0xa0: 'ł', 0xad: 'Ń'}


def test_spell():
    assert spell(' café\n') == 'ĠcafÃ©Ċ'


# Pieces

@pytest.mark.parametrize('name', SAMPLES)
def test_pieces(name):
    assert PIECE.findall(SAMPLES[name]) == regex.findall(PUBLISHED_PIECE, SAMPLES[name])


@settings(max_examples=200, deadline=None, database=None)
@given(UNICODE)
def test_pieces_of_random_unicode(text):
    assert PIECE.findall(text) == regex.findall(PUBLISHED_PIECE, text)
    assert ''.join(PIECE.findall(text)) == text


@pytest.mark.parametrize('name', SAMPLES)
def test_parts_are_whole_pieces(name):
    assert pieces_of_parts(SAMPLES[name]) == PIECE.findall(SAMPLES[name])


@settings(max_examples=500, deadline=None, database=None)
@given(st.one_of(UNICODE, st.text(" \t\n'sre!0aé–½", max_size=30)))
@example("it'sé 'sé !'sé  é\n\né a–b a1é é1 1½ \x1c\x1fa\u3000é")
def test_parts_of_random_unicode_are_whole_pieces(text):
    assert pieces_of_parts(text) == PIECE.findall(text)


def pieces_of_parts(text):
    parts = PART.findall(text)
    assert ''.join(parts) == text
    # What is ASCII is one piece, and the others have no newline: the encoder takes both for granted.
    assert not [part for part in parts if not part.isascii() and '\n' in part]
    return [piece for part in parts for piece in ([part] if part.isascii() else PIECE.findall(part))]


@pytest.mark.parametrize('letter', ['a', 'é'])
def test_every_character_beside_parts(letter):
    text = ''.join(f'{letter}!{chr(i)}!' for i in range(0x110000))
    assert pieces_of_parts(text) == PIECE.findall(text)


# Cutting

@pytest.mark.parametrize('text, place', [
    ('', 0), ('word', 0), ('two words', 3), ('a  ', 1), ('a  b', 1), (' a', 0), ('  ', 0), ("it's", 2), ("!'s", 0),
    ('x\n', 1),
    ('ab12', 2), ('12ab', 2), ('!?', 0), ('!a', 0), ('千里，之', 2), ('x<|endoftext|>', 1), (END_OF_TEXT, 0),
    ('<|endoftext|', 0), ('<|endoftex|', 10), ('a\ud840', 0), ('a\u0301', 1)])
def test_cut(text, place):
    assert cut(text) == place
    assert cut(text, end=True) == len(text)


@settings(max_examples=500, deadline=None, database=None)
@given(text=st.lists(st.one_of(
    st.sampled_from([END_OF_TEXT, END_OF_TEXT[:4], '|>', "'s", "'ll", "'", '   ', '\n \n', 'ab', '1½', '!', '人', '\ud83d',
                     '\ude00']),
    UNICODE), max_size=20).map(''.join), data=st.data())
def test_cut_changes_no_ids(twins, text, data):
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


def test_cut_looks_only_near_the_end():
    text = 'x ' + 'y' * 30_000_000 + ' z'
    assert cut(text) == len(text) - 2


@pytest.mark.parametrize('length', [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5])
def test_blocks(length):
    text = ('some words\n' * BLOCK)[:length]
    found = list(blocks(text))
    assert ''.join(found) == text
    assert all(0 < len(block) <= BLOCK for block in found) or not length


def test_blocks_without_a_place_to_cut():
    text = 'x ' + 'y' * 5 * BLOCK + ' z' * 5 * BLOCK
    found = list(blocks(text))
    assert ''.join(found) == text
    assert found[0] == 'x' and found[1].startswith(' y')
    assert len(found) > 3 and max(map(len, found)) <= 8 * BLOCK


# Merging

def test_merge_takes_the_lowest_rank_first():
    assert merge('abab', {('b', 'a'): 0, ('a', 'ba'): 1}) == ['aba', 'b']
    assert merge('abc', {('a', 'b'): 1, ('b', 'c'): 0}) == ['a', 'bc']


def test_merge_takes_the_leftmost_of_equals():
    assert merge('aaaaa', {('a', 'a'): 0}) == ['aa', 'aa', 'a']
    assert merge('aaaaa', {('a', 'a'): 0, ('aa', 'a'): 1}) == ['aa', 'aaa']


def test_merge_without_anything_to_do():
    assert merge('', {}) == []
    assert merge('a', {('a', 'a'): 0}) == ['a']
    assert merge('ab', {('b', 'a'): 0}) == ['a', 'b']


@settings(max_examples=100, deadline=None, database=None)
@given(st.text('aab', min_size=1, max_size=200), st.text('aab', max_size=200))
def test_both_ways_to_merge_agree(learned_from, text):
    ranks = {pair: rank for rank, pair in enumerate(learn_vocabulary([learned_from], 280)[1])}
    assert merge(text, ranks) == merge_long(text, ranks)


def test_long_pieces_merge_as_short_ones_do(toy, monkeypatch):
    text = ''.join(LETTERS[:3_000])
    ids = toy.encode(text)
    monkeypatch.setattr(encoder, 'LONGEST_SIMPLE', len(text))
    toy._atoms.clear()
    assert toy.encode(text) == ids


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
def test_textbook(learned_from, text):
    ids, merges = learn_vocabulary([learned_from], 280)
    assert Encoder(ids, merges).encode(text) == textbook(text, ids, merges)


def test_textbook_on_english():
    ids, merges = learn_vocabulary([ENGLISH[:10_000]], 700)
    assert Encoder(ids, merges).encode(ENGLISH[8_000:14_000]) == textbook(ENGLISH[8_000:14_000], ids, merges)


# GPT-2's own vocabulary

def test_gpt2_has_50257_tokens(gpt2):
    assert (gpt2.n_vocab, gpt2.end_of_text) == (50257, 50256)


@pytest.mark.parametrize('text, ids', [
    ('Hello world', [15496, 995]), (' merges', [4017, 3212]), (' lowest', [9016]), ('a<|endoftext|>b', None)])
def test_gpt2_examples(gpt2, text, ids):
    assert gpt2.encode_with_special(text) == (ids or [64, 50256, 65])


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


def test_end_of_text_is_special_only_when_asked(toy):
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
def test_atoms_change_no_ids(learned_from, text):
    ids, merges = learn_vocabulary([learned_from], 275)
    assert Encoder(ids, merges).encode(text) == textbook(text, ids, merges)


def test_atoms():
    assert atom_pattern(['a', 'Ġ']).findall(spell(' aéè中a')) == ['Ġa', spell('é'), spell('è'), spell('中a')]
    assert atom_pattern(['a', spell('aé')]).findall(spell('aéèé')) == [spell('aé'), spell('è'), spell('é')]
    assert atom_pattern([spell('è')[1:] + spell('é')[:1]]).findall(spell('aéèé')) == ['a', spell('é'), spell('èé')]
    assert atom_pattern([]).findall(spell('é\né')) == [spell('é')] * 2


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


def test_tables_are_bounded(toy_directory, toy, monkeypatch):
    monkeypatch.setattr(encoder, 'CACHE_SIZE', 50)
    small = load_encoder(toy_directory)
    for line in (CODE + SAMPLES['scripts'] * 3).splitlines():
        assert small.encode(line) == toy.encode(line)
        for table in (small._parts, small._atoms):
            assert len(table) <= 50 and len(table.old) <= 50
    assert len(small._atoms) > 0
    kept = set(small._parts)
    small.encode('x' * (encoder.LONGEST_CACHED + 1))
    assert set(small._parts) == kept


def test_tables_keep_what_is_used(toy_directory, monkeypatch):
    monkeypatch.setattr(encoder, 'CACHE_SIZE', 50)
    small = load_encoder(toy_directory)
    small.encode('often')
    monkeypatch.setattr(small._parts, 'work_out', lambda part: b'' if part != 'often' else pytest.fail('forgotten'))
    for i in range(1000):
        small.encode(f' {i} often'.removesuffix(' often'))
        small.encode('often')


def test_processes_made_by_fork_encode(toy):
    context = multiprocessing.get_context('fork')
    with context.Pool(2) as pool:
        assert pool.map(toy.encode, [CODE, ENGLISH[:1000]]) == [toy.encode(CODE), toy.encode(ENGLISH[:1000])]


# Files

def test_get_encoder_finds_models_by_name(toy_directory, toy, tmp_path):
    model = tmp_path / 'somewhere' / '124M'
    model.mkdir(parents=True)
    (model / 'hparams.json').write_text('{}')
    for name in ('encoder.json', 'vocab.bpe'):
        (model / name).write_bytes((toy_directory / name).read_bytes())
    for name in ('124M', '117M'):
        assert get_encoder(name, str(tmp_path / 'somewhere')).encode(CODE) == toy.encode(CODE)
    with pytest.raises(UserError, match='no model .mine.'):
        get_encoder('mine', str(tmp_path / 'somewhere'))


@pytest.mark.parametrize('ending', ['', '\n', '\n\n', '\r\n'])
def test_line_ends_of_vocab_bpe(tmp_path, ending):
    write_vocabulary(tmp_path, *vocabulary('l o', 'lo w'))
    newline = '\r\n' if '\r' in ending else '\n'
    (tmp_path / 'vocab.bpe').write_bytes((newline.join(['#version: 0.2', 'l o', 'lo w']) + ending).encode())
    assert load_encoder(tmp_path).encode('low lo') == Encoder(*vocabulary('l o', 'lo w')).encode('low lo')


@pytest.mark.parametrize('position', [0, 256, 258])
def test_end_of_text_may_have_any_id(tmp_path, position):
    ids, merges = vocabulary('l o', 'lo w')
    tokens = list(ids)[:-1]
    tokens.insert(position, END_OF_TEXT)
    write_vocabulary(tmp_path, {token: id for id, token in enumerate(tokens)}, merges)
    moved = load_encoder(tmp_path)
    assert moved.encode_with_special(f'low{END_OF_TEXT}') == [tokens.index('low'), position]
    assert moved.decode([position]) == END_OF_TEXT


def with_ids(**changes):
    """An encoder.json with other ids; None takes a token out."""
    ids = vocabulary('l o', 'lo w')[0] | changes
    return json.dumps({token: id for token, id in ids.items() if id is not None}).encode()


@pytest.mark.parametrize('content, fault', [
    (None, 'cannot read .*encoder.json: No such file'),
    (b'{"a": 0,\n "\xff": 1}', 'encoder.json line 2 is not UTF-8'),
    (b'{"a": 0', 'encoder.json is not JSON: .*line 1'),
    (b'', 'encoder.json is not JSON'),
    (b'[' * 100_000, 'encoder.json is not JSON'),
    (b'["a", "b"]', 'encoder.json must hold an object that gives each token its id'),
    (with_ids(lo='256'), 'encoder.json must hold an object'),
    (with_ids(lo=256.0), 'encoder.json must hold an object'),
    (with_ids(a=True), 'encoder.json must hold an object'),
    (with_ids(lo=255), 'encoder.json holds 259 tokens, so their ids must be 0 to 258, each once'),
    (with_ids(lo=259), 'encoder.json holds 259 tokens, so their ids must be 0 to 258, each once'),
    (with_ids(lo=-1), 'encoder.json holds 259 tokens, so their ids must be 0 to 258, each once'),
    (with_ids(Ń=None, low=255, **{END_OF_TEXT: 257}), "encoder.json lacks the token 'Ń'"),
    (with_ids(**{END_OF_TEXT: None}), r"encoder.json lacks the token '<\|endoftext\|>'"),
    (with_ids(**{'two words': 259}), "encoder.json: .* ' ' is none"),
    (with_ids(中=259), "encoder.json: .* '中' is none"),
])
def test_broken_encoder_json(tmp_path, content, fault):
    write_vocabulary(tmp_path, *vocabulary('l o', 'lo w'))
    if content is None:
        (tmp_path / 'encoder.json').unlink()
    else:
        (tmp_path / 'encoder.json').write_bytes(content)
    with pytest.raises(UserError, match=fault):
        load_encoder(str(tmp_path))


@pytest.mark.parametrize('content, fault', [
    (None, 'cannot read .*vocab.bpe: No such file'),
    (b'#version: 0.2\nl o\nlo \xff\n', 'vocab.bpe line 3 is not UTF-8'),
    (b'', 'vocab.bpe line 1: expected .#version: 0.2., not'),
    (b'l o\nlo w\n', "vocab.bpe line 1: expected '#version: 0.2', not 'l o'"),
    (b'#version: 0.2\nl o\nlo w x\n', "vocab.bpe line 3: expected two tokens, not 'lo w x'"),
    (b'#version: 0.2\nlo\nlo w\n', "vocab.bpe line 2: expected two tokens, not 'lo'"),
    (b'#version: 0.2\nl o\n\nlo w\n', "vocab.bpe line 3: expected two tokens, not ''"),
    (b'#version: 0.2\nl o\ne r\n', "vocab.bpe line 3: 'er' is not in encoder.json"),
    (b'#version: 0.2\nl o\nlow er\n', "vocab.bpe line 3: 'low' is neither a byte nor made by an earlier line"),
    (b'#version: 0.2\nl o\nlo 0x\n', "vocab.bpe line 3: '0x' is neither a byte nor made by an earlier line"),
    (b'#version: 0.2\nlo w\nl o\n', "vocab.bpe line 2: 'lo' is neither a byte nor made by an earlier line"),
    (b'#version: 0.2\nl o\nlo w\nl o\n', "vocab.bpe line 4: 'l o' is on line 2 already"),
])
def test_broken_vocab_bpe(tmp_path, content, fault):
    write_vocabulary(tmp_path, *vocabulary('l o', 'lo w'))
    if content is None:
        (tmp_path / 'vocab.bpe').unlink()
    else:
        (tmp_path / 'vocab.bpe').write_bytes(content)
    with pytest.raises(UserError, match=fault):
        load_encoder(str(tmp_path))


def test_a_file_that_is_a_directory(tmp_path):
    (tmp_path / 'encoder.json').mkdir()
    with pytest.raises(UserError, match='cannot read .*encoder.json: Is a directory'):
        load_encoder(str(tmp_path))


@pytest.mark.parametrize('text', ['\n \xa0', 'a\n\u3000\n b', '\u2028\n\n\u2028', '\xa0\n'])
def test_newlines_among_other_white_space_are_kept(text):
    ids = {character: id for id, character in enumerate([*encoder.BYTE_CHARACTERS.values(), encoder.END_OF_TEXT])}
    enc = encoder.Encoder(ids, [])
    assert enc.decode(enc.encode(text)) == text
    assert enc.encode(text) == [ids[character] for character in encoder.spell(text)]
