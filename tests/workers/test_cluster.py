"""Which workers there are: from flags, TF_CONFIG and SLURM, and every mistake in them; flags and places of local workers."""

import argparse
import io
import json
import os
import socket
import stat
import time

import pytest

from command import machine
from command.errors import UserError, WorkerLost
from conftest import one_line_error
from workers import cluster, local
from workers.cluster import Cluster

NONE = {'workers': None, 'worker_index': None, 'local_workers': None, 'max_restarts': None, 'slurm': False}


def find(environment=None, **flags):
    return cluster.find_cluster(argparse.Namespace(**NONE | flags), environment or {})


def tf_config(cluster, kind='worker', index=0):
    return {'TF_CONFIG': json.dumps({'cluster': cluster, 'task': {'type': kind, 'index': index}, 'environment': 'cloud'})}


def test_one_worker_without_flags():
    assert find() == find({'TF_CONFIG': ' '}) == find({'TF_CONFIG': '{}'}) == Cluster()
    assert (Cluster().count, Cluster().index) == (1, 0)


def test_workers_by_flags():
    found = find(workers='a:1,b.example:65535,10.0.0.7:8,[::1]:9', worker_index=3)
    assert found == Cluster(('a:1', 'b.example:65535', '10.0.0.7:8', '[::1]:9'), 3)
    assert found.count == 4
    assert found.name(1) == 'worker 1 (b.example:65535)'


def test_flags_win_over_tf_config():
    assert find({'TF_CONFIG': 'x'}, local_workers=2, max_restarts=1) == Cluster()
    assert find(tf_config({'worker': ['x:1', 'y:1']}), workers='a:1,b:1', worker_index=1).addresses == ('a:1', 'b:1')


@pytest.mark.parametrize(('config', 'addresses', 'index'), [
    (tf_config({'worker': ['a:1', 'b:1']}, 'worker', 1), ('a:1', 'b:1'), 1),
    (tf_config({'worker': ['a:1', 'b:1'], 'chief': ['c:1'], 'ps': [], 'master': None}, 'worker', 1), ('c:1', 'a:1', 'b:1'), 2),
    (tf_config({'chief': ['c:1'], 'worker': ['a:1']}, 'chief', 0), ('c:1', 'a:1'), 0),
    (tf_config({'master': ['m:1'], 'worker': ['a:1']}, 'worker', '0'), ('m:1', 'a:1'), 1),
    (tf_config({}), ('',), 0),
])
def test_workers_by_tf_config(config, addresses, index):
    assert find(config) == Cluster(addresses, index)


@pytest.mark.parametrize(('config', 'flags', 'message'), [
    ({}, {'workers': 'a:1,b:1'}, '--workers needs --worker_index'),
    ({}, {'worker_index': 0}, '--worker_index goes with --workers'),
    ({}, {'workers': 'a:1,b', 'worker_index': 0}, "--workers: expected host:port, not 'b'"),
    ({}, {'workers': 'a:1,', 'worker_index': 0}, "--workers: expected host:port, not ''"),
    ({}, {'workers': 'a:0', 'worker_index': 0}, "not 'a:0'"),
    ({}, {'workers': 'a:65536', 'worker_index': 0}, "not 'a:65536'"),
    ({}, {'workers': 'a:1,a:01', 'worker_index': 0}, "not 'a:01'"),
    ({}, {'workers': 'a:١', 'worker_index': 0}, "not 'a:١'"),
    ({}, {'workers': ''}, '--workers needs --worker_index'),
    ({}, {'workers': '', 'worker_index': 0}, "--workers: expected host:port, not ''"),
    ({}, {'workers': '', 'local_workers': 2}, '--workers and --local_workers: give one of them'),
    ({}, {'slurm': True, 'worker_index': 0}, '--worker_index goes with --workers'),
    ({}, {'workers': 'a:1', 'worker_index': 0, 'max_restarts': 0}, '--max_restarts goes with --local_workers'),
    ({}, {'workers': 'a:1, b:1', 'worker_index': 0}, "not ' b:1'"),
    ({}, {'workers': '::1:9', 'worker_index': 0}, "not '::1:9'"),
    ({}, {'workers': 'a:1,b:1,a:1', 'worker_index': 0}, '--workers: a:1 is there twice'),
    ({}, {'workers': 'a:1,b:1', 'worker_index': 2}, '--worker_index 2: there are 2 workers, counted from 0'),
    ({}, {'workers': 'a:1,b:1', 'worker_index': 0, 'slurm': True}, '--workers and --slurm: give one of them'),
    ({}, {'workers': 'a:1', 'local_workers': 2}, '--workers and --local_workers: give one of them'),
    ({'TF_CONFIG': 'x'}, {}, "TF_CONFIG: expected .*, not 'x'"),
    ({'TF_CONFIG': '[]'}, {}, 'TF_CONFIG: expected'),
    ({'TF_CONFIG': '{"cluster": {"worker": ["a:1", "b:1"]}}'}, {}, 'TF_CONFIG: expected'),
    (tf_config({'worker': ['a:1', 'b:1']}, index=1.5), {}, 'TF_CONFIG: expected'),
    ({'TF_CONFIG': '{"cluster": {"worker": 5}}'}, {}, 'TF_CONFIG: expected'),
    (tf_config({'worker': ['a:1', 'b:1']}, 'worker', 2), {}, 'TF_CONFIG: its task is worker 2, and its cluster has none'),
    (tf_config({'worker': ['a:1', 'b:1']}, 'evaluator', 0), {}, 'TF_CONFIG: its task is evaluator 0'),
    (tf_config({'worker': ['a:1', 'b:1'], 'ps': ['p:1']}), {}, "TF_CONFIG: 'ps' has no part in this training"),
    (tf_config({'worker': ['a:1', 'b']}), {}, "TF_CONFIG: expected host:port, not 'b'"),
])
def test_what_cannot_be_is_named(config, flags, message):
    with pytest.raises(UserError, match=message):
        find(config, **flags)


def test_waiting_for_workers_and_missing_them():
    with socket.socket() as listening:
        listening.bind(('localhost', 0))
        listening.listen()
        there = f'localhost:{listening.getsockname()[1]}'
        [port] = local.free_ports(1)
        absent = f'localhost:{port}'
        Cluster((there, absent), 1).wait_for_all(0.0)      # itself it does not wait for
        start = time.monotonic()
        with pytest.raises(WorkerLost, match=rf'within --dist_startup_timeout 0.3 seconds: worker 2 \({absent}\)$'):
            Cluster(('me:1', there, absent), 0).wait_for_all(0.3)
        assert time.monotonic() - start >= 0.3
        assert Cluster((there, absent, 'no.host.invalid:1', absent), 3).gone([0, 1, 2, 3]) == [1]


def test_a_connection_is_tried_for_a_moment(monkeypatch):
    tried = []
    monkeypatch.setattr(cluster.socket, 'create_connection', lambda *where: tried.append(where) or io.BytesIO())
    Cluster(('a:1', '[::1]:9', 'me:1'), 2).wait_for_all(0.0)
    assert tried == [(('a', 1), cluster.ATTEMPT), (('::1', 9), cluster.ATTEMPT)]


@pytest.mark.parametrize(('say_after', 'said'), [(0.0, 'waiting for worker 1 (localhost:PORT)\n'), (60.0, '')])
def test_for_whom_a_worker_waits_is_said_once(monkeypatch, capsys, say_after, said):
    monkeypatch.setattr(cluster, 'SAY_AFTER', say_after)
    [port] = local.free_ports(1)
    with pytest.raises(WorkerLost):
        Cluster(('me:1', f'localhost:{port}'), 0).wait_for_all(0.6)     # more than two rounds
    assert capsys.readouterr().out == said.replace('PORT', str(port))


def test_flags_of_a_restart():
    flags = ['--a', '1', '--local_workers', '2', '--b', '--local_workers=3', '--overwrite', '--local_workers_x', '4']
    assert local.without(flags, {'--local_workers': 1, '--overwrite': 0}) == ['--a', '1', '--b', '--local_workers_x', '4']


def test_places_of_local_workers(monkeypatch, tmp_path):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: {0, 1, 2, 3, 8}, raising=False)
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    assert local.assign_devices(2) == [({}, {0, 1}), ({}, {2, 3})]
    assert local.assign_devices(7)[4:] == [({}, {8}), ({}, {0}), ({}, {1})]
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '3, GPU-5')
    assert local.assign_devices(2) == [({'CUDA_VISIBLE_DEVICES': '3'}, {0, 1}), ({'CUDA_VISIBLE_DEVICES': 'GPU-5'}, {2, 3})]
    with pytest.raises(UserError, match='--local_workers 3: there are 2 GPUs, and each worker takes one'):
        local.assign_devices(3)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES')
    fake = tmp_path / 'nvidia-smi'
    fake.write_text('#!/bin/sh\nprintf "0\\n1\\n2\\n"\n')
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv('PATH', f'{tmp_path}{os.pathsep}{os.environ["PATH"]}')
    assert machine.visible_gpus() == ['0', '1', '2']
    fake.write_text('#!/bin/sh\nexit 9\n')
    assert machine.visible_gpus() == []


SLURM = {'SLURM_JOB_ID': '40001', 'SLURM_STEP_NUM_TASKS': '4', 'SLURM_STEP_NODELIST': 'n[9-10]',
         'SLURM_STEP_TASKS_PER_NODE': '2(x2)', 'SLURM_PROCID': '1', 'SLURM_LOCALID': '1', 'SLURMD_NODENAME': 'n9'}


def test_workers_of_a_slurm_job_step(tf, monkeypatch):
    """The resolver sorts n10 before n9, so a task's number in the cluster is that of its address, not SLURM's."""
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '0,1')
    assert find(slurm=True) == Cluster(('n10:10001', 'n10:10002', 'n9:10001', 'n9:10002'), 3)
    assert os.environ['CUDA_VISIBLE_DEVICES'] == '1'
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '0')     # as --gpus-per-task binds it
    find(slurm=True)
    assert os.environ['CUDA_VISIBLE_DEVICES'] == '0'
    monkeypatch.setenv('SLURM_LOCALID', '2')
    with pytest.raises(UserError, match='--slurm: the environment is not that of a job step .*: start with srun'):
        find(slurm=True)


@pytest.mark.parametrize(('flags', 'message'), [
    (['--workers', 'a:1,b:1'], '--workers needs --worker_index'),
    (['--local_workers', '2', '--workers', 'a:1'], 'give one of them'),
    (['--local_workers', '0'], 'expected a whole number above 0'),
    (['--local_workers', '2', '--seq_length', '99'], '--seq_length 99 is more than'),
    (['--local_workers', '2', '--dataset', 'nowhere'], "cannot find 'nowhere'"),
    (['--dist_timeout', '0'], 'expected a number above 0'),
    (['--slurm'], '--slurm: this is no job step, SLURM_STEP_NUM_TASKS is not set: start with srun'),
])
def test_mistakes_are_one_line_before_anything_starts(without_tensorflow, flags, message):
    flags = ['--model_name', 'toy', '--dataset', 'corpus.txt', *flags]
    assert message in one_line_error(without_tensorflow('train.py', *flags))
