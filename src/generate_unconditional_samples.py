#!/usr/bin/env python3
"""Writes texts from nothing."""

import dataclasses
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from command.errors import run
from sampling.flags import Flags, parse
from sampling.printing import write_samples


@dataclasses.dataclass
class SampleFlags(Flags):
    nsamples: int = 0
    stop_at_eot: bool = False

    def __post_init__(self):
        super().__post_init__()
        self.settings = dataclasses.replace(self.settings, length=self.length or self.model.hparams.n_ctx)


def main():
    flags = parse(SampleFlags, 'Writes texts from nothing, one after the other.',
                  nsamples='how many samples to write; 0 goes on until Ctrl-C.',
                  length="tokens of a sample; the model's whole window without it. What goes beyond the window sees the last "
                         'part alone.')
    # Late: TensorFlow takes seconds to import, which a mistake in the flags should not cost.
    from command.tensorflow_setup import load_tensorflow
    load_tensorflow()
    from generator import Generator
    generator = Generator(flags.model)
    try:
        write_samples(generator, flags, [''])
    except KeyboardInterrupt:
        print('\nstopped', file=sys.stderr)


if __name__ == '__main__':
    run(main)
