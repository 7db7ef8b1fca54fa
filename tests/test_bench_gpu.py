"""bench/gpu.py on a CPU, with small sizes; a step that fails or takes too long does not stop the others."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from conftest import ROOT

PYTORCH = 'PyTorch'


@pytest.fixture
def gpu():
    from bench import gpu
    return gpu


@pytest.fixture
def work():
    from bench import gpu_work
    return gpu_work


@pytest.fixture
def bench(gpu, tmp_path):
    """A Bench with quick steps, whose results are in its list `results`."""
    return gpu.Bench(str(tmp_path / 'out'), quick=True)


def written(directory):
    return [json.loads(line) for line in (directory / 'results.jsonl').read_text().splitlines()]


def test_on_a_cpu(tmp_path):
    environment = os.environ | {'CUDA_VISIBLE_DEVICES': ''}
    done = subprocess.run([sys.executable, os.path.join(ROOT, 'bench', 'gpu.py'), '--out', tmp_path / 'out', '--only', 'train.py',
                           'training'], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    machine, check, ours, pytorch = written(tmp_path / 'out')
    assert machine['sizes'] == 'small' and machine['gpus'] == 'none'
    assert (check['step'], check['ok']) == ('train.py, plain', True)
    assert ours['tokens_per_second'] > 0 and ours['peak_gb'] is None
    assert pytorch['by'] == PYTORCH and ('not installed' in pytorch.get('error', '') or pytorch['tokens_per_second'] > 0)
    assert f'training, small, this toolkit: precision float32 batch 1: {ours["tokens_per_second"]:,.0f} tokens/s' in done.stdout
    assert 'results.jsonl: 4 results, failed: none' in done.stdout


def test_the_device(tf, work, capsys):
    work.device()
    device = json.loads(capsys.readouterr().out)
    assert device['ok'] and device['device'] and device['tensorflow'] == tf.__version__ and device['xla'] == 'works'


def test_gradients_and_texts_are_compared_with_those_of_the_cpu(tf, bench, work, gpu, monkeypatch, capsys):
    """Here in one process, in every precision; the second device is the first."""
    monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind=None: ['GPU:0'])
    directories = []

    def of_process(name, kind, directory, sizes, **_):
        directories.append(directory)
        if len(directories) == 2:
            shutil.copytree(directories[0], directory, dirs_exist_ok=True)
            return [{'ids': ids}]
        monkeypatch.setattr(work, 'sampled_ids', lambda: ids)
        work.numbers(directory, sizes == 'quick')
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    ids = [[[1, 2]]] * 4
    monkeypatch.setattr(bench, 'of_process', of_process)
    gpu.check_numbers(bench)
    assert all(result['ok'] for result in bench.results), bench.results
    assert [result['step'] for result in bench.results] == [
        *(f'gradients, {precision}' for precision in gpu.ERRORS), *(f'ids, {settings}' for settings in work.SAMPLED)]
    errors = [result['relative_error'] for result in bench.results[:5]]
    assert errors[0] == errors[2] == 0 <= errors[1] < 1e-5 and 1e-4 < errors[4] < errors[3]


def test_the_texts_of_the_model_that_ships_with_the_toolkit(tf, work):
    found = work.sampled_ids(length=3)
    assert [[len(text) for text in texts] for texts in found] == [[3] * 3] * 4


def test_a_text_is_timed(tf, work, monkeypatch):
    monkeypatch.setattr(work, 'LEAST_SECONDS', 0)
    figures = work.writing('this toolkit', {'quick': True, 'size': 'small', 'precision': 'float32', 'batch': 1, 'length': 3})
    assert figures['tokens_per_second'] > 0 and figures['peak_gb'] is None


def test_a_process_that_fails_or_takes_too_long_is_a_result(bench, gpu, tmp_path):
    start = time.time()
    status, output = bench.run('slow', [sys.executable, '-c', 'import time; print("begun", flush=True); time.sleep(600)'], 5)
    assert (status, output) == (None, 'begun\n') and time.time() - start < 500
    assert bench.of_process('wrong', 'contestant', limit=60) == []
    assert bench.results == [{'step': 'wrong', 'ok': False, 'error': 'ended with status 1: see its log'}]
    assert written(tmp_path / 'out') == bench.results
    assert 'TypeError' in (tmp_path / 'out/wrong.log').read_text()


def test_a_contestant_that_dies_is_started_again_and_one_that_cannot_do_its_work_goes_on(bench, gpu):
    contestant = gpu.Contestant(bench, gpu.OURS)
    wrong = {'step': 'training', 'quick': True, 'size': '124M', 'batch': 1, 'precision': 'float3'}
    assert 'float3' in contestant.do(wrong, 100)['error']
    process = contestant._process
    assert contestant.do({'step': 'training', 'quick': True, 'size': 'x'} | wrong, 0) == {'error': 'took too long'}
    assert process.poll() is not None and contestant._process is None
    contestant.do(wrong, 100)
    contestant._process.kill()
    contestant._process.wait()
    assert contestant.do(wrong, 100) == {'error': 'ended with status -9: see its log'}
    assert 'float3' in contestant.do(wrong, 100)['error']
    contestant.close()


def test_work_for_which_no_time_is_left_is_named(bench, gpu, monkeypatch):
    monkeypatch.setattr(gpu, 'missing_packages', lambda python: 'torch')
    bench.end = 0
    gpu.measure_training(bench)
    assert [result['error'] for result in bench.results] == ['no time left', 'not installed: torch']


def test_gradients_and_texts_that_differ_are_failures(bench, gpu, monkeypatch):
    ids = [[[1, 2], [3, 4]]] * 4
    gpu.compare_ids(bench, {'cpu': ids, 'here': [[[1, 2], [3, 5]]] * 4})
    assert [(result['ok'], result['same']) for result in bench.results] == [(False, 0.75)] * 2 + [(True, 0.75)] * 2
    bench.results.clear()
    gpu.compare_ids(bench, {'cpu': ids})
    assert bench.results == []
