"""Tokens that must not come next: of banned words, and of repeated n-grams."""

import collections
from collections.abc import Iterable

from encoder import Encoder


def banned_sequences(encoder: Encoder, words: Iterable[str]) -> set[tuple[int, ...]]:
    """The tokens of each word or phrase, as it is and after a space: 'cat' -> those of 'cat' and of ' cat'."""
    forms = {form for word in words for form in (word, word if word.startswith(' ') else f' {word}')}
    return {tuple(encoder.encode_with_special(form)) for form in forms}


class Bans:
    """Which tokens must not continue a text, of which all tokens count, those of the prompt too.

    sequences: of tokens that must not occur; the last token of one is banned after its others. no_repeat_ngram: no
    sequence of so many tokens may occur twice (Paulus et al. 2018, section 2.5; 0 for no limit).
    """

    def __init__(self, sequences: Iterable[tuple[int, ...]], no_repeat_ngram: int):
        self._n = no_repeat_ngram
        self._after = collections.defaultdict(set)      # tokens -> those that are banned after them
        for *first, last in sequences:
            self._after[tuple(first)].add(last)
        self._lengths = set(map(len, self._after))
        self._seen = collections.defaultdict(set)       # first n - 1 tokens of each n-gram -> its last ones
        self._read = max(no_repeat_ngram - 1, 0)        # the n-grams that end before this offset are in `_seen`

    def next(self, tokens: list[int]) -> set[int]:
        """The tokens that must not come after these, which begin with those of the call before."""
        banned = set()
        for length in self._lengths:
            banned |= self._after.get(tuple(tokens[len(tokens) - length:]), set())
        if self._n:
            for end in range(self._read, len(tokens)):
                self._seen[tuple(tokens[end - self._n + 1:end])].add(tokens[end])
            self._read = max(self._read, len(tokens))
            banned |= self._seen.get(tuple(tokens[len(tokens) - self._n + 1:]), set())
        return banned
