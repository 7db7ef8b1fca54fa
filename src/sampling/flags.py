"""The flags of the two sampling scripts, checked before TensorFlow."""

import contextlib
import dataclasses
import inspect
import io
import math
import re
import sys
from collections.abc import Iterable, Sequence

import fire
import numpy as np

from command import models
from command.did_you_mean import did_you_mean
from command.errors import UserError
from command.flags import path
from command.machine import available_memory, visible_gpus
from sampling.continuation import SamplingSettings, check_weights, check_whole_number, prompt_tokens
from sampling.prompts import ENDS_IN_SPACE, check_not_empty, given_text, read_prompts
from storage.model_directory import open_model

HELP = {
    'model_name': 'the model in --models_dir to sample from.',
    'seed': 'a whole number that makes the samples repeatable; random without it.',
    'nsamples': 'how many samples, for each prompt; 0 for samples until Ctrl-C.',
    'batch_size': 'samples that are generated together.',
    'length': "tokens of a sample, even beyond the model's window; without it half of it after a prompt, else all.",
    'temperature': 'below 1 for safer, above 1 for stranger text; 0 takes the most likely token each time.',
    'top_k': 'draw from the K most likely tokens; 0 from all. 40 is a good start.',
    'top_p': 'draw from the most likely tokens that together have probability P; overrides top_k if above 0.',
    'run_name': 'sample from this training run in --checkpoint_dir, instead of a model: RUN/best, RUN/latest or RUN/STEP; RUN is '
                'its best with --keep_best, else its newest.',
    'models_dir': 'the directory of the models.',
    'checkpoint_dir': 'the directory of the runs.',
    'weights': 'float32, bfloat16 or int8: the type of the weights in memory; in fewer bytes they are rounded, and sampling is '
               'faster.',
    'repetition_penalty': 'above 1 makes tokens less likely that are in the text already; 1.2 is a good start.',
    'no_repeat_ngram': 'no sequence of N tokens occurs twice in a text, its prompt included; 0 for no limit.',
    'banned_words': 'a word or phrase that is not written, with or without a space before it; may be given several times.',
    'stop': 'a text that ends a sample; may be given several times.',
    'stop_at_eot': 'whether the end-of-text token ends a sample; --nostop_at_eot continues after it.',
    'truncate': 'leave out the stop or end-of-text token that ended a sample.',
    'jsonl': 'print a JSON object for each sample: prompt, text, ids, seed, stop_reason, log_probability.',
    'escapes': r'\n, \t, \r and \\ in prompt, stop, banned_words, prompt_separator and typed lines: a line break, tab, ...',
    'prompt': 'continue this text instead of asking for lines.',
    'prompt_file': 'continue each line of this file; - reads standard input to its end first.',
    'prompt_separator': 'what separates the prompts of the file instead of line breaks: a line of its own, such as ---.',
    'include_prompt': 'print the prompt before its continuation.',
}
SHORT = {'-b': '--batch_size', '-n': '--nsamples', '-s': '--seed'}     # as in 2019
SHORT_TEXT = 256        # tokens that a batch has memory for at first: generator.CAPACITY_STEP
LISTS = ('banned_words', 'stop')    # flags that may be given several times


@dataclasses.dataclass
class Flags:
    """The flags of both scripts. Raises UserError for an invalid flag or model directory.

    settings: a SamplingSettings. model: the opened model.
    """
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
    checkpoint_dir: str = models.CHECKPOINT_DIR
    weights: str = 'float32'
    repetition_penalty: float = 1
    no_repeat_ngram: int = 0
    banned_words: list[str] | None = None
    stop: list[str] | None = None
    stop_at_eot: bool = True
    truncate: bool = False
    escapes: bool = False
    jsonl: bool = False

    def __post_init__(self):
        self.models_dir, self.checkpoint_dir = path(self.models_dir), path(self.checkpoint_dir)
        try:
            check_whole_number('nsamples', self.nsamples, 0)
            check_whole_number('batch_size', self.batch_size, 1)
            if self.seed is None:       # a random one, which --jsonl prints
                self.seed = int(np.random.SeedSequence().generate_state(1)[0])
            check_whole_number('seed', self.seed, 0, math.inf)
            check_weights(self.weights)
            for name in ('jsonl', 'escapes'):
                if type(getattr(self, name)) is not bool:
                    raise UserError(f'{name} takes no value, not {getattr(self, name)!r}')
            names = {field.name for field in dataclasses.fields(SamplingSettings)}
            values = vars(self) | {name: self._texts(name) for name in LISTS}
            self.settings = SamplingSettings(**{name: values[name] for name in names & values.keys()})
        except UserError as error:
            raise UserError(f'--{error}') from None
        self.model = open_model(models.find_model(str(self.model_name), self.models_dir) if self.run_name is None
                                else models.find_run(self.run_name, self.checkpoint_dir))
        self._check_memory()

    def _check_memory(self) -> None:
        """Raises UserError if memory cannot hold the keys and values of a batch of short texts."""
        hparams, rows = self.model.hparams, min(self.batch_size, self.nsamples or self.batch_size)
        needed = rows * 4 * 2 * hparams.n_layer * hparams.n_embd * min(hparams.n_ctx, SHORT_TEXT)
        available = None if visible_gpus() else available_memory()      # on a GPU its own memory counts
        if available is not None and needed > available:
            raise UserError(f'--batch_size {rows} needs at least {needed / 1e9:,.1f} GB, {available / 1e9:,.1f} GB are '
                            'available: give a smaller one')

    def _texts(self, name: str) -> tuple[str, ...] | object:
        """The values of a flag that may be given several times; SamplingSettings refuses anything else."""
        given = getattr(self, name) or ()
        return tuple(given_text(name, text, self.escapes) for text in given) if isinstance(given, list) else given


@dataclasses.dataclass
class PromptFlags(Flags):
    """The flags of the script that continues prompts. prompts: from --prompt or --prompt_file; None without them."""
    prompt: str | None = None
    prompt_file: str | None = None
    prompt_separator: str | None = None
    include_prompt: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.prompt is not None and self.prompt_file is not None:
            raise UserError('give --prompt or --prompt_file, not both')
        if self.prompt_separator is not None and (self.prompt_file is None or not self.prompt_separator):
            raise UserError('--prompt_separator works only with --prompt_file, and must not be empty')
        self.prompts, self._noted = None, False
        if self.prompt is not None:
            self.prompts = [self.read_prompt('--prompt', self.prompt)]
        elif self.prompt_file is not None:
            separator = self.prompt_separator and given_text('--prompt_separator', self.prompt_separator, self.escapes)
            self.prompt_file = path(self.prompt_file)
            self.prompts = [self.check_prompt(*each) for each in read_prompts(self.prompt_file, separator).items()]

    def read_prompt(self, source: str, text: str) -> str:
        """The prompt that was typed or given as a flag. Raises UserError like `given_text` and `check_prompt`."""
        return self.check_prompt(source, given_text(source, text, self.escapes))

    def check_prompt(self, source: str, prompt: str) -> str:
        """The prompt. Raises UserError if it is empty or longer than the window. source: how messages begin.

        The first time that one ends in a space, prints a note.
        """
        prompt_tokens(check_not_empty(source, prompt), self.model.encoder, self.model.hparams.n_ctx, source)
        if prompt.endswith(' ') and not self._noted:
            self._noted = True
            print(f'note: {source} {ENDS_IN_SPACE}', file=sys.stderr)
        return prompt


def parse(flags: type[Flags], summary: str, examples: Sequence[str] = ()) -> Flags:
    """The flags from the command line. Raises UserError for invalid ones; --help prints help and examples, and exits."""
    signature = inspect.signature(flags)
    texts = {name for name, parameter in signature.parameters.items() if parameter.annotation in (str, str | None)}
    parsed = []

    def script(*values):
        parsed.extend(values)

    script.__signature__ = signature
    script.__doc__ = '\n    '.join([f'{summary}\n\nArgs:', *(f'{name}: {HELP[name]}' for name in signature.parameters)])
    with contextlib.redirect_stderr(io.StringIO()) as output:
        try:
            fire.Fire(script, command=prepare_texts(sys.argv[1:], texts, signature.parameters))
        except fire.core.FireExit as stop:
            if stop.code:
                raise UserError(stop.trace.elements[-1].ErrorAsStr()) from None
    if not parsed:      # fire has shown the help
        print(readable_help(output.getvalue()), 'EXAMPLES', *(f'    {example}' for example in examples), sep='\n')
        raise SystemExit(0)
    return flags(*parsed)


def readable_help(text: str) -> str:
    """fire's help without its line about how to show it, and without Python's types and defaults of None."""
    return re.sub(r'\n +(Type: .*|Default: None)(?=\n)', '', text.partition('\n\n')[2])


def prepare_texts(arguments: list[str], texts: set[str], names: Iterable[str]) -> list[str]:
    """The arguments for fire, with the flags in `texts` as --flag='TEXT' and all values of those in LISTS as one list.

    fire alone misreads texts like 3.5, - or --x, takes True for a missing one, and only the last of several. Its own
    SetParseFn would help with the first alone, and add its internals to --help. It knows the flags in SHORT only as long
    as no other begins with the same letter. names: of all flags; raises UserError with the nearest one for any other.
    """
    others, values, rest = [], {name: [] for name in LISTS}, iter(arguments)
    for argument in rest:
        flag, equals, text = argument.partition('=')
        if flag in SHORT:
            flag = SHORT[flag]
            argument = f'{flag}{equals}{text}'
        name = flag.lstrip('-').replace('-', '_')
        if flag.startswith('--') and not {name, name.removeprefix('no')} & {*names, 'help'}:
            raise UserError(f'unknown flag {flag}{did_you_mean(flag, [f"--{known}" for known in names])}')
        if not flag.startswith('-') or name.removeprefix('no') not in {*texts, *LISTS}:
            others.append(argument)
            continue
        if not equals and (name.startswith('no') or (text := next(rest, None)) is None):
            raise UserError(f'--{name.removeprefix("no")} needs a value')
        values[name] = [*values[name], text] if name in LISTS else text
    if '--help' in others:
        return ['--help']       # with other flags, fire would not explain any
    return [*others, *(f'--{name}={value!r}' for name, value in values.items() if value != [])]
