"""serve.py: what is wrong before it starts, and one that runs and is stopped."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from conftest import ROOT, one_line_error
from optional import SERVE, needs

needs('uvicorn', SERVE)


@pytest.fixture
def used_port():
    with socket.socket() as listening:
        listening.bind(('127.0.0.1', 0))
        listening.listen()
        yield listening.getsockname()[1]


@pytest.mark.parametrize(('flags', 'words'), [
    (['--run_name', 'other'], ["no run 'other' in checkpoint", './train.py makes one']),
    (['--model_name', 'other'], ["no model 'other'", 'toy']),
    (['--model_name', 'toy', '--run_name', 'run1'], ['not allowed with']),
    (['--model_name', 'bare'], ['bare/encoder.json', 'No such file']),
    (['--model_name', 'toy', '--host', '0.0.0.0'], ['--host 0.0.0.0 lets other machines in', '--token']),
    (['--model_name', 'toy', '--host', 'localhost.evil.example'], ['lets other machines in']),
    (['--model_name', 'toy', '--host', '127.0.0.1.1', '--token', 'x'], ['cannot listen at 127.0.0.1.1:8000']),
    (['--model_name', 'toy', '--token', ''], ['--token must be']),
    (['--model_name', 'toy', '--token', 'two words'], ['--token must be']),
    (['--model_name', 'toy', '--port', '0'], ['--port', '1 to 65535']),
    (['--model_name', 'toy', '--port', '70000'], ['--port', '1 to 65535']),
    (['--model_name', 'toy', '--weights', 'int4'], ['--weights', 'int8']),
    (['--model_name', 'toy', '--batch_size', '0'], ['--batch_size', 'above 0']),
    (['--model_name', 'toy', '--batch_size', '100000000'], ['--batch_size 100000000 needs', 'GB are available']),
    (['--model_nam', 'toy', '--prot', '1'], ['--prot: did you mean --port?'])])
def test_a_mistake_is_one_line_before_tensorflow(mistake, home, model_directory, flags, words):
    shutil.copytree(model_directory, home / 'models/bare', ignore=shutil.ignore_patterns('encoder.json'))
    error = mistake('serve.py', *flags)
    assert all(word in error for word in words), error


def test_a_port_in_use_is_one_line_before_tensorflow(mistake, used_port):
    error = mistake('serve.py', '--model_name', 'toy', '--port', used_port)
    assert error == (f'cannot listen at 127.0.0.1:{used_port}: Address already in use; give another --port or --host')


@pytest.mark.parametrize('package', ['starlette', 'uvicorn'])
def test_a_missing_package_is_one_line(mistake, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    assert mistake('serve.py', '--model_name', 'toy') == (
        f'serving needs the {package} package: pip install -r requirements-serve.txt')


def test_the_requirements_name_what_is_checked():
    with open(os.path.join(ROOT, SERVE), encoding='utf-8') as file:
        assert re.findall(r'^\w+', file.read(), re.MULTILINE) == ['starlette', 'uvicorn']


@pytest.fixture
def process(tf, home):
    """A server of models/one_block as a process, and its address."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    command = [sys.executable, os.path.join(ROOT, 'serve.py'), '--model_name', 'one_block', '--port', str(port), '--token', 'key',
               '--max_tokens', '400']
    server = subprocess.Popen(command, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    yield server, f'http://127.0.0.1:{port}'
    with contextlib.suppress(ProcessLookupError):
        server.kill()
    server.communicate()


def test_a_server_finishes_what_runs_when_it_is_stopped(process):
    server, url = process
    assert server.stdout.readline() == f'one_block is at {url} (Ctrl-C ends the server)\n'

    def post(**content):
        request = urllib.request.Request(f'{url}/v1/completions', json.dumps(content).encode(), {
            'Content-Type': 'application/json', 'Authorization': 'Bearer key'})
        return urllib.request.urlopen(request, timeout=120)

    stream = post(prompt='the', max_tokens=400, seed=1, stream=True)
    assert stream.readline().startswith(b'data: {')
    server.send_signal(signal.SIGTERM)
    rest = stream.read().decode()
    assert '"finish_reason": "length"' in rest or '"finish_reason": "stop"' in rest
    assert rest.endswith('data: [DONE]\n\n')
    assert server.wait(60) == 0
    assert server.stderr.read() == ''
    with pytest.raises(OSError):
        post(prompt='the')


def test_without_a_token_there_is_one_line(without_tensorflow):
    assert one_line_error(without_tensorflow('serve.py', '--host', '0.0.0.0')).startswith('serve.py: --host 0.0.0.0 lets other')
