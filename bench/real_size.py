#!/usr/bin/env python3
"""Runs the scripts on a random 124M with the published vocabulary.

Three steps of training on a text, then a sample of 20 tokens.

    bench/real_size.py VOCABULARY_DIR TEXT     (VOCABULARY_DIR holds GPT-2's encoder.json and vocab.bpe)
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, 'src'))

from network.hparams import default_hparams, write_hparams


def make_model(vocabulary: str, directory: str) -> None:
    """Writes a model directory of the published size and vocabulary, with GPT-2's random initialisation."""
    from command.tensorflow_setup import load_tensorflow
    load_tensorflow()
    import tensorflow.compat.v1 as tf

    import model
    from storage import saver
    os.makedirs(directory)
    for name in ('encoder.json', 'vocab.bpe'):
        shutil.copyfile(os.path.join(vocabulary, name), os.path.join(directory, name))
    hparams = default_hparams()
    write_hparams(directory, hparams)
    with tf.Graph().as_default(), tf.Session() as session:
        model.model(hparams, tf.placeholder(tf.int32, [None, None]))
        session.run(tf.global_variables_initializer())
        saver.save_model(session, directory)


def run(script: str, *flags: str, home: str, **kwargs) -> None:
    """Runs a script and prints how long it took and the most memory that any script has taken so far."""
    print(f'$ {script} {" ".join(flags)}', flush=True)
    start = time.time()
    subprocess.run([sys.executable, os.path.join(ROOT, script), *flags], cwd=home, check=True, **kwargs)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2 ** 20
    print(f'-- {time.time() - start:.1f} s, peak memory so far {peak:.2f} GiB\n', flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('vocabulary')
    parser.add_argument('text')
    args = parser.parse_args()
    text = os.path.abspath(args.text)
    with tempfile.TemporaryDirectory() as home:
        make_model(args.vocabulary, os.path.join(home, 'models', '124M'))
        run('encode.py', text, 'corpus.npz', home=home)
        run('train.py', '--dataset', 'corpus.npz', '--max_steps', '3', '--sample_every', '3', '--sample_length', '20',
            home=home)
        run('src/interactive_conditional_samples.py', '--run_name', 'run1', '--length', '20', '--top_k', '40', home=home,
            input=b'First Citizen:\n')


if __name__ == '__main__':
    main()
