"""The HTTP side: statuses, headers, streams, and clients that leave. The model is small, the rest is real."""

import asyncio
import http.client
import json
import threading
import time

import pytest

from optional import SERVE, needs
from served_model import NAME, make

pytest_plugins = ['served_model']
needs('starlette', SERVE)
needs('httpx')


def post(client, **content):
    return client.post('/v1/completions', json=content)


def events(response):
    """The parts of a stream."""
    lines = response.text.split('\n\n')
    assert lines[-2:] == ['data: [DONE]', '']
    return [json.loads(line.removeprefix('data: ')) for line in lines[:-2]]


def test_a_seed_gives_the_text_that_the_generator_gives(client, generator):
    expected = generator.generate(['the fox', 'dog'], n=2, seed=3, length=12, truncate=True, top_k=9)
    answer = post(client, prompt=['the fox', 'dog'], n=2, seed=3, max_tokens=12, top_k=9).json()
    assert [choice['text'] for choice in answer['choices']] == expected
    assert answer['model'] == NAME and answer['object'] == 'text_completion'


def test_a_stream_is_the_answer_in_parts(client):
    content = {'prompt': ['the fox', 'é'], 'seed': 3, 'max_tokens': 20, 'logprobs': 3, 'temperature': 1.5, 'echo': True,
               'return_token_ids': True}
    whole = post(client, **content).json()
    response = post(client, **content, stream=True)
    assert response.headers['content-type'] == 'text/event-stream; charset=utf-8'
    parts = events(response)
    for choice in whole['choices']:
        mine = [part['choices'][0] for part in parts if part['choices'][0]['index'] == choice['index']]
        assert ''.join(part['text'] for part in mine) == choice['text']
        for name in ('tokens', 'text_offset', 'token_logprobs'):
            values = [value for part in mine for value in part['logprobs'][name]]
            assert values == [pytest.approx(value, abs=1e-4) if isinstance(value, float) else value
                              for value in choice['logprobs'][name]]
        assert [id for part in mine for id in part['token_ids']] == choice['token_ids']
        assert mine[-1]['finish_reason'] == choice['finish_reason']
        assert mine[0]['prompt_token_ids'] == choice['prompt_token_ids']
    assert len({part['id'] for part in parts}) == 1


def test_an_echo_is_scored_as_the_generator_scores(client, generator):
    import numpy as np
    [choice] = post(client, prompt='the quick brown fox', max_tokens=0, echo=True, logprobs=2).json()['choices']
    tokens = np.array(generator.encoder.encode('the quick brown fox'))
    [score] = generator.scores([tokens], length=32, stride=16, batch_size=1)
    assert choice['logprobs']['token_logprobs'] == [None, *(pytest.approx(value, abs=1e-5) for value in score.log_probabilities)]
    assert ''.join(choice['logprobs']['tokens']) == choice['text'] == 'the quick brown fox'


def test_the_other_routes(client):
    assert client.get('/healthz').json() == {'status': 'ok'}
    [model] = client.get('/v1/models').json()['data']
    assert model == client.get(f'/v1/models/{NAME}').json()
    assert (model['id'], model['max_model_len']) == (NAME, 32)
    assert client.get('/openapi.json').json()['openapi'].startswith('3.1')
    page = client.get('/')
    assert page.headers['content-type'] == 'text/html; charset=utf-8' and page.text.lower().startswith('<!doctype html>')
    assert page.headers['content-security-policy'].startswith("default-src 'none'")


@pytest.mark.parametrize(('method', 'path', 'status'), [
    ('GET', '/v1/models/other', 404), ('GET', '/v1/models/../../etc/passwd', 404), ('GET', '/nothing', 404),
    ('GET', '/v1/completions', 405), ('POST', '/healthz', 405), ('OPTIONS', '/v1/completions', 405), ('DELETE', '/', 405),
    ('GET', '/src/serving/page.html', 404), ('GET', '/..%2f..%2fetc%2fpasswd', 404)])
def test_what_is_not_there_is_an_error_object(client, method, path, status):
    response = client.request(method, path)
    assert response.status_code == status
    assert set(response.json()['error']) == {'message', 'type', 'param', 'code'}


def test_every_answer_has_the_headers_of_a_safe_one(client):
    answers = [client.get('/'), client.get('/nothing'), post(client, prompt=5), post(client, prompt='a', max_tokens=1),
               client.get('/', headers={'Host': 'evil.example'}), post(client, prompt='a', max_tokens=1, stream=True)]
    for answer in answers:
        assert answer.headers['x-content-type-options'] == 'nosniff'
        assert answer.headers['referrer-policy'] == 'no-referrer'
        assert "default-src 'none'" in answer.headers['content-security-policy']
        assert 'access-control-allow-origin' not in answer.headers


@pytest.mark.parametrize(('headers', 'status'), [
    ({'Host': 'evil.example:8000'}, 403), ({'Origin': 'http://evil.example'}, 403), ({'Origin': 'null'}, 403),
    ({'Content-Type': 'text/plain'}, 415), ({'Content-Type': 'application/x-www-form-urlencoded'}, 415), ({}, 200),
    ({'Origin': 'http://127.0.0.1:8000'}, 200), ({'Content-Type': 'application/json; charset=utf-8'}, 200)])
def test_a_page_of_another_site_reaches_nothing(client, headers, status):
    body = json.dumps({'prompt': 'a', 'max_tokens': 1})
    response = client.post('/v1/completions', content=body, headers={'Content-Type': 'application/json'} | headers)
    assert response.status_code == status


def test_the_token(generator):
    from starlette.testclient import TestClient
    app, _ = make(generator, 8000, token='secret')
    client = TestClient(app, base_url='http://127.0.0.1:8000')
    refused = client.get('/v1/models')
    assert (refused.status_code, refused.headers['www-authenticate']) == (401, 'Bearer')
    assert refused.json()['error']['code'] == 'invalid_api_key'
    assert client.get('/v1/models', headers={'Authorization': 'Bearer secret'}).status_code == 200
    assert client.get('/v1/models?token=secret').status_code == 401
    assert client.get('/').status_code == client.get('/healthz').status_code == 200


@pytest.mark.parametrize('body', [b'x' * 20_001, (b'x' * 500 for _ in range(50))], ids=['by its length', 'by its chunks'])
def test_too_large_a_body(client, body):
    response = client.post('/v1/completions', content=body, headers={'Content-Type': 'application/json'})
    assert response.status_code == 413 and '20,000 bytes' in response.json()['error']['message']


def test_a_body_that_does_not_arrive(client, monkeypatch):
    from serving import app
    monkeypatch.setattr(app, 'BODY_TIMEOUT', 0.01)

    async def receive():
        await asyncio.sleep(60)
    sent = []

    async def send(message):
        sent.append(message)
    scope = {'type': 'http', 'method': 'POST', 'path': '/v1/completions', 'raw_path': b'', 'query_string': b'', 'root_path': '',
             'scheme': 'http', 'server': ('127.0.0.1', 8000),
             'headers': [(b'host', b'127.0.0.1:8000'), (b'content-type', b'application/json')]}
    asyncio.run(client.app(scope, receive, send))
    assert sent[0]['status'] == 408


@pytest.mark.parametrize('content', [{'prompt': 'a\ud800b', 'echo': True}, {'stop': '\udfff'}, {'user': '\ud800'}, {'\ud800': 1},
                                     {'model': '\ud800'}])
def test_lone_surrogates_are_no_fault(client, content):
    body = json.dumps({'prompt': 'a', 'max_tokens': 1} | content)
    response = client.post('/v1/completions', content=body, headers={'Content-Type': 'application/json'})
    assert response.status_code in (200, 400, 404)
    response.json()


def test_a_fault_is_an_error_object_without_its_traceback(client, monkeypatch, capsys):
    from serving import requests

    def fault(*_):
        raise ValueError('secret path /x')
    monkeypatch.setattr(requests, 'read', fault)
    response = post(client, prompt='a')
    assert response.status_code == 500 and 'secret' not in response.text
    assert response.json()['error']['type'] == 'server_error'


def test_a_fault_of_the_model(client, generator, monkeypatch, capsys):
    def fault(*_):
        raise ValueError('a fault')
    monkeypatch.setattr(generator, 'step', fault)
    assert post(client, prompt='a', max_tokens=3).status_code == 500
    assert post(client, prompt='a', max_tokens=3, stream=True).status_code == 500
    monkeypatch.undo()
    assert post(client, prompt='a', max_tokens=3).status_code == 200
    assert 'a fault' in capsys.readouterr().err


def test_a_fault_in_the_middle_of_a_stream_ends_it_with_an_error_object(client, generator, monkeypatch):
    step, count = generator.step, []

    def fault(rows):
        count.append(1)
        if len(count) == 4:
            raise ValueError('a fault')
        return step(rows)
    monkeypatch.setattr(generator, 'step', fault)
    *_, last, end = post(client, prompt='the', max_tokens=30, stream=True, seed=1).text.split('\n\n')
    assert json.loads(last.removeprefix('data: '))['error']['type'] == 'server_error' and end == ''


class Gate:
    """Stands for a generator's `step`, which waits until the test lets it go on."""

    def __init__(self, generator, monkeypatch):
        self._step, self.rows = generator.step, []
        self._waiting, self._go = threading.Semaphore(0), threading.Semaphore(0)
        monkeypatch.setattr(generator, 'step', self)

    def __call__(self, rows):
        self.rows.append(len(rows))
        self._waiting.release()
        assert self._go.acquire(timeout=120)
        return self._step(rows)

    def wait(self):
        assert self._waiting.acquire(timeout=120)

    def let_go(self, steps=10 ** 6):
        self._go.release(steps)


def test_a_full_queue_is_503_with_retry_after(client, generator, monkeypatch):
    gate, statuses = Gate(generator, monkeypatch), []
    threads = [threading.Thread(target=lambda: statuses.append(post(client, prompt='a', max_tokens=1).status_code))
               for _ in range(20)]      # four that run, 16 that wait
    for thread in threads:
        thread.start()
    gate.wait()
    while len(client.batcher._jobs) < 20:
        time.sleep(0.01)
    refused = post(client, prompt='a', max_tokens=1)
    assert refused.status_code == 503 and refused.headers['retry-after'] == '1'
    assert refused.json()['error']['code'] == 'unavailable'
    gate.let_go()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 20
    assert post(client, prompt='a', max_tokens=1).status_code == 200


@pytest.mark.parametrize('stream', [False, True])
def test_a_client_that_leaves_frees_its_row_within_a_step(running, monkeypatch, stream):
    gate = Gate(running.generator, monkeypatch)
    content = {'prompt': 'the', 'max_tokens': 64, 'seed': 1, 'stream': stream}
    leaving = http.client.HTTPConnection(running.url.removeprefix('http://'), timeout=120)
    leaving.request('POST', '/v1/completions', json.dumps(content), {'Content-Type': 'application/json'})
    gate.wait()         # the first step of its text begins
    leaving.close()
    with running.batcher._changed:
        [job] = running.batcher._jobs
    while not job.cancelled:
        time.sleep(0.01)
    gate.let_go()
    import httpx
    assert httpx.post(f'{running.url}/v1/completions', json=content | {'stream': False, 'max_tokens': 2},
                      timeout=120).status_code == 200
    assert gate.rows == [1, 1, 1]       # one step of the text that was left, two of the other
