"""Who is let in: by Host, Origin and token."""

import pytest

from serving.access import Access, is_every_address, is_loopback


def status(access, path='/v1/models', **headers):
    """The status of a refusal, or None. A header may have several values."""
    given = {name.lower(): value if isinstance(value, list) else [value] for name, value in headers.items()}
    refusal = access.refusal(path, given)
    return refusal and refusal.status


@pytest.mark.parametrize('host', ['127.0.0.1:8000', 'localhost:8000', 'LOCALHOST:8000', '[::1]:8000'])
def test_a_loopback_name_with_the_port_is_let_in(host):
    assert status(Access('127.0.0.1', 8000, None), Host=host) is None
    assert status(Access('127.0.0.1', 8000, None), Host=host, Origin=f'http://{host}') is None


@pytest.mark.parametrize('host', ['evil.example:8000', 'evil.example', 'localhost', '127.0.0.1:80', 'localhost:8000.evil.example',
                                  'localhost:8000@evil.example', '', '127.0.0.1:8000 ', ['localhost:8000', 'evil.example']])
def test_any_other_host_is_refused(host):
    assert status(Access('127.0.0.1', 8000, None), Host=host) == 403


def test_without_a_host_nobody_is_let_in():
    assert status(Access('127.0.0.1', 8000, None)) == 403


@pytest.mark.parametrize('origin', ['http://evil.example', 'null', 'http://localhost:3000', 'http://127.0.0.1:8000.evil.example',
                                    'file://', '', 'http://127.0.0.1:8000/', ['http://127.0.0.1:8000', 'http://evil.example']])
def test_another_origin_is_refused(origin):
    assert status(Access('127.0.0.1', 8000, None), Host='127.0.0.1:8000', Origin=origin) == 403


def test_port_80_need_not_be_named():
    assert status(Access('127.0.0.1', 80, None), Host='localhost') is None


def test_a_server_at_a_name_has_that_name_and_one_at_every_address_any():
    named, everywhere = Access('10.0.0.5', 8000, 'secret'), Access('0.0.0.0', 8000, 'secret')
    right = {'Authorization': 'Bearer secret'}
    assert status(named, Host='10.0.0.5:8000', **right) is None
    assert status(named, Host='evil.example:8000', **right) == 403
    assert status(everywhere, Host='gpu-box:8000', **right) is None
    assert status(everywhere, Host='gpu-box:8000', Origin='http://evil.example', **right) == 403
    assert status(everywhere, Host='gpu-box:8000', Origin='https://gpu-box:8000', **right) is None


@pytest.mark.parametrize(('given', 'expected'), [
    ('Bearer secret', None), ('bearer secret', None), ('Bearer  secret', None), ('Bearer secre', 401), ('Bearer secret2', 401),
    ('Bearer', 401), ('secret', 401), ('Basic secret', 401), ('Bearer sécret', 401), (['Bearer secret', 'Bearer x'], 401)])
def test_the_token(given, expected):
    assert status(Access('127.0.0.1', 8000, 'secret'), Host='localhost:8000', Authorization=given) == expected


def test_what_needs_the_token():
    access = Access('127.0.0.1', 8000, 'secret')
    paths = ('/', '/healthz', '/openapi.json', '/v1/models', '/v1/models/x', '/v1/completions', '/v1/other')
    assert [status(access, path, Host='localhost:8000') for path in paths] == [None] * 3 + [401] * 4


def test_the_token_is_compared_in_constant_time(monkeypatch):
    import hmac
    compared = []
    monkeypatch.setattr(hmac, 'compare_digest', lambda *pair: compared.append(pair) or False)
    assert status(Access('127.0.0.1', 8000, 'secret'), Host='localhost:8000', Authorization='Bearer secret') == 401
    assert compared == [(b'secret', b'secret')]


def test_addresses():
    assert [is_loopback(host) for host in ('127.0.0.1', '127.9.9.9', '::1', 'localhost', '0.0.0.0', '::', '10.0.0.1', 'box')] == [
        True] * 4 + [False] * 4
    assert [is_every_address(host) for host in ('0.0.0.0', '::', '127.0.0.1', 'localhost')] == [True, True, False, False]
