#!/usr/bin/env python3
"""Checks and measures this toolkit on a GPU, compared with a CPU and with PyTorch, in at most eight minutes.

    pip install -r requirements-gpu.txt && pip install torch transformers
    bench/gpu.py [--out gpu-results] [--only device numbers] [--torch PYTHON] [--quick]

One after the other, each limited in time, and none stopped by one that fails: which GPU TensorFlow finds; train.py on the small
model that ships with the toolkit; gradients of two blocks of 124M on the GPU compared with those on the CPU, in each precision;
texts, the same on both; sampling with 124M; training of 124M at batch 8, 4 and 1, and of 355M and 1558M with adapters. PyTorch
takes turns with the toolkit, if it is installed. Prints a table, and writes the figures as lines of JSON to OUT/results.jsonl.
With --quick, and without a GPU, small sizes: only whether everything works.
"""

import argparse
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
sys.path[:0] = [os.path.join(ROOT, 'src')]
sys.path.append(ROOT)

from command.machine import gpu_memory, nvidia_gpus

TOTAL = 470         # seconds of all steps together
QUICK_TOTAL = 1800  # with small sizes, maybe on a busy machine: of all steps, and of each
# Seconds that each step may take; the last has what is left.
LIMITS = {'device': 60, 'train.py': 120, 'numbers': 110, 'sampling': 70, 'training': TOTAL}
WORK_SECONDS = 75   # that one contestant may take for one kind of work
LEAST_LEFT = 5      # seconds; with less, nothing is begun
ROOM = 40e9         # bytes of a GPU's memory; in less, the toolkit's process ends before PyTorch's begins
OURS, TORCH = 'this toolkit', 'PyTorch'
# The largest relative error of a variable's gradient, compared with the CPU's in float32.
ERRORS = {'float32': 1e-3, 'recomputed': 1e-3, 'tf32': 3e-2, 'bfloat16': 1e-1, 'float16': 2e-2}
RUNS = {'plain': '', 'recomputed': '--memory_saving_gradients', 'bfloat16': '--precision bfloat16',
        'float16': '--precision float16', 'adamw': '--optimizer adamw --clip_norm 1 --accumulate_gradients 2',
        'adapters': '--lora_rank 8 --base_weights int8'}


class Bench:
    """A run of all steps: its results, and the time that is left."""

    def __init__(self, out: str, quick: bool, torch: str = sys.executable):
        self.out, self.quick, self.torch, self.results = out, quick, torch, []
        self.end = time.time() + (QUICK_TOTAL if quick else TOTAL)
        os.makedirs(out, exist_ok=True)
        self._file = open(os.path.join(out, 'results.jsonl'), 'w', encoding='utf-8')     # noqa: SIM115  (as long as the run)

    def add(self, **result) -> None:
        self.results.append(result)
        print(json.dumps(result), file=self._file, flush=True)
        print(row(result), flush=True)

    def limit(self, step: str) -> float:
        """Seconds that a step may take."""
        return QUICK_TOTAL if self.quick else LIMITS[step]

    def log(self, name: str):
        """A file for what a process prints on standard error."""
        return open(os.path.join(self.out, f'{name.replace(" ", "_")}.log'), 'ab')

    def run(self, name: str, command: list[str], limit: float, **options) -> tuple[int | None, str]:
        """Runs a command. Returns its status, None if it took too long, and what it printed on standard output until then."""
        with self.log(name) as log, tempfile.TemporaryFile('w+', encoding='utf-8') as output:
            process = subprocess.Popen(command, stdout=output, stderr=log, start_new_session=True, **options)
            try:
                status = process.wait(max(min(limit, self.end - time.time()), 0.1))
            except subprocess.TimeoutExpired:
                status = None
            finally:
                kill(process)
            output.seek(0)
            return status, output.read()

    def of_process(self, name: str, *arguments: str, limit: float, **options) -> list[dict]:
        """The lines of JSON that a process of bench/gpu_work.py prints; adds a failed result if it does not end well."""
        status, output = self.run(name, [sys.executable, os.path.join(HERE, 'gpu_work.py'), *arguments], limit, **options)
        if status != 0:
            self.add(step=name, ok=False, error=ending(status))
        return [json.loads(line) for line in output.splitlines() if line.startswith('{')]


def kill(process: subprocess.Popen) -> None:
    """Ends a process and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def ending(status: int | None) -> str:
    return 'took too long' if status is None else f'ended with status {status}: see its log'


def check_device(bench: Bench) -> None:
    for result in bench.of_process('device', 'device', limit=bench.limit('device')):
        bench.add(**result)


def check_training(bench: Bench) -> None:
    """train.py on models/tiny: with each of RUNS, or the first, the loss must fall."""
    steps, end = 6 if bench.quick else 60, time.time() + bench.limit('train.py')
    command = [sys.executable, os.path.join(ROOT, 'train.py'), '--models_dir', os.path.join(ROOT, 'models'),
               '--model_name', 'tiny', '--dataset', os.path.join(ROOT, 'src', 'training', '*.py'),
               '--batch_size', '8', '--learning_rate', '0.002', '--max_steps', str(steps), '--sample_every', '0',
               '--val_split', '0.1', '--val_every', str(steps),
               '--val_batch_count', '2', '--seed', '1', '--overwrite']
    with tempfile.TemporaryDirectory() as home:
        for name in list(RUNS)[:1] if bench.quick else RUNS:
            start = time.time()
            status, output = bench.run('train.py', [*command, *RUNS[name].split()], end - start, cwd=home)
            losses = [float(line.partition('loss=')[2].split()[0]) for line in output.splitlines()
                      if line.startswith('[') and 'loss=' in line]
            ok = status == 0 and len(losses) == steps and losses[-1] < losses[0]
            bench.add(step=f'train.py, {name}', ok=ok, first_loss=losses[:1], last_loss=losses[-1:],
                      seconds=round(time.time() - start, 1), **({} if status == 0 else {'error': ending(status)}))


def check_numbers(bench: Bench) -> None:
    """Gradients and texts of this device compared with those of the CPU."""
    import numpy as np
    ids, sizes = {}, 'quick' if bench.quick else 'full'
    with tempfile.TemporaryDirectory() as home:
        for name, hidden in (('cpu', {'CUDA_VISIBLE_DEVICES': ''}), ('here', {})):
            os.mkdir(os.path.join(home, name))
            for result in bench.of_process(f'numbers, {name}', 'numbers', os.path.join(home, name), sizes,
                                           limit=bench.limit('numbers') / 2, env=os.environ | hidden):
                if 'ids' in result:
                    ids[name] = result['ids']
                else:
                    bench.add(**result)
        for precision, limit in ERRORS.items():
            files = [os.path.join(home, name, file) for name, file in (('here', f'{precision}.npz'), ('cpu', 'float32.npz'))]
            if all(map(os.path.exists, files)):
                here, cpu = (dict(np.load(file)) for file in files)
                wrong = {key: float(np.linalg.norm(here[key] - cpu[key]) / np.linalg.norm(cpu[key])) for key in cpu}
                worst = max(wrong, key=wrong.get)
                bench.add(step=f'gradients, {precision}', ok=wrong[worst] < limit, relative_error=wrong[worst], worst=worst,
                          loss=float(here['loss']), loss_error=wrong['loss'])
    compare_ids(bench, ids)


def compare_ids(bench: Bench, ids: dict) -> None:
    """Greedy texts must be the same as on the CPU; rounding may change one that is drawn."""
    from bench.gpu_work import SAMPLED
    if len(ids) < 2:        # one of the processes has failed
        return
    for settings, here, cpu in zip(SAMPLED, ids['here'], ids['cpu'], strict=True):
        pairs = [pair for texts in zip(here, cpu, strict=True) for pair in zip(*texts, strict=True)]
        same = sum(one == other for one, other in pairs) / len(pairs)
        bench.add(step=f'ids, {settings}', ok=same == 1 or 'temperature' not in settings, same=same)


class Contestant:
    """A process that does one kind of work after the other. It is started when it is needed, and again after it failed."""

    def __init__(self, bench: Bench, name: str):
        self.name, self._bench, self._process = name, bench, None

    def do(self, work: dict, seconds: float) -> dict:
        """The figures of the work, or an error."""
        end = time.time() + seconds
        if self._process is None:
            with self._bench.log(self.name) as log:
                python = self._bench.torch if self.name == TORCH else sys.executable
                self._process = subprocess.Popen(
                    [python, os.path.join(HERE, 'gpu_work.py'), 'contestant', self.name], stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE, stderr=log, bufsize=0, start_new_session=True)     # a byte at a time: see _line
            if self._line(end) is None:
                return self._failed()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f'{json.dumps(work)}\n'.encode())
        return self._line(end) or self._failed()

    def _line(self, end: float) -> dict | None:
        """The next line of JSON; None if none comes in time."""
        line = b''
        while select.select([self._process.stdout], [], [], max(end - time.time(), 0))[0]:
            if not (byte := self._process.stdout.read(1)):
                return None
            line += byte
            if byte == b'\n':
                if line.startswith(b'{'):
                    return json.loads(line)
                line = b''
        return None

    def _failed(self) -> dict:
        status = self._process.poll()
        self.close()
        return {'error': ending(status)}

    def close(self) -> None:
        if self._process:
            kill(self._process)
            self._process.stdin.close()
            self._process.stdout.close()
            self._process = None


def missing_packages(python: str) -> str:
    """Which packages of those that PyTorch's contestant needs a Python lacks: 'torch transformers', or ''."""
    code = 'import importlib.util as u; print(*(name for name in ("torch", "transformers") if not u.find_spec(name)))'
    return subprocess.run([python, '-c', code], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def race(bench: Bench, step: str, works: list[tuple[str, dict]]) -> None:
    """Has the contestants do their work in turns, until the time of the step is over."""
    end = min(time.time() + bench.limit(step), bench.end)
    contestants = {name: Contestant(bench, name) for name in (OURS, TORCH)}
    side_by_side = (gpu_memory() or 0) >= ROOM or bench.quick
    missing = missing_packages(bench.torch)
    with contextlib.ExitStack() as stack:
        for each in contestants.values():
            stack.callback(each.close)
        for name, work in works:
            left = end - time.time()
            if name == TORCH and missing:
                figures = {'error': f'not installed: {missing}'}
            elif left < LEAST_LEFT:
                figures = {'error': 'no time left'}
            else:
                most = left if bench.quick else min(left, WORK_SECONDS)
                figures = contestants[name].do({'step': step, 'quick': bench.quick} | work, most)
                figures |= {'ok': False} if 'error' in figures else {}
            bench.add(step=step, by=name, **work, **figures)
            if not side_by_side:
                contestants[name].close()


def measure_sampling(bench: Bench) -> None:
    size, length, batches = ('small', 8, (1,)) if bench.quick else ('124M', 256, (1, 8))
    race(bench, 'sampling', [(name, {'size': size, 'precision': 'float32', 'batch': batch, 'length': length})
                             for batch in batches for name in (OURS, TORCH)])


def measure_training(bench: Bench) -> None:
    """The work that says most comes first: it may be that there is no time for the last."""
    common = {'size': 'small' if bench.quick else '124M'}
    if bench.quick:
        return race(bench, 'training', [(name, common | {'precision': 'float32', 'batch': 1}) for name in (OURS, TORCH)])
    works = [(name, common | {'precision': precision, 'batch': 8} | extra) for precision in ('bfloat16', 'tf32')
             for name, extra in ((OURS, {}), (TORCH, {}), (TORCH, {'compile': True}), (OURS, {'xla': True}))]
    adapters = {'precision': 'bfloat16', 'batch': 1, 'recompute': True, 'lora_rank': 8, 'base_weights': 'int8'}
    works += [(OURS, {'size': size} | adapters) for size in ('355M', '1558M')]
    works += [(name, common | {'precision': precision, 'batch': batch}) for batch in (8, 1, 4)
              for precision in ('float32', 'float16', 'bfloat16', 'tf32') for name in (OURS, TORCH)
              if batch < 8 or precision in ('float32', 'float16')]
    works += [(OURS, common | {'precision': 'bfloat16', 'batch': 8, 'recompute': True})]
    race(bench, 'training', works)


def row(result: dict) -> str:
    """A result as a line of the table."""
    if 'by' not in result:
        rest = {key: value for key, value in result.items() if key not in ('step', 'ok', 'error') and value is not None}
        verdict = 'ok  ' if result['ok'] else 'FAIL'
        return f'{verdict} {result["step"]}: {result.get("error") or json.dumps(rest)}'
    flags = ' '.join(f'{key} {value}' for key, value in result.items()
                     if key in ('precision', 'batch', 'length', 'recompute', 'compile', 'xla', 'lora_rank', 'base_weights'))
    name = f'{result["step"]}, {result["size"]}, {result["by"]}: {flags}'
    if 'error' in result:
        return f'     {name}: {result["error"]}'
    peak = '' if result['peak_gb'] is None else f', peak {result["peak_gb"]:.2f} GB'
    return (f'     {name}: {result["tokens_per_second"]:,.0f} tokens/s, {result["ms"]:.1f} ms{peak}, the first after '
            f'{result["first_s"]:.1f} s')


STEPS = {'device': check_device, 'train.py': check_training, 'numbers': check_numbers, 'sampling': measure_sampling,
         'training': measure_training}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', metavar='DIR', default='gpu-results', help='where results.jsonl and the logs are written')
    parser.add_argument('--only', nargs='+', choices=STEPS, default=list(STEPS), metavar='STEP')
    parser.add_argument('--torch', metavar='PYTHON', default=sys.executable,
                        help='the Python that has torch and transformers, if it is not the one that has TensorFlow')
    parser.add_argument('--quick', action='store_true', help='small sizes, as without a GPU')
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))     # so that no process is left behind
    bench = Bench(args.out, args.quick or gpu_memory() is None, args.torch)
    gpus = ', '.join(f'{name}, {(size or 0) / 1e9:.1f} GB' for name, size in nvidia_gpus()) or 'none'
    bench.add(step='machine', ok=True, date=time.strftime('%Y-%m-%d'), gpus=gpus, sizes='small' if bench.quick else 'real')
    for name in args.only:
        STEPS[name](bench)
    failed = [result['step'] for result in bench.results if result.get('ok') is False]
    print(f'{os.path.join(args.out, "results.jsonl")}: {len(bench.results)} results, failed: {", ".join(failed) or "none"}')
    sys.exit(1 if failed else 0)


if __name__ == '__main__':
    main()
