"""Where a text ends, and what of it can be shown before."""

import pytest

from command.errors import UserError
from sampling.continuation import Continuation, SamplingSettings

TOKENS = ['a', 'b', 'ab', 'abc', ' ', 'é'.encode()[:1], 'é'.encode()[1:], 'xyST', 'OPz', '<|endoftext|>']
EOT = len(TOKENS) - 1


class Bytes:
    """An encoder of a few tokens."""
    end_of_text, n_vocab = EOT, len(TOKENS)

    def decode_bytes(self, ids):
        return b''.join(token.encode() if isinstance(token, str) else token for token in (TOKENS[id] for id in ids))


def write(ids, prompt='p', **settings):
    """Adds tokens to a text. Returns what it shows after each of them, and the text."""
    text = Continuation(prompt, [0], SamplingSettings(**settings), [1, 0], Bytes(), default_length=100)
    pieces = [text.new_text()]
    for id in ids:
        assert text.stop_reason is None, 'the text ended earlier'
        text.add(id, -0.5)
        pieces.append(text.new_text())
    assert ''.join(pieces) == text.text
    assert text.ids == list(ids) and text.log_probability == -0.5 * len(ids)
    return pieces[1:], text


def test_the_length_ends_a_text():
    pieces, text = write([0, 1, 2], length=3)
    assert (pieces, text.stop_reason) == (['a', 'b', 'ab'], 'length')


def test_a_stop_across_tokens_ends_a_text():
    pieces, text = write([0, 7, 8], stop=('STOP',))
    assert (pieces, text.text, text.stop_reason) == (['a', 'xyST', 'OP'], 'axySTOP', 'stop')


def test_nothing_of_a_truncated_stop_is_ever_shown():
    pieces, text = write([0, 7, 8], stop=('STOP', 'Sx'), truncate=True)
    assert (pieces, text.text) == (['a', 'xy', ''], 'axy')
    pieces, text = write([7, 0], stop=('STOP',), truncate=True, length=2)
    assert pieces == ['xy', 'STa']      # not a stop after all


def test_a_stop_may_be_the_beginning_of_a_text_or_all_but_its_last_character_shown_before():
    assert write([3], stop=('a',))[1].text == 'a'
    assert write([3], stop=('a',), truncate=True)[1].text == ''
    assert write([0, 1], stop=('ab',))[1].stop_reason == 'stop'
    assert write([7, 1, 1], stop=('STb?',), truncate=True, length=3)[0] == ['xy', '', 'STbb']


def test_a_seed_decides_the_random_numbers():
    def draw(*seed):
        text = Continuation('p', [0], SamplingSettings(), list(seed), Bytes(), default_length=100)
        return text.random.random()
    assert draw(1, 0) == draw(1, 0) != draw(1, 1)
    assert draw(None, 0) != draw(None, 0)


def test_the_defaults_change_nothing_about_the_model_s_distribution():
    settings = SamplingSettings()
    assert (settings.temperature, settings.top_k, settings.top_p, settings.repetition_penalty) == (1, 0, 0, 1)


def test_the_first_of_several_stops_counts():
    assert write([0, 3], stop=('c', 'ab'), truncate=True)[1].text == 'a'
    assert write([3], stop=('bc', 'c', 'b'))[1].text == 'ab'


def test_a_stop_in_the_prompt_does_not_count():
    _, text = write([0, 4, 1], prompt='ST', stop=('STa', 'T', 'STOP'), include_prompt=True, length=3)
    assert (text.text, text.stop_reason) == ('STa b', 'length')


def test_the_end_of_text_token():
    assert write([0, EOT])[1].text == 'a<|endoftext|>'
    assert write([0, EOT])[1].stop_reason == 'eot'
    assert write([0, EOT], truncate=True)[1].text == 'a'
    assert write([0, EOT, 1], stop_at_eot=False, length=3)[1].text == 'a<|endoftext|>b'


def test_the_end_of_text_token_can_be_a_stop():
    assert write([0, EOT], stop=('<|endoftext|>',), stop_at_eot=False)[1].stop_reason == 'stop'
    assert write([0, EOT], stop=('<|endoftext|>',), stop_at_eot=False, truncate=True)[1].text == 'a'


def test_only_complete_characters_are_shown():
    assert write([5, 6, 5], length=3)[0] == ['', 'é', '\ufffd']
    assert write([5, EOT], truncate=True)[1].text == '\ufffd'


def test_a_window_that_overflows_keeps_its_last_half():
    text = Continuation('', [0] * 7, SamplingSettings(), [1, 0], Bytes(), default_length=100)
    text.cached = True
    text.add(1, 0)
    text.slide(8)
    assert (text.window_start, text.cached) == (0, True)
    text.add(2, 0)
    text.slide(8)
    assert (text.window_start, text.cached, text.tokens[text.window_start:]) == (5, False, [0, 0, 1, 2])


def test_a_character_that_the_ids_of_a_prompt_begin_is_the_first_of_the_text():
    for include_prompt, expected in ((False, 'é'), (True, 'aé')):
        text = Continuation([0, 5], [0, 5], SamplingSettings(length=1, include_prompt=include_prompt), [1, 0], Bytes(), 100)
        text.add(6, -0.5)
        assert text.text == expected


def test_tokens_with_alternatives_begin_at_an_offset_of_the_text():
    text = Continuation('p', [0], SamplingSettings(length=4), [1, 0], Bytes(), 100, logprobs=1)
    for token in (3, 5, 6, 1):
        text.add(token, -token, [(token, -token)])
    assert (text.text, text.offsets, text.log_probabilities) == ('abcéb', [0, 3, 3, 4], [-3, -5, -6, -1])
    assert text.alternatives == [[(3, -3)], [(5, -5)], [(6, -6)], [(1, -1)]]


def test_penalties_count_what_was_drawn():
    text = Continuation('p', [2], SamplingSettings(presence_penalty=0.5, frequency_penalty=2), [1, 0], Bytes(), 100)
    assert text.changed_logits() == {}
    for token in (0, 1, 0):
        text.add(token, -1)
    assert text.changed_logits() == {0: -4.5, 1: -2.5}


@pytest.mark.parametrize(('settings', 'words'), [
    ({'presence_penalty': float('nan')}, 'presence_penalty must be a number from -100 to 100, not nan'),
    ({'frequency_penalty': '1'}, "frequency_penalty must be a number from -100 to 100, not '1'"),
    ({'length': 0}, 'length must be a whole number, 1 or more, not 0'),
    ({'top_k': True}, 'top_k must be a whole number, 0 or more, not True'),
    ({'temperature': -1}, 'temperature must be a number, 0 or more, not -1'),
    ({'temperature': float('nan')}, 'temperature must be a number'),
    ({'top_p': 1.5}, 'top_p must be a number, 0 to 1, not 1.5'),
    ({'repetition_penalty': 0}, 'repetition_penalty must be more than 0'),
    ({'stop': ('a', '')}, 'stop must be a string, and not an empty one'),
    ({'stop': 'ab'}, 'stop must be a tuple of strings'),
    ({'truncate': 'yes'}, "truncate must be True or False, not 'yes'"),
])
def test_invalid_settings(settings, words):
    with pytest.raises(UserError, match=words):
        SamplingSettings(**settings)
