"""download_model.py against a server on this machine that breaks off, falls silent, lies and sends the wrong thing."""

import gzip
import hashlib
import http.server
import io
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
import tqdm

import download_model
import errors
import model_dir
from download_model import WEIGHTS, Patience, download
from errors import UserError

SCRIPT = os.path.abspath(download_model.__file__)
HASTY = Patience(timeout=5, retries=2, first_wait=0.001)
BODIES = {file: file.encode() * 50 for file in model_dir.FILES} | {WEIGHTS: b'\0' + random.Random(0).randbytes(100_000)}
TOTAL = sum(map(len, BODIES.values()))
SHA256 = {file: hashlib.sha256(BODIES[file]).hexdigest() for file in ('encoder.json', 'vocab.bpe')}
XML = b'\xef\xbb\xbf<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>'


class Request(http.server.BaseHTTPRequestHandler):
    """Serves BODIES with ranges, unless the server's `misbehave` (request, file, body, start) has dealt with it."""
    protocol_version = 'HTTP/1.1'
    disable_nagle_algorithm = True      # which would hold each body back for 40 ms

    def do_GET(self):
        directory, file = self.path.rsplit('/', 1)
        self.server.seen.append((self.command, file, self.headers.get('Range')))
        self.server.encodings.add(self.headers['Accept-Encoding'])
        self.server.directories.add(directory)
        body, start = BODIES[file], int(self.headers.get('Range', 'bytes=0-')[len('bytes='):-1])
        if not self.server.misbehave(self, file, body, start):
            self.serve(body, start)

    do_HEAD = do_GET

    def serve(self, body, start):
        if start >= len(body):
            self.reply(416, b'', Content_Range=f'bytes */{len(body)}')
        elif start:
            self.reply(206, body[start:], Content_Range=f'bytes {start}-{len(body) - 1}/{len(body)}')
        else:
            self.reply(200, body)

    def reply(self, status, body, send=None, **headers):
        """Answers with `body`, or with its headers and only `send` of its bytes; a header of None is left out."""
        self.send_response(status)
        for name, value in {'Content_Length': str(len(body)), **headers}.items():
            if value is not None:
                self.send_header(name.replace('_', '-'), value)
        self.close_connection = send is not None or headers.get('Content_Length', '') is None
        if self.close_connection:
            self.send_header('Connection', 'close')
        self.end_headers()
        if self.command == 'GET':
            self.wfile.write(body[:send])
            self.wfile.flush()
        return True

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self):
        super().__init__(('127.0.0.1', 0), Request)
        self.url = f'http://127.0.0.1:{self.server_port}/gpt-2'
        self.seen, self.encodings, self.directories = [], set(), set()
        self.released = threading.Event()
        self.misbehave = lambda *request: False

    def gets(self, file=None):
        """Range headers of the GET requests for one file; without a file, the files of all GET requests."""
        if file is None:
            return [seen for method, seen, _ in self.seen if method == 'GET']
        return [span for method, seen, span in self.seen if (method, seen) == ('GET', file)]

    def handle_error(self, request, client_address):
        pass    # the client went away


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv('NO_PROXY', '127.0.0.1')
    monkeypatch.setattr(download_model, 'CHUNK', 1000)
    monkeypatch.setattr(download_model, 'KNOWN_SIZES', dict.fromkeys(model_dir.PUBLISHED, len(BODIES[WEIGHTS])))
    monkeypatch.setattr(download_model, 'KNOWN_SHA256', SHA256)
    server = Server()
    threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01}, daemon=True).start()
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def models(tmp_path):
    return str(tmp_path / 'models')


@pytest.fixture
def bars(monkeypatch):
    """The progress bars that are drawn."""
    drawn = []

    class Bar(tqdm.tqdm):
        def __init__(self, **kwargs):
            super().__init__(**kwargs | {'disable': False, 'file': io.StringIO()})
            drawn.append(self)

    monkeypatch.setattr(download_model, 'tqdm', Bar)
    return drawn


def contents(directory):
    return {file: open(os.path.join(directory, file), 'rb').read() for file in os.listdir(directory)}


def write(directory, **files):
    """write(models, weights=…) and so on; returns the path of the last one written."""
    names = {'weights': WEIGHTS, 'weights_part': WEIGHTS + '.part', 'vocab': 'vocab.bpe', 'encoder': 'encoder.json'}
    os.makedirs(directory, exist_ok=True)
    for key, content in files.items():
        path = os.path.join(directory, names[key])
        with open(path, 'wb') as file:
            file.write(content)
    return path


def only(*names):
    """Narrows a misbehaviour to GET requests for these files."""
    def narrow(misbehaviour):
        return lambda request, file, *rest: (request.command == 'GET' and file in names
                                             and misbehaviour(request, file, *rest))
    return narrow


def break_off(request, file, body, start, after=30_000, honour_range=True):
    """Closes the connection `after` bytes into an answer that announces more."""
    start = start if honour_range else 0
    return request.reply(206 if start else 200, body[start:], send=after,
                         Content_Range=f'bytes {start}-{len(body) - 1}/{len(body)}' if start else None)


def ignore_range(request, file, body, start):
    return request.reply(200, body)


def test_fetches_seven_files_from_the_new_name_into_the_old_one(server, models, bars, capsys):
    assert download('117M', models, server.url, HASTY) == os.path.join(models, '117M')
    assert contents(os.path.join(models, '117M')) == BODIES
    assert server.directories == {'/gpt-2/models/124M'}
    assert server.encodings == {'identity'}
    assert server.gets()[-1] == 'hparams.json'      # what makes the directory a model comes last
    assert capsys.readouterr().out.splitlines()[0] == (
        f'117M is the old name of 124M: fetching 124M, to be stored as {os.path.join(models, "117M")}')
    assert [(bar.initial, bar.n, bar.total) for bar in bars] == [(0, TOTAL, TOTAL)]


@pytest.mark.parametrize('name, served', [('345M', '355M'), ('124M', '124M'), ('1558M', '1558M')])
def test_names(server, models, capsys, name, served):
    download(name, models, server.url, HASTY)
    assert os.listdir(models) == [name]
    assert server.directories == {f'/gpt-2/models/{served}'}
    assert ('old name' in capsys.readouterr().out) == (name != served)


def test_complete_files_are_not_fetched_again(server, models, bars):
    download('124M', models, server.url, HASTY)
    server.seen.clear()
    download('124M', models, server.url, HASTY)
    assert server.gets() == []
    assert len(bars) == 1


def test_files_of_the_wrong_size_or_content_are_fetched_again(server, models, bars):
    download('124M', models, server.url, HASTY)
    server.seen.clear()
    write(os.path.join(models, '124M'), weights=BODIES[WEIGHTS][:60_000], vocab=BODIES['vocab.bpe'][::-1])
    download('124M', models, server.url, HASTY)
    assert server.gets(WEIGHTS) == server.gets('vocab.bpe') == [None]
    assert len(server.gets()) == 2
    assert contents(os.path.join(models, '124M')) == BODIES
    again = len(BODIES[WEIGHTS]) + len(BODIES['vocab.bpe'])
    assert (bars[1].initial, bars[1].n) == (TOTAL - again, TOTAL)


def test_resumes_a_part(server, models, bars):
    write(os.path.join(models, '124M'), weights_part=BODIES[WEIGHTS][:60_000])
    download('124M', models, server.url, HASTY)
    assert server.gets(WEIGHTS) == ['bytes=60000-']
    assert contents(os.path.join(models, '124M')) == BODIES
    assert (bars[0].initial, bars[0].n, bars[0].total) == (60_000, TOTAL, TOTAL)


def test_a_whole_part_only_needs_its_name(server, models, bars):
    write(os.path.join(models, '124M'), weights_part=BODIES[WEIGHTS])
    download('124M', models, server.url, HASTY)
    assert server.gets(WEIGHTS) == []
    assert contents(os.path.join(models, '124M')) == BODIES
    assert bars[0].n == TOTAL


def test_a_part_that_is_too_long_is_dropped(server, models, bars, capsys):
    write(os.path.join(models, '124M'), weights_part=BODIES[WEIGHTS] + b'more')
    download('124M', models, server.url, HASTY)
    assert server.gets(WEIGHTS) == [None]
    assert contents(os.path.join(models, '124M')) == BODIES
    assert [(bar.initial, bar.n) for bar in bars] == [(0, TOTAL)]
    assert capsys.readouterr().out == f'{models}/124M: 0.1 MB to fetch of 0.1 MB\n'


def test_range_not_satisfiable_starts_the_file_over(server, models, bars):
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


def test_a_file_is_on_disk_before_it_has_its_name(server, models, monkeypatch):
    calls, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, 'fsync', lambda *args: calls.append('fsync') or fsync(*args))
    monkeypatch.setattr(os, 'replace', lambda *args: calls.append('replace') or replace(*args))
    download('124M', models, server.url, HASTY)
    assert calls == ['fsync', 'replace'] * len(model_dir.FILES)


def test_a_server_that_ignores_range_starts_the_file_over(server, models, bars):
    server.misbehave = ignore_range
    write(os.path.join(models, '124M'), weights_part=b'x' * 60_000)
    download('124M', models, server.url, HASTY)
    assert server.gets(WEIGHTS) == ['bytes=60000-']
    assert contents(os.path.join(models, '124M')) == BODIES
    assert bars[0].n == TOTAL


@pytest.mark.parametrize('span', ['bytes 50000-100000/100001', 'bytes 60000-100000/7', 'lines 60000-100000/100001',
                                  None])
def test_a_range_that_was_not_asked_for_starts_the_file_over(server, models, bars, span):
    @only(WEIGHTS)
    def misbehave(request, file, body, start):
        return start and request.reply(206, body[start:], Content_Range=span)
    server.misbehave = misbehave
    write(os.path.join(models, '124M'), weights_part=BODIES[WEIGHTS][:60_000])
    download('124M', models, server.url, HASTY)
    assert server.gets(WEIGHTS) == ['bytes=60000-', None]
    assert contents(os.path.join(models, '124M')) == BODIES
    assert bars[0].n == TOTAL


def test_an_unknown_total_in_content_range_is_taken(server, models):
    @only(WEIGHTS)
    def misbehave(request, file, body, start):
        return request.reply(206, body[start:], Content_Range=f'bytes {start}-{len(body) - 1}/*')
    server.misbehave = misbehave
    write(os.path.join(models, '124M'), weights_part=BODIES[WEIGHTS][:60_000])
    download('124M', models, server.url, HASTY)
    assert server.gets(WEIGHTS) == ['bytes=60000-']
    assert contents(os.path.join(models, '124M')) == BODIES


def test_every_new_byte_starts_the_count_of_tries_anew(server, models, bars, capsys):
    @only(WEIGHTS)
    def misbehave(*request):
        return break_off(*request, after=10_000)    # ten times, with two retries
    server.misbehave = misbehave
    download('124M', models, server.url, HASTY)
    assert len(server.gets(WEIGHTS)) == 11
    assert contents(os.path.join(models, '124M')) == BODIES
    assert bars[0].n == TOTAL
    lines = [line for line in capsys.readouterr().out.splitlines() if 'trying again' in line]
    url = f'{server.url}/models/124M/{WEIGHTS}'
    assert set(lines) == {f'{url}: the connection broke off; trying again in 0.001 s (1 of 2)'}


@pytest.mark.parametrize('honour_range', [True, False])
def test_breaking_off_at_the_same_place_ends_and_the_next_run_resumes(server, models, honour_range):
    @only(WEIGHTS)
    def misbehave(request, file, body, start):
        if honour_range and start:
            return break_off(request, file, body, start, after=0)
        return break_off(request, file, body, start, honour_range=honour_range)
    server.misbehave = misbehave
    with pytest.raises(UserError, match=rf'{WEIGHTS}: the connection broke off .tries: 3.; run the same command again'):
        download('124M', models, server.url, HASTY)
    here = contents(os.path.join(models, '124M'))
    assert here.pop(WEIGHTS + '.part') == BODIES[WEIGHTS][:30_000]
    assert here == {file: BODIES[file] for file in here}
    assert model_dir.list_models(models) == []      # half a model is not taken for one

    server.misbehave = lambda *request: False
    server.seen.clear()
    download('124M', models, server.url, HASTY)
    assert server.gets(WEIGHTS) == ['bytes=30000-']
    assert contents(os.path.join(models, '124M')) == BODIES


def test_silence_in_the_middle_is_a_broken_connection(server, models):
    @only(WEIGHTS)
    def misbehave(request, file, body, start):
        if start:
            return False
        request.reply(200, body, send=30_000)
        return server.released.wait()
    server.misbehave = misbehave
    download('124M', models, server.url, Patience(timeout=1, retries=5, first_wait=0.001))
    assert server.gets(WEIGHTS) == [None, 'bytes=30000-']
    assert contents(os.path.join(models, '124M')) == BODIES


def test_a_server_that_never_answers(server, models):
    server.misbehave = lambda *request: server.released.wait()
    start = time.monotonic()
    with pytest.raises(UserError, match=r'checkpoint: timed out \(tries: 2\)'):
        download('124M', models, server.url, Patience(timeout=0.2, retries=1, first_wait=0.001))
    assert time.monotonic() - start < 3
    assert not os.path.exists(models)


@pytest.mark.parametrize('status', [408, 429, 500, 503])
def test_a_status_that_may_pass_is_tried_again(server, models, status):
    failed = set()

    def misbehave(request, file, body, start):
        key = request.command, file
        return key not in failed and (failed.add(key) or request.reply(status, b'busy'))
    server.misbehave = misbehave
    write(os.path.join(models, '124M'), weights_part=BODIES[WEIGHTS][:60_000])
    download('124M', models, server.url, HASTY)
    assert server.gets(WEIGHTS) == ['bytes=60000-'] * 2     # a busy server does not cost what is already here
    assert contents(os.path.join(models, '124M')) == BODIES


def test_waits_double_up_to_the_longest(server, models, monkeypatch):
    waits = []
    monkeypatch.setattr(download_model.time, 'sleep', waits.append)
    server.misbehave = lambda request, *rest: request.reply(500, b'')
    with pytest.raises(UserError, match=r'HTTP 500 Internal Server Error \(tries: 6\)'):
        download('124M', models, server.url, Patience(first_wait=1, longest_wait=5))
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
    assert sorted(os.listdir(os.path.join(models, '124M'))) == sorted(set(model_dir.FILES) - {'hparams.json'})


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


def test_the_published_expectations():
    """The layout of a float32 checkpoint is its parameters times four bytes: the sum of all variables of the model."""
    def parameters(n_layer, n_embd, n_vocab=50257, n_ctx=1024):
        block = 12 * n_embd ** 2 + 13 * n_embd
        return (n_vocab + n_ctx) * n_embd + n_layer * block + 2 * n_embd
    sizes = {'124M': (12, 768), '355M': (24, 1024), '774M': (36, 1280), '1558M': (48, 1600)}
    assert download_model.KNOWN_SIZES == {name: 4 * parameters(*size) for name, size in sizes.items()}
    assert all(re.fullmatch('[0-9a-f]{64}', value) for value in download_model.KNOWN_SHA256.values())
    assert sorted(download_model.ORDER) == sorted(model_dir.FILES)


def test_fewer_bytes_than_head_promised(server, models):
    server.misbehave = only(WEIGHTS)(lambda request, file, body, start: request.serve(body[:-7], start) or True)
    with pytest.raises(UserError, match=f'{WEIGHTS}: .*the server does not go on from byte|99,994 bytes came'):
        download('124M', models, server.url, HASTY)
    assert WEIGHTS not in os.listdir(os.path.join(models, '124M'))


def test_more_bytes_than_head_promised(server, models, bars):
    @only(WEIGHTS)
    def misbehave(request, file, body, start):      # no length: the end of the connection is the end of the file
        return request.reply(200, body + b'x' * 50_000, Content_Length=None)
    server.misbehave = misbehave
    with pytest.raises(UserError, match=f'{WEIGHTS}: 10[01],... bytes came instead of 100,001'):
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
def test_sizes_come_from_get_where_head_does_not_tell(server, models, status, length):
    server.misbehave = lambda request, *rest: (request.command == 'HEAD'
                                               and request.reply(status, b'', Content_Length=length))
    download('124M', models, server.url, HASTY)
    assert contents(os.path.join(models, '124M')) == BODIES


def test_a_server_that_tells_no_sizes(server, models):
    server.misbehave = lambda request, file, body, start: request.reply(200, body, Content_Length=None)
    with pytest.raises(UserError, match='does not say how many bytes .*/checkpoint has'):
        download('124M', models, server.url, HASTY)


def test_a_server_that_compresses_all_the_same(server, models):
    @only('vocab.bpe')
    def misbehave(request, file, body, start):
        return request.reply(200, gzip.compress(body * 2), Content_Encoding='gzip')
    server.misbehave = misbehave
    with pytest.raises(UserError, match='vocab.bpe: .* bytes came instead of'):
        download('124M', models, server.url, HASTY)
    assert 'vocab.bpe' not in os.listdir(os.path.join(models, '124M'))


def test_a_disk_too_small_is_told_before_the_download(server, models, monkeypatch):
    usage = shutil.disk_usage('.')
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage._replace(free=TOTAL - 60_001))
    with pytest.raises(UserError, match=rf'needs {TOTAL:,} bytes more, its disk has only {TOTAL - 60_001:,} free'):
        download('124M', models, server.url, HASTY)
    assert server.gets() == []
    write(os.path.join(models, '124M'), weights_part=BODIES[WEIGHTS][:60_001])      # which need no more room
    download('124M', models, server.url, HASTY)


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='no /dev/full')
def test_a_disk_that_fills_up(server, models):
    os.makedirs(os.path.join(models, '124M'))
    os.symlink('/dev/full', os.path.join(models, '124M', WEIGHTS + '.part'))
    with pytest.raises(UserError, match='cannot write .*124M: No space left on device; see --models_dir'):
        download('124M', models, server.url, HASTY)
    assert len(server.gets(WEIGHTS)) == 1
    assert WEIGHTS not in os.listdir(os.path.join(models, '124M'))


def run(*args, cwd, code=None):
    """Runs the script, or `code` in its place, as a user would."""
    command = [sys.executable, SCRIPT] if code is None else [sys.executable, '-c', code]
    return subprocess.run([*command, *args], check=False, cwd=cwd, text=True, capture_output=True, timeout=20,
                          env=os.environ | {'NO_PROXY': '127.0.0.1'})


def toy_script():
    """The script with the expectations of the toy files."""
    return (f'import sys; sys.path.insert(0, {os.path.dirname(SCRIPT)!r})\nimport download_model as d, errors\n'
            f'd.KNOWN_SIZES["124M"] = {len(BODIES[WEIGHTS])}\nd.KNOWN_SHA256 = {SHA256}\nd.CHUNK = 1000\n'
            'errors.run(d.main)')


@pytest.mark.parametrize('args, names', [
    (['../124M'], "'../124M'"),
    ([], 'NAME'),
    (['124M', '--base_url', 'models.example/gpt-2'], "--base_url: expected an address such as https://"),
    (['124M', '--base_url', 'ftp://127.0.0.1/gpt-2'], "--base_url: expected .*'ftp://127.0.0.1/gpt-2'"),
    (['124M', '--base_url', 'http://127.0.0.1:port'], "--base_url: expected .*'http://127.0.0.1:port'"),
    (['124M', '--base_url', 'http://'], "--base_url: expected .*'http://'"),
    (['124M', '--base_url', 'http://a..b'], r'http://a\.\.b/models/124M/checkpoint'),
    (['124M', '--timeout', '0'], "--timeout: expected seconds, above 0 and at most 3600, not '0'"),
    (['124M', '--retries', '-1'], "--retries: expected a whole number, 0 or more, not '-1'"),
])
def test_a_wrong_command_is_one_line(tmp_path, monkeypatch, capsys, args, names):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['download_model.py', *args])
    with pytest.raises(SystemExit) as exit_:
        errors.run(download_model.main)
    shown = capsys.readouterr()
    assert (exit_.value.code, shown.out) == (2, '')
    assert re.fullmatch(f'download_model.py: .*{names}.*\n', shown.err)
    assert os.listdir(tmp_path) == []


def test_an_unknown_name_is_one_line(tmp_path):
    result = run('999M', cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, '')
    assert result.stderr == ("download_model.py: no published model is called '999M'; there are 124M, 355M, 774M, "
                             "1558M, 117M, 345M\n")
    assert os.listdir(tmp_path) == []


def test_a_closed_port_is_one_line(server, tmp_path):
    server.shutdown()
    server.server_close()
    result = run('124M', '--base_url', server.url, '--retries', '1', cwd=tmp_path)
    url = f'{server.url}/models/124M/checkpoint'
    assert result.returncode == 2
    assert result.stdout == f'{url}: Connection refused; trying again in 1 s (1 of 1)\n'
    assert result.stderr == (f'download_model.py: cannot fetch {url}: Connection refused (tries: 2); run the same '
                             'command again to go on where it stopped, or give another --base_url\n')
    assert os.listdir(tmp_path) == []


def test_a_refusal_is_one_line(server, tmp_path):
    server.misbehave = lambda request, *rest: request.reply(403, XML, Content_Type='application/xml')
    result = run('124M', '--base_url', server.url + '/', cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, '')
    url = f'{server.url}/models/124M/checkpoint'
    assert result.stderr == (f'download_model.py: cannot fetch {url}: HTTP 403 Forbidden; if the models have moved, '
                             'give --base_url\n')
    assert os.listdir(tmp_path) == []


def test_a_directory_that_cannot_be_made_is_one_line(server, tmp_path):
    (tmp_path / 'notes').write_text('mine')
    result = run('124M', '--base_url', server.url, '--models_dir', 'notes', cwd=tmp_path, code=toy_script())
    assert (result.returncode, result.stdout) == (2, '')
    assert re.fullmatch(r'-c: cannot write notes.124M: Not a directory; see --models_dir\n', result.stderr)
    assert server.gets() == []
    assert (tmp_path / 'notes').read_text() == 'mine'


@pytest.mark.parametrize('models_dir, flag', [('models', ''), ('my models', " --models_dir 'my models'")])
def test_the_last_line_says_what_to_run(server, tmp_path, models_dir, flag):
    result = run('117M', '--base_url', server.url, '--models_dir', models_dir, cwd=tmp_path, code=toy_script())
    assert (result.returncode, result.stderr) == (0, '')
    directory = os.path.join(models_dir, '117M')
    assert result.stdout.splitlines()[1:] == [
        f'{directory}: {TOTAL / 1e6:.1f} MB to fetch of {TOTAL / 1e6:.1f} MB',
        f'{directory} is complete; next: PYTHONPATH=src ./train.py --model_name 117M{flag} --dataset YOUR_TEXT']
    assert contents(tmp_path / models_dir / '117M') == BODIES


def test_a_reader_of_the_output_that_went_away_is_no_disk_error(server, tmp_path):
    process = subprocess.Popen([sys.executable, '-c', toy_script(), '124M', '--base_url', server.url], cwd=tmp_path,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env=os.environ | {'NO_PROXY': '127.0.0.1'})
    process.stdout.close()
    assert process.stderr.read() == ''
    assert process.wait(timeout=10) == 141


@pytest.mark.skipif(os.name == 'nt', reason='no SIGINT to another process')
def test_ctrl_c_keeps_the_part(server, tmp_path):
    @only(WEIGHTS)
    def misbehave(request, file, body, start):
        request.reply(200, body, send=30_000)
        return server.released.wait()
    server.misbehave = misbehave
    process = subprocess.Popen([sys.executable, '-c', toy_script(), '124M', '--base_url', server.url], cwd=tmp_path,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                               env=os.environ | {'NO_PROXY': '127.0.0.1'})
    part = tmp_path / 'models' / '124M' / (WEIGHTS + '.part')
    deadline = time.monotonic() + 10
    while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=10)[1] == ''
    assert process.returncode == 130
    assert part.read_bytes() == BODIES[WEIGHTS][:30_000]
    assert not (tmp_path / 'models' / '124M' / 'hparams.json').exists()

    server.misbehave = lambda *request: False
    server.seen.clear()
    assert run('124M', '--base_url', server.url, cwd=tmp_path, code=toy_script()).returncode == 0
    assert server.gets(WEIGHTS) == ['bytes=30000-']
    assert contents(tmp_path / 'models' / '124M') == BODIES
