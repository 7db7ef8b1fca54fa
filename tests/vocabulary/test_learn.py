"""learn_vocabulary.py against examples worked by hand, the textbook's algorithm, the tokenizers library, and its files."""

import argparse
import inspect
import json
import os
import random
from collections import Counter
from itertools import pairwise

import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from command.errors import UserError
from encoder import Encoder, load_encoder
from vocabulary.files import write_vocabulary
from vocabulary.learn import count_pieces, learn_vocabulary
from vocabulary.spelling import BYTE_CHARACTERS, END_OF_TEXT, spell

CODE = inspect.getsource(argparse)
BYTES = list(BYTE_CHARACTERS.values())


def learned(texts, n_merges):
    """The merges as lines of vocab.bpe."""
    return [' '.join(pair) for pair in learn_vocabulary(texts, 257 + n_merges)[1]]


def textbook(texts, n_merges):
    """Merges by the algorithm as it is told: count all pairs, merge the most frequent, begin again."""
    counts = Counter()
    for text in texts:
        for document in text.split(END_OF_TEXT):
            counts.update(regex.findall(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
                                        document))
    words = [(list(spell(piece)), count) for piece, count in counts.items()]
    tokens, merges = list(BYTES), []
    while len(merges) < n_merges:
        frequencies = Counter()
        for symbols, count in words:
            for pair in pairwise(symbols):
                frequencies[pair] += count
        if not frequencies or max(frequencies.values()) < 2:
            break
        left, right = min(frequencies, key=lambda pair: (-frequencies[pair], *map(tokens.index, pair)))
        for symbols, _ in words:
            i = 0
            while i < len(symbols) - 1:
                if symbols[i] == left and symbols[i + 1] == right:
                    symbols[i:i + 2] = [left + right]
                i += 1
        merges.append((left, right))
        tokens.append(left + right)
    return merges


# Worked by hand

def test_the_most_frequent_pair_first_and_of_equals_the_lowest_ids():
    # l o and o w occur three times, then Ġ l twice; after l o: lo w three times; after lo w: Ġ low twice.
    assert learned(['low low lower'], 3) == ['l o', 'lo w', 'Ġ low']
    assert learned(['ba ba ab ab'], 1) == ['a b']
    assert learned(['ca ca cb cb'], 1) == ['Ġ c']       # three times, by the spaces
    assert learned(['cb\ncb\nca\nca'], 2) == ['c a', 'c b']


def test_a_run_of_one_letter_is_merged_from_the_left():
    # aaaaa has four pairs a a; then aa aa a has one of each kind, and in two such words each comes twice. a aa does not
    # occur, and of aa a and aa aa the first has the lower ids; it leaves aa aaa.
    assert learned(['aaaaa\naaaaa'], 9) == ['a a', 'aa a', 'aa aaa']


def test_ids():
    ids, merges = learn_vocabulary(['low low lower'], 260)
    assert list(ids.values()) == list(range(260))
    assert list(ids) == [*BYTES, 'lo', 'low', 'Ġlow', END_OF_TEXT]
    assert merges == [('l', 'o'), ('lo', 'w'), ('Ġ', 'low')]


def test_stops_when_no_pair_occurs_twice():
    ids, merges = learn_vocabulary(['low low lower'], 50257)
    assert merges == [('l', 'o'), ('lo', 'w'), ('Ġ', 'low')]
    assert len(ids) == 260


@pytest.mark.parametrize('texts', [[], [''], [END_OF_TEXT * 5], ['abc'], ['a b c d']])
def test_nothing_to_learn(texts):
    assert learn_vocabulary(texts, 1000) == ({token: id for id, token in enumerate([*BYTES, END_OF_TEXT])}, [])


def test_the_smallest_vocabulary():
    assert len(learn_vocabulary(['low low lower'], 257)[0]) == 257
    for n_vocab in (256, 0, -1):
        with pytest.raises(ValueError, match=f'n_vocab must be 257 or more, not {n_vocab}'):
            learn_vocabulary(['low low lower'], n_vocab)


def test_texts_and_end_of_text_separate():
    assert count_pieces(['to be', ' be', f'to {END_OF_TEXT}be']) == {'to': 2, ' be': 2, ' ': 1, 'be': 1}
    assert learned(['a', 'b', 'a', 'b'], 9) == []
    assert learned([f'a{END_OF_TEXT}b{END_OF_TEXT}a{END_OF_TEXT}b'], 9) == []
    assert not any('<' in token or 'endof' in token for token in learned([END_OF_TEXT.join(['word'] * 9)], 99))


def test_lone_surrogates_become_replacement_characters():
    assert learned(['a\ud83d b\ud83d'], 99) == learned(['a\ufffd b\ufffd'], 99) != []


def test_does_not_depend_on_the_order_of_texts():
    lines = CODE.splitlines()
    shuffled = random.Random(1).sample(lines, len(lines))
    assert learned(lines, 300) == learned(iter(shuffled), 300)


def test_is_silent_where_nobody_watches(capfd):
    learned([CODE], 50)
    assert capfd.readouterr() == ('', '')


# Against others

@settings(max_examples=100, deadline=None, database=None)
@given(st.lists(st.text('aab é', max_size=60), max_size=4), st.integers(0, 30))
@example(['aaaa aaa aaaaaaa aaaa aaaaaaaa'], 30)
@example([f'abab{END_OF_TEXT}abab', 'ba'], 30)
def test_textbook(texts, n_merges):
    ids, merges = learn_vocabulary(texts, 257 + n_merges)
    assert merges == textbook(texts, n_merges)
    assert len(ids) == 257 + len(merges)        # no merge makes a token that is there already


def test_textbook_on_code():
    text = CODE[:15_000]
    assert learn_vocabulary([text], 257 + 100)[1] == textbook([text], 100)


def test_tokenizers_learns_the_same():
    tokenizers = pytest.importorskip('tokenizers', reason='tokenizers is not installed')
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    theirs.train_from_iterator([CODE], tokenizers.trainers.BpeTrainer(
        vocab_size=2000 - 1, min_frequency=2, initial_alphabet=alphabet, show_progress=False))
    merges = json.loads(theirs.to_str())['model']['merges']
    assert learn_vocabulary([CODE], 2000)[1] == [tuple(pair) for pair in merges]


def test_one_long_word():
    word = ''.join(random.Random(0).choices('etaoinshrdlu', k=100_000))
    ids, merges = learn_vocabulary([word], 4000)
    encoder = Encoder(ids, merges)
    tokens = encoder.encode(word)
    assert len(ids) == 4000
    assert encoder.decode(tokens) == word
    assert len(tokens) < len(word) / 2.5


# Files

def test_written_and_read_again(tmp_path):
    ids, merges = learn_vocabulary([CODE, 'é中😀 é中😀'], 600)
    write_vocabulary(str(tmp_path), ids, merges)
    encoder = load_encoder(str(tmp_path))
    text = CODE + 'é中😀\r\n\0'
    assert encoder.n_vocab == len(ids) == 600
    assert encoder.end_of_text == 599
    assert encoder.encode(text) == Encoder(ids, merges).encode(text)
    assert encoder.decode(encoder.encode(text)) == text


def test_files_to_the_letter(tmp_path):
    write_vocabulary(str(tmp_path), {'a': 0, 'Ġ"': 1, END_OF_TEXT: 2}, [('Ġ', '"'), ('a', 'a')])
    assert (tmp_path / 'encoder.json').read_bytes() == b'{"a": 0, "\\u0120\\"": 1, "<|endoftext|>": 2}'
    assert (tmp_path / 'vocab.bpe').read_bytes() == '#version: 0.2\nĠ "\na a\n'.encode()


def test_gpt2s_own_files_to_the_letter(tmp_path):
    directory = os.environ.get('GPT2_VOCABULARY')
    if not directory:
        pytest.skip('GPT2_VOCABULARY does not name a directory with encoder.json and vocab.bpe of GPT-2')
    contents = {}
    for name in ('encoder.json', 'vocab.bpe'):
        with open(os.path.join(directory, name), 'rb') as file:
            contents[name] = file.read()
    merges = [tuple(line.split()) for line in contents['vocab.bpe'].decode().split('\n')[1:-1]]
    write_vocabulary(str(tmp_path), json.loads(contents['encoder.json']), merges)
    for name, content in contents.items():
        assert (tmp_path / name).read_bytes() == content


@pytest.mark.parametrize('name', ['encoder.json', 'vocab.bpe'])
def test_a_file_that_cannot_be_written(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=f'cannot write .*{name}: Is a directory'):
        write_vocabulary(str(tmp_path), *learn_vocabulary([], 257))
