"""Which processes train together: from flags, TF_CONFIG or SLURM."""

import argparse
import dataclasses
import json
import os
import re
import socket
import time
from collections.abc import Iterable

from command.errors import UserError, WorkerLost
from workers.slurm import workers_of_step

JOBS = ('chief', 'master', 'worker')    # of TF_CONFIG, in the order in which workers are numbered
PARENT = 'LOCAL_WORKERS_PARENT'         # environment variable: the process whose --local_workers started this worker
CONNECT_SECONDS = 1.0
POLL_SECONDS = 0.25
REPORT_AFTER = 3.0      # seconds of waiting until the missing workers are printed; --local_workers start within one


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The addresses host:port of all workers, the same list in each of them, and this process's index in it."""
    addresses: tuple[str, ...] = ('',)      # a single worker needs none
    index: int = 0

    @property
    def count(self) -> int:
        return len(self.addresses)

    def name(self, index: int) -> str:
        return f'worker {index} ({self.addresses[index]})'

    def wait_for_all(self, timeout: float) -> None:
        """Waits until every other worker listens at its port. Raises WorkerLost that names those that do not in time.

        By plain TCP, because TensorFlow's runtime waits without a limit for a worker 0 that has not started.
        """
        start, reported = time.monotonic(), False
        missing = [i for i in range(self.count) if i != self.index]
        while missing := [i for i in missing if not _is_open(self.addresses[i])]:
            waited = time.monotonic() - start
            names = ', '.join(map(self.name, missing))
            if waited >= REPORT_AFTER and not reported:
                reported = True
                print(f'waiting for {names}', flush=True)
            if waited >= timeout:
                raise WorkerLost(f'{names} did not start within --dist_startup_timeout {timeout:g} seconds')
            time.sleep(POLL_SECONDS)

    def gone(self, indices: Iterable[int]) -> list[int]:
        """Those of some other workers whose machine refuses connections. One that does not answer may be alive."""
        return [i for i in indices if i != self.index and _is_open(self.addresses[i]) is False]


ONE_WORKER = Cluster()


def find_cluster(args: argparse.Namespace, environment=os.environ) -> Cluster:
    """The cluster given by --workers and --worker_index, by --slurm, or else by TF_CONFIG; one worker without them.

    Raises UserError for flags that exclude each other, and for invalid addresses or indices. Only --slurm imports
    TensorFlow.
    """
    # An empty --workers, as from an unset variable, is a mistake: without it, each worker would train for itself.
    given = [flag for flag in ('workers', 'local_workers', 'slurm') if getattr(args, flag) not in (None, False)]
    if len(given) > 1:
        raise UserError(f'--{given[0]} and --{given[1]}: give one of them')
    if args.worker_index is not None and args.workers is None:
        raise UserError('--worker_index needs --workers')
    if args.max_restarts is not None and args.local_workers is None:
        raise UserError('--max_restarts needs --local_workers')
    if args.slurm:
        return make_cluster(*workers_of_step(), '--slurm', '--slurm')
    if args.workers is not None:
        if args.worker_index is None:
            raise UserError('--workers needs --worker_index: which of them this process is, counted from 0')
        return make_cluster(args.workers.split(','), args.worker_index, '--workers', '--worker_index')
    if args.local_workers is None and environment.get('TF_CONFIG', '').strip():
        return _from_tf_config(environment['TF_CONFIG'])
    return ONE_WORKER


def make_cluster(addresses: list[str], index: int, source: str, index_source: str) -> Cluster:
    """Raises UserError for an invalid address or index, which names the source of it."""
    for address in addresses:
        port = re.fullmatch(r'(?:[^\s:/\[\]]+|\[[0-9a-fA-F:.]+\]):([1-9][0-9]{0,4})', address)
        if not port or int(port[1]) >= 1 << 16:
            raise UserError(f'{source}: expected host:port, not {address!r}')
        if addresses.count(address) > 1:
            raise UserError(f'{source}: {address} is listed twice')
    if not 0 <= index < len(addresses):
        raise UserError(f'{index_source} {index}: there are {len(addresses)} workers, counted from 0')
    return Cluster(tuple(addresses), index)


def _from_tf_config(text: str) -> Cluster:
    """The cluster of {"cluster": {"worker": ["host:port", …]}, "task": {"type": "worker", "index": 0}}.

    A chief, or master, is worker 0. Without "cluster", as in a job of one pod, there is one worker. With it, "task" is
    required: without an index, each worker would be worker 0.
    """
    try:
        config = json.loads(text)
        cluster, task = config.get('cluster') or {}, config.get('task') or {}
        addresses = {(job, i): str(address) for job in JOBS for i, address in enumerate(cluster.get(job) or [])}
        unknown = [job for job in cluster if job not in JOBS and cluster[job]]
        own = (str(task['type']), int(str(task['index']))) if addresses else None
    except (ValueError, TypeError, AttributeError, KeyError):
        raise UserError('TF_CONFIG: expected {"cluster": {"worker": ["host:port", …]}, "task": {"type": "worker", '
                        f'"index": 0}}}}, not {text!r}') from None
    if unknown:
        raise UserError(f'TF_CONFIG: {unknown[0]!r} is not supported; expected only {", ".join(JOBS)}')
    if not addresses:
        return ONE_WORKER
    if own not in addresses:
        raise UserError(f'TF_CONFIG: its task, {own[0]} {own[1]}, is not in its cluster')
    return make_cluster(list(addresses.values()), list(addresses).index(own), 'TF_CONFIG', 'TF_CONFIG: task index')


def _is_open(address: str) -> bool | None:
    """Whether a process listens at host:port; None if nothing answers."""
    host, _, port = address.rpartition(':')
    try:
        socket.create_connection((host.strip('[]'), int(port)), CONNECT_SECONDS).close()
    except ConnectionRefusedError:
        return False
    except OSError:         # also a name that does not resolve: in Kubernetes it appears with the pod
        return None
    return True
