#!/usr/bin/env python3
"""Measures training speed and memory against PyTorch and the graph of 2019.

    pip install -r bench/requirements.txt
    bench/train.py [--rounds 7] [--only peers memory batch size adapters adapters_355M]

The work is the same for all: GPT-2's 124M shapes with random weights, random tokens, batch 1 of 1,024, Adam, float32. With
adapters it is Adam on them alone, on the four matrices of each block, in rank 8 with alpha 16 and without dropout. The
contestants of a group are processes that are started one after the other and keep running. Then they take turns of one step
each, every second round in the reverse order, so that load on the machine affects all alike. The roof, a large float32
matmul, takes its turn too. Ratios are taken within a round; the table has their medians. The first two steps of each
(compilation, first allocation) are not counted. A group fits in 20 GB of memory.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time

LAUNCH = time.time()
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', 'src'))

MEDIUM = {'n_embd': 1024, 'n_head': 16, 'n_layer': 24}
# group: {name: (kind, what differs from the common work)}. The others of a group are compared with its first.
GROUPS = {
    'peers': {
        'this toolkit': ('ours', {}),
        'PyTorch eager': ('torch', {}),
        'PyTorch, torch.compile': ('torch', {'compile': True}),
        'literal 2019 port': ('port', {}),
    },
    'memory': {
        'this toolkit': ('ours', {}),
        'this toolkit, --memory_saving_gradients': ('ours', {'recompute': True}),
        'PyTorch eager, gradient checkpointing': ('torch', {'recompute': True}),
    },
    'batch': {
        'this toolkit, batch 4': ('ours', {'batch': 4}),
        'PyTorch eager, batch 4': ('torch', {'batch': 4}),
    },
    'size': {
        'this toolkit': ('ours', {}),
        'this toolkit, 512 tokens': ('ours', {'sequence': 512}),
        'this toolkit, 256 tokens': ('ours', {'sequence': 256}),
        'this toolkit, 355M, --memory_saving_gradients': ('ours', {'recompute': True, **MEDIUM}),
    },
    'adapters': {
        'this toolkit, --lora_rank 8': ('ours', {'lora_rank': 8}),
        'this toolkit, --lora_rank 8 --base_weights int8': ('ours', {'lora_rank': 8, 'base_weights': 'int8'}),
        'this toolkit, all weights': ('ours', {}),
        'PyTorch eager with peft': ('torch', {'lora_rank': 8}),
    },
    'adapters_355M': {      # a name on the command line, hence without a space
        'this toolkit, --lora_rank 8, recomputation': ('ours', {'lora_rank': 8, 'recompute': True, **MEDIUM}),
        'this toolkit, --lora_rank 8 --base_weights int8, recomputation':
            ('ours', {'lora_rank': 8, 'base_weights': 'int8', 'recompute': True, **MEDIUM}),
        'PyTorch eager with peft, gradient checkpointing': ('torch', {'lora_rank': 8, 'recompute': True, **MEDIUM}),
        'PyTorch eager with peft': ('torch', {'lora_rank': 8, **MEDIUM}),
    },
}
ROOF, ROOF_SIZE, ROOF_TIMES = 'roof', 3072, 4
WARMUP = 2
LOSS_SCALE = 1024.0     # of float16


def sizes(work: dict) -> dict:
    default = {'n_vocab': 50257, 'n_ctx': 1024, 'n_embd': 768, 'n_head': 12, 'n_layer': 12}
    return {name: work.get(name, value) for name, value in default.items()}


def gigaflops(work: dict) -> float:
    """GFLOPs of one step's matmuls: forward, twice as many backward; attention without its masked half.

    With adapters only as many backward as forward, since frozen weights have no gradients. The adapters themselves, about 2
    percent of the rest, and what recomputation does a second time are not counted.
    """
    size, rows, sequence = sizes(work), work['batch'] * work['sequence'], work['sequence']
    weights = 12 * size['n_layer'] * size['n_embd'] ** 2 + size['n_vocab'] * size['n_embd']
    attention = 2 * size['n_layer'] * size['n_embd'] * sequence / 2
    passes = 2 if 'lora_rank' in work else 3
    return 2 * rows * (passes * weights + 3 * attention) / 1e9


def tensorflow_step(work: dict, build):
    """A function that makes one step in a TensorFlow session; `build` turns tokens into such a step and one that initializes."""
    from command import tensorflow_setup
    tensorflow_setup.load_tensorflow()
    import numpy as np
    import tensorflow.compat.v1 as tf
    tokens = tf.placeholder(tf.int32, [work['batch'], work['sequence']])
    step, initialize = build(tf, tokens)
    config = tensorflow_setup.session_config() if work['kind'] == 'ours' else tf.ConfigProto()
    session = tf.Session(config=config)
    initialize(session)
    rng, n_vocab = np.random.default_rng(0), sizes(work)['n_vocab']

    def run():
        return step(session, {tokens: rng.integers(n_vocab, size=tokens.shape)})
    run.close = session.close
    return run


def ours(work: dict):
    precision = work.get('precision', 'float32')

    def build(tf, tokens):
        import model
        from network import gradients
        from network.lora import Lora, is_factor
        from storage import saver
        from training import optimizer
        recompute, rank = work.get('recompute', False), work.get('lora_rank')
        lora = Lora(rank, 2 * rank, work.get('base_weights', 'float32')) if rank else None
        tf.config.experimental.enable_tensor_float_32_execution(precision == 'tf32')
        dtype = tf.float32 if precision == 'tf32' else tf.as_dtype(precision)
        scale = tf.placeholder(tf.float32, []) if precision == 'float16' else None
        with gradients.compiling(work.get('xla', False if recompute else None)):
            output = model.model(model.HParams(**sizes(work)), tokens, dtype=dtype, lora=lora)
            weights = tf.global_variables()
            trained = [weight for weight in weights if not lora or is_factor(weight.op.name)]
            loss = model.loss(output, tokens, wte_gradient=lora is None, scale=scale)
            step = optimizer.TrainStep(loss, trained, memory_saving=recompute, scale=scale)

        def initialize(session):
            if lora:
                saver.load(session, random_values(weights))
            else:
                for variable in weights:    # one by one, as from a file: drawn together, they fragment the memory
                    session.run(variable.initializer)
            step.initialize(session)
        return lambda session, feed: step.run(session, [feed], 2e-5, scale=LOSS_SCALE), initialize
    return tensorflow_step(work, build)


def random_values(weights: list):
    """Yields weights, frozen matrices among them, with random values, and those in int8 with their scales.

    One at a time: the peak of memory must not be that of the whole model in float32. The initializers of frozen matrices are
    zeros, which the session would keep.
    """
    import numpy as np

    from network.quantize import SCALE, quantize
    by_name = {weight.op.name: weight for weight in weights}
    rng = np.random.default_rng(0)
    for name, weight in by_name.items():
        if name.endswith(SCALE):
            continue
        value = np.float32(0.02) * rng.standard_normal(weight.shape.as_list(), np.float32)
        if f'{name}{SCALE}' in by_name:
            value, scale = quantize(value, inputs=-2)
            yield by_name[f'{name}{SCALE}'], scale
        yield weight, value


def port(work: dict):
    os.environ['TF_ENABLE_ONEDNN_OPTS'] = os.environ.get('TF_ENABLE_ONEDNN_OPTS', '0')     # as TensorFlow is installed

    def build(tf, tokens):
        from port_2019 import logits_2019

        from network.hparams import HParams
        logits = logits_2019(HParams(**sizes(work)), tokens)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=tokens[:, 1:],
                                                                             logits=logits[:, :-1]))
        train = tf.train.AdamOptimizer(2e-5).minimize(loss)
        initializer = tf.global_variables_initializer()
        return lambda session, feed: session.run([loss, train], feed), lambda session: session.run(initializer)
    return tensorflow_step(work, build)


def torch(work: dict):
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel
    torch.set_num_threads(os.cpu_count())
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    size, precision = sizes(work), work.get('precision', 'float32')
    torch.set_float32_matmul_precision('highest' if precision == 'float32' else 'high')
    config = GPT2Config(vocab_size=size['n_vocab'], n_positions=size['n_ctx'], n_embd=size['n_embd'],
                        n_head=size['n_head'], n_layer=size['n_layer'], attn_implementation='sdpa', resid_pdrop=0.0,
                        embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False)
    network = GPT2LMHeadModel(config).to(device).train()
    if work.get('recompute'):
        network.gradient_checkpointing_enable()
        network.enable_input_require_grads()    # else frozen weights leave a checkpoint nothing to pass a gradient to
    if rank := work.get('lora_rank'):
        import peft
        network = peft.get_peft_model(network, peft.LoraConfig(
            r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=['c_attn', 'c_proj', 'c_fc'], fan_in_fan_out=True))
    optimizer = torch.optim.Adam([weight for weight in network.parameters() if weight.requires_grad], lr=2e-5)
    run = torch.compile(network) if work.get('compile') else network

    scaler = torch.amp.GradScaler(device, enabled=precision == 'float16')

    def step():
        tokens = torch.randint(size['n_vocab'], (work['batch'], work['sequence']), device=device)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, getattr(torch, precision, None), enabled=precision in ('bfloat16', 'float16')):
            loss = run(input_ids=tokens, labels=tokens).loss
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        if device == 'cuda':
            torch.cuda.synchronize()
    return step


def roof(_):
    """A function that multiplies two large float32 matrices in TensorFlow, with the settings that the toolkit uses."""
    from command import tensorflow_setup
    tensorflow_setup.load_tensorflow()
    import tensorflow.compat.v1 as tf
    a, b = (tf.Variable(tf.random.normal([ROOF_SIZE, ROOF_SIZE])) for _ in range(2))
    product = tf.matmul(a, b).op
    session = tf.Session(config=tensorflow_setup.session_config())
    session.run(tf.global_variables_initializer())
    return lambda: [session.run(product) for _ in range(ROOF_TIMES)]


def contest(group: str, name: str) -> None:
    """Makes a step for each line of standard input, and prints its figures as JSON."""
    kind, change = (ROOF, {}) if name == ROOF else GROUPS[group][name]
    work = {'kind': kind, 'batch': 1, 'sequence': 1024} | change
    step = {'ours': ours, 'torch': torch, 'port': port, ROOF: roof}[kind](work)
    gflop = 2 * ROOF_SIZE ** 3 * ROOF_TIMES / 1e9 if name == ROOF else gigaflops(work)
    for _ in sys.stdin:
        start = time.time()
        step()
        end = time.time()
        print(json.dumps({'seconds': end - start, 'since_launch': end - LAUNCH, 'gflop': gflop,
                          'tokens': work['batch'] * work['sequence'],
                          'peak': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}), flush=True)


class Contestant:
    """A process that makes a step for each request. steps: the figures of each step."""

    def __init__(self, group: str, name: str):
        self.name, self.steps = name, []
        self._process = subprocess.Popen([sys.executable, os.path.abspath(__file__), '--contestant', group, name],
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(WARMUP):
            self.step()

    def step(self) -> None:
        self._process.stdin.write('\n')
        self._process.stdin.flush()
        while not (line := self._process.stdout.readline()).startswith('{'):
            if not line:
                sys.exit(f'{self.name} failed')
        self.steps.append(json.loads(line))
        print(f'{self.name}: {line}', end='', file=sys.stderr)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def measure(group: str, rounds: int) -> str:
    """Runs a group. Returns its table."""
    contestants = [Contestant(group, name) for name in [*GROUPS[group], ROOF]]
    for number in range(rounds):
        for contestant in contestants[::1 if number % 2 else -1]:   # in both orders, because the machine's speed may drift
            contestant.step()
    for contestant in contestants:
        contestant.close()
    *rows, top = contestants
    lines = ['| | tokens/s | time per token | of the roof | peak memory, GB | first step done after, s |', '|---' * 6 + '|']
    for row in rows:
        seconds = ratio(row, rows[0], 'tokens')
        lines.append(f'| {row.name} | {statistics.median(s["tokens"] / s["seconds"] for s in row.steps[WARMUP:]):.0f} '
                     f'| {seconds:.2f} | {1 / ratio(row, top, "gflop"):.2f} | {row.steps[-1]["peak"] / 1e9:.2f} '
                     f'| {row.steps[0]["since_launch"]:.0f} |')
    rate = statistics.median(s['gflop'] / s['seconds'] for s in top.steps[WARMUP:])
    return '\n'.join([f'{group}, {rounds} rounds; matmul roof {rate:.0f} GFLOP/s', '', *lines, ''])


def ratio(one: Contestant, other: Contestant, unit: str) -> float:
    """How much longer one takes than the other for the same amount of a unit: median over the rounds."""
    return statistics.median(a['seconds'] / a[unit] / (b['seconds'] / b[unit])
                             for a, b in zip(one.steps[WARMUP:], other.steps[WARMUP:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=7, help='steps of each contestant that count')
    parser.add_argument('--only', nargs='+', choices=GROUPS, default=list(GROUPS), metavar='GROUP')
    parser.add_argument('--contestant', nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contestant:
        return contest(*args.contestant)
    print(f'{platform.machine()}, {os.cpu_count()} cores, {time.strftime("%Y-%m-%d")}\n')
    for group in args.only:
        print(measure(group, args.rounds), flush=True)


if __name__ == '__main__':
    main()
