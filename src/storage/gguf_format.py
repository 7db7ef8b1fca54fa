"""GGUF, the single file that llama.cpp, Ollama and LM Studio run.

It holds sizes, vocabulary and weights (ggml's docs/gguf.md). Writing one needs the gguf package, which is of the same project;
TensorFlow is not needed. In GGUF the row of a matrix is an output's weights, where TensorFlow's is an input's.
"""

import contextlib
import importlib
import pathlib
import re
from collections.abc import Iterable

import numpy as np

from command import atomic_files
from command.errors import UserError, reason
from network.hparams import LAYER_NORM_EPSILON
from storage.model_directory import Model
from vocabulary.files import read_vocabulary
from vocabulary.spelling import spell

# How matrices are stored, and what GGUF calls that and such a file. All other weights stay in float32.
TYPES = {'float32': ('F32', 'ALL_F32'), 'float16': ('F16', 'MOSTLY_F16'), 'q8_0': ('Q8_0', 'MOSTLY_Q8_0')}
LAYERS = {'wte': 'token_embd', 'wpe': 'position_embd', 'ln_f': 'output_norm', 'ln_1': 'attn_norm', 'attn/c_attn': 'attn_qkv',
          'attn/c_proj': 'attn_output', 'ln_2': 'ffn_norm', 'mlp/c_fc': 'ffn_up', 'mlp/c_proj': 'ffn_down'}


def gguf_name(name: str) -> str:
    """'model/h0/attn/c_attn/w' -> 'blk.0.attn_qkv.weight', 'model/wte' -> 'token_embd.weight'."""
    block, layer, kind = re.fullmatch(r'model/(?:h(\d+)/)?(.*?)(?:/([gbw]))?', name).groups()
    return f'{f"blk.{block}." if block else ""}{LAYERS[layer]}.{"bias" if kind == "b" else "weight"}'


def write_gguf(path: str, model: Model, weights: Iterable[np.ndarray], stored_as: str) -> None:
    """Writes a model. weights: in the order of hparams.shapes(), consumed one by one. stored_as: one of TYPES.

    A matrix whose rows q8_0 cannot store, since they are no multiple of 32 weights, is stored in float16, as llama.cpp does.
    Raises UserError without the gguf package or if it cannot write; then there is no file.
    """
    gguf = import_gguf()
    shapes = {name: shape[:0:-1] if len(shape) == 3 else shape for name, shape in model.hparams.shapes().items()}
    types = {name: _type(gguf, name, shape, stored_as) for name, shape in shapes.items()}
    try:
        with atomic_files.replacing(path) as file, contextlib.closing(gguf.GGUFWriter(file.name, 'gpt2')) as writer:
            _add_sizes(gguf, writer, model, stored_as)
            _add_vocabulary(gguf, writer, model)
            for name, shape in shapes.items():
                stored = gguf.quant_shape_to_byte_shape(shape, types[name])
                writer.add_tensor_info(gguf_name(name), stored, np.dtype(np.uint8), int(np.prod(stored)), types[name])
            writer.write_header_to_file(pathlib.Path(file.name))
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for name, w in zip(shapes, weights, strict=True):
                matrix = np.ascontiguousarray(w[0].T) if w.ndim == 3 else w
                writer.write_tensor_data(gguf.quants.quantize(matrix, types[name]).view(np.uint8))
    except OSError as error:
        raise UserError(f'cannot write {path}: {reason(error)}') from None


def import_gguf():
    """The package. Raises UserError if it is not installed."""
    try:
        return importlib.import_module('gguf')
    except ImportError:
        raise UserError('writing GGUF needs the gguf package: pip install gguf') from None


def _type(gguf, name: str, shape: list[int], stored_as: str):
    """The type in which a weight of GGUF's shape is stored. Positions are added, not multiplied with: in float32."""
    if len(shape) == 1 or name == 'model/wpe':
        return gguf.GGMLQuantizationType.F32
    block, _ = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[TYPES[stored_as][0]]]
    return gguf.GGMLQuantizationType['F16' if shape[-1] % block else TYPES[stored_as][0]]


def _add_sizes(gguf, writer, model: Model, stored_as: str) -> None:
    hparams = model.hparams
    writer.add_name(pathlib.Path(model.directory).resolve().name)
    writer.add_file_type(gguf.LlamaFileType[TYPES[stored_as][1]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(hparams.n_ctx)
    writer.add_embedding_length(hparams.n_embd)
    writer.add_feed_forward_length(4 * hparams.n_embd)
    writer.add_block_count(hparams.n_layer)
    writer.add_head_count(hparams.n_head)
    writer.add_layer_norm_eps(LAYER_NORM_EPSILON)


def _add_vocabulary(gguf, writer, model: Model) -> None:
    """Tokens in the order of their ids. Special and added ones are spelled as they are, all others in byte characters."""
    ids, merges, special = read_vocabulary(model.directory)
    kinds = {spell(text): (text, gguf.TokenType.CONTROL) for text in special.special}
    kinds |= {spell(text): (text, gguf.TokenType.USER_DEFINED) for text in special.added}
    tokens = [kinds.get(token, (token, gguf.TokenType.NORMAL)) for token in sorted(ids, key=ids.get)]
    # Rows of wte without a token.
    tokens += [(f'[PAD{id}]', gguf.TokenType.UNUSED) for id in range(len(ids), model.hparams.n_vocab)]
    writer.add_tokenizer_model('gpt2')
    writer.add_tokenizer_pre('gpt-2')
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_types([kind for _, kind in tokens])
    writer.add_token_merges([' '.join(pair) for pair in merges])
    writer.add_bos_token_id(model.encoder.end_of_text)
    writer.add_eos_token_id(model.encoder.end_of_text)
    writer.add_add_bos_token(False)
