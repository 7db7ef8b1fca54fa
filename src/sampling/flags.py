"""The flags of the two sampling scripts, checked before TensorFlow."""

import contextlib
import dataclasses
import inspect
import io
import sys

import fire
import numpy as np

from command import models
from command.errors import UserError, reason
from command.flags import path
from sampling.continuation import SamplingSettings, check_whole_number
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
    'run_name': 'sample from the newest checkpoint of this training run in checkpoint/, instead of a model.',
    'models_dir': 'the directory of the models.',
    'repetition_penalty': 'above 1 makes tokens less likely that are in the text already; 1.2 is a good start.',
    'stop': 'a text that ends a sample; may be given several times.',
    'stop_at_eot': 'whether the end-of-text token ends a sample; --nostop_at_eot continues after it.',
    'truncate': 'leave out the stop or end-of-text token that ended a sample.',
    'jsonl': 'print a JSON object for each sample: prompt, text, ids, seed, stop_reason, log_probability.',
    'prompt': 'continue this text instead of asking for lines.',
    'prompt_file': 'continue each line of this file; - reads standard input to its end first.',
    'include_prompt': 'print the prompt before its continuation.',
}


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
    repetition_penalty: float = 1
    stop: list[str] | None = None
    stop_at_eot: bool = True
    truncate: bool = False
    jsonl: bool = False

    def __post_init__(self):
        self.models_dir = path(self.models_dir)
        try:
            check_whole_number('nsamples', self.nsamples, 0)
            check_whole_number('batch_size', self.batch_size, 1)
            if self.seed is None:       # a random one, which --jsonl prints
                self.seed = int(np.random.SeedSequence().generate_state(1)[0])
            check_whole_number('seed', self.seed, 0)
            if type(self.jsonl) is not bool:
                raise UserError(f'jsonl takes no value, not {self.jsonl!r}')
            names = {field.name for field in dataclasses.fields(SamplingSettings)}
            values = vars(self) | {'stop': tuple(self.stop or ())}
            self.settings = SamplingSettings(**{name: values[name] for name in names & values.keys()})
        except UserError as error:
            raise UserError(f'--{error}') from None
        self.model = open_model(models.find_model(str(self.model_name), self.models_dir) if self.run_name is None
                                else models.find_run(self.run_name))


@dataclasses.dataclass
class PromptFlags(Flags):
    """The flags of the script that continues prompts. prompts: from --prompt or --prompt_file; None without them."""
    prompt: str | None = None
    prompt_file: str | None = None
    include_prompt: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.prompt is not None and self.prompt_file is not None:
            raise UserError('give --prompt or --prompt_file, not both')
        self.prompts = None
        if self.prompt is not None:
            self.prompts = [self.prompt]
            self.check_prompt('--prompt', self.prompt)
        elif self.prompt_file is not None:
            self.prompt_file = path(self.prompt_file)
            self.prompts = read_prompts(self.prompt_file)
            for number, prompt in enumerate(self.prompts, start=1):
                self.check_prompt(f'{self.prompt_file} line {number}', prompt)

    def check_prompt(self, source: str, prompt: str) -> None:
        """Raises UserError for a prompt that is empty or longer than the window. source: what the message calls it."""
        if not prompt.strip():
            raise UserError(f'{source} is empty: give the beginning of the text')
        size = len(self.model.encoder.encode(prompt))
        if size > self.model.hparams.n_ctx:
            raise UserError(f'{source} has {size} tokens, the model\'s window holds {self.model.hparams.n_ctx}: '
                            'give a shorter one')


def read_prompts(path: str) -> list[str]:
    """The lines of a UTF-8 file, or of standard input for '-'. Raises UserError if it cannot be read or is empty."""
    try:
        if path == '-':
            text = sys.stdin.buffer.read().decode()
        else:
            with open(path, 'rb') as file:
                text = file.read().decode()
    except OSError as error:
        raise UserError(f'cannot read --prompt_file {path}: {reason(error)}') from None
    except UnicodeDecodeError as error:
        line = error.object.count(b'\n', 0, error.start) + 1
        raise UserError(f'{path} line {line} is not UTF-8: {error.reason}') from None
    if not text:
        raise UserError(f'{path} is empty: expected a prompt in each line')
    return text.replace('\r\n', '\n').removesuffix('\n').split('\n')


def parse(flags: type[Flags], summary: str) -> Flags:
    """The flags from the command line. Raises UserError for invalid ones; --help prints the help and exits."""
    signature = inspect.signature(flags)
    texts = {name for name, parameter in signature.parameters.items() if parameter.annotation in (str, str | None)}
    parsed = []

    def script(*values):
        parsed.append(flags(*values))

    script.__signature__ = signature
    script.__doc__ = '\n    '.join([f'{summary}\n\nArgs:', *(f'{name}: {HELP[name]}' for name in signature.parameters)])
    with contextlib.redirect_stderr(io.StringIO()) as output:
        try:
            fire.Fire(script, command=prepare_texts(sys.argv[1:], texts))
            return parsed[0]
        except fire.core.FireExit as stop:
            if stop.code:
                raise UserError(stop.trace.elements[-1].ErrorAsStr()) from None
    print(output.getvalue().partition('\n\n')[2])      # without fire's line about how to show the help
    raise SystemExit(0)


def prepare_texts(arguments: list[str], texts: set[str]) -> list[str]:
    """The arguments for fire, with the flags in `texts` as --flag='TEXT' and all values of --stop as one list.

    fire alone misreads texts like 3.5, - or --x, takes True for a missing one, and only the last of several. Its own
    SetParseFn would help with the first alone, and add its internals to --help.
    """
    others, values, rest = [], {'stop': []}, iter(arguments)
    for argument in rest:
        flag, equals, text = argument.partition('=')
        name = flag.lstrip('-').replace('-', '_')
        if not flag.startswith('-') or name.removeprefix('no') not in {*texts, 'stop'}:
            others.append(argument)
            continue
        if not equals and (name.startswith('no') or (text := next(rest, None)) is None):
            raise UserError(f'--{name.removeprefix("no")} needs a value')
        values[name] = [*values['stop'], text] if name == 'stop' else text
    if '--help' in others:
        return ['--help']       # with other flags, fire would not explain any
    return [*others, *(f'--{name}={value!r}' for name, value in values.items() if value != [])]
