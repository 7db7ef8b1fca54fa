"""peft's format of LoRA adapters: names of the factors, reading, merging.

A directory of Hugging Face's peft package has two files: adapter_config.json (see storage.peft_config), and
adapter_model.safetensors with two factors for each matrix, A [r, n_in] and B [n_out, r], the transposes of ours (network.lora).
fan_in_fan_out says how the base stores its matrices, and changes nothing about them. Reading needs the safetensors package.
"""

import os
import re
from typing import NamedTuple

import numpy as np

from command.errors import UserError
from network.hparams import HParams
from network.lora import FACTORS, Lora
from storage import huggingface
from storage.check import is_finite
from storage.peft_config import CANNOT_MERGE, CONFIG, MERGE_THERE, MODULES, TIED, Config, named_base

WEIGHTS = 'adapter_model.safetensors'
PICKLE = 'adapter_model.bin'
PREFIX = f'base_model.model.{huggingface.PREFIX}'
PARTS = dict(zip(FACTORS, ('lora_A', 'lora_B')))
# A factor's name without huggingface.WRAPPERS: older peft, and a state that was saved by hand, keep the adapter's name in it.
FACTOR = re.compile(rf'(?:{re.escape(huggingface.PREFIX)})?(h\.(\d+)\.({"|".join(map(re.escape, MODULES))}))'
                    r'\.(lora_[AB])(?:\.\w+)?\.weight')


class Factor(NamedTuple):
    """A factor under its two names. shape: ours."""
    name: str
    peft_name: str
    shape: list[int]

    @property
    def peft_shape(self) -> list[int]:
        return self.shape[::-1]


def factors(lora: Lora, hparams: HParams) -> list[Factor]:
    """All factors of a model, by peft's names."""
    return sorted((Factor(name, _peft_name(name), shape) for name, shape in lora.shapes(hparams).items()),
                  key=lambda factor: factor.peft_name)


def _peft_name(name: str) -> str:
    """'model/h0/attn/c_attn/lora_a' -> 'base_model.model.transformer.h.0.attn.c_attn.lora_A.weight'."""
    _, block, part, matrix, factor = name.split('/')
    return f'{PREFIX}h.{block.removeprefix("h")}.{part}.{matrix}.{PARTS[factor]}.weight'


def holds_adapter(directory: str) -> bool:
    """Whether a directory has one of peft's files."""
    return any(os.path.isfile(os.path.join(directory, name)) for name in (CONFIG, WEIGHTS, PICKLE))


class Adapter:
    """The factors in a directory of peft, to be merged with the matrices of a base, one at a time.

    hparams: the base's sizes. A matrix without factors stays as it is. Raises UserError for missing or damaged files, and for
    weights that are not the factors of such a base.
    """

    def __init__(self, directory: str, hparams: HParams):
        self._config = Config(directory)
        self._path = _find_weights(directory)
        self._modules: dict[str, str] = {}              # name of a matrix here -> in peft
        self._stored: dict[str, str] = {}               # name of a factor here -> in the file
        with huggingface.open_safetensors(self._path) as file:
            names = sorted(file.keys())
        for name in names:
            self._add(name)
        if not names:
            raise UserError(f'{self._path} holds no weights')
        self._check(directory, hparams)

    @property
    def matrices(self) -> list[str]:
        """The weights that it changes, by our names."""
        return list(self._modules)

    def merged(self, name: str, w: np.ndarray) -> np.ndarray:
        """A weight of the base, with its factors if it has some. Raises UserError if the file cannot be read."""
        if name not in self._modules:
            return w
        a, b = (self._read(self._stored[f'{name.removesuffix("w")}{factor}']).T for factor in FACTORS)
        return self._config.lora(self._modules[name]).merged(w, a, b)

    def _add(self, name: str) -> None:
        """Notes which factor a stored tensor is. Raises UserError if it is none, or one that is there twice."""
        bare = huggingface.WRAPPERS.sub('', name)
        found = FACTOR.fullmatch(bare)
        if not found:
            advice = CANNOT_MERGE if TIED.search(bare) and '.lora_' in bare else MERGE_THERE
            raise UserError(f'{self._path} holds {name}; only factors of {", ".join(MODULES)} are read here: {advice}')
        _, layer, matrix, part = found.groups()
        scope = f'model/h{int(layer)}/{matrix.replace(".", "/")}'
        factor = f'{scope}/{FACTORS["AB".index(part[-1])]}'
        if factor in self._stored:
            raise UserError(f'{self._path} holds {name}, a factor that is there under another name too')
        self._stored[factor] = name
        self._modules[f'{scope}/w'] = bare.partition('.lora_')[0]

    def _check(self, directory: str, hparams: HParams) -> None:
        """Raises UserError unless the factors are complete, finite, and of the config's ranks and the base's sizes."""
        weights = hparams.shapes()
        for name, module in self._modules.items():
            if name not in weights:
                raise UserError(f'{self._path} holds factors of {module}, but the base has {hparams.n_layer} blocks; '
                                f'{named_base(directory)}')
            rank = self._config.lora(module).rank
            _, n_in, n_out = weights[name]
            for factor, expected in zip(FACTORS, ([rank, n_in], [n_out, rank])):
                stored = self._stored.get(f'{name.removesuffix("w")}{factor}')
                if stored is None:
                    raise UserError(f'{self._path} holds one factor of {module}, without its {PARTS[factor]}')
                shape = list(self._read(stored).shape)
                if shape != expected:
                    raise UserError(f'{self._path}: {stored} is {shape}; with rank {rank}, by {CONFIG}, and a base with n_embd '
                                    f'{hparams.n_embd}, it should be {expected}; {named_base(directory)}')

    def _read(self, stored: str) -> np.ndarray:
        """A tensor as float32. Opens the file each time, because all that is read stays in memory until it is closed."""
        with huggingface.open_safetensors(self._path, f'{stored} in ') as file:
            if (dtype := file.get_slice(stored).get_dtype()) not in huggingface.DTYPES:
                raise UserError(f'{self._path}: {stored} holds {dtype}; expected {", ".join(huggingface.DTYPES)}')
            array = file.get_tensor(stored)
        if not is_finite(array):
            raise UserError(f'{self._path}: {stored} holds NaN or infinite numbers: the adapter is of no use')
        return array.astype(np.float32)


def _find_weights(directory: str) -> str:
    path, pickle = os.path.join(directory, WEIGHTS), os.path.join(directory, PICKLE)
    if not os.path.isfile(path) and os.path.isfile(pickle):
        raise UserError(f'{directory} holds its weights as {PICKLE}, a pickle, which could run any code and is not read here; '
                        f'with PyTorch, this makes {WEIGHTS} of it: python3 -c "import torch; from safetensors.torch import '
                        f'save_file; save_file(torch.load({pickle!r}, weights_only=True), {path!r})"')
    if not os.path.isfile(path):
        raise UserError(f'{directory} holds no {WEIGHTS}')
    return path
