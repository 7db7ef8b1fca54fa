#!/usr/bin/env python3
"""What training with several workers costs: on this machine, over a slow network, and predicted for large ones.

    bench/distributed.py [--rounds 7] [--only local slow paper]

The model is a small GPT-2 with random weights and tokens, trained by train.py's step with Adam in float32. Each worker
is a process pinned to one core before TensorFlow starts; 4 workers share 2 cores. Teams of 1, 2 and 4 workers are
started one after the other, keep running, and then take turns. In its turn a team runs, on all its workers together:
steps without reduction, steps with gradients sent as float32 and as bfloat16, a plain TCP copy, around the same ring,
of the bytes that a ring all-reduce sends, and a small message around it. The slowest worker counts. Ratios are taken
within a round; the tables have their medians. `model` is network_model.py's prediction, from the step without
reduction, the copy's rate and the message's time.

slow: the same for 2 workers in two network namespaces, with 10 ms and 100 Mbit/s each way; needs Linux and root. paper:
the predictions for each size of GPT-2 on networks that are not here.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, '..', 'src'), HERE]

import network_model
import slow_link

from network.hparams import HParams
from workers.cluster import ONE_WORKER, Cluster
from workers.local import free_ports

MODEL = HParams(n_vocab=8192, n_ctx=128, n_embd=512, n_head=8, n_layer=4)
BATCH = 1                       # sequences of n_ctx tokens per worker
DTYPES = ('float32', 'bfloat16')
ALONE, COPY, MESSAGE = 'alone', 'copy', 'message'
TIMES = {ALONE: 2, 'float32': 2, 'bfloat16': 2, COPY: 2, MESSAGE: 50}   # repetitions in a turn
SLOW_TIMES = {ALONE: 2, 'float32': 1, 'bfloat16': 1, COPY: 1, MESSAGE: 5}
WARMUP = 2                      # turns that are not counted
SLOW_ROUNDS = 3                 # at most; each takes half a minute
DELAY, RATE = 10e-3, 100e6 / 8  # seconds and bytes per second, each way
LIMIT = 120.0                   # seconds for a turn, and for a worker to start


def traffic(nbytes: int, workers: int) -> int:
    """Bytes that each worker sends, and receives, in a ring all-reduce of nbytes."""
    return round(2 * (workers - 1) * nbytes / workers)


class Ring:
    """A worker's TCP connections to the next worker and from the previous one."""

    def __init__(self, addresses: list[tuple[str, int]], index: int):
        self._next, self._leads, self._count = addresses[(index + 1) % len(addresses)], index == 0, len(addresses)
        self._listener = socket.create_server(addresses[index])
        self._listener.settimeout(LIMIT)
        sent = traffic(sum(network_model.gradient_buckets(MODEL, 'float32')), self._count)
        self._sent, self._received = bytearray(b'\1' * sent), memoryview(bytearray(b'\2' * sent))

    def connect(self) -> None:
        """Call it when all workers listen."""
        self._to = socket.create_connection(self._next, LIMIT)
        self._from, _ = self._listener.accept()
        for each in (self._to, self._from):
            each.settimeout(LIMIT)
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def copy(self) -> None:
        """Sends what a float32 reduction sends to the next worker, and receives as much at the same time."""
        sender = threading.Thread(target=self._to.sendall, args=[self._sent])
        sender.start()
        self._receive(len(self._received))
        sender.join()

    def message(self) -> None:
        """Passes one byte around the ring."""
        if self._leads:
            self._to.sendall(b'x')
        self._receive(1)
        if not self._leads:
            self._to.sendall(b'x')

    def _receive(self, nbytes: int) -> None:
        done = 0
        while done < nbytes:
            got = self._from.recv_into(self._received[done:nbytes])
            if not got:
                raise ConnectionError('the previous worker closed its connection')
            done += got


def training_step(workers, dtype: str):
    """A function that runs a training step, with its own graph and session."""
    import numpy as np
    import tensorflow.compat.v1 as tf

    import model
    from network import gradients
    from training import optimizer
    with tf.Graph().as_default() as graph, gradients.compiling():
        tokens = tf.placeholder(tf.int32, [BATCH, MODEL.n_ctx])
        loss = model.loss(model.model(MODEL, tokens), tokens)
        weights = tf.trainable_variables()
        step = optimizer.TrainStep(loss, weights, workers=workers, reduce_dtype=tf.as_dtype(dtype))
        session = workers.session(graph)
        for variable in weights:
            session.run(variable.initializer)
        step.initialize(session)
    rng = np.random.default_rng(0)
    return lambda: step.run(session, [{tokens: rng.integers(MODEL.n_vocab, size=tokens.shape)}], 2e-5)


def run_worker(settings: dict) -> None:
    """Runs one worker. A turn is a line of stdin, JSON [action, repetitions]; prints the seconds of one repetition."""
    os.sched_setaffinity(0, settings['cores'])
    from command import tensorflow_setup
    tensorflow_setup.load_tensorflow(several=True)
    from workers.collectives import Workers
    index, several = settings['index'], len(settings['addresses']) > 1
    cluster = Cluster(tuple(settings['addresses']), index) if several else ONE_WORKER
    ring = Ring([tuple(address) for address in settings['ring']], index) if several else None
    workers = Workers(cluster, timeout=LIMIT, startup_timeout=LIMIT)
    with workers.connected():
        actions = {ALONE: training_step(Workers(), 'float32')}
        if several:
            ring.connect()
            actions |= {COPY: ring.copy, MESSAGE: ring.message}
            actions |= {dtype: training_step(workers, dtype) for dtype in DTYPES}
        for line in sys.stdin:
            action, times = json.loads(line)
            workers.barrier()
            start = time.perf_counter()
            for _ in range(times):
                actions[action]()
            print(json.dumps((time.perf_counter() - start) / times), flush=True)


@dataclasses.dataclass(frozen=True)
class Location:
    """Where a worker runs: its ports for TensorFlow and the ring, its core, and the command that starts a process there."""
    host: str
    ports: tuple[int, int]
    core: int
    prefix: tuple[str, ...] = ()


class Team:
    """The worker processes of one measurement. rounds: {action: seconds} of each round."""

    def __init__(self, locations: list[Location], times: dict[str, int]):
        self.count, self.cores, self.rounds = len(locations), len({location.core for location in locations}), []
        self._times = {action: n for action, n in times.items() if self.count > 1 or action == ALONE}
        common = {'addresses': [f'{location.host}:{location.ports[0]}' for location in locations],
                  'ring': [(location.host, location.ports[1]) for location in locations]}
        self._processes = []
        for i, location in enumerate(locations):
            settings = json.dumps(common | {'index': i, 'cores': [location.core]})
            self._processes.append(subprocess.Popen(
                [*location.prefix, sys.executable, os.path.abspath(__file__), '--worker', settings], text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True))

    @contextlib.contextmanager
    def ready(self):
        """Starts and warms up the workers; at its end waits for their exit, or, after an error, kills them."""
        limit = 0.0
        try:
            for action in [*self._times] * WARMUP:
                self._turn(action, 1)
            yield self
            limit = LIMIT
        finally:
            with self._limit(limit):
                for process in self._processes:
                    process.stdin.close()
                for process in self._processes:
                    process.wait()

    def round(self) -> None:
        self.rounds.append({action: self._turn(action, times) for action, times in self._times.items()})
        print(f'{self.count} workers: {json.dumps(self.rounds[-1])}', file=sys.stderr, flush=True)

    def _turn(self, action: str, times: int) -> float:
        """Seconds of one repetition by the slowest worker."""
        with self._limit(LIMIT):
            for process in self._processes:
                process.stdin.write(f'{json.dumps([action, times])}\n')
                process.stdin.flush()
            lines = [process.stdout.readline() for process in self._processes]
        if not all(lines):
            sys.exit(f'a worker of {self.count} failed, or took more than {LIMIT:g} seconds: {action}')
        return max(map(json.loads, lines))

    @contextlib.contextmanager
    def _limit(self, seconds: float):
        """Kills the workers if the block takes longer, which ends every wait for them."""
        timer = threading.Timer(seconds, lambda: [process.kill() for process in self._processes])
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def median(self, figure) -> float:
        """The median over all rounds of figure({action: seconds})."""
        return statistics.median(map(figure, self.rounds))


HEADS = ['', 'step, s', 'without reduction, s', 'share of reduction', 'MB each way', 'a plain copy of them, s',
         'reduction over copy', 'model over measured']


def row(team: Team, dtype: str) -> list[str]:
    """The row under HEADS of a team that sends its gradients in a dtype."""
    buckets = network_model.gradient_buckets(MODEL, dtype)
    full = traffic(sum(network_model.gradient_buckets(MODEL, 'float32')), team.count)
    sent = traffic(sum(buckets), team.count)

    def copy(seconds: dict) -> float:
        return seconds[COPY] * sent / full

    def predicted(seconds: dict) -> float:
        reduction = network_model.reduction_seconds(sum(buckets), team.count, bandwidth=full / seconds[COPY],
                                                    latency=seconds[MESSAGE] / team.count, buckets=len(buckets))
        return network_model.step_seconds(seconds[ALONE], reduction)

    median = team.median
    return [f'{team.count} workers, {dtype}', f'{median(lambda s: s[dtype]):.3f}', f'{median(lambda s: s[ALONE]):.3f}',
            f'{median(lambda s: 1 - s[ALONE] / s[dtype]):.2f}', f'{sent / 1e6:.0f}', f'{median(copy):.3f}',
            f'{median(lambda s: (s[dtype] - s[ALONE]) / copy(s)):.1f}',
            f'{median(lambda s: predicted(s) / s[dtype]):.2f}']


def table(heads: list[str], rows: list[list[str]]) -> str:
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in [heads, ['---'] * len(heads), *rows])


def scaling(teams: list[Team]) -> str:
    """Table: tokens per second of each team, and their ratio to those of one worker in the same round."""
    rows, tokens = [], BATCH * MODEL.n_ctx
    for team in teams:
        for dtype in DTYPES if team.count > 1 else [ALONE]:
            pairs = [(team.count * tokens / own[dtype], tokens / one[ALONE])
                     for own, one in zip(team.rounds, teams[0].rounds)]
            rows.append([f'{team.count} workers, {dtype}' if team.count > 1 else '1 worker', str(team.cores),
                         f'{statistics.median(own for own, _ in pairs):.0f}',
                         f'{statistics.median(own / one for own, one in pairs):.2f}'])
    return table(['', 'cores', 'tokens/s', 'over one worker'], rows)


def local(rounds: int) -> str:
    """Tables of teams of 1, 2 and 4 workers on this machine, in turns."""
    cores = sorted(os.sched_getaffinity(0))
    with contextlib.ExitStack() as stack:
        teams = []
        for count in (1, 2, 4):
            ports = free_ports(2 * count)
            locations = [Location('localhost', (ports[i], ports[count + i]), cores[i % len(cores)])
                         for i in range(count)]
            teams.append(stack.enter_context(Team(locations, TIMES).ready()))
        for _ in range(rounds):
            for team in teams:
                team.round()
    figures = table(HEADS, [row(team, dtype) for team in teams[1:] for dtype in DTYPES])
    return f'this machine, one core for each worker while there are; rounds: {rounds}\n\n{scaling(teams)}\n\n{figures}'


def slow(rounds: int) -> str:
    """Table of two workers at the ends of a slow link."""
    cores = sorted(os.sched_getaffinity(0))
    try:
        with slow_link.slow_link(DELAY, RATE) as link:
            locations = [Location(address, (5000, 5001), cores[i % len(cores)], ('ip', 'netns', 'exec', name))
                      for i, (name, address) in enumerate(zip(link.namespaces, slow_link.ADDRESSES))]
            with Team(locations, SLOW_TIMES).ready() as team:
                for _ in range(rounds):
                    team.round()
    except slow_link.Refused as refusal:
        return f'slow link: not measured, this machine has none ({refusal})'
    figures = table(HEADS, [row(team, dtype) for dtype in DTYPES])
    return (f'{DELAY * 1e3:g} ms one way and {RATE * 8 / 1e6:g} Mbit/s each way, by {link.made_by}; rounds: {rounds}; '
            f'a byte took {team.median(lambda s: s[MESSAGE]) * 1e3:.0f} ms there and back\n\n{figures}')


GROUPS = {'local': local, 'slow': lambda rounds: slow(min(rounds, SLOW_ROUNDS)),
          'paper': lambda _: network_model.paper_tables()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=7, help='turns of each team that are counted')
    parser.add_argument('--only', nargs='+', choices=GROUPS, default=list(GROUPS), metavar='GROUP')
    parser.add_argument('--worker', type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return run_worker(args.worker)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))     # so that everything is cleaned up
    from command import tensorflow_setup
    tensorflow_setup.load_tensorflow()
    print(f'{platform.machine()}, {os.cpu_count()} cores, {time.strftime("%Y-%m-%d")}\n')
    for group in args.only:
        print(f'{GROUPS[group](args.rounds)}\n', flush=True)


if __name__ == '__main__':
    main()
