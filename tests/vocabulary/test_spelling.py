"""spelling.py: the characters that stand for bytes, and surrogates."""

import pytest

from vocabulary.spelling import BYTE_CHARACTERS, CHARACTER_BYTES, spell, well_formed


def test_byte_characters_are_gpt2s():
    characters = list(BYTE_CHARACTERS.values())
    assert len(set(characters)) == len(BYTE_CHARACTERS) == 256
    assert ''.join(characters[:5] + characters[93:96] + characters[186:190]) == '!"#$%~¡¢þÿĀā'
    assert {byte: BYTE_CHARACTERS[byte] for byte in b' \n\t\0\x7f\xa0\xad'} == {
        ord(' '): 'Ġ', ord('\n'): 'Ċ', ord('\t'): 'ĉ', 0: 'Ā', 0x7f: 'ġ', 0xa0: 'ł', 0xad: 'Ń'}


def test_character_bytes_is_the_inverse():
    assert [CHARACTER_BYTES[ord(BYTE_CHARACTERS[byte])] for byte in range(256)] == list(range(256))


def test_spell():
    assert spell(' café\n') == 'ĠcafÃ©Ċ'
    with pytest.raises(UnicodeEncodeError):
        spell('a\ud83d')


def test_well_formed():
    assert well_formed('a\ud83d b\udc00') == 'a\ufffd b\ufffd'
    assert well_formed('\ud83d\ude00 é') == '😀 é'
