"""Which processes train together, and which of them this one is: from flags, TF_CONFIG or SLURM."""

import argparse
import contextlib
import dataclasses
import json
import os
import re
import socket
import time
from collections.abc import Iterable

from command.errors import UserError, WorkerLost
from workers.slurm import workers_of_step

JOBS = ('chief', 'master', 'worker')    # of TF_CONFIG, in the order in which their tasks are counted
PARENT = 'LOCAL_WORKERS_PARENT'         # environment: the process that started this worker, and must not be outlived
ATTEMPT = 1.0           # seconds for one connection
PAUSE = 0.25            # seconds between two rounds of them
SAY_AFTER = 3.0         # seconds until it is said for whom: those of one command come within one


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The addresses host:port of all workers, the same list everywhere, and the place in it of this process."""
    addresses: tuple[str, ...] = ('',)      # one worker needs none
    index: int = 0

    @property
    def count(self) -> int:
        return len(self.addresses)

    def name(self, index: int) -> str:
        return f'worker {index} ({self.addresses[index]})'

    def wait_for_all(self, timeout: float) -> None:
        """Waits until every other worker listens. Raises WorkerLost that names those who do not after `timeout` seconds.

        Prints once for whom it waits. By plain TCP: TensorFlow's runtime, asked before worker 0 is there, waits for it forever.
        """
        start, printed = time.monotonic(), False
        missing = [i for i in range(self.count) if i != self.index]
        while missing := [i for i in missing if not _listens(self.addresses[i])]:
            waited = time.monotonic() - start
            names = ', '.join(map(self.name, missing))
            if waited >= SAY_AFTER and not printed:
                printed = True
                print(f'waiting for {names}', flush=True)
            if waited >= timeout:
                raise WorkerLost(f'not there within --dist_startup_timeout {timeout:g} seconds: {names}')
            time.sleep(PAUSE)

    def gone(self, among: Iterable[int]) -> list[int]:
        """Those of some workers whose machine reports that nobody listens at their port. A silent one may be alive."""
        return [i for i in among if i != self.index and _refuses(self.addresses[i])]


ONE_WORKER = Cluster()


def find_cluster(args: argparse.Namespace, environment=os.environ) -> Cluster:
    """The cluster that --workers and --worker_index, or --slurm, or else TF_CONFIG tell of; one worker without them.

    Raises UserError for flags that do not go together, and for addresses or an index that cannot be. Without --slurm it
    does without TensorFlow.
    """
    # --workers '', as from a variable that is not set, is a mistake: without it, each worker would train for itself.
    ways = [flag for flag in ('workers', 'local_workers', 'slurm') if getattr(args, flag) not in (None, False)]
    if len(ways) > 1:
        raise UserError(f'--{ways[0]} and --{ways[1]}: give one of them')
    if args.worker_index is not None and args.workers is None:
        raise UserError('--worker_index goes with --workers')
    if args.max_restarts is not None and args.local_workers is None:
        raise UserError('--max_restarts goes with --local_workers')
    if args.slurm:
        return checked(*workers_of_step(), '--slurm', '--slurm')
    if args.workers is not None:
        if args.worker_index is None:
            raise UserError('--workers needs --worker_index: which of them this process is, counted from 0')
        return checked(args.workers.split(','), args.worker_index, '--workers', '--worker_index')
    if args.local_workers is None and environment.get('TF_CONFIG', '').strip():
        return _from_tf_config(environment['TF_CONFIG'])
    return ONE_WORKER


def checked(addresses: list[str], index: int, source: str, index_source: str) -> Cluster:
    """A Cluster of these; a UserError for what is wrong with them names the source."""
    for address in addresses:
        port = re.fullmatch(r'(?:[^\s:/\[\]]+|\[[0-9a-fA-F:.]+\]):([1-9][0-9]{0,4})', address)
        if not port or int(port[1]) >= 1 << 16:
            raise UserError(f'{source}: expected host:port, not {address!r}')
        if addresses.count(address) > 1:
            raise UserError(f'{source}: {address} is there twice')
    if not 0 <= index < len(addresses):
        raise UserError(f'{index_source} {index}: there are {len(addresses)} workers, counted from 0')
    return Cluster(tuple(addresses), index)


def _from_tf_config(text: str) -> Cluster:
    """The cluster of {"cluster": {"worker": ["host:port", …]}, "task": {"type": "worker", "index": 0}}.

    A chief, or master, is worker 0. Without "cluster", as a job of one pod has it, one worker. With one, "task" must be
    there: workers without would all be the first.
    """
    try:
        config = json.loads(text)
        cluster, task = config.get('cluster') or {}, config.get('task') or {}
        addresses = [(job, i, str(address)) for job in JOBS for i, address in enumerate(cluster.get(job) or [])]
        others = [job for job in cluster if job not in JOBS and cluster[job]]
        own = (task['type'], int(str(task['index']))) if addresses else None
    except (ValueError, TypeError, AttributeError, KeyError):
        raise UserError(f'TF_CONFIG: expected {{"cluster": {{"worker": ["host:port", …]}}, "task": {{"type": "worker", '
                        f'"index": 0}}}}, not {text!r}') from None
    if others:
        raise UserError(f'TF_CONFIG: {others[0]!r} has no part in this training; expected only {", ".join(JOBS)}')
    if not addresses:
        return ONE_WORKER
    places = [place for place, (job, i, _) in enumerate(addresses) if (job, i) == own]
    if not places:
        raise UserError(f'TF_CONFIG: its task is {own[0]} {own[1]}, and its cluster has none')
    return checked([address for _, _, address in addresses], places[0], 'TF_CONFIG', 'TF_CONFIG: task index')


def _connect(address: str) -> None:
    host, _, port = address.rpartition(':')
    socket.create_connection((host.strip('[]'), int(port)), ATTEMPT).close()


def _listens(address: str) -> bool:
    try:
        _connect(address)
    except OSError:         # names that do not resolve yet included: in Kubernetes they appear with the pod
        return False
    return True


def _refuses(address: str) -> bool:
    with contextlib.suppress(OSError):
        try:
            _connect(address)
        except ConnectionRefusedError:
            return True
    return False
