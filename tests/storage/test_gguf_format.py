"""GGUF: what gguf reads back is the model's sizes, vocabulary and weights, and what llama.cpp computes from them is what we do.

llama-cpp-python compiles for a quarter of an hour, so it is in no requirements; without it those tests are skipped.
"""

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
PROMPT = 'Alice was beginning to get very tired of sitting by her sister'
TEXTS = (PROMPT, "it's we'Re\u2019ll  x", '   leading, two  spaces\n\ttab 1234567 don\'t  ', '#version: 0.2\r\n', 'x' * 300,
         ' \u00a0\u3000 \t\n\n  end ', 'e\u0301\u0301 \U0001f468\u200d\U0001f469 \u2603\ufe0f', '\u0001\ufeff\ufffd\u2028',
         '\u0661\u0662\u2167\u00bd \u0e20\u0e32\u0e29\u0e32 \u4e2d\u6587\u3002')


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


@pytest.fixture
def llama():
    """llama.cpp: llama(path) is the model of a file. Its cache holds float32, as ours does; its own choice is float16."""
    llama_cpp = pytest.importorskip('llama_cpp', reason='needs llama_cpp: pip install llama-cpp-python')

    def load(path, **options):
        return llama_cpp.Llama(str(path), n_ctx=128, logits_all=True, verbose=False, type_k=llama_cpp.GGML_TYPE_F32,
                               type_v=llama_cpp.GGML_TYPE_F32, **options)
    return load


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


def stored_weights(path):
    """The weights of a GGUF file of models/tiny, by TensorFlow's names."""
    stored = read(path)[1]
    return {name: stored[gguf_format.gguf_name(name)][1].T.reshape(shape) if len(shape) == 3 else
            stored[gguf_format.gguf_name(name)][1] for name, shape in load_hparams(TINY).shapes().items()}


def logits(tf, weights, tokens):
    """Those of models/tiny with these weights. [n_tokens, n_vocab]"""
    import model
    with tf.Graph().as_default(), tf.Session() as session:
        logits = model.model(load_hparams(TINY), tf.constant([tokens]))['logits']
        for variable in tf.trainable_variables():
            variable.load(weights[variable.op.name], session)
        return session.run(logits)[0]


def greedy(llama, tokens, length):
    llama.eval(tokens)
    for _ in range(length):
        tokens = [*tokens, int(llama.scores[llama.n_tokens - 1].argmax())]
        llama.eval(tokens[-1:])
    return tokens


# llama.cpp also rounds what it multiplies a matrix with to the type of that matrix. The logits range over 33.
@pytest.mark.parametrize(('stored_as', 'largest'), [('float32', 0.01), ('float16', 0.02), ('q8_0', 0.5)])
def test_llama_cpp_computes_the_same(tf, llama, monkeypatch, tmp_path, stored_as, largest):
    path, prompt = tmp_path / 'tiny.gguf', load_encoder(TINY).encode(PROMPT)
    convert(monkeypatch, TINY, path, '--type', stored_as)
    loaded = llama(path)
    tokens = greedy(loaded, prompt, 48)
    ours, theirs = logits(tf, stored_weights(path), tokens), loaded.scores[:len(tokens)]
    assert np.abs(ours - theirs).max() < largest and np.std(ours - theirs) < 0.02 * np.std(ours)
    if stored_as != 'q8_0':
        assert tokens[len(prompt):] == ours[len(prompt) - 1:-1].argmax(-1).tolist()


def test_llama_cpp_makes_the_same_tokens(llama, monkeypatch, tmp_path):
    convert(monkeypatch, TINY, tmp_path / 'tiny.gguf')
    loaded, encoder = llama(tmp_path / 'tiny.gguf', vocab_only=True), load_encoder(TINY)
    for text in TEXTS:
        tokens = loaded.tokenize(text.encode(), add_bos=False, special=False)
        assert tokens == encoder.encode(text) and loaded.detokenize(tokens) == text.encode()
    assert [loaded.token_eos()] == loaded.tokenize(END_OF_TEXT.encode(), add_bos=False, special=True) == [encoder.end_of_text]


def test_llama_cpp_knows_special_and_added_tokens(llama, monkeypatch, tmp_path, special_model):
    convert(monkeypatch, special_model, tmp_path / 'special.gguf')
    loaded, encoder = llama(tmp_path / 'special.gguf', vocab_only=True), load_encoder(special_model)
    text = f'a Gr\u00fcezi b{END_OF_TEXT}c'
    assert loaded.n_vocab() == load_hparams(special_model).n_vocab
    assert loaded.tokenize(text.encode(), add_bos=False, special=True) == encoder.encode_with_special(text)
