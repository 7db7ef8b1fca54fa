"""Requests are checked, and answers have the shape of OpenAI's: with an encoder and events made by hand."""

import json

import pytest

from fake_generator import EOT, FakeGenerator
from sampling.continuation import SMALLEST, SamplingSettings
from serving import requests
from serving.batcher import FINISHED, Batcher
from serving.completions import Answer, spelled
from serving.schema import Limits

LIMITS = Limits(n_vocab=EOT + 1, n_ctx=16, max_tokens=20, texts=4)


def read(**content):
    return requests.read(content, 'tiny', FakeGenerator().encoder, LIMITS)


def complete(**content):
    """The answer to a request, and its parts."""
    generator = FakeGenerator()
    events, batcher = [], Batcher(generator, batch_size=2, queue=4)
    answer = Answer(read(**content), 'tiny', generator)
    parts, job = answer.begin(), answer.job(events.append)
    if job:
        batcher.submit(job)
        while FINISHED not in events[-1:]:
            batcher.turn()
    for event in events[:-1]:
        parts += answer.take(event)
    return answer.whole(), [*parts, *answer.usage_part()]


def joined(parts):
    """What a client makes of the parts of a stream: text, tokens and offsets of each choice."""
    found = {}
    for part in parts:
        for choice in part['choices']:
            text, tokens, offsets = found.get(choice['index'], ('', [], []))
            logprobs = choice['logprobs'] or {'tokens': [], 'text_offset': []}
            found[choice['index']] = (text + choice['text'], tokens + logprobs['tokens'], offsets + logprobs['text_offset'])
    return found


def test_an_answer():
    whole, parts = complete(prompt='a', max_tokens=3)
    assert whole.pop('id').startswith('cmpl-') and whole.pop('created') > 10 ** 9
    assert whole == {'object': 'text_completion', 'model': 'tiny', 'choices': [
        {'index': 0, 'text': 'bcd', 'logprobs': None, 'finish_reason': 'length'}],
        'usage': {'prompt_tokens': 1, 'completion_tokens': 3, 'total_tokens': 4}}
    assert [part['choices'][0]['text'] for part in parts] == ['b', 'c', 'd']
    assert [part['choices'][0]['finish_reason'] for part in parts] == [None, None, 'length']


def test_several_texts_of_several_prompts():
    whole, parts = complete(prompt=['a', 'm'], n=2, max_tokens=2, best_of=2)
    assert [(choice['index'], choice['text']) for choice in whole['choices']] == [(0, 'bc'), (1, 'bc'), (2, 'no'), (3, 'no')]
    assert {index: text for index, (text, *_) in joined(parts).items()} == {0: 'bc', 1: 'bc', 2: 'no', 3: 'no'}
    assert whole['usage'] == {'prompt_tokens': 2, 'completion_tokens': 8, 'total_tokens': 10}


@pytest.mark.parametrize('prompt', [[0], [[0]], ['a'], 'a'])
def test_each_form_of_a_prompt(prompt):
    assert complete(prompt=prompt, max_tokens=1)[0]['choices'][0]['text'] == 'b'


@pytest.mark.parametrize('prompt', [None, '', [''], [EOT]])
def test_no_prompt_begins_a_document(prompt):
    [choice] = complete(prompt=prompt, max_tokens=1, echo=True)[0]['choices']
    assert choice['text'] == '<|endoftext|>b'


def test_logprobs():
    whole, parts = complete(prompt='c', max_tokens=2, logprobs=1, return_token_ids=True)
    [choice] = whole['choices']
    assert choice['logprobs'] == {'tokens': ['d', 'e'], 'token_logprobs': [-0.5, -0.5], 'text_offset': [0, 1],
                                  'top_logprobs': [{'d': -0.5}, {'e': -0.5}]}
    assert (choice['token_ids'], choice['prompt_token_ids']) == ([3, 4], [2])
    assert parts[0]['choices'][0] | {'logprobs': None} == {
        'index': 0, 'text': '', 'logprobs': None, 'finish_reason': None, 'token_ids': [], 'prompt_token_ids': [2]}
    assert joined(parts) == {0: ('de', ['d', 'e'], [0, 1])}
    assert complete(prompt='c', max_tokens=1, logprobs=2)[0]['choices'][0]['logprobs']['top_logprobs'] == [{'d': -0.5, 'a': -2.0}]
    assert complete(prompt='c', max_tokens=1, logprobs=0)[0]['choices'][0]['logprobs']['top_logprobs'] == [{'d': -0.5}]


def test_a_prompt_that_is_scored():
    whole, parts = complete(prompt=['abc', 'm'], max_tokens=0, echo=True, logprobs=1)
    first, second = whole['choices']
    assert (first['text'], first['finish_reason']) == ('abc', 'length')
    # The alternatives of the fake, and the token itself.
    assert first['logprobs'] == {'tokens': ['a', 'b', 'c'], 'token_logprobs': [None, -1.5, -1.5], 'text_offset': [0, 1, 2],
                                 'top_logprobs': [None, {'a': -1.0, 'b': -1.5}, {'a': -1.0, 'c': -1.5}]}
    assert second['logprobs']['token_logprobs'] == [None]
    assert joined(parts) == {0: ('abc', ['a', 'b', 'c'], [0, 1, 2]), 1: ('m', ['m'], [0])}
    assert whole['usage'] == {'prompt_tokens': 4, 'completion_tokens': 0, 'total_tokens': 4}


def test_an_echo_with_a_continuation():
    for stream in (False, True):
        whole, parts = complete(prompt='ab', max_tokens=2, echo=True, logprobs=0, stream=stream)
        assert whole['choices'][0]['text'] == 'abcd'
        assert whole['choices'][0]['logprobs']['token_logprobs'] == [None, -1.5, -0.5, -0.5]
        assert joined(parts) == {0: ('abcd', ['a', 'b', 'c', 'd'], [0, 1, 2, 3])}
    assert joined(complete(prompt='ab', max_tokens=1, echo=True)[1]) == {0: ('abc', [], [])}


def test_nothing_to_do():
    whole, parts = complete(prompt='ab', max_tokens=0)
    assert [choice['text'] for choice in whole['choices']] == [''] and whole['choices'][0]['finish_reason'] == 'length'
    assert len(parts) == 1


def test_a_stop_is_left_out_and_its_tokens_begin_where_the_text_ends():
    whole, parts = complete(prompt='a', max_tokens=9, stop=['de', 'x'], logprobs=0)
    [choice] = whole['choices']
    assert (choice['text'], choice['finish_reason']) == ('bc', 'stop')
    assert choice['logprobs']['tokens'] == ['b', 'c', 'd', 'e'] and choice['logprobs']['text_offset'] == [0, 1, 2, 2]
    assert [part['choices'][0]['text'] for part in parts] == ['b', 'c', '']
    assert parts[-1]['choices'][0]['logprobs']['tokens'] == ['d', 'e']


def test_usage_of_a_stream():
    parts = complete(prompt='a', max_tokens=2, stream=True, stream_options={'include_usage': True})[1]
    assert [part['usage'] for part in parts] == [None, None, {'prompt_tokens': 1, 'completion_tokens': 2, 'total_tokens': 3}]
    assert parts[-1]['choices'] == []


def test_tokens_that_are_no_text_are_spelled_as_bytes(toy):
    assert [spelled(toy, toy._byte_ids[byte]) for byte in (0xe2, 65, 10)] == ['bytes:\\xe2', 'A', '\n']

    class Bytes:
        def decode_bytes(self, ids):
            return b' \\\xe2\x80'
    assert spelled(Bytes(), 0) == 'bytes: \\x5c\\xe2\\x80'


def test_the_settings():
    assert read().settings == SamplingSettings(length=16, truncate=True)
    request = read(prompt='a', temperature=0.5, top_p=0.9, top_k=3, repetition_penalty=1.5, presence_penalty=-1, seed=-1,
                   frequency_penalty=0.5, stop='x', max_tokens=0, user='me', model='tiny', n=None, suffix=None)
    assert request.settings == SamplingSettings(length=1, temperature=0.5, top_p=0.9, top_k=3, repetition_penalty=1.5,
                                                presence_penalty=-1, frequency_penalty=0.5, stop=('x',), truncate=True)
    assert (request.seed, request.n, request.max_tokens) == (-1, 1, 0)
    # Without its limits: 1 allows all tokens, and 0 only the most likely.
    assert [read(top_p=p).settings.top_p for p in (1, 1.0, 0, 1e-300)] == [0, 0, SMALLEST, SMALLEST]
    assert [read(temperature=t).settings.temperature for t in (0, 5e-324)] == [0, 0]


@pytest.mark.parametrize(('content', 'status', 'param', 'words'), [
    ({'prompt': 5}, 400, 'prompt', 'prompt must be a text, its token ids'),
    ({'prompt': []}, 400, 'prompt', 'must be'),
    ({'prompt': [[]]}, 400, 'prompt', 'must be'),
    ({'prompt': ['a', 1]}, 400, 'prompt', 'must be'),
    ({'prompt': [1.5]}, 400, 'prompt', 'must be'),
    ({'prompt': [EOT + 1]}, 400, 'prompt', f'0 to {EOT}'),
    ({'prompt': 'a' * 17}, 400, 'prompt', "17 tokens, the model's window holds 16"),
    ({'prompt': [[0] * 18]}, 400, 'prompt', "18 tokens, the model's window holds 16"),
    ({'prompt': ['a'] * 5}, 400, 'prompt', 'at most 4 texts'),
    ({'prompt': ['a'] * 3, 'n': 2}, 400, 'n', '6 texts, 4 are allowed'),
    ({'max_tokens': 21}, 400, 'max_tokens', 'max_tokens must be a whole number from 0 to 20 or null, not 21'),
    ({'max_tokens': True}, 400, 'max_tokens', 'not true'),
    ({'temperature': 3}, 400, 'temperature', 'from 0 to 2'),
    ({'temperature': 'hot'}, 400, 'temperature', 'not "hot"'),
    ({'logprobs': 6}, 400, 'logprobs', 'from 0 to 5'),
    ({'logprobs': True}, 400, 'logprobs', 'not true'),
    ({'n': 0}, 400, 'n', 'from 1'),
    ({'n': 2, 'best_of': 3}, 400, 'best_of', 'must be n, 2'),
    ({'best_of': 3}, 400, 'best_of', 'must be n, 1'),
    ({'stop': ''}, 400, 'stop', 'not an empty one'),
    ({'stop': ['a'] * 5}, 400, 'stop', 'at most 4'),
    ({'suffix': 'x'}, 400, 'suffix', 'suffix must be null'),
    ({'logit_bias': {'5': 1}}, 400, 'logit_bias', 'must be null'),
    ({'stream_options': {'include_usage': True}}, 400, 'stream_options', 'needs "stream": true'),
    ({'stream_options': {'x': 1}, 'stream': True}, 400, 'stream_options', 'must be an object with include_usage (true or false)'),
    ({'temprature': 1}, 400, 'temprature', 'unknown field "temprature": did you mean temperature?'),
    ({'model': 'other'}, 404, 'model', 'only "tiny"'),
    ({'model': '../../etc/passwd'}, 404, 'model', 'no model'),
    ({'repetition_penalty': 0}, 400, 'repetition_penalty', 'from 0.01')])
def test_what_is_wrong_is_named(content, status, param, words):
    with pytest.raises(requests.RequestError) as raised:
        read(**content)
    error = raised.value.content['error']
    assert (raised.value.status, error['param'], error['type']) == (status, param, 'invalid_request_error')
    assert words in error['message'], error['message']
    assert len(error['message']) < 500


@pytest.mark.parametrize(('body', 'words'), [
    (b'', 'not JSON'), (b'{"a": }', 'not JSON'), (b'\xff', 'not JSON'), (b'[]', 'must be an object'),
    (b'"x"', 'must be an object'), (b'{"a": NaN}', 'NaN is not a number'),
    (b'[' * 100_000, 'nested too deeply'), (b'9' * 5000, 'not JSON')])
def test_what_is_not_json_is_refused(body, words):
    with pytest.raises(requests.RequestError, match=words) as raised:
        requests.parse(body)
    assert raised.value.status == 400
    json.dumps(raised.value.content)
