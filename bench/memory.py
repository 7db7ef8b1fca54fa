#!/usr/bin/env python3
"""Measures the peak memory of training steps, each a run of train.py, against the plan that --dry_run prints.

    bench/memory.py VOCABULARY_DIR [--only 1558M adafactor]     (VOCABULARY_DIR holds GPT-2's encoder.json and vocab.bpe)

Random weights of the published shapes, random tokens, one sequence of 1,024 tokens unless the flags say otherwise; the whole
process, from its start to the checkpoint at its end. 1558M takes 13 GB of disk while it is measured.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, 'src'))

import numpy as np

from network.hparams import HParams, write_hparams
from storage.bundle import write_bundle

SIZES = {'124M': (768, 12, 12), '355M': (1024, 16, 24), '774M': (1280, 20, 36), '1558M': (1600, 25, 48)}
RUNS = (
    ('124M', ''), ('124M', '--seq_length 512'), ('124M', '--seq_length 256'), ('124M', '--batch_size 4'),
    ('124M', '--memory_saving_gradients'), ('124M', '--accumulate_gradients 2'), ('124M', '--clip_norm 1'),
    ('124M', '--optimizer sgd'), ('124M', '--optimizer adafactor'),
    ('124M', '--only_train_transformer_layers'), ('124M', '--train_layers 4'),
    ('124M', '--lora_rank 8'), ('124M', '--lora_rank 8 --memory_saving_gradients'),
    ('124M', '--lora_rank 8 --base_weights bfloat16'), ('124M', '--lora_rank 8 --base_weights int8'),
    ('355M', '--no-memory_saving_gradients'), ('355M', ''), ('355M', '--clip_norm 1'), ('355M', '--optimizer adafactor'),
    ('355M', '--train_layers 4'), ('355M', '--lora_rank 8'), ('355M', '--lora_rank 8 --base_weights int8'),
    ('774M', ''), ('774M', '--optimizer adafactor'), ('774M', '--train_layers 4'),
    ('774M', '--lora_rank 8'), ('774M', '--lora_rank 8 --base_weights int8'),
    ('1558M', '--optimizer adafactor'), ('1558M', '--train_layers 4'), ('1558M', '--lora_rank 8'),
    ('1558M', '--lora_rank 8 --base_weights bfloat16'), ('1558M', '--lora_rank 8 --base_weights int8'),
)
STEPS = 3


def make_model(vocabulary: str, directory: str, size: tuple[int, int, int]) -> None:
    """Writes a model directory with the published vocabulary and random weights, one at a time."""
    os.makedirs(directory)
    for name in ('encoder.json', 'vocab.bpe'):
        shutil.copyfile(os.path.join(vocabulary, name), os.path.join(directory, name))
    hparams = HParams(50257, 1024, *size)
    write_hparams(directory, hparams)
    shapes = dict(sorted(hparams.shapes().items()))
    rng = np.random.default_rng(0)
    prefix = os.path.join(directory, 'model.ckpt')
    with open(os.path.join(directory, 'checkpoint'), 'w', encoding='utf-8') as file:
        file.write('model_checkpoint_path: "model.ckpt"\n')
    with open(f'{prefix}.data-00000-of-00001', 'wb') as data, open(f'{prefix}.index', 'wb') as index:
        weights = (np.float32(0.02) * rng.standard_normal(shape, np.float32) for shape in shapes.values())
        write_bundle(data, index, shapes, weights)


def measure(home: str, name: str, flags: str) -> tuple[float, float, float]:
    """Peak memory in GB of a run of some steps, the tokens a second of its last step, and the GB that its plan says."""
    command = [sys.executable, os.path.join(ROOT, 'train.py'), '--model_name', name, '--dataset', 'tokens.npz',
               '--sample_every', '0', '--save_every', '0', '--max_steps', str(STEPS), '--overwrite', *flags.split()]
    plan = subprocess.run([*command, '--dry_run'], cwd=home, check=True, stdout=subprocess.PIPE, text=True).stdout
    planned, *_ = [float(line.split()[1]) for line in plan.splitlines() if line.startswith('  total ')]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, cwd=home, stdout=output)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f'{name} {flags} ended with status {status}')
    with open(os.path.join(home, 'checkpoint', 'run1', 'metrics.jsonl'), encoding='utf-8') as file:
        tokens_per_second = [json.loads(line)['tokens_per_second'] for line in file][-1]
    shutil.rmtree(os.path.join(home, 'checkpoint'))
    return usage.ru_maxrss * 1024 / 1e9, tokens_per_second, planned


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('vocabulary')
    parser.add_argument('--only', nargs='+', default=[''], help='runs in whose size or flags each of these texts stands')
    args = parser.parse_args()
    print('| run | peak GB | plan GB | plan / peak | tokens/s |\n|---|---|---|---|---|', flush=True)
    with tempfile.TemporaryDirectory() as home:
        np.savez(os.path.join(home, 'tokens.npz'), np.random.default_rng(0).integers(50257, size=100_000, dtype=np.uint16))
        made = None
        for name, flags in RUNS:
            if not all(text in f'{name} {flags}' for text in args.only):
                continue
            if made != name:
                shutil.rmtree(os.path.join(home, 'models'), ignore_errors=True)
                make_model(args.vocabulary, os.path.join(home, 'models', name), SIZES[name])
                made = name
            peak, speed, planned = measure(home, name, flags)
            run = f'{name} {flags}'.strip()
            print(f'| {run} | {peak:.2f} | {planned:.2f} | {planned / peak:.2f} | {speed:.0f} |', flush=True)


if __name__ == '__main__':
    main()
