"""Windows over a corpus: every token is scored once, from a long context; bytes and words of the scored text."""

import numpy as np
import pytest

from corpus import windows
from encoder import load_encoder
from vocabulary.spelling import END_OF_TEXT


def test_the_example_of_the_docstring():
    chunk = np.arange(8)
    [(tokens, scored)] = windows.first_windows([chunk, chunk[:1], chunk[:0]], 4)
    assert (tokens.tolist(), scored) == ([0, 1, 2, 3, 4], 4)
    assert [(tokens.tolist(), scored) for tokens, scored in windows.later_windows([chunk], 4, 2)] == [
        ([2, 3, 4, 5, 6], 2), ([3, 4, 5, 6, 7], 1)]


@pytest.mark.parametrize('size', [0, 1, 2, 5, 6, 7, 40])
@pytest.mark.parametrize(('length', 'stride'), [(5, 5), (5, 1), (5, 2), (1, 1)])
def test_each_token_is_scored_once_from_a_long_context(size, length, stride):
    chunk = np.arange(100, 100 + size, dtype=np.uint16)
    chunk.flags.writeable = False
    scored = []
    for some in (windows.first_windows([chunk], length), windows.later_windows([chunk], length, stride)):
        for batch in windows.batches(some, length, 2):
            assert len(batch.inputs) <= 2 and set(np.unique(batch.weights)) <= {0, 1}
            for inputs, labels, weights in zip(*batch):
                for i in np.flatnonzero(weights):
                    assert labels[i] == inputs[i] + 1
                    assert i + 1 >= min(length - stride + 1, labels[i] - 100)
                    scored.append(labels[i])
    assert sorted(scored) == list(chunk[1:])
    assert windows.scored_tokens([chunk]) == len(scored)


def test_bytes_and_words_of_a_text(settings_directory, monkeypatch):
    encoder = load_encoder(str(settings_directory))
    text = f'x the dog\u00a0héllo ☃☃  end{END_OF_TEXT}{END_OF_TEXT}two words\n'
    ids = np.array(encoder.encode_with_special(text), np.uint16)
    scored = text[1:].replace(END_OF_TEXT, '')
    for block in (1, 2, 3, 1000):       # also such that cut words and characters
        monkeypatch.setattr(windows, 'BLOCK', block)
        assert windows.measure_text(encoder, [ids]) == (len(scored.encode()), 7)
        assert windows.measure_text(encoder, [ids, ids, ids[:1]]) == (2 * len(scored.encode()), 14)


def test_half_a_character_at_the_end_is_a_word(settings_directory):
    encoder = load_encoder(str(settings_directory))
    half, *rest = encoder.encode('☃')
    assert rest
    assert windows.measure_text(encoder, [np.array([*encoder.encode('x a '), half])]) == (3 + 1, 2)
