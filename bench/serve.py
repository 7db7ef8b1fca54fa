#!/usr/bin/env python3
"""Measures serve.py under load, in turns with transformers behind the same routes.

    pip install -r bench/requirements.txt -r requirements-serve.txt
    bench/serve.py [--rounds 2] [--clients 1 8 32] [--tokens 48] [--requests 2000]

Both have GPT-2's 124M shapes and random weights in float32, and draw with top_k 40. The peer answers one request after the other
with `generate`, as a lock around a model does: the usual small server. Each is a process. In each round, for each number of
clients, all clients of one server send a streaming request at the same time, then those of the other. Prints tokens per second
of all clients together, and the seconds until a client has its first token: medians over the rounds, and the median and the
largest of the clients. At the end our server answers --requests short requests, and its resident memory at the first tenth and at
the last is compared. With the defaults this takes less than eight minutes on two cores; --tiny has a tiny model, to try it.
"""

import argparse
import concurrent.futures
import dataclasses
import http.client
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', 'src'))

from network.hparams import HParams, default_hparams

TINY = HParams(n_vocab=257, n_ctx=64, n_embd=32, n_head=2, n_layer=2)
PROMPT = [5, 17, 3, 250, 8, 99, 42, 7]      # token ids
TOP_K = 40


class Numbers:
    """A stand-in for an encoder where only ids matter: each token is a full stop, and none ends a text."""

    def __init__(self, n_vocab: int):
        import types

        import numpy as np
        self.n_vocab, self.end_of_text, self.dtype = n_vocab, -1, np.dtype(np.uint16)
        self.special_tokens = types.SimpleNamespace(end_of_text='')

    def encode_with_special(self, _) -> list[int]:
        return [0]

    def decode_bytes(self, ids) -> bytes:
        return b'.' * len(ids)


def ours(hparams: HParams, listening: socket.socket) -> None:
    """Serves random weights by src/serving."""
    from command import tensorflow_setup
    tensorflow_setup.load_tensorflow()
    from generator import Generator
    from serving.access import Access
    from serving.app import Served, make_app
    from serving.batcher import Batcher
    from serving.schema import Limits
    from serving.server import make_server, serve
    from storage.model_directory import Model
    with tempfile.TemporaryDirectory() as directory:
        # In a process of its own, whose memory does not count here.
        subprocess.run([sys.executable, os.path.abspath(__file__), '--make_model', directory,
                        *(['--tiny'] if hparams == TINY else [])], check=True)
        generator = Generator(Model(directory, hparams, Numbers(hparams.n_vocab), os.path.join(directory, 'model.ckpt')))
    batcher = Batcher(generator, batch_size=8, queue=64)
    batcher.warm_up()
    port = listening.getsockname()[1]
    app = make_app(Served('bench', 0, generator, Limits(hparams.n_vocab, hparams.n_ctx)), batcher,
                   Access('127.0.0.1', port, None), False)
    print('ready', flush=True)
    serve(make_server(app, batcher), batcher, listening)


def make_model(hparams: HParams, directory: str) -> None:
    """Writes a checkpoint of random weights."""
    from command import tensorflow_setup
    tensorflow_setup.load_tensorflow()
    import tensorflow.compat.v1 as tf

    import model
    from storage import saver
    with tf.Session() as session:
        model.model(hparams, tf.placeholder(tf.int32, [None, None]))
        session.run(tf.global_variables_initializer())
        saver.save_model(session, directory)


class Tokens:
    """What `generate` calls a streamer: passes on each token but those of the prompt, and None at the end."""

    def __init__(self, put):
        self.put_token, self.is_prompt = put, True

    def put(self, value) -> None:
        if not self.is_prompt:
            self.put_token(value)
        self.is_prompt = False

    def end(self) -> None:
        self.put_token(None)


def transformers(hparams: HParams, listening: socket.socket) -> None:
    """Serves random weights by transformers' generate, one request at a time."""
    import threading

    import torch
    import uvicorn
    from starlette.applications import Starlette
    from starlette.responses import StreamingResponse
    from starlette.routing import Route
    from transformers import GPT2Config, GPT2LMHeadModel
    torch.set_num_threads(os.cpu_count())
    end = hparams.n_vocab - 1
    network = GPT2LMHeadModel(GPT2Config(
        attn_implementation='sdpa', vocab_size=hparams.n_vocab, n_positions=hparams.n_ctx, n_embd=hparams.n_embd,
        n_layer=hparams.n_layer, n_head=hparams.n_head, bos_token_id=end, eos_token_id=end)).eval()
    lock = threading.Lock()

    def write(prompt: list, length: int, put) -> None:
        with lock, torch.inference_mode():
            network.generate(torch.tensor([prompt]), attention_mask=torch.ones([1, len(prompt)]), do_sample=True, top_k=TOP_K,
                             min_new_tokens=length, max_new_tokens=length, eos_token_id=None,
                             pad_token_id=end, streamer=Tokens(put))

    async def complete(request):
        import asyncio
        content, loop, tokens = await request.json(), asyncio.get_running_loop(), asyncio.Queue()

        def put(token):
            loop.call_soon_threadsafe(tokens.put_nowait, token)
        threading.Thread(target=write, args=(content['prompt'], content['max_tokens'], put)).start()

        async def lines():
            while await tokens.get() is not None:
                yield 'data: {"choices": [{"text": "."}]}\n\n'
            yield 'data: [DONE]\n\n'
        return StreamingResponse(lines(), media_type='text/event-stream')

    write(PROMPT, 2, lambda token: None)
    print('ready', flush=True)
    app = Starlette(routes=[Route('/v1/completions', complete, methods=['POST'])])
    uvicorn.Server(uvicorn.Config(app, log_level='warning', access_log=False)).run(sockets=[listening])


SERVERS = {'this toolkit': ours, 'transformers, one at a time': transformers}


@dataclasses.dataclass
class Figures:
    """Of one round: tokens per second of all clients, and the seconds until each has its first token."""
    rate: float
    first: list[float]


class Server:
    """A server in a process of its own. rounds: number of clients -> its Figures."""

    def __init__(self, name: str, tiny: bool, counts: list[int]):
        self.name, self.rounds = name, {count: [] for count in counts}
        self._process = subprocess.Popen([sys.executable, os.path.abspath(__file__), '--server', name,
                                          *(['--tiny'] if tiny else [])], stdout=subprocess.PIPE, text=True)
        self.port = int(self._process.stdout.readline())
        if self._process.stdout.readline() != 'ready\n':
            sys.exit(f'{name} failed')

    def complete(self, length: int) -> tuple[float, float]:
        """Sends a request and reads its stream. Returns the times of its first token and of its end."""
        connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=600)
        body = json.dumps({'prompt': PROMPT, 'max_tokens': length, 'top_k': TOP_K, 'stream': True, 'temperature': 1})
        connection.request('POST', '/v1/completions', body, {'Content-Type': 'application/json'})
        response = connection.getresponse()
        assert response.status == 200, response.read()
        response.readline()
        first = time.time()
        rest = response.read()
        assert rest.endswith(b'[DONE]\n\n'), rest[-200:]
        connection.close()
        return first, time.time()

    def measure(self, count: int, length: int) -> None:
        start = time.time()
        with concurrent.futures.ThreadPoolExecutor(count) as pool:
            times = list(pool.map(lambda _: self.complete(length), range(count)))
        seconds = max(end for _, end in times) - start
        figures = Figures(count * length / seconds, [first - start for first, _ in times])
        self.rounds[count].append(figures)
        print(f'{self.name}, {count} clients: {figures.rate:.1f} tokens/s', file=sys.stderr)

    def memory(self) -> int:
        """Bytes of resident memory; 0 where the system does not say it in Linux's way."""
        try:
            with open(f'/proc/{self._process.pid}/statm', encoding='ascii') as file:
                return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')
        except OSError:
            return 0

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()


def table(servers: list, counts: list[int]) -> str:
    lines = ['| clients | | tokens/s | of this toolkit\'s rate | first token, s: median | last |', '|---' * 6 + '|']
    for count in counts:
        for server in servers:
            rounds = server.rounds[count]
            ratio = statistics.median(mine.rate / other.rate for mine, other in zip(rounds, servers[0].rounds[count]))
            lines.append(f'| {count} | {server.name} | {statistics.median(one.rate for one in rounds):.1f} | {ratio:.2f} '
                         f'| {statistics.median(statistics.median(one.first) for one in rounds):.2f} '
                         f'| {statistics.median(max(one.first) for one in rounds):.2f} |')
    return '\n'.join(lines)


def memory_over(server: Server, requests: int) -> str:
    """Sends short requests, eight at a time. Returns a line about the memory before and after most of them."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(server.complete, [2] * (requests // 10)))
        before = server.memory()
        list(pool.map(server.complete, [2] * (requests - requests // 10)))
    return (f'resident memory after {requests // 10:,} requests: {before / 1e6:.0f} MB; after {requests:,}: '
            f'{server.memory() / 1e6:.0f} MB')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=2, help='rounds of each server and number of clients')
    parser.add_argument('--clients', type=int, nargs='+', default=[1, 8, 32])
    parser.add_argument('--tokens', type=int, default=48, help='tokens of each text')
    parser.add_argument('--requests', type=int, default=2000, help='short requests, for the memory')
    parser.add_argument('--tiny', action='store_true', help='a tiny model, to try it')
    parser.add_argument('--server', choices=SERVERS, help=argparse.SUPPRESS)
    parser.add_argument('--make_model', help=argparse.SUPPRESS)
    args = parser.parse_args()
    hparams = TINY if args.tiny else default_hparams()
    if args.make_model:
        make_model(hparams, args.make_model)
        return
    if args.server:
        listening = socket.create_server(('127.0.0.1', 0), backlog=128)
        print(listening.getsockname()[1], flush=True)
        SERVERS[args.server](hparams, listening)
        return
    servers = [Server(name, args.tiny, args.clients) for name in SERVERS]
    for server in servers:
        server.complete(4)
    for _ in range(args.rounds):
        for count in args.clients:
            for server in servers:
                server.measure(count, args.tokens)
    print(f'{platform.machine()}, {os.cpu_count()} cores, {time.strftime("%Y-%m-%d")}, {args.rounds} rounds, texts of '
          f'{args.tokens} tokens\n')
    print(table(servers, args.clients))
    servers[1].close()
    print(f'\n{servers[0].name}: {memory_over(servers[0], args.requests)}')
    servers[0].close()


if __name__ == '__main__':
    main()
