"""Hugging Face's format of GPT-2: weight names, config.json, tokenizer.

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
from command.read_files import read_bytes, read_json
from encoder import Encoder
from network.hparams import HParams
from vocabulary.files import write_vocabulary
from vocabulary.spelling import END_OF_TEXT

PREFIX = 'transformer.'
WEIGHTS = 'model.safetensors'
OUTPUT = 'lm_head.weight'                               # the output layer, tied to wte
BUFFERS = ('.attn.bias', '.attn.masked_bias')           # causal masks, stored in older files
# The values with which config.json describes the network that model.py builds; the first is the default.
ARCHITECTURE = {'model_type': ['gpt2'], 'activation_function': ['gelu_new', 'gelu_pytorch_tanh'],
                'layer_norm_epsilon': [1e-5], 'scale_attn_weights': [True], 'scale_attn_by_inverse_layer_idx': [False],
                'add_cross_attention': [False], 'tie_word_embeddings': [True], 'quantization_config': [None]}
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
            'layer_norm_epsilon': 1e-5, 'n_ctx': hparams.n_ctx, 'n_embd': hparams.n_embd, 'n_head': hparams.n_head,
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


def write_settings(directory: str, hparams: HParams, encoder: Encoder) -> None:
    """Writes config.json, generation_config.json and tokenizer_config.json."""
    generation = {'bos_token_id': encoder.end_of_text, 'eos_token_id': encoder.end_of_text}
    tokenizer = {'tokenizer_class': 'GPT2Tokenizer', 'add_prefix_space': False, 'clean_up_tokenization_spaces': False,
                 'model_max_length': hparams.n_ctx, 'bos_token': END_OF_TEXT, 'eos_token': END_OF_TEXT,
                 'unk_token': END_OF_TEXT}
    for name, content in (('config.json', config(hparams, encoder.end_of_text)), ('generation_config.json', generation),
                          ('tokenizer_config.json', tokenizer)):
        with open(os.path.join(directory, name), 'w', encoding='utf-8') as file:
            file.write(json.dumps(content, indent=2) + '\n')


def read_tokenizer(directory: str) -> tuple[bytes, bytes] | tuple[dict[str, int], list[list[str]]]:
    """The vocabulary in a Hugging Face directory: the bytes of vocab.json and merges.txt, or ids and merges of tokenizer.json.

    Raises UserError if both are missing, or tokenizer.json holds another kind of tokenizer.
    """
    names = [os.path.join(directory, name) for name in ('vocab.json', 'merges.txt')]
    path = os.path.join(directory, 'tokenizer.json')
    if not os.path.exists(path) or all(map(os.path.exists, names)):
        return tuple(read_bytes(name) for name in names)
    content = read_json(path)
    try:
        kind, pieces = content['model']['type'], content['pre_tokenizer']
        if (kind, pieces['type'], pieces['add_prefix_space']) != ('BPE', 'ByteLevel', False) or content['normalizer']:
            raise UserError(f'{path} holds a tokenizer other than GPT-2\'s: {kind}, {pieces["type"]}')
        ids = dict(content['model']['vocab'])
        ids |= {token['content']: token['id'] for token in content['added_tokens'] if token['content'] == END_OF_TEXT}
        merges = [merge.split(' ') if isinstance(merge, str) else merge for merge in content['model']['merges']]
        return dict(sorted(ids.items(), key=lambda item: item[1])), merges
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f'{path} is not a tokenizer of GPT-2: {error!r}') from None


def copy_vocabulary(vocabulary: tuple, directory: str) -> None:
    """Writes the result of `read_tokenizer` as encoder.json and vocab.bpe. Raises UserError or OSError."""
    if isinstance(vocabulary[0], dict):
        write_vocabulary(directory, *vocabulary)
        return
    for name, content in zip(('encoder.json', 'vocab.bpe'), vocabulary):
        with open(os.path.join(directory, name), 'wb') as file:
            file.write(content)


class Weights:
    """The weights of a Hugging Face directory, read one at a time, in TensorFlow's shapes.

    Raises UserError for missing or damaged files, and for weights that are not those of this model.
    """

    def __init__(self, directory: str, hparams: HParams):
        self._files = _find_files(directory)
        self._omitted = '' if f'{PREFIX}wte.weight' in self._files else PREFIX      # part of all names that this file omits
        by_name = {self._stored_name(tensor): tensor for tensor in tensors(hparams)}
        for name, tensor in by_name.items():
            if name not in self._files:
                raise UserError(f'{directory} holds no weight {name}, which a model of the sizes in config.json has')
            with self._open(name) as file:
                tensor_slice = file.get_slice(name)
                shape, dtype = list(tensor_slice.get_shape()), tensor_slice.get_dtype()
            if shape != tensor.hf_shape:
                raise UserError(f'{self._files[name]}: {name} is {shape}; by config.json it should be {tensor.hf_shape}')
            if dtype not in DTYPES:
                raise UserError(f'{self._files[name]}: {name} holds {dtype}; expected {", ".join(DTYPES)}')
        extra = [name for name in self._files if name not in by_name and name != OUTPUT and not name.endswith(BUFFERS)]
        if extra:
            raise UserError(f'{self._files[min(extra)]} holds {min(extra)}, which is no weight of the GPT-2 that config.json '
                            'describes')
        wte = f'{PREFIX}wte.weight'.removeprefix(self._omitted)
        if OUTPUT in self._files and not np.array_equal(self._read(OUTPUT), self._read(wte)):
            raise UserError(f'{self._files[OUTPUT]}: {OUTPUT} is not {wte}; in GPT-2 the output layer is tied to it')

    def read(self, tensor: Tensor) -> np.ndarray:
        return self._read(self._stored_name(tensor)).reshape(tensor.shape)

    def _stored_name(self, tensor: Tensor) -> str:
        return tensor.hf_name.removeprefix(self._omitted)

    def _read(self, name: str) -> np.ndarray:
        with self._open(name) as file:
            return file.get_tensor(name)

    def _open(self, name: str) -> contextlib.AbstractContextManager:
        """The file of a tensor. Opened again for each, because all that is read stays in memory until the file is closed."""
        return _open_safetensors(self._files[name], f'{name} in ')


def _find_files(directory: str) -> dict[str, str]:
    """Name -> file of every tensor, in a single file or in several with an index."""
    path, index = os.path.join(directory, WEIGHTS), os.path.join(directory, f'{WEIGHTS}.index.json')
    if os.path.isfile(path):
        with _open_safetensors(path) as file:
            return dict.fromkeys(file.keys(), path)
    if os.path.isfile(index):
        files = read_json(index).get('weight_map')
        if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
            raise UserError(f'{index} lacks weight_map, the file of each weight')
        # Only files next to the index, whatever paths it names.
        return {name: os.path.join(directory, os.path.basename(file)) for name, file in files.items()}
    if os.path.exists(os.path.join(directory, 'pytorch_model.bin')):
        raise UserError(f'{directory} holds its weights as pytorch_model.bin, a pickle, which could run any code and is '
                        'not read here; with PyTorch and transformers, this makes model.safetensors of it: python3 -c '
                        f'"from transformers import GPT2LMHeadModel as M; M.from_pretrained({directory!r})'
                        f'.save_pretrained({directory!r})"')
    raise UserError(f'{directory} holds no {WEIGHTS}')


@contextlib.contextmanager
def _open_safetensors(path: str, part: str = '') -> Iterator:
    """Opens a file of weights as numpy arrays. Raises UserError if it, or the package, is missing or damaged."""
    try:
        import ml_dtypes  # noqa: F401  (comes with TensorFlow; adds bfloat16 to numpy)
        import safetensors
    except ImportError:
        raise UserError(f'reading {WEIGHTS} needs the safetensors package: pip install safetensors') from None
    try:
        with safetensors.safe_open(path, 'np') as file:
            yield file
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f'cannot read {part}{path}: {error}; is it damaged?') from None
