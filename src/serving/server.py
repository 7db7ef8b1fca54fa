"""Runs the application and its batcher at an address, until a signal."""

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import uvicorn

from command.errors import UserError, reason
from serving.access import in_url
from serving.batcher import Batcher


def listen(host: str, port: int) -> socket.socket:
    """A socket that accepts connections; they wait until the server runs. Raises UserError, for a port in use for example."""
    try:
        [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM,
                                                                        flags=socket.AI_PASSIVE)
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)     # right after an earlier server has ended
        listening.bind(address)
        listening.listen(128)
    except OSError as error:
        raise UserError(f'cannot listen at {in_url(host)}:{port}: {reason(error)}; give another --port or --host') from None
    return listening


class Server(uvicorn.Server):
    """uvicorn's, which at the first signal finishes what runs, and at the second does not wait for it.

    stopping: called at the first. The process then ends with status 0, and not by the signal.
    """

    def __init__(self, config: uvicorn.Config, stopping: Callable[[], None]):
        super().__init__(config)
        self._stopping = stopping

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():       # which alone receives signals
            yield
            return
        handlers = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: object) -> None:
        self._stopping()
        self.force_exit, self.should_exit = self.should_exit, True


def make_server(app: Callable, batcher: Batcher) -> Server:
    config = uvicorn.Config(app, http='h11', ws='none', lifespan='off', log_level='warning', access_log=False,
                            server_header=False)
    return Server(config, batcher.close)


def serve(server: Server, batcher: Batcher, listening: socket.socket) -> None:
    """Runs until a signal, or should_exit of the server."""
    thread = threading.Thread(target=batcher.run, name='batcher', daemon=True)
    thread.start()
    try:
        server.run(sockets=[listening])
    finally:
        batcher.abandon()
        thread.join()
