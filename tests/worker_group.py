"""Real workers for tests: processes that train together over loopback, killed at the end of a test.

They are forked from a process that has imported TensorFlow, which saves each of them some seconds.
"""

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import forkserver

import pytest

from workers.local import free_ports

TIMEOUT = 120.0     # seconds for anything that a group does, on a slow machine

_context = multiprocessing.get_context('forkserver')


def _start_server() -> None:
    """Starts the process that workers are forked from, unless it is running; it finds modules through PYTHONPATH only."""
    _context.set_forkserver_preload(['forked_with_tensorflow'])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('PYTHONPATH', os.pathsep.join(sys.path))
        patch.delenv('TF_CPP_MIN_LOG_LEVEL', raising=False)     # a test in this process may have set it
        forkserver.ensure_running()


@dataclasses.dataclass
class Worker:
    """A worker process, whose output can be read while it runs."""
    process: multiprocessing.Process
    out_path: str
    err_path: str

    @property
    def out(self) -> str:
        with open(self.out_path, encoding='utf-8') as file:
            return file.read()

    @property
    def err(self) -> str:
        with open(self.err_path, encoding='utf-8') as file:
            return file.read()

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def wait_for(self, text: str) -> None:
        """Waits until the worker has printed a text."""
        end = time.monotonic() + TIMEOUT
        while text not in self.out:
            assert time.monotonic() < end and self.process.is_alive(), (self.out, self.err)
            time.sleep(0.05)

    def status(self, timeout: float = TIMEOUT) -> int:
        """Waits for the end of the process; returns its exit status."""
        self.process.join(timeout)
        assert self.process.exitcode is not None, f'still alive after {timeout} seconds: {self.out}{self.err}'
        return self.process.exitcode


def group(count: int, directory, target: Callable, *args) -> contextlib.AbstractContextManager[list[Worker]]:
    """Runs target(addresses, index, *args) in `count` processes, in a directory; kills those still running at the end."""
    addresses = [f'localhost:{port}' for port in free_ports(count)]
    return processes(directory, target, [(addresses, index, *args) for index in range(count)])


@contextlib.contextmanager
def alone(directory, *flags) -> Iterator[Worker]:
    """Runs train.py with these flags in a process, in a directory; kills it at the end if it still runs."""
    with processes(directory, train_alone, [flags]) as [worker]:
        yield worker


@contextlib.contextmanager
def processes(directory, target: Callable, arguments: list[tuple]) -> Iterator[list[Worker]]:
    """Runs target(*args) for each of the arguments, in processes in a directory; kills those still running at the end."""
    workers = []
    try:
        for index, args in enumerate(arguments):
            workers.append(start(directory, f'worker{index}', target, *args))
        yield workers
    finally:
        for worker in workers:
            if worker.process.is_alive():
                os.kill(worker.process.pid, signal.SIGKILL)
                worker.process.join(TIMEOUT)


def start(directory, name: str, target: Callable, *args) -> Worker:
    paths = [os.path.join(str(directory), f'{name}.{stream}') for stream in ('out', 'err')]
    for path in paths:
        open(path, 'w').close()
    _start_server()
    process = _context.Process(target=_run_in, args=(str(directory), paths, target, args), daemon=True)
    process.start()
    return Worker(process, *paths)


def _run_in(directory: str, paths: list[str], target: Callable, args: tuple) -> None:
    os.chdir(directory)
    redirect(*(os.open(path, os.O_WRONLY | os.O_APPEND) for path in paths))
    target(*args)


def redirect(out: int, err: int) -> None:
    """Makes two file descriptors the standard output and the standard error of this process."""
    os.dup2(out, 1)
    os.dup2(err, 2)
    sys.stdout = open(1, 'w', encoding='utf-8', buffering=1, closefd=False)     # noqa: SIM115  (as long as the process)
    sys.stderr = open(2, 'w', encoding='utf-8', buffering=1, closefd=False)     # noqa: SIM115


def train(addresses: list[str], index: int, *flags) -> None:
    """Runs train.py as one of these workers. A flag may be a list of values, one for each worker."""
    flags = [flag[index] if isinstance(flag, list) else flag for flag in flags]
    train_alone('--model_name', 'toy', '--workers', ','.join(addresses), '--worker_index', index, *flags)


def train_alone(*flags) -> None:
    """Runs train.py in this process, to its end."""
    import train
    from command.errors import run
    sys.argv = ['train.py', '--dataset', 'corpus.txt', *map(str, flags)]
    run(train.main)
