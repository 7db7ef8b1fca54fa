#!/usr/bin/env python3
"""Writes texts from nothing."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from errors import run
from sampling_flags import Flags, parse, print_samples


def sample_model(model_name='117M', seed=None, nsamples=0, batch_size=1, length=None, temperature=1, top_k=0, top_p=0.0,
                 run_name=None, models_dir='models'):
    """Writes texts from nothing, one after the other.

    Args:
        model_name: the model in --models_dir to sample from.
        seed: a whole number, for the same samples each time; different ones without it.
        nsamples: how many samples to write; 0 goes on until Ctrl-C.
        batch_size: how many of them are made at once.
        length: tokens of a sample; the model's whole window without it.
        temperature: below 1 safer, above 1 stranger text; 0 takes the most likely token each time.
        top_k: draw from the K most likely tokens; 0 from all. 40 is a good start.
        top_p: draw from the most likely tokens that together have probability P; overrides top_k if above 0.
        run_name: sample from this training run in checkpoint/ instead of a model.
        models_dir: where models live.
    """
    return Flags(**locals())


def main():
    flags = parse(sample_model)
    # Late: TensorFlow takes seconds to import, which a mistake in the flags should not cost.
    from runtime import load_tensorflow
    load_tensorflow()
    from generator import Generator
    generator = Generator(flags.directory, flags.hparams, flags.encoder)
    try:
        print_samples(generator, flags, [flags.encoder.end_of_text], flags.length or flags.hparams.n_ctx)
    except KeyboardInterrupt:
        print('\nstopped', file=sys.stderr)


if __name__ == '__main__':
    run(main)
