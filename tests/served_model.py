"""A server of a small model, in this process and at a port, for the tests of src/serving.

A test module gets the fixtures with `pytest_plugins = ['served_model']`. PYTEST_DONT_REWRITE: nothing is asserted here.
"""

import threading
import time
from typing import NamedTuple

import pytest

NAME = 'exp/toy'


class Running(NamedTuple):
    """A server at a port. url: http://127.0.0.1:PORT."""
    url: str
    generator: object
    batcher: object


@pytest.fixture(scope='module')
def generator(tf, one_block):
    from generator import Generator
    return Generator(str(one_block))


def make(generator, port, token=None, batch_size=4, queue=16):
    """The application and its batcher, which must still be run."""
    from serving.access import Access
    from serving.app import Served, make_app
    from serving.batcher import Batcher
    from serving.schema import Limits
    limits = Limits(generator.encoder.n_vocab, generator.hparams.n_ctx, max_tokens=64, texts=8, body=20_000)
    batcher = Batcher(generator, batch_size=batch_size, queue=queue)
    return make_app(Served(NAME, 1_700_000_000, generator, limits), batcher, Access('127.0.0.1', port, token),
                    token is not None), batcher


@pytest.fixture(scope='module')
def running(generator):
    """A server in a thread of this process."""
    from serving.server import listen, make_server, serve
    listening = listen('127.0.0.1', 0)
    port = listening.getsockname()[1]
    app, batcher = make(generator, port)
    server = make_server(app, batcher)
    thread = threading.Thread(target=serve, args=(server, batcher, listening), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield Running(f'http://127.0.0.1:{port}', generator, batcher)
    server.should_exit = True
    thread.join()


@pytest.fixture
def client(generator):
    """A client of the application in this process, whose batcher runs in a thread."""
    from starlette.testclient import TestClient
    app, batcher = make(generator, 8000)
    thread = threading.Thread(target=batcher.run, daemon=True)
    thread.start()
    client = TestClient(app, base_url='http://127.0.0.1:8000', raise_server_exceptions=False)
    client.batcher = batcher
    yield client
    batcher.abandon()
    thread.join()
