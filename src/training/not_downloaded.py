"""A published model that is not downloaded: its sizes, tokens estimated."""

import dataclasses
import math
import os

import numpy as np

from command import models
from command.errors import UserError
from encoder import Encoder, load_encoder
from network.hparams import HParams, default_hparams
from storage.model_directory import Model
from vocabulary.special import ONLY_END_OF_TEXT

HEAD_SIZE = 64      # of all published models
# Bytes of a token in the published vocabulary, about: of English prose, and of what is not ASCII. Code has half as many.
ASCII_BYTES, OTHER_BYTES = 4.0, 1.6
VOCABULARY = ('encoder.json', 'vocab.bpe')


class TokenEstimate:
    """Stands in for the Encoder of the published vocabulary: it gives a text about as many tokens as it has, all of them 0.

    Only its end-of-text tokens are the real ones, so that documents can be told apart.
    """
    special_tokens = ONLY_END_OF_TEXT
    dtype = np.dtype(np.uint16)

    def __init__(self):
        self.n_vocab = default_hparams().n_vocab
        self.end_of_text = self.n_vocab - 1

    def encode_array(self, text: str) -> np.ndarray:
        """[about as many tokens as the text has]"""
        texts, _ = self.special_tokens.split(text)
        pieces = [np.zeros(_tokens(each), self.dtype) for each in texts]
        end = np.array([self.end_of_text], self.dtype)
        return np.concatenate([pieces[0], *(part for piece in pieces[1:] for part in (end, piece))])

    def encode_with_special(self, text: str) -> list[int]:
        return self.encode_array(text).tolist()


def _tokens(text: str) -> int:
    if text.isascii():
        return math.ceil(len(text) / ASCII_BYTES)
    in_ascii = sum(map(str.isascii, text))
    return math.ceil(in_ascii / ASCII_BYTES + (len(text.encode('utf-8', 'surrogatepass')) - in_ascii) / OTHER_BYTES)


@dataclasses.dataclass(frozen=True)
class NotDownloaded(Model):
    """A published model of which files are missing. name: of the model.

    directory: the model whose vocabulary counts its tokens, as all published models share one; if none is here, where this one
    would be.
    """
    name: str

    @property
    def estimates(self) -> bool:
        """Whether its tokens are only estimated."""
        return isinstance(self.encoder, TokenEstimate)


def not_downloaded(name: str, models_dir: str) -> NotDownloaded | None:
    """A published model that is not here completely; None for any other."""
    published = models.ALIASES.get(name, name)
    if published not in models.PUBLISHED or _complete(name, models_dir):
        return None
    n_layer, n_embd = models.SIZES[published]
    hparams = dataclasses.replace(default_hparams(), n_layer=n_layer, n_embd=n_embd, n_head=n_embd // HEAD_SIZE)
    directory, encoder = _vocabulary(models_dir, hparams) or (os.path.join(models_dir, name), TokenEstimate())
    return NotDownloaded(directory, hparams, encoder, None, name)


def _complete(name: str, models_dir: str) -> bool:
    """Whether all files of a model are here that a run reads: not the graph of its checkpoint."""
    directory = _directory(name, models_dir)
    return directory is not None and all(os.path.isfile(os.path.join(directory, file)) for file in models.FILES
                                         if not file.endswith('.meta'))


def _vocabulary(models_dir: str, hparams: HParams) -> tuple[str, Encoder] | None:
    """A published model's directory that has the vocabulary, and its encoder; None if there is none."""
    for name in models.PUBLISHED:
        directory = _directory(name, models_dir)
        if directory and all(os.path.isfile(os.path.join(directory, file)) for file in VOCABULARY):
            encoder = load_encoder(directory)
            if encoder.n_vocab == hparams.n_vocab:
                return directory, encoder
    return None


def _directory(name: str, models_dir: str) -> str | None:
    try:
        return models.directory_of(models.find_model(name, models_dir))
    except UserError:
        return None
