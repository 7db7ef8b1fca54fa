"""Names of models and runs, and the directories and checkpoints that they stand for."""

import argparse
import os
import re

from command import flags
from command.did_you_mean import did_you_mean
from command.errors import UserError, check_utf8

FILES = ('checkpoint', 'encoder.json', 'hparams.json', 'model.ckpt.data-00000-of-00001', 'model.ckpt.index',
         'model.ckpt.meta', 'vocab.bpe')
SETTING_FILES = ('hparams.json', 'encoder.json', 'vocab.bpe')   # with them, a run directory is a model directory too
SPECIAL_TOKENS = 'special_tokens.json'      # optional, next to encoder.json
SIZES = {'124M': (12, 768), '355M': (24, 1024), '774M': (36, 1280), '1558M': (48, 1600)}    # n_layer, n_embd
PUBLISHED = tuple(SIZES)
HUB_NAMES = {'124M': 'openai-community/gpt2', '355M': 'openai-community/gpt2-medium',      # on Hugging Face's Hub
             '774M': 'openai-community/gpt2-large', '1558M': 'openai-community/gpt2-xl'}
ALIASES = {'117M': '124M', '345M': '355M'}      # the names of 2019, from a wrong count of the parameters
PROJECT_DIR = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
CHECKPOINT_DIR = 'checkpoint'
SAMPLE_DIR = 'samples'
BEST, LATEST = 'best', 'latest'     # after a run and a slash: which of its checkpoints
_CHECKPOINT = re.compile(rf'{BEST}|{LATEST}|\d+|model-\d+|model\.ckpt|.+\.index')


def add_model_flags(parser: argparse.ArgumentParser, verb: str):
    """Adds the flags that say which model to use; returns their group. verb: what is done with it, for the help texts."""
    group = parser.add_argument_group('model')
    which = group.add_mutually_exclusive_group()
    which.add_argument('--model_name', metavar='NAME', default='117M', help=f'the model to {verb}')
    which.add_argument('--run_name', metavar='RUN', help=f'{verb} this run in --checkpoint_dir instead: RUN/best, RUN/latest or '
                       'RUN/STEP (default: the best with --keep_best, else the newest)')
    group.add_argument('--models_dir', metavar='DIR', type=flags.path, default='models', help='the directory of the models')
    group.add_argument('--checkpoint_dir', metavar='DIR', type=flags.path, default=CHECKPOINT_DIR,
                       help='the directory of the runs')
    return group


def published_name(name: str) -> str:
    """'117M' -> '124M', '124M' -> '124M'. Raises UserError, with the list, for the name of no published model."""
    real_name = ALIASES.get(name, name)
    if real_name not in PUBLISHED:
        names = ', '.join([*PUBLISHED, *ALIASES])
        near = did_you_mean(name, [*PUBLISHED, *ALIASES])
        raise UserError(f'no published model is called {name!r}{near or ";"} there are {names}')
    return real_name


def vocabulary_files(directory: str) -> list[str]:
    """The names of the files in a model directory that make its vocabulary: two, and SPECIAL_TOKENS if it is there."""
    optional = [SPECIAL_TOKENS] if os.path.exists(os.path.join(directory, SPECIAL_TOKENS)) else []
    return ['encoder.json', 'vocab.bpe', *optional]


def list_models(models_dir: str) -> list[str]:
    """The sorted names of the model directories in `models_dir`."""
    if not os.path.isdir(models_dir):
        return []
    return sorted(name for name in os.listdir(models_dir)
                  if os.path.isfile(os.path.join(models_dir, name, 'hparams.json')))


def split_path(path: str) -> tuple[str, str | None]:
    """The directory of a model or run, and what a path names in it: best, latest, a step or a prefix; None for no checkpoint.

    'checkpoint/run1/best' -> ('checkpoint/run1', 'best'), 'checkpoint/run1/model-5.index' -> ('checkpoint/run1', 'model-5'),
    'checkpoint/run1' -> ('checkpoint/run1', None). A directory of that name comes first, like that of a run `exp/best`.
    """
    directory, name = os.path.split(path)
    if os.path.isdir(path) or not (_CHECKPOINT.fullmatch(name) or os.path.isfile(f'{path}.index')):
        return path, None
    return directory or '.', name.removesuffix('.index')


def directory_of(path: str) -> str:
    """The directory of a model or run that `find_model` or `find_run` has found."""
    return split_path(path)[0]


def _is_found(path: str) -> bool:
    """Whether a path names a directory with the sizes of a model, or a checkpoint in one, which need not exist."""
    return os.path.isfile(os.path.join(directory_of(path), 'hparams.json'))


def find_model(name: str, models_dir: str = 'models') -> str:
    """The path of a model: `models_dir`/NAME, or, for the default `models`, the one next to the scripts, or NAME as a path.

    A checkpoint may be named (see split_path). The old and the new name of a published model both find it. Raises UserError
    that lists the models here and names the command that downloads one.
    """
    directories = [models_dir]
    if models_dir == 'models':
        directories.append(os.path.join(PROJECT_DIR, 'models'))
    other_names = ALIASES | {new: old for old, new in ALIASES.items()}
    names = [candidate for candidate in (name, other_names.get(name)) if candidate]
    paths = [os.path.join(directory, candidate) for directory in directories for candidate in names]
    for path in [*paths, *([name] if os.path.dirname(name) else [])]:
        if _is_found(path):
            return check_utf8(path)
    _check_settings(os.path.join(models_dir, name), name)
    here = sorted({model for directory in directories for model in list_models(directory)})
    known = f'models here: {", ".join(here)}' if here else 'no models are here'
    if ALIASES.get(name, name) in PUBLISHED:
        raise UserError(f'no model {name!r} in {models_dir}: ./download_model.py {name} fetches it; {known}')
    near = did_you_mean(name, [*here, *PUBLISHED])
    raise UserError(f'no model {name!r} in {models_dir}{near or ";"} {known}; ./download_model.py fetches {", ".join(PUBLISHED)}')


def run_path(parent: str, run_name: str) -> str:
    """The path of a run in a directory of runs: ('checkpoint', 'exp/b') -> 'checkpoint/exp/b'.

    Raises UserError for a name that would be `parent` itself or lie outside of it.
    """
    name = os.path.normpath(run_name)
    if name == '.' or os.path.isabs(name) or name.split(os.sep)[0] == '..':
        raise UserError(f'--run_name {run_name!r} is not the name of a directory in {parent}: give a name like run1 or exp/run1; '
                        '--checkpoint_dir names another directory of runs')
    return os.path.join(parent, name)


def find_run(run_name: str, checkpoint_dir: str = CHECKPOINT_DIR) -> str:
    """The path of a training run, or of a checkpoint of it (see split_path): `checkpoint_dir`/NAME, or NAME, if it is a path.

    Raises UserError that lists the runs here.
    """
    inside = check_utf8(os.path.join(checkpoint_dir, run_name))
    for path in [inside, *([run_name] if os.path.dirname(run_name) else [])]:
        if _is_found(path):
            return path
    _check_settings(inside, run_name)
    here = list_models(checkpoint_dir)
    known = f'runs here: {", ".join(here)}' if here else 'no runs are here; ./train.py makes one'
    raise UserError(f'no run {run_name!r} in {checkpoint_dir}{did_you_mean(run_name, here) or ";"} {known}')


def _check_settings(*paths: str) -> None:
    """Raises UserError if one names a directory with a checkpoint but no hparams.json, like those of the 2019 tools."""
    for path in filter(os.path.dirname, paths):
        directory = directory_of(path)
        if os.path.isdir(directory) and any(name.endswith('.index') for name in os.listdir(directory)):
            raise UserError(f'{directory} holds no file hparams.json: copy {", ".join(SETTING_FILES)} into it, from the '
                            'model that it was made from')
