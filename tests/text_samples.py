"""Texts of many kinds, and small vocabularies, for the tests."""

import argparse
import inspect
import pydoc_data.topics
import random

from hypothesis import strategies as st

from vocabulary.spelling import BYTE_CHARACTERS, END_OF_TEXT

# As GPT-2's authors published it; pieces.PIECE must give the same pieces.
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

# What may lie in the place of a model's file.
LFS_POINTER = b'version https://git-lfs.github.com/spec/v1\noid sha256:0f3a\nsize 497759232\n'
WEB_PAGE = b'\n<!DOCTYPE html>\n<html><head><title>404</title></head></html>\n'

# Only assigned characters: tiktoken and the regex package may disagree about those that Python's tables lack.
ASSIGNED = st.characters(exclude_categories=['Cn'])
COMMON = " \t\r\n'saZ0é½中😀\u0301\u200d\ud83d\ude00"
UNICODE = st.text(st.one_of(st.sampled_from(COMMON), ASSIGNED), max_size=60)


def vocabulary(*pairs):
    """(ids, merges) of a vocabulary of the bytes and the given merges: vocabulary('l o', 'lo w')."""
    merges = [tuple(pair.split()) for pair in pairs]
    tokens = [*BYTE_CHARACTERS.values(), *map(''.join, merges), END_OF_TEXT]
    return {token: id for id, token in enumerate(tokens)}, merges
