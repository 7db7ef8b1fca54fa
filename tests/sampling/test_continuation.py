"""Where a text ends, and what of it may be shown before."""

import pytest

from command.errors import UserError
from sampling.continuation import Continuation, Settings

TOKENS = ['a', 'b', 'ab', 'abc', ' ', 'é'.encode()[:1], 'é'.encode()[1:], 'xyST', 'OPz', '<|endoftext|>']
EOT = len(TOKENS) - 1


class Bytes:
    """An encoder of a few tokens."""
    end_of_text = EOT

    def decode_bytes(self, ids):
        return b''.join(token.encode() if isinstance(token, str) else token for token in (TOKENS[id] for id in ids))


def write(ids, prompt='p', **settings):
    """The pieces of a text that these tokens are drawn for, until it ends, and the text."""
    text = Continuation(prompt, [0], Settings(**settings), [1, 0], Bytes(), default_length=100)
    pieces = [text.new_text()]
    for id in ids:
        assert text.stop_reason is None, 'it should have ended'
        text.accept(id, -0.5)
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


def test_truncated_nothing_of_a_stop_is_ever_shown():
    pieces, text = write([0, 7, 8], stop=('STOP', 'Sx'), truncate=True)
    assert (pieces, text.text) == (['a', 'xy', ''], 'axy')
    pieces, text = write([7, 0], stop=('STOP',), truncate=True, length=2)
    assert pieces == ['xy', 'STa']      # it was none


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


def test_only_whole_characters_are_shown():
    assert write([5, 6, 5], length=3)[0] == ['', 'é', '\ufffd']
    assert write([5, EOT], truncate=True)[1].text == '\ufffd'


def test_a_window_that_overflows_keeps_its_last_half():
    text = Continuation('', [0] * 7, Settings(), [1, 0], Bytes(), default_length=100)
    text.cached = True
    text.accept(1, 0)
    text.slide(8)
    assert (text.window, text.cached) == (0, True)
    text.accept(2, 0)
    text.slide(8)
    assert (text.window, text.cached, text.tokens[text.window:]) == (5, False, [0, 0, 1, 2])


@pytest.mark.parametrize(('settings', 'words'), [
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
def test_settings_that_will_not_do(settings, words):
    with pytest.raises(UserError, match=words):
        Settings(**settings)
