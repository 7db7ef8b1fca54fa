"""Hugging Face's format of GPT-2: weight names, config.json.

Reading weights needs the safetensors package; TensorFlow and transformers are not needed.
"""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from command.errors import UserError
from command.read_files import check_kind, read_json
from network.hparams import LAYER_NORM_EPSILON, HParams
from storage.check import is_finite

PREFIX = 'transformer.'
WEIGHTS = 'model.safetensors'
PICKLE = 'pytorch_model.bin'
OUTPUT = 'lm_head.weight'                               # the output layer, tied to wte
# What torch.compile, DataParallel and peft put before the names of the weights of the model that they wrap.
WRAPPERS = re.compile(r'^(?:_orig_mod\.|module\.|base_model\.model\.)+')
BUFFERS = ('.attn.bias', '.attn.masked_bias')           # causal masks, stored in older files
# The values with which config.json describes the network that model.py builds; the first is the default.
ARCHITECTURE = {'model_type': ['gpt2'], 'activation_function': ['gelu_new', 'gelu_pytorch_tanh'],
                'layer_norm_epsilon': [LAYER_NORM_EPSILON], 'scale_attn_weights': [True],
                'scale_attn_by_inverse_layer_idx': [False], 'add_cross_attention': [False],
                'tie_word_embeddings': [True, False], 'quantization_config': [None]}
DTYPES = ('F32', 'F16', 'BF16')


class Tensor(NamedTuple):
    """A weight under its two names. shape: TensorFlow's; Hugging Face's lacks the leading 1 of a w."""
    name: str
    hf_name: str
    shape: list[int]

    @property
    def hf_shape(self) -> list[int]:
        return self.shape[1:] if len(self.shape) == 3 else self.shape


def tensors(hparams: HParams) -> list[Tensor]:
    """All weights of a model. Both formats have the same numbers in the same order: nothing is transposed."""
    return [Tensor(name, _hf_name(name), shape) for name, shape in hparams.shapes().items()]


def _hf_name(name: str) -> str:
    """'model/h0/attn/c_attn/w' -> 'transformer.h.0.attn.c_attn.weight', 'model/wte' -> 'transformer.wte.weight'."""
    layer, _, kind = re.sub(r'^h(\d+)/', r'h.\1.', name.removeprefix('model/')).replace('/', '.').rpartition('.')
    if kind in ('wpe', 'wte'):
        layer, kind = kind, 'w'
    return f'{PREFIX}{layer}.{"bias" if kind == "b" else "weight"}'


def config(hparams: HParams, end_of_text: int) -> dict:
    """The content of config.json."""
    return {'architectures': ['GPT2LMHeadModel'], 'model_type': 'gpt2', 'activation_function': 'gelu_new',
            'layer_norm_epsilon': LAYER_NORM_EPSILON, 'n_ctx': hparams.n_ctx, 'n_embd': hparams.n_embd, 'n_head': hparams.n_head,
            'n_layer': hparams.n_layer, 'n_positions': hparams.n_ctx, 'vocab_size': hparams.n_vocab,
            'bos_token_id': end_of_text, 'eos_token_id': end_of_text, 'tie_word_embeddings': True}


def read_config(directory: str) -> HParams:
    """The sizes of the model in a Hugging Face directory.

    Raises UserError for a config.json that cannot be read, or describes a network other than GPT-2's.
    """
    path = os.path.join(directory, 'config.json')
    content = read_json(path)
    for setting, accepted in ARCHITECTURE.items():
        default = None if setting == 'model_type' else accepted[0]      # model_type is required
        if (value := content.get(setting, default)) not in accepted:
            raise UserError(f'{path}: {setting} is {value!r}; expected {accepted[0]!r}: no network but GPT-2 is supported')
    names = {'n_vocab': 'vocab_size', 'n_ctx': 'n_positions', 'n_embd': 'n_embd', 'n_head': 'n_head', 'n_layer': 'n_layer'}
    if missing := [name for name in names.values() if name not in content]:
        raise UserError(f'{path} lacks {", ".join(missing)}')
    try:
        hparams = HParams(**{ours: content[theirs] for ours, theirs in names.items()})
    except ValueError as error:
        raise UserError(f'{path}: {error}') from None
    if content.get('n_inner') not in (None, 4 * hparams.n_embd):
        raise UserError(f'{path}: n_inner is {content["n_inner"]!r}; expected 4 times n_embd, {4 * hparams.n_embd}, as in GPT-2')
    return hparams


def write_config(directory: str, hparams: HParams, end_of_text: int) -> None:
    """Writes config.json and generation_config.json. Raises OSError."""
    generation = {'bos_token_id': end_of_text, 'eos_token_id': end_of_text}
    for name, content in (('config.json', config(hparams, end_of_text)), ('generation_config.json', generation)):
        with open(os.path.join(directory, name), 'w', encoding='utf-8') as file:
            file.write(json.dumps(content, indent=2) + '\n')


class Weights:
    """The weights of a Hugging Face directory, read one at a time, in TensorFlow's shapes.

    Raises UserError for missing or damaged files, and for weights that are not those of this model.
    """

    def __init__(self, directory: str, hparams: HParams):
        self._files, self._names = _find_files(directory)
        self._omitted = '' if f'{PREFIX}wte.weight' in self._files else PREFIX      # part of all names that this file omits
        by_name = {self._stored_name(tensor): tensor for tensor in tensors(hparams)}
        for name, tensor in by_name.items():
            if name not in self._files:
                raise UserError(f'{directory} holds no weight {name}, which a model of the sizes in config.json has')
            with self._open(name) as file:
                tensor_slice = file.get_slice(self._names[name])
                shape, dtype = list(tensor_slice.get_shape()), tensor_slice.get_dtype()
            if shape != tensor.hf_shape:
                raise UserError(f'{self._files[name]}: {name} is {shape}; by config.json it should be {tensor.hf_shape}')
            if dtype not in DTYPES:
                raise UserError(f'{self._files[name]}: {name} holds {dtype}; expected {", ".join(DTYPES)}')
        extra = [name for name in self._files if name not in by_name and name != OUTPUT and not name.endswith(BUFFERS)]
        if any('lora_' in name for name in extra):
            raise UserError(f'{self._files[min(extra)]} holds {min(extra)}, of a LoRA adapter beside the weights: merge it first '
                            '(merge_and_unload of peft), and save again')
        if extra:
            raise UserError(f'{self._files[min(extra)]} holds {min(extra)}, which is no weight of the GPT-2 that config.json '
                            'describes')
        wte = f'{PREFIX}wte.weight'.removeprefix(self._omitted)
        if OUTPUT not in self._files and not read_json(os.path.join(directory, 'config.json')).get('tie_word_embeddings', True):
            raise UserError(f'{directory} holds no {OUTPUT}, which a model has whose tie_word_embeddings is False')
        if OUTPUT in self._files and not np.array_equal(self._read(OUTPUT), self._read(wte)):
            raise UserError(f'{self._files[OUTPUT]}: {OUTPUT} is not {wte}; in GPT-2 the output layer is tied to it')

    def read(self, tensor: Tensor) -> np.ndarray:
        """A weight. Raises UserError also if one of its numbers is NaN or infinite."""
        return self._read(self._stored_name(tensor)).reshape(tensor.shape)

    def _stored_name(self, tensor: Tensor) -> str:
        return tensor.hf_name.removeprefix(self._omitted)

    def _read(self, name: str) -> np.ndarray:
        with self._open(name) as file:
            array = file.get_tensor(self._names[name])
        if not is_finite(array):
            raise UserError(f'{self._files[name]}: {name} holds NaN or infinite numbers: the model is of no use')
        return array

    def _open(self, name: str) -> contextlib.AbstractContextManager:
        """The file of a tensor. Opened again for each, because all that is read stays in memory until the file is closed."""
        return open_safetensors(self._files[name], f'{name} in ')


def _find_files(directory: str) -> tuple[dict[str, str], dict[str, str]]:
    """The file of every weight, and the name that it has there, both by its name without WRAPPERS."""
    files = _list_weights(directory)
    names = {WRAPPERS.sub('', name): name for name in files}
    if len(names) < len(files):
        [name, *_] = sorted(files.keys() - names.values())
        raise UserError(f'{files[name]} holds {name}, a weight that is there under another name too')
    return {name: files[stored] for name, stored in names.items()}, names


def holds_weights(directory: str) -> bool:
    """Whether a directory has the weights of a complete model, in a form that is read here or refused with an advice."""
    return any(os.path.isfile(os.path.join(directory, name)) for name in (WEIGHTS, f'{WEIGHTS}.index.json', PICKLE))


def _list_weights(directory: str) -> dict[str, str]:
    """Stored name -> file of every tensor, in a single file or in several with an index."""
    path, index = os.path.join(directory, WEIGHTS), os.path.join(directory, f'{WEIGHTS}.index.json')
    if os.path.isfile(path):
        with open_safetensors(path) as file:
            return dict.fromkeys(file.keys(), path)
    if os.path.isfile(index):
        files = read_json(index).get('weight_map')
        if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
            raise UserError(f'{index} lacks weight_map, the file of each weight')
        # Only files next to the index, whatever paths it names.
        return {name: os.path.join(directory, os.path.basename(file)) for name, file in files.items()}
    if os.path.exists(os.path.join(directory, PICKLE)):
        raise UserError(f'{directory} holds its weights as {PICKLE}, a pickle, which could run any code and is '
                        'not read here; with PyTorch and transformers, this makes model.safetensors of it: python3 -c '
                        f'"from transformers import GPT2LMHeadModel as M; M.from_pretrained({directory!r})'
                        f'.save_pretrained({directory!r})"')
    raise UserError(f'{directory} holds no {WEIGHTS}')


@contextlib.contextmanager
def open_safetensors(path: str, part: str = '') -> Iterator:
    """Opens a file of weights as numpy arrays. Raises UserError if it, or the package, is missing or damaged."""
    try:
        import ml_dtypes  # noqa: F401  (comes with TensorFlow; adds bfloat16 to numpy)
        import safetensors
    except ImportError:
        raise UserError(f'reading {os.path.basename(path)} needs the safetensors package: pip install safetensors') from None
    try:
        with safetensors.safe_open(path, 'np') as file:
            yield file
    except (OSError, safetensors.SafetensorError) as error:
        check_kind(path)
        raise UserError(f'cannot read {part}{path}: {error}; is it damaged?') from None
