#!/usr/bin/env python3
"""Kills runs at random moments, and damages their newest checkpoints.

    bench/faults.py [--kills 100] [--damages 50] [--seed 0]

Kills a training process that saves at each step, starts it again each time, and finally compares the weights with those of an
undisturbed run. Then, before each further start, truncates one of the newest checkpoint's files or flips a bit of it.
"""

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, 'src'))

from storage import checkpoints

FLAGS = ['--model_name', 'tiny', '--dataset', 'corpus.txt', '--seed', '1', '--noise', '0.05', '--learning_rate', '0.001',
         '--accumulate_gradients', '2', '--seq_length', '16', '--val_every', '7', '--val_batch_count', '2',
         '--sample_every', '11', '--sample_length', '8']
LOADED = re.compile(r'^Loading checkpoint .*model-(\d+)$', re.MULTILINE)


def start(run: str, *flags: str) -> subprocess.Popen:
    command = [sys.executable, os.path.join(ROOT, 'train.py'), *FLAGS, '--run_name', run, *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            env=os.environ | {'PYTHONUNBUFFERED': '1'})


def finish(run: str, *flags: str) -> str:
    """Runs train.py to its end. Returns what it printed."""
    process = start(run, *flags)
    output, _ = process.communicate()
    if process.returncode:
        sys.exit(f'train.py ended with {process.returncode}:\n{output}')
    return output


def newest(run: str) -> int:
    """The step that the `checkpoint` file names; 0 without one."""
    prefix = checkpoints.latest_checkpoint(os.path.join('checkpoint', run))
    return checkpoints.checkpoint_step(prefix) if prefix else 0


def kill_at_random(rng: random.Random) -> tuple[int, str]:
    """Starts the run, kills it a moment later. Returns the step that it resumed from, and its output."""
    process = start('killed', '--save_every', '1')
    lines = []
    if rng.random() < 0.15:
        time.sleep(rng.uniform(0, 8))           # while it starts
    else:
        for line in process.stdout:
            lines.append(line)
            if line.startswith('Training...'):
                break
        time.sleep(rng.uniform(0, 2))
    process.send_signal(signal.SIGKILL)
    output = ''.join(lines) + process.communicate()[0]
    loaded = LOADED.search(output)
    return int(loaded[1]) if loaded else 0, output


def weights(run: str) -> dict:
    import tensorflow.compat.v1 as tf
    reader = tf.train.load_checkpoint(os.path.join('checkpoint', run))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def kills(times: int, rng: random.Random) -> str:
    survived = lost = named = 0
    for i in range(times):
        loaded, output = kill_at_random(rng)
        started = 'Loading checkpoint' in output
        survived += 'rror' not in output and 'skipping' not in output
        lost += started and loaded < named
        named = newest('killed')
        print(f'kill {i + 1}: resumed from {loaded if started else "nowhere yet"}, newest is now {named}', flush=True)
    last = named + 5
    finish('killed', '--max_steps', str(last))
    finish('undisturbed', '--max_steps', str(last), '--save_every', '0')
    killed, undisturbed = weights('killed'), weights('undisturbed')
    equal = killed.keys() == undisturbed.keys() and all(killed[name].tobytes() == undisturbed[name].tobytes()
                                                        for name in killed)
    return (f'{survived} of {times} kills survived, {lost} checkpoints lost, weights after {last} steps equal to those of '
            f'a run without kills: {equal}')


def damage(path: str, rng: random.Random) -> str:
    """Truncates a file, or flips a bit of it."""
    with open(path, 'rb') as file:
        content = bytearray(file.read())
    offset = rng.randrange(len(content))
    if rng.random() < 0.5:
        content, done = content[:offset], 'cut off'
    else:
        content[offset] ^= 1 << rng.randrange(8)
        done = 'flipped'
    with open(path, 'wb') as file:
        file.write(content)
    return f'{done} at byte {offset}'


def damages(times: int, rng: random.Random) -> str:
    finish('damaged', '--max_steps', '4', '--save_every', '1')
    noticed = 0
    for i in range(times):
        step = newest('damaged')
        suffix = rng.choice(['.index', '.data-00000-of-00001', '.json'])
        path = os.path.join('checkpoint', 'damaged', f'model-{step}{suffix}')
        what = damage(path, rng)
        output = finish('damaged', '--max_steps', str(step + 2), '--save_every', '1')
        loaded = LOADED.search(output)
        good = path in output and loaded is not None and int(loaded[1]) == step - 1
        noticed += good
        print(f'damage {i + 1}: {path} {what}: {"noticed" if good else output}', flush=True)
    return f'{noticed} of {times} damaged checkpoints named and skipped'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, default=100)
    parser.add_argument('--damages', type=int, default=50)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as directory:
        os.symlink(os.path.join(ROOT, 'models'), os.path.join(directory, 'models'))
        os.chdir(directory)
        with open(os.path.join(ROOT, 'LICENSE'), encoding='utf-8') as source, open('corpus.txt', 'w') as corpus:
            corpus.write(source.read() * 20)
        results = [kills(args.kills, rng) if args.kills else '', damages(args.damages, rng) if args.damages else '']
        print('\n'.join(filter(None, results)))


if __name__ == '__main__':
    main()
