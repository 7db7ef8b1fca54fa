"""train.py --local_workers: one command, several processes, and what it does when one of them dies."""

import argparse
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from conftest import ROOT, write_zeros
from workers import local

TIMEOUT = 180.0


@pytest.fixture
def command(home):
    """Starts train.py with two local workers; kills it and them at the end. -> the process, its output file."""
    started = []

    def start(*flags):
        output = open(home / 'output', 'w', encoding='utf-8')       # noqa: SIM115  (as long as the process)
        started.append(subprocess.Popen(
            [sys.executable, os.path.join(ROOT, 'train.py'), '--model_name', 'toy', '--dataset', 'corpus.txt', '--seed', '5',
             '--learning_rate', '0.003', '--sample_every', '0', '--local_workers', '2', *map(str, flags)],
            cwd=home, stdout=output, stderr=subprocess.STDOUT))
        output.close()
        return started[-1]
    yield start
    for process in started:
        for pid in [*children(process.pid), process.pid]:
            kill(pid)
        process.wait(TIMEOUT)


def children(pid):
    """Process numbers of a process's children, worker 0 first."""
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


SAYS = """
import os, signal, sys
print('environment', 'TF_CONFIG' in os.environ, os.environ['LOCAL_WORKERS_PARENT'] == str(os.getppid()), os.environ.get('GIVEN'))
print(sys.argv[1:], os.getsid(0) == os.getpid(), file=sys.stderr)
"""


def group(code, count=2, places=None):
    """Workers that run some Python code in place of train.py."""
    return local._Group([sys.executable, '-c', code], places or [({}, {min(os.sched_getaffinity(0))})] * count)


def test_what_a_worker_is_given_and_only_worker_0_is_heard(capfd, monkeypatch):
    monkeypatch.setenv('TF_CONFIG', 'not for them')
    cores = sorted(os.sched_getaffinity(0))
    handler = signal.getsignal(signal.SIGTERM)
    places = [({'GIVEN': 'x'}, {cores[0]}), ({}, {cores[-1]}), ({}, set(cores))]
    workers = group(SAYS + 'import time; time.sleep(0.5)', places=places)
    assert [os.sched_getaffinity(process.pid) for process in workers._processes] == [place for _, place in places]
    assert workers.wait() == 0
    assert signal.getsignal(signal.SIGTERM) == handler
    output, error = capfd.readouterr()
    assert output == 'environment False True x\n'
    assert re.fullmatch(r"\['--workers', '(localhost:\d+,?){3}', '--worker_index', '0'\] True\n", error)


def ends(*how):
    """Code for workers that end, each in its own way: with a status, by a signal, or by itself in a minute."""
    return f'{SAYS}import time; how = {how}[int(sys.argv[-1])]; sys.exit(how) if how is not None and how >= 0 else ' \
           'os.kill(os.getpid(), -how) if how else time.sleep(60)'


@pytest.mark.parametrize(('how', 'status', 'heard', 'blame'), [
    ((75, 2, 75), 2, ['0', '1'], 'the workers lost each other'),       # what ails worker 1 must be seen
    ((2, 2, 2), 2, ['0'], 'the workers lost each other'),
    ((75, -9, 75), 75, ['0'], 'worker 1 (SIGKILL) died'),
    ((-11, -9, 0), 75, ['0'], 'worker 0 (SIGSEGV), worker 1 (SIGKILL) died'),
    ((75, None, None), 75, ['0'], 'worker 1 (SIGKILL), worker 2 (SIGKILL) died'),   # those that do not end are ended
])
def test_the_status_of_all_and_who_is_heard(capfd, monkeypatch, how, status, heard, blame):
    if None in how:
        monkeypatch.setattr(local, 'GRACE', 0.5)
    workers = group(ends(*how), len(how))
    assert workers.wait() == status
    assert re.findall(r"'(\d)'\]", capfd.readouterr().err) == heard
    assert workers.blame() == blame


class Lost:
    """A group whose workers are lost at once, and the commands of all of them."""
    commands, stopped = [], False

    def __init__(self, command, _):
        self.commands.append(command)

    def wait(self):
        return 75

    def blame(self):
        return 'worker 1'


def restarted(monkeypatch, stopped=False, **flags):
    """How often a command with these flags starts its workers."""
    monkeypatch.setattr(Lost, 'commands', [])
    monkeypatch.setattr(Lost, 'stopped', stopped)
    monkeypatch.setattr(local, '_Group', Lost)
    args = argparse.Namespace(local_workers=2, run_name='run1', **flags)
    assert local.train(args, ['train.py', '--local_workers', '2', '--max_restarts=1', '--seed', '5'], [({}, {0})] * 2) == 75
    assert all(command[1:] == ['train.py', '--seed', '5'] for command in Lost.commands)
    return len(Lost.commands) - 1


def test_how_often_lost_workers_are_started_again(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert [restarted(monkeypatch, max_restarts=most) for most in (None, 0, 1)] == [local.RESTARTS, 0, 1]
    assert restarted(monkeypatch, stopped=True, max_restarts=2) == 0
    assert capsys.readouterr().err.splitlines()[-1] == 'worker 1: starting all 2 again, restart 1 of 1'


def test_a_restart_goes_on_only_from_what_this_command_saved(tmp_path):
    flags = ['--overwrite', '--restore_from', 'fresh', '--seed', '5']
    assert local._go_on(flags, str(tmp_path), 0) == flags
    (tmp_path / 'checkpoint').write_text('model_checkpoint_path: "model-7"\n')
    write_zeros(tmp_path / 'model-7', {'w': [1]})
    saved = os.stat(tmp_path / 'model-7.index').st_mtime
    assert local._go_on(flags, str(tmp_path), saved + 1) == flags
    assert local._go_on(flags, str(tmp_path), saved - 1) == ['--seed', '5', '--restore_from', 'latest']


def test_a_worker_that_dies_is_started_again_with_the_others(home, command):
    process = command('--save_every', 2, '--max_steps', 60, '--restore_from', 'fresh', '--keep', 1)
    wait_for(home, 'Saving checkpoint/run1/model-4', process)
    kill(children(process.pid)[1])
    assert process.wait(TIMEOUT) == 0
    output = (home / 'output').read_text()
    assert '2 workers are connected: a batch has 2 sequences, 1 for each' in output
    assert len(re.findall('^train.py: .*worker 1 .* went away$', output, re.MULTILINE)) == 1     # what to do, the next line does
    assert 'worker 1 (SIGKILL) died: starting all 2 again, restart 1 of 3' in output
    [_, resumed] = output.split('restart 1 of 3')
    assert re.search(r'Loading checkpoint checkpoint/run1/model-\d+$', resumed, re.MULTILINE)     # although told to start fresh
    assert steps(resumed)[0] > 4
    assert steps(resumed)[-1] == 60
    assert (home / 'checkpoint/run1/counter').read_text() == '60\n'


def test_restarts_have_an_end(home, command):
    process = command('--max_restarts', 0)
    wait_for(home, '[2 |', process)
    kill(children(process.pid)[0])
    assert process.wait(TIMEOUT) == 75
    assert 'restart' not in (home / 'output').read_text()


def test_a_signal_stops_all(home, command):
    process = command()
    wait_for(home, '[2 |', process)
    workers = children(process.pid)
    process.send_signal(signal.SIGINT)
    assert process.wait(TIMEOUT) == 0
    assert not any(map(alive, workers))
    output = (home / 'output').read_text()
    assert output.count('Saving') == 1
    assert 'SIGINT: stopping' in output
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
