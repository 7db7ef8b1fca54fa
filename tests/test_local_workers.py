"""train.py --local_workers: one command, several processes, and what it does when one of them dies."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from conftest import ROOT

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


def test_a_worker_that_dies_is_started_again_with_the_others(home, command):
    process = command('--save_every', 2, '--max_steps', 60, '--restore_from', 'fresh', '--keep', 1)
    wait_for(home, 'Saving checkpoint/run1/model-4', process)
    kill(children(process.pid)[1])
    assert process.wait(TIMEOUT) == 0
    output = (home / 'output').read_text()
    assert '2 workers are there: a batch has 2 sequences, 1 for each' in output
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
