"""The flags of the two sampling scripts, read by fire and checked before TensorFlow is imported."""

import contextlib
import dataclasses
import inspect
import io
import sys

import fire
import numpy as np

from command import models
from command.errors import UserError, reason
from sampling.continuation import Settings, whole
from storage.model_directory import open_model

SEPARATOR = '\0'    # between the values of a flag given several times; no argument can hold it
HELP = {
    'model_name': 'the model in --models_dir to sample from.',
    'seed': 'a whole number, for the same samples each time; different ones without it.',
    'nsamples': 'samples for each prompt; 0 goes on until Ctrl-C.',
    'batch_size': 'how many of them are made at once.',
    'length': "tokens of a sample; half of the model's window without it. What goes beyond the window sees the last part alone.",
    'temperature': 'below 1 safer, above 1 stranger text; 0 takes the most likely token each time.',
    'top_k': 'draw from the K most likely tokens; 0 from all. 40 is a good start.',
    'top_p': 'draw from the most likely tokens that together have probability P; overrides top_k if above 0.',
    'run_name': 'sample from this training run in checkpoint/ instead of a model: its newest checkpoint.',
    'models_dir': 'where models live.',
    'repetition_penalty': 'above 1 makes tokens that were there already less likely; 1.2 is a good start.',
    'stop': 'a text at which a sample ends; give it several times for several.',
    'stop_at_eot': 'whether a sample ends at the end-of-text token; --nostop_at_eot writes on past it.',
    'truncate': 'leave out the stop, or end-of-text token, at which a sample ended.',
    'jsonl': 'print a JSON object for each sample: prompt, text, ids, seed, stop_reason, log_probability.',
    'prompt': 'continue this text instead of asking for lines.',
    'prompt_file': 'continue each line of this file; - is standard input, read to its end first.',
    'include_prompt': 'print the prompt before its continuation.',
}


@dataclasses.dataclass
class Flags:
    """What both scripts take. Raises UserError for a flag or a model directory that will not do."""
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
    stop: str | None = None
    stop_at_eot: bool = True
    truncate: bool = False
    jsonl: bool = False

    def __post_init__(self):
        try:
            whole('nsamples', self.nsamples, 0)
            whole('batch_size', self.batch_size, 1)
            if self.seed is None:       # one with which this run can be made again
                self.seed = int(np.random.SeedSequence().generate_state(1)[0])
            whole('seed', self.seed, 0)
            if type(self.jsonl) is not bool:
                raise UserError(f'jsonl takes no value, not {self.jsonl!r}')
            stop = () if self.stop is None else tuple(self.stop.split(SEPARATOR))
            names = [field.name for field in dataclasses.fields(Settings) if field.name != 'stop']
            self.settings = Settings(stop=stop, **{name: getattr(self, name) for name in names if hasattr(self, name)})
        except UserError as error:
            raise UserError(f'--{error}') from None
        self.model = open_model(models.find_run(str(self.run_name)) if self.run_name is not None
                                else models.find_model(str(self.model_name), str(self.models_dir)))


@dataclasses.dataclass
class PromptFlags(Flags):
    """What the script that continues prompts takes, too. prompts: those of --prompt or --prompt_file, None without them."""
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
            self.prompts = read_prompts(self.prompt_file)
            for number, prompt in enumerate(self.prompts, start=1):
                self.check_prompt(f'{self.prompt_file} line {number}', prompt)

    def check_prompt(self, where: str, prompt: str) -> None:
        """Raises UserError for a prompt that is empty or longer than the window."""
        if not prompt.strip():
            raise UserError(f'{where} is empty: say how the text should begin')
        size = len(self.model.encoder.encode(prompt))
        if size > self.model.hparams.n_ctx:
            raise UserError(f'{where} has {size} tokens, the model\'s window holds {self.model.hparams.n_ctx}: give a shorter one')


def read_prompts(path: str) -> list[str]:
    """The lines of a file of UTF-8 text, or of standard input if path is '-'. Raises UserError that names the trouble."""
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
        raise UserError(f'{path} is empty: it should hold a prompt in each line')
    return text.replace('\r\n', '\n').removesuffix('\n').split('\n')


def parse(flags: type[Flags], summary: str, **other_help: str) -> Flags:
    """Lets fire fill the fields of a class of flags from the command line.

    Raises UserError for an unknown flag; --help prints `summary` and HELP, or other_help, of the fields, and exits.
    """
    explained = HELP | other_help
    signature = inspect.signature(flags)
    strings = {name for name, parameter in signature.parameters.items() if parameter.annotation in (str, str | None)}
    result = []

    def script(*given):
        for name, value in zip(signature.parameters, given):
            if name in strings and type(value) is bool:     # fire's reading of --flag and --noflag
                raise UserError(f'--{name} needs a value')
        result.append(flags(*given))

    script.__signature__ = signature.replace(return_annotation=inspect.Signature.empty)
    script.__doc__ = '\n'.join([summary, '', 'Args:', *(f'    {name}: {explained[name]}' for name in signature.parameters)])
    with contextlib.redirect_stderr(io.StringIO()) as screen:
        try:
            fire.Fire(script, command=joined(sys.argv[1:], strings))
            return result[0]
        except fire.core.FireExit as left:
            if left.code:
                raise UserError(left.trace.elements[-1].ErrorAsStr()) from None
    print(screen.getvalue().partition('\n\n')[2])      # without fire's remark that this is the help
    raise SystemExit(0)


def joined(arguments: list[str], strings: set) -> list[str]:
    """The arguments, with those of the flags in `strings` as --flag='value', which fire reads as Python would.

    --stop, given several times, has all its values; another flag the last one, as with fire.
    """
    others, values, rest = [], {}, iter(arguments)
    for argument in rest:
        flag, equals, value = argument.partition('=')
        name = flag.removeprefix('--').replace('-', '_')
        if not flag.startswith('--') or name not in strings or (not equals and (value := next(rest, None)) is None):
            others.append(argument)
        elif name == 'stop' and name in values:
            values[name] += SEPARATOR + value
        else:
            values[name] = value
    return [*others, *(f'--{name}={value!r}' for name, value in values.items())]
