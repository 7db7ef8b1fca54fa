#!/usr/bin/env python3
"""Training speed and memory beside the peers: the same work, each in its own process, in turns.

    pip install -r bench/requirements.txt
    bench/train.py [--rounds 3] [--only NAME ...]

The work: GPT-2's 124M shapes with random weights, random tokens, batch 1 of 1,024, Adam, float32. Each round starts every
contestant once, one after the other, so that all see the same weather on a shared machine; the matmul roof is measured in
every round. A contestant takes --steps steps, the first two of which (compilation, first allocation) are not counted.
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
sys.path[:0] = [os.path.join(HERE, '..', 'src'), HERE]

MEDIUM = {'n_embd': 1024, 'n_head': 16, 'n_layer': 24}
# name: (kind, what differs from the common work)
CONTESTANTS = {
    'this toolkit': ('ours', {}),
    'PyTorch eager': ('torch', {}),
    'torch.compile': ('torch', {'compile': True}),
    'literal 2019 port': ('port', {}),
    'this toolkit, --memory_saving_gradients': ('ours', {'recompute': True}),
    'PyTorch eager, gradient checkpointing': ('torch', {'recompute': True}),
    'this toolkit, batch 4': ('ours', {'batch': 4}),
    'PyTorch eager, batch 4': ('torch', {'batch': 4}),
    'this toolkit, 355M, --memory_saving_gradients': ('ours', {'recompute': True, **MEDIUM}),
    'this toolkit, 512 tokens': ('ours', {'sequence': 512}),
    'this toolkit, 256 tokens': ('ours', {'sequence': 256}),
}


def sizes(work: dict) -> dict:
    default = {'n_vocab': 50257, 'n_ctx': 1024, 'n_embd': 768, 'n_head': 12, 'n_layer': 12}
    return {name: work.get(name, value) for name, value in default.items()}


def gigaflops(work: dict) -> float:
    """Of one step's matmuls: forward, and twice that backward, attention only where it is not masked."""
    size, rows, sequence = sizes(work), work['batch'] * work['sequence'], work['sequence']
    weights = 12 * size['n_layer'] * size['n_embd'] ** 2 + size['n_vocab'] * size['n_embd']
    attention = 2 * size['n_layer'] * size['n_embd'] * sequence / 2
    return 3 * 2 * rows * (weights + attention) / 1e9


def tensorflow_step(work: dict, build):
    """A function that makes one step in a TensorFlow session; `build` turns tokens into (loss, train op, initializer)."""
    import runtime
    runtime.load_tensorflow()
    import numpy as np
    import tensorflow.compat.v1 as tf
    tokens = tf.placeholder(tf.int32, [work['batch'], work['sequence']])
    step, initializer = build(tf, tokens)
    config = runtime.session_config() if work['kind'] == 'ours' else tf.ConfigProto()
    session = tf.Session(config=config)
    session.run(initializer)
    rng = np.random.default_rng(0)
    return lambda: step(session, {tokens: rng.integers(50257, size=tokens.shape)})


def ours(work: dict):
    def build(tf, tokens):
        import model
        import optimize
        loss = model.loss(model.model(model.HParams(**sizes(work)), tokens), tokens)
        step = optimize.TrainStep(loss, tf.trainable_variables(), memory_saving=work.get('recompute', False))
        weights = tf.variables_initializer(tf.trainable_variables())
        return lambda session, feed: step.run(session, [feed], 2e-5), [weights, step.initializer]
    return tensorflow_step(work, build)


def port(work: dict):
    os.environ['TF_ENABLE_ONEDNN_OPTS'] = os.environ.get('TF_ENABLE_ONEDNN_OPTS', '0')     # as TensorFlow is installed

    def build(tf, tokens):
        from port_2019 import logits_2019

        from hparams import HParams
        logits = logits_2019(HParams(**sizes(work)), tokens)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=tokens[:, 1:],
                                                                             logits=logits[:, :-1]))
        train = tf.train.AdamOptimizer(2e-5).minimize(loss)
        return lambda session, feed: session.run([loss, train], feed), tf.global_variables_initializer()
    return tensorflow_step(work, build)


def torch(work: dict):
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel
    torch.set_num_threads(os.cpu_count())
    size = sizes(work)
    config = GPT2Config(vocab_size=size['n_vocab'], n_positions=size['n_ctx'], n_embd=size['n_embd'],
                        n_head=size['n_head'], n_layer=size['n_layer'], attn_implementation='sdpa', resid_pdrop=0.0,
                        embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False)
    network = GPT2LMHeadModel(config).train()
    if work.get('recompute'):
        network.gradient_checkpointing_enable()
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-5)
    run = torch.compile(network) if work.get('compile') else network

    def step():
        tokens = torch.randint(50257, (work['batch'], work['sequence']))
        optimizer.zero_grad(set_to_none=True)
        run(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
    return step


def contest(name: str, steps: int) -> None:
    """Runs one contestant and prints its figures as JSON."""
    kind, change = CONTESTANTS[name]
    work = {'kind': kind, 'batch': 1, 'sequence': 1024} | change
    step = {'ours': ours, 'torch': torch, 'port': port}[kind](work)
    seconds = []
    for _ in range(steps):
        start = time.time()
        step()
        seconds.append(time.time() - start)
        if len(seconds) == 1:
            first = time.time() - LAUNCH
    print(json.dumps({'seconds': seconds[2:], 'first': first, 'tokens': work['batch'] * work['sequence'],
                      'peak': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, 'gflop': gigaflops(work)}))


def roof() -> float:
    """GFLOP/s of a large float32 matmul in TensorFlow, with the settings that the toolkit uses."""
    import runtime
    runtime.load_tensorflow()
    import tensorflow.compat.v1 as tf
    n = 3072
    a, b = (tf.Variable(tf.random.normal([n, n])) for _ in range(2))
    product = tf.matmul(a, b).op
    with tf.Session(config=runtime.session_config()) as session:
        session.run(tf.global_variables_initializer())
        rates = []
        for _ in range(12):
            start = time.time()
            session.run(product)
            rates.append(2 * n ** 3 / (time.time() - start) / 1e9)
    return statistics.median(rates[2:])


def child(*flags: str) -> str:
    command = [sys.executable, os.path.abspath(__file__), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f'{" ".join(flags)} failed:\n{done.stderr[-2000:]}')
    return done.stdout.splitlines()[-1]


def table(results: dict, roofs: list) -> str:
    def rate(name):
        return statistics.median(r['tokens'] / s for r in results[name] for s in r['seconds'])

    def ratio(name, peer):
        return f'{rate(name) / rate(peer):.2f}' if peer in results else ''

    columns = ['', 'tokens/s', 'of the roof', 'against PyTorch eager', 'torch.compile', 'the 2019 port',
               'peak memory, GB', 'first step done after, s']
    lines = [f'| {" | ".join(columns)} |', '|---' * len(columns) + '|']
    for name, runs in results.items():
        share = rate(name) * runs[0]['gflop'] / runs[0]['tokens'] / statistics.median(roofs)
        lines.append('| ' + ' | '.join([
            name, f'{rate(name):.0f}', f'{share:.2f}', ratio(name, 'PyTorch eager'), ratio(name, 'torch.compile'),
            ratio(name, 'literal 2019 port'), f'{max(r["peak"] for r in runs) / 1e9:.2f}',
            f'{statistics.median(r["first"] for r in runs):.0f}']) + ' |')
    return '\n'.join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--steps', type=int, default=5)
    parser.add_argument('--only', nargs='+', choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument('--contestant', help=argparse.SUPPRESS)
    parser.add_argument('--roof', action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contestant:
        return contest(args.contestant, args.steps)
    if args.roof:
        return print(roof())
    results, roofs = {name: [] for name in args.only}, []
    for turn in range(args.rounds):
        roofs.append(float(child('--roof')))
        for name in args.only:
            results[name].append(json.loads(child('--contestant', name, '--steps', str(args.steps))))
            print(f'round {turn + 1}: {name}: {results[name][-1]}', file=sys.stderr, flush=True)
    print(f'{platform.machine()}, {os.cpu_count()} cores, {time.strftime("%Y-%m-%d")}; matmul roof '
          f'{statistics.median(roofs):.0f} GFLOP/s\n\n{table(results, roofs)}')


if __name__ == '__main__':
    main()
