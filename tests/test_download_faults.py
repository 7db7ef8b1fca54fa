"""download_model.py against a server that interrupts, stays silent, reports wrong sizes or sends the wrong file."""

import gzip
import os
import time

import pytest

import download_model
from command import models as model_names
from command.errors import UserError
from download_model import WEIGHTS, Retries, download
from model_server import BODIES, HASTY, SHA256, TOTAL, XML, contents, ignore_range, interrupt, only, write

pytest_plugins = ['model_server']


def test_range_not_satisfiable_starts_the_file_again(server, models, bars):
    server.misbehave = lambda request, file, body, start: start and request.reply(416, b'')
    write(os.path.join(models, '124M'), weights_part=BODIES[WEIGHTS][:60_000])
    download('124M', models, server.url, HASTY)
    assert server.gets(WEIGHTS) == ['bytes=60000-', None]
    assert contents(os.path.join(models, '124M')) == BODIES
    assert bars[0].n == TOTAL


def test_more_bytes_than_promised_once(server, models, bars):
    @only(WEIGHTS)
    def misbehave(request, file, body, start):
        return not start and len(server.gets(WEIGHTS)) == 1 and request.reply(200, body + b'more', Content_Length=None)
    server.misbehave = misbehave
    download('124M', models, server.url, HASTY)
    assert server.gets(WEIGHTS) == [None, 'bytes=100005-', None]
    assert contents(os.path.join(models, '124M')) == BODIES
    assert bars[0].n == TOTAL


def test_a_server_that_ignores_range_starts_the_file_again(server, models, bars):
    server.misbehave = ignore_range
    write(os.path.join(models, '124M'), weights_part=b'x' * 60_000)
    download('124M', models, server.url, HASTY)
    assert server.gets(WEIGHTS) == ['bytes=60000-']
    assert contents(os.path.join(models, '124M')) == BODIES
    assert bars[0].n == TOTAL


@pytest.mark.parametrize('span', ['bytes 50000-100000/100001', 'bytes 60000-100000/7', 'lines 60000-100000/100001',
                                  None])
def test_a_range_that_was_not_requested_starts_the_file_again(server, models, bars, span):
    @only(WEIGHTS)
    def misbehave(request, file, body, start):
        return start and request.reply(206, body[start:], Content_Range=span)
    server.misbehave = misbehave
    write(os.path.join(models, '124M'), weights_part=BODIES[WEIGHTS][:60_000])
    download('124M', models, server.url, HASTY)
    assert server.gets(WEIGHTS) == ['bytes=60000-', None]
    assert contents(os.path.join(models, '124M')) == BODIES
    assert bars[0].n == TOTAL


def test_an_unknown_total_in_content_range_is_accepted(server, models):
    @only(WEIGHTS)
    def misbehave(request, file, body, start):
        return request.reply(206, body[start:], Content_Range=f'bytes {start}-{len(body) - 1}/*')
    server.misbehave = misbehave
    write(os.path.join(models, '124M'), weights_part=BODIES[WEIGHTS][:60_000])
    download('124M', models, server.url, HASTY)
    assert server.gets(WEIGHTS) == ['bytes=60000-']
    assert contents(os.path.join(models, '124M')) == BODIES


def test_progress_resets_the_count_of_tries(server, models, bars, capsys):
    @only(WEIGHTS)
    def misbehave(*request):
        return interrupt(*request, after=10_000)    # ten times, with two retries
    server.misbehave = misbehave
    download('124M', models, server.url, HASTY)
    assert len(server.gets(WEIGHTS)) == 11
    assert contents(os.path.join(models, '124M')) == BODIES
    assert bars[0].n == TOTAL
    lines = [line for line in capsys.readouterr().out.splitlines() if 'trying again' in line]
    url = f'{server.url}/models/124M/{WEIGHTS}'
    assert set(lines) == {f'{url}: the connection was interrupted; trying again in 0.001 s (1 of 2)'}


@pytest.mark.parametrize('honour_range', [True, False])
def test_interruptions_at_the_same_byte_end_the_command_and_the_next_run_resumes(server, models, honour_range):
    @only(WEIGHTS)
    def misbehave(request, file, body, start):
        if honour_range and start:
            return interrupt(request, file, body, start, after=0)
        return interrupt(request, file, body, start, honour_range=honour_range)
    server.misbehave = misbehave
    with pytest.raises(UserError, match=rf'{WEIGHTS}: the connection was interrupted .tries: 3.; run the same command again'):
        download('124M', models, server.url, HASTY)
    here = contents(os.path.join(models, '124M'))
    assert here.pop(WEIGHTS + '.part') == BODIES[WEIGHTS][:30_000]
    assert here == {file: BODIES[file] for file in here}
    assert model_names.list_models(models) == []      # an incomplete model is not listed

    server.misbehave = lambda *request: False
    server.seen.clear()
    download('124M', models, server.url, HASTY)
    assert server.gets(WEIGHTS) == ['bytes=30000-']
    assert contents(os.path.join(models, '124M')) == BODIES


def test_silence_in_the_middle_of_a_file_counts_as_an_interruption(server, models):
    @only(WEIGHTS)
    def misbehave(request, file, body, start):
        if start:
            return False
        request.reply(200, body, send=30_000)
        return server.released.wait()
    server.misbehave = misbehave
    download('124M', models, server.url, Retries(timeout=1, count=5, first_wait=0.001))
    assert server.gets(WEIGHTS) == [None, 'bytes=30000-']
    assert contents(os.path.join(models, '124M')) == BODIES


def test_a_server_that_never_answers(server, models):
    server.misbehave = lambda *request: server.released.wait()
    start = time.monotonic()
    with pytest.raises(UserError, match=r'checkpoint: timed out \(tries: 2\)'):
        download('124M', models, server.url, Retries(timeout=0.2, count=1, first_wait=0.001))
    assert time.monotonic() - start < 3
    assert not os.path.exists(models)


@pytest.mark.parametrize('status', [408, 429, 500, 503])
def test_a_temporary_status_is_tried_again(server, models, status):
    failed = set()

    def misbehave(request, file, body, start):
        key = request.command, file
        return key not in failed and (failed.add(key) or request.reply(status, b'busy'))
    server.misbehave = misbehave
    write(os.path.join(models, '124M'), weights_part=BODIES[WEIGHTS][:60_000])
    download('124M', models, server.url, HASTY)
    assert server.gets(WEIGHTS) == ['bytes=60000-'] * 2     # a busy server does not discard the part
    assert contents(os.path.join(models, '124M')) == BODIES


def test_waits_double_up_to_the_longest(server, models, monkeypatch):
    waits = []
    monkeypatch.setattr(download_model.time, 'sleep', waits.append)
    server.misbehave = lambda request, *rest: request.reply(500, b'')
    with pytest.raises(UserError, match=r'HTTP 500 Internal Server Error \(tries: 6\)'):
        download('124M', models, server.url, Retries(first_wait=1, longest_wait=5))
    assert waits == [1, 2, 4, 5, 5]


@pytest.mark.parametrize('status', [401, 403, 404, 410])
def test_a_refusal_is_final(server, models, status):
    server.misbehave = lambda request, *rest: request.reply(status, XML, Content_Type='application/xml')
    with pytest.raises(UserError, match=rf'{server.url}/models/124M/checkpoint: HTTP {status} .*--base_url'):
        download('124M', models, server.url, HASTY)
    assert len(server.seen) == 1
    assert not os.path.exists(models)


def test_a_refusal_in_the_middle_keeps_the_part(server, models):
    server.misbehave = only(WEIGHTS)(lambda request, *rest: request.reply(403, XML))
    write(os.path.join(models, '124M'), weights_part=BODIES[WEIGHTS][:60_000])
    with pytest.raises(UserError, match='HTTP 403'):
        download('124M', models, server.url, HASTY)
    assert server.gets(WEIGHTS) == ['bytes=60000-']
    assert contents(os.path.join(models, '124M'))[WEIGHTS + '.part'] == BODIES[WEIGHTS][:60_000]


def test_a_web_page_with_status_200_is_refused(server, models):
    server.misbehave = lambda request, *rest: request.reply(200, b'<html>log in', Content_Type='text/html; charset=x')
    with pytest.raises(UserError, match='is a web page .text/html; charset=x., not a model file'):
        download('124M', models, server.url, HASTY)
    assert not os.path.exists(models)


@pytest.mark.parametrize('page', [XML, b'<!DOCTYPE html>\n<p>', b'\n <HTML lang="en">', b'<Error>no</Error>'])
def test_a_web_page_in_disguise_is_removed(server, models, monkeypatch, page):
    monkeypatch.setitem(BODIES, 'hparams.json', page)
    with pytest.raises(UserError, match='/hparams.json is a web page, not a model file and was removed'):
        download('124M', models, server.url, HASTY)
    assert sorted(os.listdir(os.path.join(models, '124M'))) == sorted(set(model_names.FILES) - {'hparams.json'})


@pytest.mark.parametrize('file', ['encoder.json', 'vocab.bpe'])
def test_a_wrong_vocabulary_is_removed(server, models, monkeypatch, file):
    monkeypatch.setitem(BODIES, file, BODIES[file].swapcase())
    with pytest.raises(UserError, match=rf'{file} does not have the published SHA-256 {SHA256[file]} and was removed'):
        download('124M', models, server.url, HASTY)
    here = os.listdir(os.path.join(models, '124M'))
    assert not [name for name in here if name.startswith((file, 'hparams'))]


def test_weights_of_another_size_are_refused_before_anything_is_stored(server, models, monkeypatch):
    monkeypatch.setitem(download_model.KNOWN_SIZES, '124M', 497_759_232)
    with pytest.raises(UserError, match=f'{WEIGHTS} has 100,001 bytes, but the weights of 124M have 497,759,232'):
        download('117M', models, server.url, HASTY)
    assert not os.path.exists(models)


def test_fewer_bytes_than_head_promised(server, models):
    server.misbehave = only(WEIGHTS)(lambda request, file, body, start: request.serve(body[:-7], start) or True)
    with pytest.raises(UserError, match=f'{WEIGHTS}: .*the server does not resume at byte|received 99,994 bytes'):
        download('124M', models, server.url, HASTY)
    assert WEIGHTS not in os.listdir(os.path.join(models, '124M'))


def test_more_bytes_than_head_promised(server, models, bars):
    @only(WEIGHTS)
    def misbehave(request, file, body, start):      # no length: the end of the connection is the end of the file
        return request.reply(200, body + b'x' * 50_000, Content_Length=None)
    server.misbehave = misbehave
    with pytest.raises(UserError, match=f'{WEIGHTS}: received 10[01],... bytes instead of 100,001'):
        download('124M', models, server.url, HASTY)
    assert WEIGHTS not in os.listdir(os.path.join(models, '124M'))
    server.misbehave = lambda *request: False
    download('124M', models, server.url, HASTY)
    assert contents(os.path.join(models, '124M')) == BODIES
    assert bars[1].n == TOTAL


def test_a_stream_without_length_that_ends_early(server, models):
    cut = [40_000, None]

    @only(WEIGHTS)
    def misbehave(request, file, body, start):
        return request.reply(206 if start else 200, body[start:][:cut.pop(0)], Content_Length=None,
                             Content_Range=f'bytes {start}-{len(body) - 1}/{len(body)}')
    server.misbehave = misbehave
    download('124M', models, server.url, HASTY)
    assert server.gets(WEIGHTS) == [None, 'bytes=40000-']
    assert contents(os.path.join(models, '124M')) == BODIES


@pytest.mark.parametrize('status, length', [(405, '0'), (501, '0'), (200, None), (200, '0')])
def test_sizes_come_from_get_where_head_gives_none(server, models, status, length):
    server.misbehave = lambda request, *rest: (request.command == 'HEAD'
                                               and request.reply(status, b'', Content_Length=length))
    download('124M', models, server.url, HASTY)
    assert contents(os.path.join(models, '124M')) == BODIES


def test_a_server_that_reports_no_sizes(server, models):
    server.misbehave = lambda request, file, body, start: request.reply(200, body, Content_Length=None)
    with pytest.raises(UserError, match='does not report the size of .*/checkpoint'):
        download('124M', models, server.url, HASTY)


def test_a_server_that_compresses_although_not_asked_to(server, models):
    @only('vocab.bpe')
    def misbehave(request, file, body, start):
        return request.reply(200, gzip.compress(body * 2), Content_Encoding='gzip')
    server.misbehave = misbehave
    with pytest.raises(UserError, match='vocab.bpe: received .* bytes instead of'):
        download('124M', models, server.url, HASTY)
    assert 'vocab.bpe' not in os.listdir(os.path.join(models, '124M'))
