"""Several workers on this machine from one command: started, watched, and started again when one of them is lost."""

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

from command.errors import WORKER_LOST, UserError
from command.machine import available_processors, visible_gpus
from command.models import CHECKPOINT_DIR
from storage import checkpoints
from workers.cluster import PARENT

RESTARTS = 3        # unless --max_restarts says otherwise
GRACE = 30.0        # seconds for the others to end after one of them died; more than saving a checkpoint takes


def train(args: argparse.Namespace, command: list[str], devices: list[tuple[dict, set[int]]]) -> int:
    """Runs a training command with args.local_workers workers on this machine; the status to end with.

    When a worker dies, or all are lost to each other, starts them again from the last checkpoint, --max_restarts times.
    devices: of each worker, as assign_devices gives them.
    """
    most_restarts = RESTARTS if args.max_restarts is None else args.max_restarts
    flags = without(command[1:], {'--local_workers': 1, '--max_restarts': 1})
    for restarts in range(most_restarts + 1):
        started = time.time()
        group = _Group([sys.executable, command[0], *flags], devices)
        status = group.wait()
        if status != WORKER_LOST or group.stopped:
            break
        if restarts < most_restarts:
            print(f'{group.blame()}: starting all {args.local_workers} again, restart {restarts + 1} of '
                  f'{most_restarts}', file=sys.stderr, flush=True)
            flags = _go_on(flags, os.path.join(CHECKPOINT_DIR, args.run_name), started)
    return status


def without(flags: list[str], taken: dict[str, int]) -> list[str]:
    """Command-line flags without some: {name: number of values}; `--name value` and `--name=value` alike."""
    kept, rest = [], list(flags)
    while rest:
        flag = rest.pop(0)
        name, equals, _ = flag.partition('=')
        if name not in taken:
            kept.append(flag)
        elif not equals:
            del rest[:taken[name]]
    return kept


def _go_on(flags: list[str], run_directory: str, since: float) -> list[str]:
    """Flags with which a run goes on that has saved since a time: not from where it first started."""
    prefix = checkpoints.latest_checkpoint(run_directory)
    if prefix is None or os.stat(f'{prefix}.index').st_mtime < since:
        return flags
    return [*without(flags, {'--overwrite': 0, '--restore_from': 1}), '--restore_from', 'latest']


def assign_devices(count: int) -> list[tuple[dict, set[int]]]:
    """For each worker what its environment has besides, and its processors: a GPU for each, if there are, and equal shares."""
    gpus = visible_gpus()
    if 0 < len(gpus) < count:
        raise UserError(f'--local_workers {count}: there are {len(gpus)} GPUs, and each worker takes one')
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else list(range(available_processors()))
    share = max(len(cores) // count, 1)
    return [({'CUDA_VISIBLE_DEVICES': gpus[i]} if gpus else {},
             {cores[(i * share + j) % len(cores)] for j in range(share)}) for i in range(count)]


class _Group:
    """The processes of one start. Their output is worker 0's; what another says is shown if it is the one that failed.

    SIGINT and SIGTERM go on to all of them, once each: they have a process group of their own, where Ctrl-C does not reach.
    """

    def __init__(self, command: list[str], devices: list[tuple[dict, set[int]]]):
        addresses = ','.join(f'localhost:{port}' for port in free_ports(len(devices)))
        environment = {name: value for name, value in os.environ.items() if name != 'TF_CONFIG'}
        environment[PARENT] = str(os.getpid())
        self.stopped = False
        self._said = [None, *(tempfile.TemporaryFile() for _ in devices[1:])]    # noqa: SIM115
        self._before = {number: signal.signal(number, self._forward) for number in (signal.SIGINT, signal.SIGTERM)}
        self._processes = [
            subprocess.Popen([*command, '--workers', addresses, '--worker_index', str(i)], env=environment | extra,
                             stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL if i else None, stderr=self._said[i],
                             start_new_session=True)
            for i, (extra, _) in enumerate(devices)]
        if hasattr(os, 'sched_setaffinity'):
            for process, (_, cores) in zip(self._processes, devices):
                os.sched_setaffinity(process.pid, cores)    # long before it makes threads, which inherit it

    def _forward(self, number, _) -> None:
        self.stopped = True
        for process in self._processes:
            process.send_signal(number)

    def wait(self) -> int:
        """Waits until all have ended. Their status: 0, or that of one that failed by itself, or WORKER_LOST."""
        deadline = None
        while any(process.poll() is None for process in self._processes):
            if deadline is None and any(process.poll() for process in self._processes):
                deadline = time.monotonic() + GRACE
            if deadline is not None and time.monotonic() > deadline:
                for process in self._processes:
                    process.kill()
            time.sleep(0.1)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        return self._status()

    def _status(self) -> int:
        statuses = [process.returncode for process in self._processes]
        failed = [i for i, status in enumerate(statuses) if status > 0 and status != WORKER_LOST]
        if failed and failed[0] > 0:
            self._said[failed[0]].seek(0)
            sys.stderr.write(self._said[failed[0]].read().decode(errors='replace'))
        return statuses[failed[0]] if failed else WORKER_LOST if any(statuses) else 0

    def blame(self) -> str:
        """Which workers were lost, in words."""
        died = [f'worker {i} ({signal.Signals(-process.returncode).name})' for i, process in enumerate(self._processes)
                if process.returncode < 0]
        return f'{", ".join(died)} died' if died else 'the workers lost each other'


def free_ports(count: int) -> list[int]:
    """Ports of this machine at which nobody listens now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(('localhost', 0))
        return [each.getsockname()[1] for each in sockets]
