"""Flags of the two sampling scripts, through fire; everything about them that can be checked without TensorFlow."""

import contextlib
import dataclasses
import io
import itertools
import math
import sys
from collections.abc import Iterator

import fire
import numpy as np

import model_dir
from encoder import load_encoder
from errors import UserError
from hparams import load_hparams


@dataclasses.dataclass
class Flags:
    """Sizes and numbers of a sampling run. Raises UserError for a flag or a model directory that will not do."""
    model_name: str = '117M'
    seed: int | None = None
    nsamples: int = 1
    batch_size: int = 1
    length: int | None = None
    temperature: float = 1
    top_k: int = 0
    top_p: float = 0.0
    run_name: str | None = None
    models_dir: str = 'models'

    def __post_init__(self):
        for name, least in (('seed', 0), ('nsamples', 0), ('batch_size', 1), ('length', 1), ('top_k', 0)):
            value = getattr(self, name)
            optional = value is None and name in ('seed', 'length')
            if not optional and (type(value) is not int or value < least):
                raise UserError(f'--{name} must be a whole number, {least} or more, not {value!r}')
        for name, most in (('temperature', math.inf), ('top_p', 1)):
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0 <= value <= most or math.isinf(value):
                upper = f' to {most}' if most == 1 else ' or more'
                raise UserError(f'--{name} must be a number, 0{upper}, not {value!r}')
        if self.run_name is not None:
            self.directory = model_dir.find_run(str(self.run_name))
        else:
            self.directory = model_dir.find_model(str(self.model_name), str(self.models_dir))
        self.hparams, self.encoder = load_hparams(self.directory), load_encoder(self.directory)
        model_dir.find_checkpoint(self.directory)
        if self.length and self.length > self.hparams.n_ctx:
            raise UserError(f'--length {self.length} is more than the model\'s window of {self.hparams.n_ctx} tokens')

    def batches(self) -> Iterator[range]:
        """Numbers of the samples to make at once, until nsamples are made; without end if that is 0."""
        for first in itertools.count(step=self.batch_size):
            if self.nsamples and first >= self.nsamples:
                return
            yield range(first, min(first + self.batch_size, self.nsamples or sys.maxsize))

    def seed_of(self, *place: int) -> np.random.SeedSequence:
        """The seed of the sample at `place` (prompt number, sample number): the same in every run with --seed."""
        return np.random.SeedSequence(None if self.seed is None else [self.seed, *place])


def print_samples(generator, flags: Flags, context: list[int], length: int, prompt_number: int = 0) -> None:
    """Prints flags.nsamples continuations of the token ids `context`, each `length` tokens long."""
    for batch in flags.batches():
        rows = generator.generate(context, length, [flags.seed_of(prompt_number, i) for i in batch],
                                  temperature=flags.temperature, top_k=flags.top_k, top_p=flags.top_p)
        for i, row in zip(batch, rows):
            print(f'======== SAMPLE {i + 1} ========\n{flags.encoder.decode(row)}', flush=True)


def parse(script):
    """Lets fire fill the flags of `script`, a function whose signature and docstring are the command line's.

    Returns what the function returns. Raises UserError for an unknown flag; --help prints the help and exits.
    """
    with contextlib.redirect_stderr(io.StringIO()) as screen:
        try:
            return fire.Fire(script, serialize=lambda _: '')
        except fire.core.FireExit as left:
            if left.code:
                raise UserError(left.trace.elements[-1].ErrorAsStr()) from None
    print(screen.getvalue().partition('\n\n')[2])      # without fire's remark that this is the help
    raise SystemExit(0)
