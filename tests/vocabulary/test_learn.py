"""learn.py against examples worked by hand, a textbook implementation, and the tokenizers library."""

import json
import random
from collections import Counter
from itertools import pairwise

import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from encoder import Encoder
from optional import HUGGINGFACE, needs
from text_samples import CODE, PUBLISHED_PIECE
from vocabulary.learn import count_pieces, learn_vocabulary
from vocabulary.spelling import BYTE_CHARACTERS, END_OF_TEXT, spell

BYTES = list(BYTE_CHARACTERS.values())


def learned(texts, n_merges):
    """The merges as lines of vocab.bpe."""
    return [' '.join(pair) for pair in learn_vocabulary(texts, 257 + n_merges)[1]]


def textbook(texts, n_merges):
    """Merges by the simplest algorithm: count all pairs, merge the most frequent, count again."""
    counts = Counter()
    for text in texts:
        for document in text.split(END_OF_TEXT):
            counts.update(regex.findall(PUBLISHED_PIECE, document))
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

def test_merges_the_most_frequent_pair_and_of_equals_the_lowest_ids():
    # l o and o w occur three times, then Ġ l twice; after l o: lo w three times; after lo w: Ġ low twice.
    assert learned(['low low lower'], 3) == ['l o', 'lo w', 'Ġ low']
    assert learned(['ba ba ab ab'], 1) == ['a b']
    assert learned(['ca ca cb cb'], 1) == ['Ġ c']       # three times, because of the spaces
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


def test_the_order_of_texts_makes_no_difference():
    lines = CODE.splitlines()
    shuffled = random.Random(1).sample(lines, len(lines))
    assert learned(lines, 300) == learned(iter(shuffled), 300)


def test_shows_no_progress_without_a_terminal(capfd):
    learned([CODE], 50)
    assert capfd.readouterr() == ('', '')


# Against other implementations

@settings(max_examples=100, deadline=None, database=None)
@given(st.lists(st.text('aab é', max_size=60), max_size=4), st.integers(0, 30))
@example(['aaaa aaa aaaaaaa aaaa aaaaaaaa'], 30)
@example([f'abab{END_OF_TEXT}abab', 'ba'], 30)
def test_textbook(texts, n_merges):
    ids, merges = learn_vocabulary(texts, 257 + n_merges)
    assert merges == textbook(texts, n_merges)
    assert len(ids) == 257 + len(merges)        # no merge makes a token that exists already


def test_textbook_on_code():
    text = CODE[:15_000]
    assert learn_vocabulary([text], 257 + 100)[1] == textbook([text], 100)


def test_tokenizers_learns_the_same_merges():
    tokenizers = needs('tokenizers', HUGGINGFACE)
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    theirs.train_from_iterator([CODE], tokenizers.trainers.BpeTrainer(
        vocab_size=2000 - 1, min_frequency=2, initial_alphabet=alphabet, show_progress=False))
    merges = json.loads(theirs.to_str())['model']['merges']
    assert learn_vocabulary([CODE], 2000)[1] == [tuple(pair) for pair in merges]


def test_one_long_word():
    word = ''.join(random.Random(0).choices('etaoinshrdlu', k=40_000))
    ids, merges = learn_vocabulary([word], 2000)
    encoder = Encoder(ids, merges)
    tokens = encoder.encode(word)
    assert len(ids) == 2000
    assert encoder.decode(tokens) == word
    assert len(tokens) < len(word) / 2.5
