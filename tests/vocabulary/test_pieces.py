"""pieces.py: pieces against the published pattern, and where texts are cut."""

import numpy as np
import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from text_samples import PUBLISHED_PIECE, SAMPLES, UNICODE
from vocabulary.pieces import BLOCK, PIECE, blocks, cut, kinds_of, split
from vocabulary.spelling import END_OF_TEXT, well_formed

# Pieces

@pytest.mark.parametrize('name', SAMPLES)
def test_pieces(name):
    assert PIECE.findall(SAMPLES[name]) == regex.findall(PUBLISHED_PIECE, SAMPLES[name])


@settings(max_examples=200, deadline=None, database=None)
@given(UNICODE)
def test_pieces_of_random_unicode(text):
    assert PIECE.findall(text) == regex.findall(PUBLISHED_PIECE, text)
    assert ''.join(PIECE.findall(text)) == text


NOWHERE, EVERYWHERE = np.zeros(2 ** 16, np.uint8), np.ones(2 ** 16, np.uint8)     # separable bytes


def split_text(text):
    return [part.decode() for part in split(text, NOWHERE)]


@pytest.mark.parametrize('name', SAMPLES)
def test_split_finds_the_pieces(name):
    text = well_formed(SAMPLES[name])
    assert split_text(text) == (PIECE.findall(text) or [''])


@settings(max_examples=500, deadline=None, database=None)
@given(st.one_of(UNICODE, st.text(" \t\n'sre!0aé–½", max_size=30)))
@example("it'sé 'sé !'sé  é\n\né a–b a1é é1 1½ \x1c\x1fa\u3000é")
@example("'s'll'd've a'tb're'x '' 's\n'sx\t'm 1'Re'r")
@example(' ')
def test_split_finds_the_pieces_of_random_unicode(text):
    text = well_formed(text)
    assert split_text(text) == (PIECE.findall(text) or [''])


@pytest.mark.parametrize('end', [0x80, 0x110000])
def test_split_knows_the_kind_of_every_character(end):
    """ASCII has a table of its own."""
    text = ''.join(f'a!{chr(i)}!' for i in range(end) if not 0xd800 <= i < 0xe000)
    assert split_text(text) == PIECE.findall(text)


def test_kinds():
    assert kinds_of("a1 \t\u3000'é\u0301½").tolist() == [1, 2, 4, 3, 3, 0, 1, 0, 2]


def test_split_between_separable_bytes():
    assert split('aé', EVERYWHERE) == [b'a', b'\xc3', b'\xa9']
    assert split('ab', EVERYWHERE) == [b'ab']           # not in ASCII
    separable = NOWHERE.copy()
    separable[0xa9 * 256 + 0xc3] = 1
    assert split('éé aé', separable) == ['é'.encode(), 'é'.encode(), ' aé'.encode()]


def test_split_refuses_surrogates():
    with pytest.raises(UnicodeEncodeError):
        split('a\ud83d', NOWHERE)


# Cutting

@pytest.mark.parametrize('text, position', [
    ('', 0), ('word', 0), ('two words', 3), ('a  ', 1), ('a  b', 1), (' a', 0), ('  ', 0), ("it's", 2), ("!'s", 0),
    ('x\n', 1),
    ('ab12', 2), ('12ab', 2), ('!?', 0), ('!a', 0), ('千里，之', 2), ('x<|endoftext|>', 1), (END_OF_TEXT, 0),
    ('<|endoftext|', 0), ('<|endoftex|', 10), ('a\ud840', 0), ('a\u0301', 1)])
def test_cut(text, position):
    assert cut(text) == position
    assert cut(text, end=True) == len(text)


def test_cut_reads_only_the_end_of_the_text():
    """From the start, so long a text would take minutes."""
    text = 'x ' + 'y' * 30_000_000 + ' z'
    assert cut(text) == len(text) - 2


@pytest.mark.parametrize('length', [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5])
def test_blocks(length):
    text = ('some words\n' * BLOCK)[:length]
    cuts = list(blocks(text))
    assert ''.join(cuts) == text
    assert all(0 < len(block) <= BLOCK for block in cuts) or not length


def test_blocks_without_a_position_to_cut():
    text = 'x ' + 'y' * 5 * BLOCK + ' z' * 5 * BLOCK
    cuts = list(blocks(text))
    assert ''.join(cuts) == text
    assert cuts[0] == 'x' and cuts[1].startswith(' y')
    assert len(cuts) > 3 and max(map(len, cuts)) <= 8 * BLOCK
