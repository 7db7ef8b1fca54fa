"""special.py: texts that are one token each, in the encoder and where a text is cut."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from command.errors import UserError
from encoder import Encoder, load_encoder
from text_samples import ENGLISH, vocabulary
from vocabulary.files import write_vocabulary
from vocabulary.learn import learn_vocabulary
from vocabulary.pieces import cut
from vocabulary.special import ONLY_END_OF_TEXT, SpecialTokens, read_special_tokens, write_special_tokens
from vocabulary.spelling import END_OF_TEXT, spell

START, STOP = '<|im_start|>', '<|im_end|>'
# One token begins with another, one overlaps another, one has white space inside.
SPECIAL = SpecialTokens(STOP, (END_OF_TEXT, START, STOP, f'{STOP}\n', '<pad token>'), ('Grüezi mitenand', 'zi'))


@pytest.fixture(scope='module')
def chat():
    """An encoder with the tokens of SPECIAL."""
    ids, merges = learn_vocabulary([ENGLISH[:10_000]], 300)
    for text in SPECIAL.texts:
        ids.setdefault(spell(text), len(ids))
    return Encoder(ids, merges, SPECIAL)


def test_each_special_token_is_one_id(chat):
    assert chat.n_vocab == 306 and chat.end_of_text == 301
    for number, text in enumerate(SPECIAL.texts):
        assert chat.encode_with_special(text) == chat.encode_array(text).tolist() == [299 + number]
        assert len(chat.encode(text)) > 1 and chat.decode([299 + number]) == text
    assert chat.encode_with_special(f'{START}the {STOP}{STOP}\nGrüezi') == [
        300, *chat.encode('the '), 301, 302, *chat.encode('Grüe'), 305]       # the longest of those that begin first
    assert chat.encode_with_special('Grüezi mitenand zi') == [304, *chat.encode(' '), 305]
    assert chat.encode_with_special(f'\ud83d{STOP}') == [*chat.encode('\ufffd'), 301]


def test_without_the_file_end_of_text_alone_is_special(tmp_path):
    ids, merges = vocabulary('l o')
    write_vocabulary(tmp_path, ids | {spell(STOP): len(ids)}, merges)
    enc = load_encoder(str(tmp_path))
    assert enc.special_tokens is ONLY_END_OF_TEXT and enc.end_of_text == ids[END_OF_TEXT]
    assert len(ids) not in enc.encode_with_special(STOP)


# Cutting

@settings(max_examples=300, deadline=None, database=None)
@given(parts=st.lists(st.one_of(
    st.sampled_from([*SPECIAL.texts, START[:6], '_end|>', 'Grüezi', ' mitenand', '<pad', ' token>', ' ', '\n', "'s", 'ab', '人']),
    st.text(max_size=3)), max_size=20), data=st.data())
def test_a_special_token_is_never_cut(chat, parts, data):
    text, ids, start, end = ''.join(parts), [], 0, 0
    while end < len(text):
        end = data.draw(st.integers(end + 1, len(text)))
        length = cut(text[start:end], end == len(text), SPECIAL)
        ids += chat.encode_with_special(text[start:start + length])
        start += length
    assert ids == chat.encode_with_special(text)


@pytest.mark.parametrize(('text', 'position'), [
    ('a <|im', 1), ('a <|im_', 1), (START, 0), (f'{STOP} a', len(STOP)), ('b Grüezi ', 1), ('b Grüezi x', 8), ('b <pad ', 1),
    (f'x {STOP}\n', 1), (f'x {STOP}\nc d', 14)])
def test_cut_within_what_may_become_a_special_token(text, position):
    assert cut(text, special=SPECIAL) == position


# The file

def test_the_file_is_read_as_it_was_written(tmp_path):
    write_special_tokens(str(tmp_path), SPECIAL)
    assert read_special_tokens(str(tmp_path)) == SPECIAL
    write_special_tokens(str(tmp_path), SpecialTokens(STOP, (STOP,)))
    assert (tmp_path / 'special_tokens.json').read_text() == '{"end_of_text": "<|im_end|>", "special": ["<|im_end|>"]}\n'


def test_no_file_is_written_for_end_of_text_alone(tmp_path):
    write_special_tokens(str(tmp_path), ONLY_END_OF_TEXT)
    assert not list(tmp_path.iterdir())


def test_the_end_token_may_be_any_token_and_the_vocabulary_without_end_of_text(tmp_path):
    ids, merges = vocabulary('l o')
    del ids[END_OF_TEXT]
    write_vocabulary(tmp_path, {'</s>': 0, '<pad>': 1} | {token: id + 2 for token, id in ids.items()}, merges)
    with pytest.raises(UserError, match=r"encoder.json lacks the token '<\|endoftext\|>'"):
        load_encoder(str(tmp_path))
    write_special_tokens(str(tmp_path), SpecialTokens('</s>', ('</s>',)))
    enc = load_encoder(str(tmp_path))
    assert enc.end_of_text == 0 and enc.encode_with_special('lo</s>') == [258, 0]
    assert 1 not in enc.encode_with_special('<pad>')


def test_special_tokens_need_no_merge_wherever_they_are(tmp_path):
    ids, merges = vocabulary('l o')
    tokens = [STOP, *ids]
    write_vocabulary(tmp_path, {token: id for id, token in enumerate(tokens)}, merges)
    with pytest.raises(UserError, match=r"none of which makes the token '<\|im_end\|>'"):
        load_encoder(str(tmp_path))
    write_special_tokens(str(tmp_path), SpecialTokens(STOP, (STOP,)))
    assert load_encoder(str(tmp_path)).end_of_text == 0


@pytest.mark.parametrize(('content', 'words'), [
    ('{', 'special_tokens.json is not JSON'), ('[]', 'special_tokens.json must hold an object'),
    ({'end_of_text': STOP, 'special': [STOP], 'more': 1}, 'has unknown entries: more; expected only end_of_text, special, added'),
    ({'end_of_text': STOP}, 'special and added must be lists of texts, none of them empty'),
    ({'end_of_text': STOP, 'special': [STOP, '']}, 'special and added must be lists of texts, none of them empty'),
    ({'end_of_text': STOP, 'special': [STOP], 'added': 'a'}, 'special and added must be lists of texts, none of them empty'),
    ({'end_of_text': STOP, 'special': [END_OF_TEXT]}, r"end_of_text must be one of the texts in special, not '<\|im_end\|>'"),
    ({'special': [END_OF_TEXT]}, 'end_of_text must be one of the texts in special, not None'),
    ({'end_of_text': STOP, 'special': [STOP], 'added': [STOP]}, 'special_tokens.json lists a text twice'),
    ({'end_of_text': '\ud800', 'special': ['\ud800']}, 'holds half a surrogate pair'),
    ({'end_of_text': STOP, 'special': [STOP]}, r"encoder.json lacks the token '<\|im_end\|>', which special_tokens.json lists$")])
def test_a_broken_file_is_named(tmp_path, content, words):
    write_vocabulary(tmp_path, *vocabulary('l o'))
    (tmp_path / 'special_tokens.json').write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError, match=words) as error:
        load_encoder(str(tmp_path))
    assert '\n' not in str(error.value) and str(tmp_path) in str(error.value)
