"""Where models live on disk: their names, the files of a model directory, finding one by name, and making a new one."""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator

import files
from errors import UserError, reason

FILES = ('checkpoint', 'encoder.json', 'hparams.json', 'model.ckpt.data-00000-of-00001', 'model.ckpt.index',
         'model.ckpt.meta', 'vocab.bpe')
SETTING_FILES = ('hparams.json', 'encoder.json', 'vocab.bpe')   # what makes a run directory a model directory too
SIZES = {'124M': (12, 768), '355M': (24, 1024), '774M': (36, 1280), '1558M': (48, 1600)}    # n_layer, n_embd
PUBLISHED = tuple(SIZES)
ALIASES = {'117M': '124M', '345M': '355M'}      # the names of 2019, which miscounted the parameters
PROJECT_DIR = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def published_name(name: str) -> str:
    """'117M' -> '124M', '124M' -> '124M'. Raises UserError, with the list, for a name that was never published."""
    real_name = ALIASES.get(name, name)
    if real_name not in PUBLISHED:
        names = ', '.join([*PUBLISHED, *ALIASES])
        raise UserError(f'no published model is called {name!r}; there are {names}')
    return real_name


def list_models(models_dir: str) -> list[str]:
    """Names of the model directories in `models_dir`, sorted."""
    if not os.path.isdir(models_dir):
        return []
    return sorted(name for name in os.listdir(models_dir)
                  if os.path.isfile(os.path.join(models_dir, name, 'hparams.json')))


def find_model(name: str, models_dir: str = 'models') -> str:
    """The directory of a model: `models_dir`/NAME, or, for the default `models`, the one beside the scripts.

    An old name finds a model downloaded under its new name and the other way round. Raises UserError that says which
    command downloads the model and which models are here.
    """
    places = [models_dir]
    if models_dir == 'models':
        places.append(os.path.join(PROJECT_DIR, 'models'))
    twins = ALIASES | {new: old for old, new in ALIASES.items()}
    for place in places:
        for candidate in (name, twins.get(name)):
            if candidate in list_models(place):
                return os.path.join(place, candidate)
    here = sorted({model for place in places for model in list_models(place)})
    _check_settings(os.path.join(models_dir, name))
    known = f'models here: {", ".join(here)}' if here else 'no models are here'
    if ALIASES.get(name, name) in PUBLISHED:
        raise UserError(f'no model {name!r} in {models_dir}: ./download_model.py {name} fetches it; {known}')
    raise UserError(f'no model {name!r} in {models_dir}; {known}; ./download_model.py fetches '
                    f'{", ".join(PUBLISHED)}')


def find_run(run_name: str, checkpoint_dir: str = 'checkpoint') -> str:
    """The directory of a training run. Raises UserError that lists the runs that are here."""
    directory = os.path.join(checkpoint_dir, run_name)
    if os.path.isfile(os.path.join(directory, 'hparams.json')):
        return directory
    _check_settings(directory)
    here = list_models(checkpoint_dir)
    known = f'runs here: {", ".join(here)}' if here else 'no runs are here; ./train.py makes one'
    raise UserError(f'no run {run_name!r} in {checkpoint_dir}; {known}')


def _check_settings(directory: str) -> None:
    """Raises UserError for a directory with a checkpoint that lacks hparams.json, such as a run of the 2019 tools has."""
    if os.path.isdir(directory) and list_checkpoints(directory):
        raise UserError(f'{directory} holds no file hparams.json: copy {", ".join(SETTING_FILES)} into it, from the model that it '
                        'was made from')


def latest_checkpoint(directory: str) -> str | None:
    """Prefix of the newest checkpoint in a model or run directory, as its `checkpoint` file names it; None without one.

    Reads the file without TensorFlow. A path that is not there any more (a directory that was moved) is looked for
    beside the file.
    """
    try:
        with open(os.path.join(directory, 'checkpoint'), encoding='utf-8', errors='replace') as file:
            named = re.search(r'^model_checkpoint_path: "(.*)"$', file.read(), re.MULTILINE)
    except OSError:
        return None
    if not named:
        return None
    prefixes = [os.path.join(directory, os.path.basename(named[1])), os.path.join(directory, named[1])]
    return next((prefix for prefix in prefixes if os.path.isfile(prefix + '.index')), None)


def list_checkpoints(directory: str) -> list[str]:
    """Prefixes of all the checkpoints in a directory, by step."""
    names = (name.removesuffix('.index') for name in os.listdir(directory)
             if name.endswith('.index') and os.path.isfile(os.path.join(directory, name)))
    return [os.path.join(directory, name) for name in sorted(names, key=lambda name: (checkpoint_step(name), name))]


def checkpoint_step(prefix: str) -> int:
    """'checkpoint/run1/model-500' -> 500; 0 for the checkpoint of a model, which bears no step."""
    step = re.search(r'-(\d+)$', prefix)
    return int(step[1]) if step else 0


def find_checkpoint(path: str) -> str:
    """The checkpoint that a user means by a directory, a prefix, or an .index file: its prefix.

    Raises UserError that names the checkpoints that are there.
    """
    if os.path.isdir(path):
        prefix, directory = latest_checkpoint(path), path
    else:
        prefix, directory = path.removesuffix('.index'), os.path.dirname(path) or '.'
    if prefix and os.path.isfile(prefix + '.index'):
        return prefix
    here = list_checkpoints(directory) if os.path.isdir(directory) else []
    known = f'checkpoints there: {", ".join(here)}' if here else f'{directory} holds no checkpoints'
    if here and os.path.isdir(path):
        known = f'{os.path.join(path, "checkpoint")} is missing, or does not name one that is there; {known}'
    raise UserError(f'no checkpoint {path!r}; {known}')


def find_start(name: str, run_directory: str, checkpoint_dir: str = 'checkpoint') -> str:
    """The checkpoint that a user means by a step of a run, a path (see find_checkpoint), or a run's name: its prefix.

    Raises UserError that lists what is there.
    """
    if name.isdecimal():
        return find_checkpoint(os.path.join(run_directory, f'model-{name}'))
    if os.path.exists(name) or os.path.exists(f'{name}.index'):
        return find_checkpoint(name)
    if os.path.isdir(run := os.path.join(checkpoint_dir, name)):
        return find_checkpoint(run)
    own = list_checkpoints(run_directory) if os.path.isdir(run_directory) else []
    runs = list_models(checkpoint_dir)
    raise UserError(f'no checkpoint {name!r}; this run has {", ".join(own) or "none"}; runs in {checkpoint_dir}: '
                    f'{", ".join(runs) or "none"}')


@contextlib.contextmanager
def new_directory(target: str) -> Iterator[str]:
    """A directory to write to, which becomes `target` at the end, its files on disk; an exception leaves nothing.

    Raises UserError if there is something at `target`, or it cannot be written.
    """
    target = os.path.normpath(target)
    if os.path.lexists(target) and not (os.path.isdir(target) and not os.listdir(target)):
        raise UserError(f'{target} is there already: choose another name, or remove it')
    unfinished = f'{target}.part'
    if os.path.lexists(unfinished) and not os.path.isdir(unfinished):
        raise UserError(f'{unfinished}, which would become {target} when it is whole, is there already: remove it')
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        os.makedirs(unfinished)
        yield unfinished
        for name in os.listdir(unfinished):
            files.sync(os.path.join(unfinished, name))
        os.rename(unfinished, target)
    except OSError as error:
        raise UserError(f'cannot write {target}: {reason(error)}') from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
