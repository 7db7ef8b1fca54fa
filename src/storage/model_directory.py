"""Opens a model (sizes, encoder, checked checkpoint), or creates one."""

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator

from command import atomic_files
from command.errors import UserError, reason
from command.models import directory_of
from encoder import Encoder, load_encoder
from network.hparams import HParams, check_vocabulary, load_hparams
from storage.adapters import check_files, check_weights
from storage.find_checkpoint import find_checkpoint


@dataclasses.dataclass(frozen=True)
class Model:
    """An opened model or run directory. checkpoint: prefix of its weights; None if it was opened without them."""
    directory: str
    hparams: HParams
    encoder: Encoder
    checkpoint: str | None


def open_model(path: str, weights: bool = True) -> Model:
    """Reads the sizes and the vocabulary of a model or run, and checks the checkpoint that is meant, without TensorFlow.

    path: of the directory, or of a checkpoint in it (see find_checkpoint, which prints a line if it takes a run's best). The
    checkpoint must have the weights of this model, in data files of sufficient size, and match the checksums that a run
    stores with it; so must the base of adapters. weights=False skips this. Raises UserError that names the file that is missing,
    damaged or does not fit.
    """
    directory = directory_of(path)
    hparams, encoder = load_hparams(directory), load_encoder(directory)
    check_vocabulary(hparams, encoder.n_vocab, directory)
    prefix = None
    if weights:
        prefix = find_checkpoint(path)
        check_files(prefix)
        check_weights(prefix, hparams)
    return Model(directory, hparams, encoder, prefix)


@contextlib.contextmanager
def new_directory(target: str) -> Iterator[str]:
    """A directory to write to, renamed to `target` at the end, when its files are on disk; removed after an exception.

    Raises UserError if `target` exists and is not an empty directory, or cannot be written.
    """
    target = os.path.normpath(target)
    if os.path.lexists(target) and not (os.path.isdir(target) and not os.listdir(target)):
        raise UserError(f'{target} exists already: choose another name, or remove it')
    unfinished = f'{target}.part'
    if os.path.lexists(unfinished) and not os.path.isdir(unfinished):
        raise UserError(f'{unfinished}, the name of the unfinished {target}, exists already: remove it')
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        os.makedirs(unfinished)
        yield unfinished
        for name in os.listdir(unfinished):
            atomic_files.sync(os.path.join(unfinished, name))
        os.rename(unfinished, target)
    except OSError as error:
        raise UserError(f'cannot write {target}: {reason(error)}') from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
