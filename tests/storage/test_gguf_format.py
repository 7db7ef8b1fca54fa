"""GGUF: what gguf reads back is the model's sizes, vocabulary and weights, by the names that llama.cpp expects."""

import json
import os
import re
import shutil
import sys

import numpy as np
import pytest

from checkpoint_files import read_checkpoint, write_checkpoint
from command.errors import UserError
from conftest import ROOT
from encoder import load_encoder
from network.hparams import HParams, load_hparams
from optional import HUGGINGFACE, needs
from storage import gguf_format
from vocabulary.spelling import END_OF_TEXT, spell

gguf = needs('gguf', HUGGINGFACE)
TINY = f'{ROOT}/models/tiny'


@pytest.fixture
def special_model(model_directory, tmp_path):
    """models/toy with an added word, and with two rows of wte more than its vocabulary has tokens."""
    directory, word = tmp_path / 'special', 'Gr\u00fcezi'
    shutil.copytree(model_directory, directory)
    ids = json.loads((directory / 'encoder.json').read_text())
    ids[spell(word)] = len(ids)
    special = {'end_of_text': END_OF_TEXT, 'special': [END_OF_TEXT], 'added': [word]}
    hparams = json.loads((directory / 'hparams.json').read_text()) | {'n_vocab': len(ids) + 2}
    for name, content in (('encoder.json', ids), ('special_tokens.json', special), ('hparams.json', hparams)):
        (directory / name).write_text(json.dumps(content))
    weights = read_checkpoint(f'{directory}/model.ckpt')
    write_checkpoint(f'{directory}/model.ckpt', weights | {'model/wte': np.zeros([len(ids) + 2, hparams['n_embd']])})
    return str(directory)


def convert(monkeypatch, *arguments):
    import convert
    monkeypatch.setattr(sys, 'argv', ['convert.py', 'to_gguf', *map(str, arguments)])
    convert.main()


def read(path):
    """The fields of a file by name, as Python values, and its tensors by name, in float32 and TensorFlow's orientation."""
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    return fields, {tensor.name: (tensor.tensor_type.name, gguf.quants.dequantize(tensor.data, tensor.tensor_type))
                    for tensor in reader.tensors}


def test_names_are_those_of_llama_cpp():
    arch, blocks = gguf.MODEL_ARCH.GPT2, 2
    names = gguf.get_tensor_name_map(arch, blocks)
    for name in HParams(10, 8, 4, 2, blocks).shapes():
        layer, _, kind = re.sub(r'\.h(\d)', r'.h.\1', name.replace('/', '.').replace('model', 'transformer')).rpartition('.')
        if kind in ('wte', 'wpe'):
            layer, kind = f'{layer}.{kind}', 'w'
        assert gguf_format.gguf_name(name) == f'{names.get_name(layer)}.{"bias" if kind == "b" else "weight"}'


@pytest.mark.parametrize(('stored_as', 'matrix', 'tolerance'), [('float32', 'F32', 0), ('float16', 'F16', 2 ** -11),
                                                                 ('q8_0', 'Q8_0', 0.5 / 127 + 2 ** -11)])
def test_sizes_and_weights_are_read_back(monkeypatch, tmp_path, stored_as, matrix, tolerance):
    path = tmp_path / 'tiny.gguf'
    convert(monkeypatch, TINY, path, '--type', stored_as)
    fields, tensors = read(path)
    expected, hparams = read_checkpoint(f'{TINY}/model.ckpt'), load_hparams(TINY)
    assert fields['general.architecture'] == 'gpt2' and fields['general.name'] == 'tiny'
    assert fields['gpt2.attention.layer_norm_epsilon'] == pytest.approx(1e-5)
    sizes = {'context_length': hparams.n_ctx, 'embedding_length': hparams.n_embd, 'block_count': hparams.n_layer,
             'attention.head_count': hparams.n_head, 'feed_forward_length': 4 * hparams.n_embd}
    assert {name: fields[f'gpt2.{name}'] for name in sizes} == sizes
    assert len(tensors) == len(hparams.shapes())
    for name in hparams.shapes():
        dtype, stored = tensors[gguf_format.gguf_name(name)]
        w = expected[name][0].T if expected[name].ndim == 3 else expected[name]
        assert dtype == (matrix if w.ndim == 2 and name != 'model/wpe' else 'F32')
        np.testing.assert_allclose(stored, w, rtol=0, atol=tolerance * np.abs(w).max())


def test_rows_that_q8_0_cannot_store_are_float16(monkeypatch, model_directory, tmp_path):
    convert(monkeypatch, model_directory, tmp_path / 'toy.gguf', '--type', 'q8_0')       # 24 features
    types = {name: dtype for name, (dtype, _) in read(tmp_path / 'toy.gguf')[1].items()}
    assert types['token_embd.weight'] == types['blk.0.attn_qkv.weight'] == 'F16'
    assert types['blk.0.ffn_down.weight'] == 'Q8_0'                                      # 96


def test_the_vocabulary_is_read_back(monkeypatch, tmp_path, special_model):
    convert(monkeypatch, special_model, tmp_path / 'special.gguf')
    fields, encoder = read(tmp_path / 'special.gguf')[0], load_encoder(special_model)
    kinds = gguf.TokenType
    tokens, types = fields['tokenizer.ggml.tokens'], fields['tokenizer.ggml.token_type']
    assert fields['tokenizer.ggml.model'] == 'gpt2' and fields['tokenizer.ggml.pre'] == 'gpt-2'
    assert len(tokens) == len(types) == load_hparams(special_model).n_vocab
    assert fields['tokenizer.ggml.eos_token_id'] == encoder.end_of_text and not fields['tokenizer.ggml.add_bos_token']
    for id in range(len(tokens)):
        if id >= encoder.n_vocab:
            assert types[id] == kinds.UNUSED
        elif types[id] == kinds.NORMAL:
            assert tokens[id] == encoder.decoder[id]
        else:       # as it is written, not in byte characters
            assert types[id] == (kinds.CONTROL if tokens[id] in encoder.special_tokens.special else kinds.USER_DEFINED)
            assert encoder.encode_with_special(tokens[id]) == [id]
    assert types.count(kinds.CONTROL) == types.count(kinds.USER_DEFINED) == 1
    with open(os.path.join(special_model, 'vocab.bpe'), encoding='utf-8') as file:
        assert fields['tokenizer.ggml.merges'] == file.read().splitlines()[1:]


def test_a_file_that_exists_stays(monkeypatch, tmp_path):
    (tmp_path / 'mine.gguf').write_text('mine')
    with pytest.raises(UserError, match=r'mine\.gguf exists already'):
        convert(monkeypatch, TINY, tmp_path / 'mine.gguf')
    assert (tmp_path / 'mine.gguf').read_text() == 'mine'


def test_a_full_disk_is_one_line_and_leaves_nothing(monkeypatch, tmp_path):
    def full(*_):
        raise OSError('196608 requested and 126240 written')        # as numpy says it
    monkeypatch.setattr(gguf.GGUFWriter, 'write_tensor_data', full)
    with pytest.raises(UserError, match=r'cannot write .*mine\.gguf: 196608 requested'):
        convert(monkeypatch, TINY, tmp_path / 'mine.gguf')
    assert not os.listdir(tmp_path)


def test_an_optimizer_s_state_is_left_out_and_not_counted(monkeypatch, special_model, tmp_path, capsys):
    weights = read_checkpoint(f'{special_model}/model.ckpt')
    write_checkpoint(f'{special_model}/model.ckpt', weights | {'model/wte/Adam': weights['model/wte']})
    convert(monkeypatch, special_model, tmp_path / 'mine.gguf')
    assert f'{len(weights)} weights' in capsys.readouterr().out and len(read(tmp_path / 'mine.gguf')[1]) == len(weights)


def test_nothing_is_left_after_a_damaged_weight(monkeypatch, tmp_path):
    def broken(*_):
        raise UserError('damaged')
    monkeypatch.setattr('storage.weights.Weights.read', broken)
    with pytest.raises(UserError, match='damaged'):
        convert(monkeypatch, TINY, tmp_path / 'mine.gguf')
    assert not os.listdir(tmp_path)


def test_without_the_package_one_line_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, 'gguf', None)
    with pytest.raises(UserError, match='pip install gguf'):
        convert(monkeypatch, TINY, tmp_path / 'mine.gguf')
    assert not os.listdir(tmp_path)
