#!/usr/bin/env python3
"""Writes texts without a prompt."""

import dataclasses
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

from command.missing_packages import explain_missing_packages

if __name__ == '__main__':
    explain_missing_packages()

from command.errors import run
from sampling.flags import Flags, parse
from sampling.printing import write_samples

SUMMARY = 'Writes texts without a prompt, one after the other.'
EXAMPLES = ('src/generate_unconditional_samples.py --model_name tiny --nsamples 4 --length 100',
            'src/generate_unconditional_samples.py --run_name run1 --top_k 40 --nsamples 1')


@dataclasses.dataclass
class UnconditionalFlags(Flags):
    nsamples: int = 0
    stop_at_eot: bool = False

    def __post_init__(self):
        super().__post_init__()
        self.settings = dataclasses.replace(self.settings, length=self.length or self.model.hparams.n_ctx)


def main():
    flags = parse(UnconditionalFlags, SUMMARY, EXAMPLES)
    # TensorFlow takes seconds to import, so it comes after all checks.
    from command.device import load_and_report
    load_and_report()
    from generator import Generator
    generator = Generator(flags.model, flags.weights)
    try:
        write_samples(generator, flags, [''])
    except KeyboardInterrupt:
        print('\nstopped', file=sys.stderr)


if __name__ == '__main__':
    run(main)
