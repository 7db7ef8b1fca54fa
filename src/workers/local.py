"""Starting, monitoring and restarting several workers on this machine."""

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
from command.models import run_path
from command.stop_signal import stop_signals
from storage import checkpoints
from workers.cluster import PARENT

RESTARTS = 3        # the default of --max_restarts
GRACE = 30.0        # seconds for the others to end after one died, before they are killed; a save takes less


def run_workers(args: argparse.Namespace, command: list[str], devices: list[tuple[dict, set[int]]]) -> int:
    """Runs a training command as args.local_workers processes on this machine; returns the exit status.

    If a worker dies, or they lose their connection, starts all again from the last checkpoint, --max_restarts times at
    most. devices: from assign_devices.
    """
    most_restarts = RESTARTS if args.max_restarts is None else args.max_restarts
    flags = remove_flags(command[1:], {'--local_workers': 1, '--max_restarts': 1})
    for restarts in range(most_restarts + 1):
        started = time.time()
        group = _Group([sys.executable, command[0], *flags], devices)
        status = group.wait()
        if status != WORKER_LOST or group.stopped:
            break
        if restarts < most_restarts:
            print(f'{group.cause()}: starting all {args.local_workers} again, restart {restarts + 1} of '
                  f'{most_restarts}', file=sys.stderr, flush=True)
            flags = _resuming_flags(flags, run_path(args.checkpoint_dir, args.run_name), started)
    return status


def remove_flags(arguments: list[str], flags: dict[str, int]) -> list[str]:
    """Arguments without some flags (name -> number of values), as `--name value` or `--name=value`, also abbreviated.

    The arguments are valid: a prefix of one of these flags is not one of another.
    """
    kept, rest = [], list(arguments)
    while rest:
        argument = rest.pop(0)
        name, equals, _ = argument.partition('=')
        removed = next((flag for flag in flags if len(name) > 2 and flag.startswith(name)), None)
        if removed is None:
            kept.append(argument)
        elif not equals:
            del rest[:flags[removed]]
    return kept


def _resuming_flags(flags: list[str], run_directory: str, since: float) -> list[str]:
    """Flags that resume a run from its last checkpoint, if it has saved one since a time; else the same flags."""
    prefix = checkpoints.latest_checkpoint(run_directory)
    if prefix is None or os.stat(f'{prefix}.index').st_mtime < since:
        return flags
    return [*remove_flags(flags, {'--overwrite': 0, '--restore_from': 1}), '--restore_from', 'latest']


def assign_devices(count: int) -> list[tuple[dict, set[int]]]:
    """Each worker's environment variables, for one GPU each if there are any, and its share of the processors."""
    gpus = visible_gpus()
    if 0 < len(gpus) < count:
        raise UserError(f'--local_workers {count}: there are {len(gpus)} GPUs, and each worker takes one')
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else list(range(available_processors()))
    share = max(len(cores) // count, 1)
    return [({'CUDA_VISIBLE_DEVICES': gpus[i]} if gpus else {},
             {cores[(i * share + j) % len(cores)] for j in range(share)}) for i in range(count)]


class _Group:
    """The processes of one start. Only worker 0's output is shown, and the errors of another that fails by itself.

    Signals to stop are forwarded: each worker has its own process group, which Ctrl-C does not reach.
    """

    def __init__(self, command: list[str], devices: list[tuple[dict, set[int]]]):
        addresses = ','.join(f'localhost:{port}' for port in free_ports(len(devices)))
        environment = {name: value for name, value in os.environ.items() if name != 'TF_CONFIG'}
        environment[PARENT] = str(os.getpid())
        self.stopped = False
        self._errors = [None, *(tempfile.TemporaryFile() for _ in devices[1:])]    # noqa: SIM115  (of their stderr)
        self._handlers = {number: signal.signal(number, self._forward) for number in stop_signals()}
        self._processes = [
            subprocess.Popen([*command, '--workers', addresses, '--worker_index', str(i)], env=environment | extra,
                             stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL if i else None, stderr=self._errors[i],
                             start_new_session=True)
            for i, (extra, _) in enumerate(devices)]
        if hasattr(os, 'sched_setaffinity'):
            for process, (_, cores) in zip(self._processes, devices):
                os.sched_setaffinity(process.pid, cores)    # long before it starts threads, which inherit it

    def _forward(self, number, _) -> None:
        self.stopped = True
        for process in self._processes:
            process.send_signal(number)

    def wait(self) -> int:
        """Waits until all have ended. Returns 0, the status of one that failed by itself, or WORKER_LOST."""
        deadline = None
        while any(process.poll() is None for process in self._processes):
            if deadline is None and any(process.poll() for process in self._processes):
                deadline = time.monotonic() + GRACE
            if deadline is not None and time.monotonic() > deadline:
                for process in self._processes:
                    process.kill()
            time.sleep(0.1)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        return self._status()

    def _status(self) -> int:
        statuses = [process.returncode for process in self._processes]
        failed = [i for i, status in enumerate(statuses) if status > 0 and status != WORKER_LOST]
        if not failed:
            return WORKER_LOST if any(statuses) else 0
        if errors := self._errors[failed[0]]:
            errors.seek(0)
            sys.stderr.write(errors.read().decode(errors='replace'))
        return statuses[failed[0]]

    def cause(self) -> str:
        """Why the workers were lost: which of them died."""
        died = [f'worker {i} ({signal.Signals(-process.returncode).name})' for i, process in enumerate(self._processes)
                if process.returncode < 0]
        return f'{", ".join(died)} died' if died else 'the workers lost their connection'


def free_ports(count: int) -> list[int]:
    """Ports of this machine that no process listens at now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(('localhost', 0))
        return [each.getsockname()[1] for each in sockets]
