"""Which tokens must not come next."""

from sampling.bans import Bans, banned_sequences


def nexts(tokens, sequences=(), n=0, step=1):
    """What is banned after the first token, and after each `step` more."""
    bans = Bans(sequences, n)
    return [bans.next(tokens[:end]) for end in range(1, len(tokens) + 1, step)]


def test_the_last_token_of_a_sequence_is_banned_after_the_others():
    assert nexts([1, 2, 3, 1, 2], [(1, 2, 9), (2, 3), (2, 8), (7,)]) == [{7}, {7, 9, 3, 8}, {7}, {7}, {7, 9, 3, 8}]


def test_a_sequence_longer_than_the_text_bans_nothing():
    assert nexts([2], [(1, 2, 9)]) == [set()]
    assert nexts([5], n=4) == [set()]


def test_no_n_gram_comes_twice():
    tokens = [1, 2, 1, 2, 3, 1, 2]
    assert nexts(tokens, n=1) == [{1}, {1, 2}, {1, 2}, {1, 2}, {1, 2, 3}, {1, 2, 3}, {1, 2, 3}]
    assert nexts(tokens, n=2) == [set(), set(), {2}, {1}, set(), {2}, {1, 3}]
    assert nexts(tokens, n=3) == [set(), set(), set(), {1}, set(), set(), {1, 3}]
    for n in (1, 2, 3):     # a prompt comes with all its tokens
        assert nexts(tokens, n=n, step=3) == nexts(tokens, n=n)[::3]


def test_a_word_is_banned_with_and_without_a_space_before_it(toy):
    words = ['def', ' self', 'for the', '<|endoftext|>']
    expected = ['def', ' def', ' self', 'for the', ' for the']
    assert banned_sequences(toy, words) == {tuple(toy.encode(form)) for form in expected} | {
        (toy.end_of_text,), (*toy.encode(' '), toy.end_of_text)}
