"""The flags of the two sampling scripts, checked before TensorFlow."""

import argparse
import ast
import dataclasses
import inspect
import math
import re
import sys
from collections.abc import Sequence

import numpy as np

from command import models
from command.errors import UserError
from command.flags import Parser, path
from command.machine import available_memory, visible_gpus
from sampling.continuation import SamplingSettings, check_whole_number, prompt_tokens
from sampling.prompts import given_text, read_prompts
from storage.model_directory import open_model

# Group of --help -> flag -> what it does.
HELP = {
    'model': {
        'model_name': 'the model in --models_dir to sample from',
        'run_name': 'sample from this training run in --checkpoint_dir, instead of a model: RUN/best, RUN/latest or RUN/STEP; '
                    'RUN is its best with --keep_best, else its newest',
        'models_dir': 'the directory of the models',
        'checkpoint_dir': 'the directory of the runs'},
    'prompts': {
        'prompt': 'continue this text instead of asking for lines',
        'prompt_file': 'continue each line of this file; - reads standard input to its end first',
        'prompt_separator': 'what separates the prompts of the file instead of line breaks: a line of its own, such as ---',
        'escapes': r'\n, \t, \r and \\ in --prompt, --stop, --banned_words, --prompt_separator and typed lines are a line break, '
                   'a tab, a carriage return and a backslash'},
    'how many': {
        'nsamples': 'how many samples, for each prompt; 0: samples until Ctrl-C',
        'batch_size': 'samples that are generated together',
        'seed': 'a whole number that makes the samples repeatable (default: a random one)'},
    'how to draw': {
        'temperature': 'below 1 for safer, above 1 for stranger text; 0 takes the most likely token each time',
        'top_k': 'draw from the K most likely tokens; 0: from all. 40 is a good start',
        'top_p': 'draw from the most likely tokens that together have probability P; overrides --top_k if above 0',
        'repetition_penalty': 'above 1 makes tokens less likely that are in the text already; 1.2 is a good start',
        'no_repeat_ngram': 'no sequence of N tokens occurs twice in a text, its prompt included; 0: no limit',
        'banned_words': 'a word or phrase that is not written, with or without a space before it; may be given several times'},
    'where to end': {
        'length': "tokens of a sample, even beyond the model's window (default: half of it after a prompt, else all of it)",
        'stop': 'a text that ends a sample; may be given several times',
        'stop_at_eot': 'the end-of-text token ends a sample; --nostop_at_eot continues after it',
        'truncate': 'leave out the stop or end-of-text token that ended a sample'},
    'output': {
        'include_prompt': 'print the prompt before its continuation',
        'jsonl': 'print a JSON object for each sample: prompt, text, ids, seed, stop_reason, log_probability'},
}
METAVARS = {'top_k': 'K', 'top_p': 'P', 'models_dir': 'DIR', 'checkpoint_dir': 'DIR', 'prompt_file': 'FILE', 'model_name': 'NAME',
            'run_name': 'RUN', 'length': 'TOKENS'} | dict.fromkeys(('prompt', 'prompt_separator', 'stop', 'banned_words'), 'TEXT')
SHORT = {'b': 'batch_size', 'n': 'nsamples', 's': 'seed', 'l': 'length'}     # as in 2019
SHORT_TEXT = 256        # tokens that a batch has memory for at first: generator.CAPACITY_STEP
LISTS = ('banned_words', 'stop')    # flags that may be given several times
TEXTS = ('model_name', 'run_name', 'models_dir', 'checkpoint_dir', 'prompt', 'prompt_file', 'prompt_separator', *LISTS)
SWITCHES = ('stop_at_eot', 'truncate', 'escapes', 'jsonl', 'include_prompt')


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
        if not prompt.strip(' \t'):
            raise UserError(f'{source} is empty: give the beginning of the text')
        prompt_tokens(prompt, self.model.encoder, self.model.hparams.n_ctx, source)
        if prompt.endswith(' ') and not self._noted:
            self._noted = True
            print(f'note: {source} ends in a space: tokens begin with the space before their word, so the text is usually '
                  'better without that space', file=sys.stderr)
        return prompt


def parse(flags: type[Flags], summary: str, examples: Sequence[str] = ()) -> Flags:
    """The flags from the command line. Raises UserError for invalid ones; --help prints the help and exits."""
    parser, names = make_parser(flags, summary, examples), list(inspect.signature(flags).parameters)
    given = vars(parser.parse_args(spell(sys.argv[1:], names)))
    values, free = given.pop('values'), [name for name in names if name not in given]
    if len(values) > len(free):
        parser.error(f'unrecognized arguments: {" ".join(values[len(free):])}')
    return flags(**given, **{name: text if name in TEXTS else read_value(text) for name, text in zip(free, values)})


def make_parser(flags: type[Flags], summary: str, examples: Sequence[str] = ()) -> Parser:
    """A parser for the result of `spell`. It leaves out flags that are not given.

    `values` are those that are given without a flag, in the order of the flags: the first is the model, as in 2019.
    """
    parser = Parser(description=summary, examples=examples, allow_abbrev=False)
    parser.add_argument('values', nargs='*', help=argparse.SUPPRESS)
    signature = inspect.signature(flags).parameters
    for title, texts in HELP.items():
        names = [name for name in texts if name in signature]
        group = parser.add_argument_group(title)
        for name in names:
            default = signature[name].default
            shown = '' if default is None or default is False else f' (default: {default})'
            kind = {'action': 'append'} if name in LISTS else {}
            kind['type'] = unmarked if name in TEXTS else read_value
            if isinstance(default, bool):
                kind |= {'nargs': '?', 'const': True}
            short = [f'-{letter}' for letter, flag in SHORT.items() if flag == name]
            group.add_argument(*short, f'--{name}', help=texts[name] + shown, default=argparse.SUPPRESS,
                               metavar='True|False' if isinstance(default, bool) else METAVARS.get(name, 'N'), **kind)
    return parser


def read_value(text: str) -> object:
    """The value of a flag that is no text, in Python's spelling: '5' -> 5, 'None' -> None. Other text stays as it is.

    SamplingSettings refuses what does not fit.
    """
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def unmarked(text: str) -> str:
    """A text without the mark that `spell` puts before it."""
    return text[1:]


def spell(arguments: list[str], names: Sequence[str]) -> list[str]:
    """The arguments as the parser needs them, from all the spellings of 2019. names: of the flags.

        ['-length', '5', '--top-k=3', '-n', '2', '--nojsonl']
        -> ['--length', '5', '--top_k=3', '--nsamples', '2', '--jsonl=False']

    A text is attached to its flag and marked, --stop==TEXT, because it may begin with a dash, or be -- alone, which argparse
    drops in some versions of Python.
    """
    spelled, rest = [], iter(arguments)
    for argument in rest:
        match = re.fullmatch(r'--?([A-Za-z][\w-]*)(=.*)?', argument, re.DOTALL)
        if not match:
            spelled.append(argument)
            continue
        name, value = match[1].replace('-', '_'), match[2] or ''
        name = SHORT.get(name, name)
        if name in TEXTS and name in names:
            if (text := value[1:] if value else next(rest, None)) is None:
                raise UserError(f'--{name} needs a value')
            value = f'=={text}'
        if name not in names and name.removeprefix('no') in SWITCHES:
            name, value = name.removeprefix('no'), '=False'
        spelled.append(f'--{name}{value}' if name in names else argument if len(name) == 1 else f'--{match[1]}{value}')
    return spelled
