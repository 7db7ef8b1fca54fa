"""train.py --local_workers: starting several processes, stopping them, and restarting them when one dies."""

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from checkpoint_files import write_checkpoint
from command.errors import UserError
from conftest import ROOT, SMALL_RUN
from workers import local

TIMEOUT = 180.0


@pytest.fixture
def command(home):
    """Starts train.py with two local workers, its output in the file `output`; kills all of them at the end."""
    started = []

    def start(*flags):
        output = open(home / 'output', 'w', encoding='utf-8')       # noqa: SIM115  (as long as the process)
        started.append(subprocess.Popen(
            [sys.executable, os.path.join(ROOT, 'train.py'), '--dataset', 'corpus.txt', '--seed', '5', '--learning_rate', '0.003',
             *map(str, SMALL_RUN), '--local_workers', '2', *map(str, flags)],
            cwd=home, stdout=output, stderr=subprocess.STDOUT))
        output.close()
        return started[-1]
    yield start
    for process in started:
        for pid in [*children(process.pid), process.pid]:
            kill(pid)
        process.wait(TIMEOUT)


def children(pid):
    """The ids of a process's children, worker 0 first."""
    try:
        with open(f'/proc/{pid}/task/{pid}/children', encoding='utf-8') as file:
            return sorted(map(int, file.read().split()))
    except FileNotFoundError:
        return []


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def alive(pid):
    return os.path.exists(f'/proc/{pid}') and open(f'/proc/{pid}/stat').read().rsplit(') ', 1)[1][0] != 'Z'


def wait_for(home, text, process):
    end = time.monotonic() + TIMEOUT
    while text not in (output := (home / 'output').read_text()):
        assert time.monotonic() < end and process.poll() is None, output
        time.sleep(0.05)


def steps(output):
    return [int(step) for step in re.findall(r'^\[(\d+) \|', output, re.MULTILINE)]


def test_removing_flags():
    flags = ['--a', '1', '--local_workers', '2', '--b', '--local_workers=3', '--overwrite', '--local_workers_x', '4',
             '--local_w', '5', '--over']
    assert local.remove_flags(flags, {'--local_workers': 1, '--overwrite': 0}) == ['--a', '1', '--b', '--local_workers_x', '4']


def test_free_ports_differ_and_can_be_listened_at():
    ports = local.free_ports(3)
    assert len(set(ports)) == 3
    for port in ports:
        assert port > 0
        socket.create_server(('localhost', port)).close()


def test_devices_of_local_workers(monkeypatch, tmp_path):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: {0, 1, 2, 3, 8}, raising=False)
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    assert local.assign_devices(2) == [({}, {0, 1}), ({}, {2, 3})]
    assert local.assign_devices(7)[4:] == [({}, {8}), ({}, {0}), ({}, {1})]
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '3, GPU-5')
    assert local.assign_devices(2) == [({'CUDA_VISIBLE_DEVICES': '3'}, {0, 1}), ({'CUDA_VISIBLE_DEVICES': 'GPU-5'}, {2, 3})]
    with pytest.raises(UserError, match='--local_workers 3: there are 2 GPUs, and each worker takes one'):
        local.assign_devices(3)


PRINT_SETTINGS = """
import os, signal, sys
print('environment', 'TF_CONFIG' in os.environ, os.environ['LOCAL_WORKERS_PARENT'] == str(os.getppid()), os.environ.get('GIVEN'))
print(sys.argv[1:], os.getsid(0) == os.getpid(), file=sys.stderr)
"""


def group(code, count=2, devices=None):
    """Workers that run some Python code instead of train.py."""
    return local._Group([sys.executable, '-c', code], devices or [({}, {min(os.sched_getaffinity(0))})] * count)


def test_settings_of_each_worker_and_only_worker_0_is_printed(capfd, monkeypatch):
    monkeypatch.setenv('TF_CONFIG', 'not for them')
    cores = sorted(os.sched_getaffinity(0))
    handler = signal.getsignal(signal.SIGTERM)
    devices = [({'GIVEN': 'x'}, {cores[0]}), ({}, {cores[-1]}), ({}, set(cores))]
    workers = group(PRINT_SETTINGS + 'import time; time.sleep(0.5)', devices=devices)
    assert [os.sched_getaffinity(process.pid) for process in workers._processes] == [own for _, own in devices]
    assert workers.wait() == 0
    assert signal.getsignal(signal.SIGTERM) == handler
    output, error = capfd.readouterr()
    assert output == 'environment False True x\n'
    assert re.fullmatch(r"\['--workers', '(localhost:\d+,?){3}', '--worker_index', '0'\] True\n", error)


def code_to_end(*how):
    """Code with which worker i ends as how[i] says: with a status, by a signal -how[i], or, for None, after a minute."""
    return f'{PRINT_SETTINGS}import time; how = {how}[int(sys.argv[-1])]; sys.exit(how) if how is not None and how >= 0 else ' \
           'os.kill(os.getpid(), -how) if how else time.sleep(60)'


@pytest.mark.parametrize(('how', 'status', 'printed', 'cause'), [
    ((75, 2, 75), 2, ['0', '1'], 'the workers lost their connection'),       # the error of worker 1 must be printed
    ((2, 2, 2), 2, ['0'], 'the workers lost their connection'),
    ((75, -9, 75), 75, ['0'], 'worker 1 (SIGKILL) died'),
    ((-11, -9, 0), 75, ['0'], 'worker 0 (SIGSEGV), worker 1 (SIGKILL) died'),
    ((75, None, None), 75, ['0'], 'worker 1 (SIGKILL), worker 2 (SIGKILL) died'),   # those that do not end are killed
])
def test_the_status_of_all_and_whose_errors_are_printed(capfd, monkeypatch, how, status, printed, cause):
    if None in how:
        monkeypatch.setattr(local, 'GRACE', 0.5)
    workers = group(code_to_end(*how), len(how))
    assert workers.wait() == status
    assert re.findall(r"'(\d)'\]", capfd.readouterr().err) == printed
    assert workers.cause() == cause


class Lost:
    """A group whose workers are lost immediately. commands: those of all groups."""
    commands, stopped = [], False

    def __init__(self, command, _):
        self.commands.append(command)

    def wait(self):
        return 75

    def cause(self):
        return 'worker 1'


def restarted(monkeypatch, stopped=False, **flags):
    """How many times a command with these flags restarts its workers."""
    monkeypatch.setattr(Lost, 'commands', [])
    monkeypatch.setattr(Lost, 'stopped', stopped)
    monkeypatch.setattr(local, '_Group', Lost)
    args = argparse.Namespace(local_workers=2, checkpoint_dir='checkpoint', run_name='run1', **flags)
    command = ['train.py', '--local_workers', '2', '--overwrite', '--max_restarts', '1', '--seed', '5']
    assert local.run_workers(args, command, [({}, {0})] * 2) == 75
    assert Lost.commands == [[sys.executable, 'train.py', '--overwrite', '--seed', '5']] * len(Lost.commands)
    return len(Lost.commands) - 1


def test_how_many_times_lost_workers_are_restarted(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert [restarted(monkeypatch, max_restarts=most) for most in (None, 0, 1)] == [local.RESTARTS, 0, 1]
    assert restarted(monkeypatch, stopped=True, max_restarts=2) == 0
    assert capsys.readouterr().err.splitlines()[-1] == 'worker 1: starting all 2 again, restart 1 of 1'


def test_a_restart_resumes_only_what_this_command_saved(tmp_path):
    flags = ['--overwrite', '--restore_from', 'fresh', '--seed', '5']
    assert local._resuming_flags(flags, str(tmp_path), 0) == flags
    (tmp_path / 'checkpoint').write_text('model_checkpoint_path: "model-7"\n')
    write_checkpoint(tmp_path / 'model-7', {'w': [0]})
    saved = os.stat(tmp_path / 'model-7.index').st_mtime
    assert local._resuming_flags(flags, str(tmp_path), saved + 1) == flags
    assert local._resuming_flags(flags, str(tmp_path), saved - 1) == ['--seed', '5', '--restore_from', 'latest']


def test_when_a_worker_dies_all_are_restarted(home, command):
    process = command('--save_every', 2, '--max_steps', 60, '--restore_from', 'fresh', '--keep', 1)
    wait_for(home, 'Saving checkpoint/run1/model-4', process)
    kill(children(process.pid)[1])
    assert process.wait(TIMEOUT) == 0
    output = (home / 'output').read_text()
    assert '2 workers are connected: a batch has 2 sequences, 1 for each' in output
    assert len(re.findall('^train.py: .*worker 1 .* died$', output, re.MULTILINE)) == 1      # by worker 0, without advice
    assert 'worker 1 (SIGKILL) died: starting all 2 again, restart 1 of 3' in output
    [_, resumed] = output.split('restart 1 of 3')
    assert re.search(r'Loading checkpoint checkpoint/run1/model-\d+$', resumed, re.MULTILINE)     # although its flag is fresh
    assert steps(resumed)[0] > 4
    assert steps(resumed)[-1] == 60
    assert (home / 'checkpoint/run1/counter').read_text() == '60\n'


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_all(home, command, number):
    process = command()
    wait_for(home, '[2 |', process)
    workers = children(process.pid)
    process.send_signal(number)
    assert process.wait(TIMEOUT) == 0
    assert not any(map(alive, workers))
    output = (home / 'output').read_text()
    assert output.count('Saving') == 1
    assert f'{number.name}: stopping' in output
    assert output.count('Loading dataset') == 1


def test_workers_do_not_outlive_the_command(home, command):
    process = command()
    wait_for(home, '[2 |', process)
    workers = children(process.pid)
    assert len(workers) == 2
    process.kill()
    end = time.monotonic() + TIMEOUT
    while any(map(alive, workers)):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert 'Saving' in (home / 'output').read_text()
