#!/usr/bin/env python3
"""Continues each line you type."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from errors import run
from sampling_flags import Flags, parse, print_samples

PROMPT = 'Model prompt >>> '


def interact_model(model_name='117M', seed=None, nsamples=1, batch_size=1, length=None, temperature=1, top_k=0, top_p=0.0,
                   run_name=None, models_dir='models'):
    """Continues each line you type, until the end of input (Ctrl-D). Ctrl-C stops a sample and asks for the next line.

    Args:
        model_name: the model in --models_dir to sample from.
        seed: a whole number, for the same samples each time; different ones without it.
        nsamples: samples for each prompt.
        batch_size: how many of them are made at once.
        length: tokens of a sample; half of the model's window without it.
        temperature: below 1 safer, above 1 stranger text; 0 takes the most likely token each time.
        top_k: draw from the K most likely tokens; 0 from all. 40 is a good start.
        top_p: draw from the most likely tokens that together have probability P; overrides top_k if above 0.
        run_name: sample from this training run in checkpoint/ instead of a model.
        models_dir: where models live.
    """
    return Flags(**locals())


def prompts():
    """Lines of standard input that are not empty."""
    ask = PROMPT if sys.stdin.isatty() else ''
    while True:
        try:
            line = input(ask)
        except EOFError:
            return
        except UnicodeDecodeError as error:
            print(f'The prompt is not UTF-8: {error.reason} at byte {error.start}', file=sys.stderr)
            continue
        if line.strip():
            yield line
        else:
            print('The prompt is empty: type how the text should begin', file=sys.stderr)


def answer(generator, flags, number, prompt):
    """Prints the samples for one prompt."""
    context = flags.encoder.encode(prompt)
    room = flags.hparams.n_ctx + 1 - len(context)     # the last token is written, but never read
    length = min(flags.length or flags.hparams.n_ctx // 2, room)
    if length < 1:
        print(f'The prompt has {len(context)} tokens, the model\'s window holds {flags.hparams.n_ctx}: type a shorter one',
              file=sys.stderr)
        return
    print_samples(generator, flags, context, length, number)
    print('=' * 80, flush=True)


def main():
    flags = parse(interact_model)
    # Late: TensorFlow takes seconds to import, which a mistake in the flags should not cost.
    from runtime import load_tensorflow
    load_tensorflow()
    from generator import Generator
    generator = Generator(flags.directory, flags.hparams, flags.encoder)
    for number, prompt in enumerate(prompts()):
        try:
            answer(generator, flags, number, prompt)
        except KeyboardInterrupt:
            print('\nstopped', file=sys.stderr)


if __name__ == '__main__':
    run(main)
