#!/usr/bin/env python3
"""Measures sampling speed and memory against PyTorch, CTranslate2 and the loop of 2019.

    pip install -r bench/requirements.txt
    bench/sample.py [--rounds 3]

All have GPT-2's 124M shapes and random weights, in float32 unless their name says otherwise, and top_k 40. Each contestant is a
process that keeps running. In each round all write a text from one token, one after the other, and the memory's bandwidth is
measured by reading large arrays. Ratios are taken within a round; the table has their medians.
"""

import argparse
import concurrent.futures
import functools
import itertools
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', 'src'))

from network.hparams import default_hparams

CASES = {'256 tokens': (1, 256), '1,023 tokens': (1, 1023), '256 tokens, batch 8': (8, 256)}
WARMUP = (1, 8)
TOP_K = 40
HPARAMS = default_hparams()
START = HPARAMS.n_vocab - 1


class Numbers:
    """A stand-in for an encoder where only ids matter."""

    def __init__(self, hparams):
        self.n_vocab, self.end_of_text = hparams.n_vocab, hparams.n_vocab - 1

    def encode(self, _) -> list[int]:
        return [self.end_of_text]

    encode_with_special = encode

    def decode_bytes(self, ids) -> bytes:
        return b'.' * len(ids)


def make_model(directory, hparams=HPARAMS):
    """Writes a checkpoint of random weights."""
    from command import tensorflow_setup
    tensorflow_setup.load_tensorflow()
    import tensorflow.compat.v1 as tf

    import model
    from storage import saver
    with tf.Session() as session:
        model.model(hparams, tf.placeholder(tf.int32, [None, None]))
        session.run(tf.global_variables_initializer())
        saver.save_model(session, directory)


def ours(directory, weights='float32'):
    # In a process of its own, whose memory and threads do not count here.
    subprocess.run([sys.executable, os.path.abspath(__file__), '--make_model', directory], check=True)
    return writer(directory, weights)


def writer(directory, weights='float32', hparams=HPARAMS):
    """A function that writes texts with the model of a directory, and returns the times of their tokens."""
    from command import tensorflow_setup
    tensorflow_setup.load_tensorflow()
    from generator import Generator
    from sampling.continuation import SamplingSettings
    from storage.model_directory import Model
    generator = Generator(Model(directory, hparams, Numbers(hparams), os.path.join(directory, 'model.ckpt')), weights)

    def write(batch, length):
        settings = SamplingSettings(length=length, top_k=TOP_K, stop_at_eot=False)
        texts = [generator.continuation('', settings, [0, row]) for row in range(batch)]
        times = [time.time()]
        for text in generator.steps(texts, batch):
            if text is texts[-1]:
                times.append(time.time())
        return times
    return write


def loop_2019(_):
    os.environ['TF_ENABLE_ONEDNN_OPTS'] = os.environ.get('TF_ENABLE_ONEDNN_OPTS', '0')     # as TensorFlow is installed
    from command import tensorflow_setup
    tensorflow_setup.load_tensorflow()
    import tensorflow.compat.v1 as tf
    from port_2019 import sample_2019
    session = tf.Session()
    loops = {}
    for batch, length in [WARMUP, *CASES.values()]:
        loops[batch, length] = sample_2019(HPARAMS, length, tf.fill([batch, 1], START), TOP_K)
    session.run(tf.global_variables_initializer())

    def write(batch, length):
        start = time.time()
        assert session.run(loops[batch, length]).shape == (batch, 1 + length)
        return [start, time.time()]
    return write


def hugging_face(_, hparams=HPARAMS):
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel
    from transformers.generation.streamers import BaseStreamer
    torch.set_num_threads(os.cpu_count())
    device, start_id = 'cuda' if torch.cuda.is_available() else 'cpu', hparams.n_vocab - 1
    config = GPT2Config(vocab_size=hparams.n_vocab, n_positions=hparams.n_ctx, n_embd=hparams.n_embd, n_head=hparams.n_head,
                        n_layer=hparams.n_layer, attn_implementation='sdpa', bos_token_id=start_id, eos_token_id=start_id)
    network = GPT2LMHeadModel(config).to(device).eval()

    class Times(BaseStreamer):
        def put(self, _):
            self.times.append(time.time())

        def end(self):
            pass

    def write(batch, length):
        streamer = Times()
        streamer.times = []     # the prompt comes first
        start = time.time()
        with torch.inference_mode():
            tokens = network.generate(torch.full([batch, 1], start_id, device=device),
                                      attention_mask=torch.ones([batch, 1], device=device),
                                      do_sample=True, top_k=TOP_K, min_new_tokens=length, max_new_tokens=length,
                                      eos_token_id=None, pad_token_id=start_id, streamer=streamer if batch == 1 else None)
        assert tokens.shape == (batch, 1 + length)
        return [start, *streamer.times[1:-1], time.time()]
    return write


def ctranslate2_model(directory):
    """Writes a CTranslate2 model of random weights."""
    import ctranslate2
    import numpy as np
    specs = ctranslate2.specs
    spec = specs.TransformerDecoderModelSpec.from_config(HPARAMS.n_layer, HPARAMS.n_head, pre_norm=True,
                                                         activation=specs.common_spec.Activation.GELUTanh)
    rng, n = np.random.default_rng(0), HPARAMS.n_embd

    def linear(spec, n_out, n_in):
        spec.weight = rng.standard_normal([n_out, n_in], np.float32) * 0.02
        spec.bias = np.zeros(n_out, np.float32)

    def norm(spec):
        spec.gamma, spec.beta = np.ones(n, np.float32), np.zeros(n, np.float32)

    decoder = spec.decoder
    decoder.scale_embeddings = False
    decoder.embeddings.weight = rng.standard_normal([HPARAMS.n_vocab, n], np.float32) * 0.02
    decoder.projection.weight = decoder.embeddings.weight
    decoder.position_encodings.encodings = rng.standard_normal([HPARAMS.n_ctx, n], np.float32) * 0.01
    norm(decoder.layer_norm)
    for layer in decoder.layer:
        norm(layer.self_attention.layer_norm)
        linear(layer.self_attention.linear[0], 3 * n, n)
        linear(layer.self_attention.linear[1], n, n)
        norm(layer.ffn.layer_norm)
        linear(layer.ffn.linear_0, 4 * n, n)
        linear(layer.ffn.linear_1, n, 4 * n)
    spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = str(START)
    spec.register_vocabulary([str(token) for token in range(HPARAMS.n_vocab)])
    spec.validate()
    spec.save(directory)


def ctranslate2(directory, weights='float32'):
    import ctranslate2
    ctranslate2_model(directory)
    network = ctranslate2.Generator(directory, compute_type=weights, inter_threads=1, intra_threads=os.cpu_count())

    def write(batch, length):
        times = [time.time()]

        def arrived(_):
            times.append(time.time())
            return False

        results = network.generate_batch([[str(START)]] * batch, max_length=length, min_length=length,
                                         sampling_topk=TOP_K, include_prompt_in_result=False,
                                         callback=arrived if batch == 1 else None)
        assert [len(result.sequences_ids[0]) for result in results] == [length] * batch
        return [*times, time.time()]
    return write


CONTESTANTS = {'this toolkit': ours, 'this toolkit, bfloat16': functools.partial(ours, weights='bfloat16'),
               'this toolkit, int8': functools.partial(ours, weights='int8'), 'Hugging Face generate': hugging_face,
               'CTranslate2, float32': ctranslate2, 'CTranslate2, int8': functools.partial(ctranslate2, weights='int8'),
               'literal 2019 loop': loop_2019}
BYTES = {'bfloat16': 2, 'int8': 1}      # of a weight, by the end of a contestant's name; else 4


def contest(name: str) -> None:
    """Writes the texts that each line of standard input asks for, and prints the figures as JSON."""
    with tempfile.TemporaryDirectory() as directory:
        write = CONTESTANTS[name](directory)
        for line in sys.stdin:
            batch, length = json.loads(line)
            times = write(batch, length)
            waits = [after - before for before, after in itertools.pairwise(times)]
            figures = {'seconds': times[-1] - times[0], 'first': waits[0] if len(waits) > 1 else None,
                       'peak': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
            if len(waits) >= 1010:
                figures |= {'near 50': statistics.median(waits[40:60]), 'near 1000': statistics.median(waits[990:1010])}
            print(json.dumps(figures), flush=True)


class Contestant:
    """A process that writes a text for each request. texts: the figures of the texts of each case."""

    def __init__(self, name: str):
        self.name, self.texts = name, {case: [] for case in CASES}
        self._process = subprocess.Popen([sys.executable, os.path.abspath(__file__), '--contestant', name],
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._write(*WARMUP)

    def _write(self, batch: int, length: int) -> dict:
        print(json.dumps([batch, length]), file=self._process.stdin, flush=True)
        while not (line := self._process.stdout.readline()).startswith('{'):
            if not line:
                sys.exit(f'{self.name} failed')
        return json.loads(line)

    def write(self, case: str) -> None:
        figures = self._write(*CASES[case])
        self.texts[case].append(figures)
        print(f'{self.name}, {case}: {json.dumps(figures)}', file=sys.stderr)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def bandwidth() -> float:
    """Bytes a second that all cores together read from memory; the best of ten."""
    import numpy as np
    parts = [np.ones(50_000_000, np.float32) for _ in range(os.cpu_count())]
    best = 0.0
    with concurrent.futures.ThreadPoolExecutor(len(parts)) as pool:
        for _ in range(10):
            start = time.time()
            list(pool.map(lambda part: part.sum(), parts))
            best = max(best, sum(part.nbytes for part in parts) / (time.time() - start))
    return best


def table(case: str, contestants: list, roofs: list) -> str:
    batch, length = CASES[case]
    n_weights = 12 * HPARAMS.n_layer * HPARAMS.n_embd ** 2 + HPARAMS.n_vocab * HPARAMS.n_embd
    lines = ['| | tokens/s | of this toolkit\'s time | of the roof | first token, s | peak memory, GB |', '|---' * 6 + '|']
    for one in contestants:
        texts = one.texts[case]
        ratio = statistics.median(text['seconds'] / other['seconds']
                                  for text, other in zip(texts, contestants[0].texts[case]))
        weights = BYTES.get(one.name.rpartition(', ')[2], 4) * n_weights
        roof = statistics.median(weights * length / text['seconds'] / roof for text, roof in zip(texts, roofs))
        first = '' if texts[0]['first'] is None else f'{statistics.median(text["first"] for text in texts):.3f}'
        lines.append(f'| {one.name} | {statistics.median(batch * length / text["seconds"] for text in texts):.1f} '
                     f'| {ratio:.2f} | {roof:.2f} | {first} | {texts[-1]["peak"] / 1e9:.2f} |')
    return '\n'.join([case, '', *lines, ''])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=3, help='texts of each contestant and case')
    parser.add_argument('--only', nargs='+', choices=CONTESTANTS, default=list(CONTESTANTS), metavar='CONTESTANT')
    parser.add_argument('--contestant', help=argparse.SUPPRESS)
    parser.add_argument('--make_model', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.make_model:
        return make_model(args.make_model)
    if args.contestant:
        return contest(args.contestant)
    contestants = [Contestant(name) for name in args.only]
    roofs = {case: [] for case in CASES}
    for _ in range(args.rounds):
        for case in CASES:
            for contestant in contestants:
                contestant.write(case)
            roofs[case].append(bandwidth())
    for contestant in contestants:
        contestant.close()
    every = [roof for of_case in roofs.values() for roof in of_case]
    print(f'{platform.machine()}, {os.cpu_count()} cores, {time.strftime("%Y-%m-%d")}, {args.rounds} rounds; memory reads at '
          f'{statistics.median(every) / 1e9:.1f} GB/s\n')
    for case in CASES:
        print(table(case, contestants, roofs[case]))
    rates = {case: statistics.median(batch * length / text['seconds'] for text in contestants[0].texts[case])
             for case, (batch, length) in CASES.items()}
    long = contestants[0].texts['1,023 tokens']
    print(f'{contestants[0].name}: rate at token 1,000 over rate at token 50: '
          f'{statistics.median(text["near 50"] / text["near 1000"] for text in long):.2f}; batch 8 over batch 1: '
          f'{rates["256 tokens, batch 8"] / rates["256 tokens"]:.2f}')


if __name__ == '__main__':
    main()
