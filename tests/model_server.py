"""A local server of models whose answers a test can replace, for the tests of download_model.py.

A test module gets the fixtures with `pytest_plugins = ['model_server']`. PYTEST_DONT_REWRITE: nothing is asserted here.
"""

import hashlib
import http.server
import io
import os
import random
import threading

import pytest
import tqdm

import download_model
from command import models as model_names
from download_model import WEIGHTS, Retries

HASTY = Retries(timeout=5, count=2, first_wait=0.001)
BODIES = {file: file.encode() * 50 for file in model_names.FILES} | {WEIGHTS: b'\0' + random.Random(0).randbytes(100_000)}
TOTAL = sum(map(len, BODIES.values()))
SHA256 = {file: hashlib.sha256(BODIES[file]).hexdigest() for file in ('encoder.json', 'vocab.bpe')}
XML = b'\xef\xbb\xbf<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>'


class Request(http.server.BaseHTTPRequestHandler):
    """Serves BODIES with ranges, unless the server's `misbehave(request, file, body, start)` has answered."""
    protocol_version = 'HTTP/1.1'
    disable_nagle_algorithm = True      # Nagle's algorithm delays each body by 40 ms

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
    monkeypatch.setattr(download_model, 'KNOWN_SIZES', dict.fromkeys(model_names.PUBLISHED, len(BODIES[WEIGHTS])))
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
    """The progress bars that were drawn."""
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


def interrupt(request, file, body, start, after=30_000, honour_range=True):
    """Closes the connection `after` bytes into an answer that announces more."""
    start = start if honour_range else 0
    return request.reply(206 if start else 200, body[start:], send=after,
                         Content_Range=f'bytes {start}-{len(body) - 1}/{len(body)}' if start else None)


def ignore_range(request, file, body, start):
    return request.reply(200, body)
