"""Opening a model: its sizes, its encoder and a checked checkpoint; and making a new model directory."""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator

from command import whole_files
from command.errors import UserError, reason
from encoder import Encoder, load_encoder
from network.hparams import HParams, check_vocabulary, load_hparams
from storage import run_state
from storage.check import check_checkpoint
from storage.checkpoints import find_checkpoint


@dataclasses.dataclass(frozen=True)
class Model:
    """A model or run directory that was opened. checkpoint: prefix of its weights; None where they are not needed."""
    directory: str
    hparams: HParams
    encoder: Encoder
    checkpoint: str | None


def open_model(directory: str, weights: bool = True) -> Model:
    """Reads the sizes and the vocabulary of a model or run, and checks its newest checkpoint, all without TensorFlow.

    weights: whether there must be a checkpoint. It is compared with the checksums that a run keeps of it, and must hold this
    model's weights, in files of the right size. Raises UserError that names what is missing, damaged or does not fit.
    """
    hparams, encoder = load_hparams(directory), load_encoder(directory)
    check_vocabulary(hparams, encoder.n_vocab, directory)
    prefix = None
    if weights:
        prefix = find_checkpoint(directory)
        run_state.read(prefix)      # raises for a damaged one
        check_checkpoint(prefix, hparams.shapes())
    return Model(directory, hparams, encoder, prefix)


def write_hparams(directory: str, hparams: HParams) -> None:
    """Writes `hparams.json`. Raises OSError."""
    with open(os.path.join(directory, 'hparams.json'), 'w', encoding='utf-8') as file:
        json.dump(dataclasses.asdict(hparams), file)


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
            whole_files.sync(os.path.join(unfinished, name))
        os.rename(unfinished, target)
    except OSError as error:
        raise UserError(f'cannot write {target}: {reason(error)}') from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
