"""The cluster from flags, TF_CONFIG and SLURM, and errors in them; waiting for its workers."""

import argparse
import importlib
import io
import json
import os
import shutil
import socket
import sys
import time

import pytest

from checkpoint_files import write_checkpoint, zeros
from command import errors
from command.errors import UserError, WorkerLost
from conftest import TEXT
from network.hparams import load_hparams
from workers import cluster, local, slurm
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
    result = find(workers='a:1,b.example:65535,10.0.0.7:8,[::1]:9', worker_index=3)
    assert result == Cluster(('a:1', 'b.example:65535', '10.0.0.7:8', '[::1]:9'), 3)
    assert result.count == 4
    assert result.name(1) == 'worker 1 (b.example:65535)'


def test_flags_override_tf_config():
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
    ({}, {'worker_index': 0}, '--worker_index needs --workers'),
    ({}, {'workers': 'a:1,b', 'worker_index': 0}, "--workers: expected host:port, not 'b'"),
    ({}, {'workers': 'a:1,', 'worker_index': 0}, "--workers: expected host:port, not ''"),
    ({}, {'workers': 'a:0', 'worker_index': 0}, "not 'a:0'"),
    ({}, {'workers': 'a:65536', 'worker_index': 0}, "not 'a:65536'"),
    ({}, {'workers': 'a:1,a:01', 'worker_index': 0}, "not 'a:01'"),
    ({}, {'workers': 'a:١', 'worker_index': 0}, "not 'a:١'"),
    ({}, {'workers': ''}, '--workers needs --worker_index'),
    ({}, {'workers': '', 'worker_index': 0}, "--workers: expected host:port, not ''"),
    ({}, {'workers': '', 'local_workers': 2}, '--workers and --local_workers: give one of them'),
    ({}, {'slurm': True, 'worker_index': 0}, '--worker_index needs --workers'),
    ({}, {'workers': 'a:1', 'worker_index': 0, 'max_restarts': 0}, '--max_restarts needs --local_workers'),
    ({}, {'workers': 'a:1, b:1', 'worker_index': 0}, "not ' b:1'"),
    ({}, {'workers': '::1:9', 'worker_index': 0}, "not '::1:9'"),
    ({}, {'workers': 'a:1,b:1,a:1', 'worker_index': 0}, '--workers: a:1 is listed twice'),
    ({}, {'workers': 'a:1,b:1', 'worker_index': 2}, '--worker_index 2: there are 2 workers, counted from 0'),
    ({}, {'workers': 'a:1,b:1', 'worker_index': 0, 'slurm': True}, '--workers and --slurm: give one of them'),
    ({}, {'workers': 'a:1', 'local_workers': 2}, '--workers and --local_workers: give one of them'),
    ({'TF_CONFIG': 'x'}, {}, "TF_CONFIG: expected .*, not 'x'"),
    ({'TF_CONFIG': '[]'}, {}, 'TF_CONFIG: expected'),
    ({'TF_CONFIG': '{"cluster": {"worker": ["a:1", "b:1"]}}'}, {}, 'TF_CONFIG: expected'),
    (tf_config({'worker': ['a:1', 'b:1']}, index=1.5), {}, 'TF_CONFIG: expected'),
    ({'TF_CONFIG': '{"cluster": {"worker": 5}}'}, {}, 'TF_CONFIG: expected'),
    (tf_config({'worker': ['a:1', 'b:1']}, 'worker', 2), {}, 'TF_CONFIG: its task, worker 2, is not in its cluster'),
    (tf_config({'worker': ['a:1', 'b:1']}, 'evaluator', 0), {}, 'TF_CONFIG: its task, evaluator 0, is not in its cluster'),
    (tf_config({'worker': ['a:1', 'b:1'], 'ps': ['p:1']}), {}, "TF_CONFIG: 'ps' is not supported; expected only chief, master"),
    (tf_config({'worker': ['a:1', 'b']}), {}, "TF_CONFIG: expected host:port, not 'b'"),
])
def test_invalid_settings_are_named(config, flags, message):
    with pytest.raises(UserError, match=message):
        find(config, **flags)


def test_waiting_for_workers_and_naming_those_that_do_not_start():
    with socket.socket() as listening:
        listening.bind(('localhost', 0))
        listening.listen()
        open_address = f'localhost:{listening.getsockname()[1]}'
        [port] = local.free_ports(1)
        closed_address = f'localhost:{port}'
        Cluster((open_address, closed_address), 1).wait_for_all(0.0)      # it does not wait for itself
        start = time.monotonic()
        message = rf'^worker 2 \({closed_address}\) did not start within --dist_startup_timeout 0.3 seconds$'
        with pytest.raises(WorkerLost, match=message):
            Cluster(('me:1', open_address, closed_address), 0).wait_for_all(0.3)
        assert time.monotonic() - start >= 0.3
        assert Cluster((open_address, closed_address, 'no.host.invalid:1', closed_address), 3).gone([0, 1, 2, 3]) == [1]


def test_how_a_worker_connects(monkeypatch):
    connections = []
    monkeypatch.setattr(cluster.socket, 'create_connection', lambda *arguments: connections.append(arguments) or io.BytesIO())
    Cluster(('a:1', '[::1]:9', 'me:1'), 2).wait_for_all(0.0)
    assert connections == [(('a', 1), cluster.CONNECT_SECONDS), (('::1', 9), cluster.CONNECT_SECONDS)]


@pytest.mark.parametrize(('report_after', 'printed'), [(0.0, 'waiting for worker 1 (localhost:PORT)\n'), (60.0, '')])
def test_missing_workers_are_printed_once(monkeypatch, capsys, report_after, printed):
    monkeypatch.setattr(cluster, 'REPORT_AFTER', report_after)
    [port] = local.free_ports(1)
    with pytest.raises(WorkerLost):
        Cluster(('me:1', f'localhost:{port}'), 0).wait_for_all(0.6)     # more than two rounds
    assert capsys.readouterr().out == printed.replace('PORT', str(port))


SLURM = {'SLURM_JOB_ID': '40001', 'SLURM_STEP_NUM_TASKS': '4', 'SLURM_STEP_NODELIST': 'n[9-10]',
         'SLURM_STEP_TASKS_PER_NODE': '2(x2)', 'SLURM_PROCID': '1', 'SLURM_LOCALID': '1', 'SLURMD_NODENAME': 'n9'}


def test_workers_of_a_slurm_job_step(tf, monkeypatch):
    """The resolver sorts n10 before n9, so a task's number in the cluster is that of its address, not SLURM's."""
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '0,1')
    imports = []
    monkeypatch.setattr(slurm, 'load_tensorflow', lambda **how: imports.append(how))
    assert find(slurm=True) == Cluster(('n10:10001', 'n10:10002', 'n9:10001', 'n9:10002'), 3)
    assert imports == [{'devices': False, 'several': True}]     # it must not look for GPUs before one is chosen
    assert os.environ['CUDA_VISIBLE_DEVICES'] == '1'
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '0')     # as --gpus-per-task binds it
    find(slurm=True)
    assert os.environ['CUDA_VISIBLE_DEVICES'] == '0'
    for name, value in {'SLURM_STEP_NODELIST': 'n9', 'SLURM_STEP_TASKS_PER_NODE': '4', 'SLURM_LOCALID': '3'}.items():
        monkeypatch.setenv(name, value)
    assert find(slurm=True) == Cluster(('n9:10001', 'n9:10002', 'n9:10003', 'n9:10004'), 3)
    monkeypatch.setenv('SLURM_LOCALID', '4')
    with pytest.raises(UserError, match='--slurm: the environment is not that of a job step .*: start with srun'):
        find(slurm=True)


@pytest.fixture
def train_error(settings_directory, tmp_path, monkeypatch, capfd):
    """Runs train.py in this process, which cannot import TensorFlow; returns its line on stderr and asserts its status."""
    shutil.copytree(settings_directory, tmp_path / 'models/toy')
    (tmp_path / 'models/toy/checkpoint').write_text('model_checkpoint_path: "model.ckpt"\n')
    write_checkpoint(tmp_path / 'models/toy/model.ckpt', zeros(load_hparams(str(settings_directory)).shapes()))
    (tmp_path / 'corpus.txt').write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    for name in ('tensorflow', 'tensorflow.compat.v1'):
        monkeypatch.setitem(sys.modules, name, None)

    def run(*flags):
        monkeypatch.setattr(sys, 'argv', ['train.py', '--model_name', 'toy', '--dataset', 'corpus.txt', *flags])
        with pytest.raises(SystemExit) as exit:
            errors.run(importlib.import_module('train').main)
        assert exit.value.code == 2
        [line] = capfd.readouterr().err.splitlines()
        return line
    return run


@pytest.mark.parametrize(('flags', 'message'), [
    (['--workers', 'a:1,b:1'], '--workers needs --worker_index'),
    (['--local_workers', '2', '--workers', 'a:1'], 'give one of them'),
    (['--local_workers', '0'], 'expected a whole number above 0'),
    (['--local_workers', '2', '--seq_length', '99'], '--seq_length 99 is more than'),
    (['--local_workers', '2', '--dataset', 'nowhere'], "cannot find 'nowhere'"),
    (['--dist_timeout', '0'], 'expected a number above 0'),
    (['--slurm'], '--slurm: not in a job step, SLURM_STEP_NUM_TASKS is not set: start with srun'),
])
def test_mistakes_are_one_line_before_anything_starts(train_error, flags, message):
    assert message in train_error(*flags)
