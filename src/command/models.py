"""Models and runs by name: what was published, which files a model directory has, where a name is looked for."""

import os

from command.errors import UserError

FILES = ('checkpoint', 'encoder.json', 'hparams.json', 'model.ckpt.data-00000-of-00001', 'model.ckpt.index',
         'model.ckpt.meta', 'vocab.bpe')
SETTING_FILES = ('hparams.json', 'encoder.json', 'vocab.bpe')   # what makes a run directory a model directory too
SIZES = {'124M': (12, 768), '355M': (24, 1024), '774M': (36, 1280), '1558M': (48, 1600)}    # n_layer, n_embd
PUBLISHED = tuple(SIZES)
ALIASES = {'117M': '124M', '345M': '355M'}      # the names of 2019, which miscounted the parameters
PROJECT_DIR = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CHECKPOINT_DIR = 'checkpoint'
SAMPLE_DIR = 'samples'


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


def find_run(run_name: str, checkpoint_dir: str = CHECKPOINT_DIR) -> str:
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
    if os.path.isdir(directory) and any(name.endswith('.index') for name in os.listdir(directory)):
        raise UserError(f'{directory} holds no file hparams.json: copy {", ".join(SETTING_FILES)} into it, from the model that it '
                        'was made from')
