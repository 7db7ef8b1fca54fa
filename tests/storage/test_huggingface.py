"""storage/huggingface.py: which weights and sizes it reads or refuses; test_convert.py compares with transformers."""

import json
import sys

import numpy as np
import pytest

import reference
from command.errors import UserError
from encoder import load_encoder
from network.hparams import load_hparams
from optional import HUGGINGFACE, needs
from storage import huggingface
from text_samples import LFS_POINTER, WEB_PAGE

numpy_format = needs('safetensors.numpy', HUGGINGFACE)


@pytest.fixture
def hparams(settings_directory):
    return load_hparams(str(settings_directory))


@pytest.fixture
def arrays(hparams):
    """Random weights by TensorFlow's names."""
    return {f'model/{name}': array for name, array in reference.random_params(hparams, seed=0).items()}


@pytest.fixture
def there(tmp_path, settings_directory, hparams, arrays):
    """A Hugging Face directory of a toy model, without a tokenizer."""
    huggingface.write_config(str(tmp_path), hparams, load_encoder(str(settings_directory)).end_of_text)
    save(tmp_path, {tensor.hf_name: arrays[tensor.name].astype(np.float32).reshape(tensor.hf_shape)
                    for tensor in huggingface.tensors(hparams)})
    return tmp_path


def save(directory, weights, name='model.safetensors'):
    numpy_format.save_file(weights, directory / name, metadata={'format': 'pt'})


def load(directory):
    return numpy_format.load_file(directory / 'model.safetensors')


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def read(directory):
    """Of a Hugging Face directory: the sizes, and the weights by TensorFlow's names."""
    hparams = huggingface.read_config(str(directory))
    weights = huggingface.Weights(str(directory), hparams)
    return hparams, {tensor.name: weights.read(tensor) for tensor in huggingface.tensors(hparams)}


def same(weights, arrays):
    return weights.keys() == arrays.keys() and all(np.array_equal(weights[name], array.astype(np.float32))
                                                   for name, array in arrays.items())


def test_names_and_shapes(hparams):
    names = {tensor.name: (tensor.hf_name, tensor.hf_shape) for tensor in huggingface.tensors(hparams)}
    assert len(names) == 28
    assert names['model/wte'] == ('transformer.wte.weight', [hparams.n_vocab, 24])
    assert names['model/h1/attn/c_attn/w'] == ('transformer.h.1.attn.c_attn.weight', [24, 72])
    assert names['model/h1/attn/c_attn/b'] == ('transformer.h.1.attn.c_attn.bias', [72])
    assert names['model/ln_f/g'] == ('transformer.ln_f.weight', [24])


def test_what_was_written_is_read(there, hparams, arrays):
    sizes, weights = read(there)
    assert sizes == hparams and same(weights, arrays)


def test_the_settings(there, hparams, settings_directory):
    end_of_text = load_encoder(str(settings_directory)).end_of_text
    config, generation = (json.loads((there / name).read_text()) for name in ('config.json', 'generation_config.json'))
    assert {name: config[name] for name in ('vocab_size', 'n_positions', 'n_ctx', 'n_embd', 'n_head', 'n_layer')} == {
        'vocab_size': hparams.n_vocab, 'n_positions': 32, 'n_ctx': 32, 'n_embd': 24, 'n_head': 3, 'n_layer': 2}
    assert {config['bos_token_id'], config['eos_token_id'], *generation.values()} == {end_of_text}
    assert config['tie_word_embeddings'] is True


def test_a_config_without_the_settings_that_are_as_in_gpt_2(there, hparams, arrays):
    needed = ('model_type', 'vocab_size', 'n_positions', 'n_embd', 'n_head', 'n_layer')
    config = json.loads((there / 'config.json').read_text())
    (there / 'config.json').write_text(json.dumps({name: config[name] for name in needed}))
    sizes, weights = read(there)
    assert sizes == hparams and same(weights, arrays)
    edit(there / 'config.json', n_inner=96, activation_function='gelu_pytorch_tanh')
    assert huggingface.read_config(str(there)) == hparams


def test_older_names_are_read_and_masks_skipped(there, arrays):
    weights = {name.removeprefix('transformer.'): array for name, array in load(there).items()}
    masks = {'h.0.attn.bias': np.ones([1, 1, 4, 4], np.uint8), 'h.0.attn.masked_bias': np.array(-1e4, np.float32)}
    save(there, weights | masks | {'lm_head.weight': weights['wte.weight'].copy()})
    assert same(read(there)[1], arrays)
    edit(there / 'config.json', tie_word_embeddings=False)
    assert same(read(there)[1], arrays)
    save(there, weights | {'lm_head.weight': weights['wte.weight'] + 1})
    with pytest.raises(UserError, match='lm_head.weight is not wte.weight; in GPT-2 the output layer is tied to it'):
        read(there)


@pytest.mark.parametrize('kind', ['float16', 'bfloat16'])
def test_half_precision_is_read(there, arrays, kind):
    import ml_dtypes  # noqa: F401  (adds bfloat16 to numpy)
    save(there, {name: array.astype(kind) for name, array in load(there).items()})
    assert same({name: array.astype(np.float32) for name, array in read(there)[1].items()},
                {name: array.astype(np.float32).astype(kind) for name, array in arrays.items()})


def split(directory, weight_map=None):
    """Replaces model.safetensors by two files with an index."""
    weights = load(directory)
    (directory / 'model.safetensors').unlink()
    files = {name: f'part-{i % 2}.safetensors' for i, name in enumerate(weights)}
    for file in set(files.values()):
        save(directory, {name: weights[name] for name in weights if files[name] == file}, file)
    (directory / 'model.safetensors.index.json').write_text(json.dumps(
        {'weight_map': {name: f'../elsewhere/{file}' for name, file in files.items()} if weight_map is None else weight_map}))


def test_several_files_are_read_from_the_directory_of_their_index(there, arrays):
    split(there)
    assert same(read(there)[1], arrays)


@pytest.mark.parametrize('wrapper', ['_orig_mod.', 'module.', 'base_model.model.', 'module._orig_mod.'])
def test_names_of_wrapped_models_are_read(there, arrays, wrapper):
    weights = load(there)
    save(there, {wrapper + name: array for name, array in weights.items()})
    assert same(read(there)[1], arrays)
    split(there)
    assert same(read(there)[1], arrays)
    older = {wrapper + name.removeprefix('transformer.'): array for name, array in weights.items()}
    save(there, older | {f'{wrapper}lm_head.weight': weights['transformer.wte.weight'].copy()})
    assert same(read(there)[1], arrays)


@pytest.mark.parametrize('kind', ['float32', 'float16', 'bfloat16'])
@pytest.mark.parametrize('number', ['nan', 'inf', '-inf'])
def test_weights_that_are_not_numbers_are_refused(there, kind, number):
    import ml_dtypes  # noqa: F401  (adds bfloat16 to numpy)
    weights = {name: array.astype(kind) for name, array in load(there).items()}
    weights['transformer.h.1.mlp.c_fc.weight'][3, 5] = float(number)
    save(there, weights)
    with pytest.raises(UserError, match='model.safetensors: transformer.h.1.mlp.c_fc.weight holds NaN or infinite numbers'):
        read(there)


@pytest.mark.parametrize(('setting', 'value', 'words'), [
    ('model_type', 'gpt_neo', "model_type is 'gpt_neo'; expected 'gpt2'"),
    ('model_type', None, "model_type is None; expected 'gpt2'"),
    ('activation_function', 'relu', "expected 'gelu_new': no network but GPT-2"),
    ('layer_norm_epsilon', 1e-6, 'layer_norm_epsilon is 1e-06'),
    ('n_inner', 50, 'n_inner is 50; expected 4 times n_embd, 96'),
    ('scale_attn_by_inverse_layer_idx', True, 'scale_attn_by_inverse_layer_idx is True'),
    ('scale_attn_weights', False, 'scale_attn_weights is False'),
    ('tie_word_embeddings', False, 'holds no lm_head.weight, which a model has whose tie_word_embeddings is False'),
    ('quantization_config', {'bits': 4}, 'quantization_config is '),
    ('n_head', 5, 'config.json: n_embd 24 is not divisible by n_head 5'),
    ('n_layer', 3, 'holds no weight transformer.h.2.ln_1.weight, which a model of the sizes in config.json has'),
    ('n_layer', 1, 'holds transformer.h.1.attn.c_attn.bias, which is no weight of the GPT-2 that config.json describes'),
    ('n_embd', 12, r'transformer.wpe.weight is \[32, 24\]; by config.json it should be \[32, 12\]'),
    ('vocab_size', 10, r'transformer.wte.weight is \[\d+, 24\]; by config.json it should be \[10, 24\]')])
def test_another_network_is_refused(there, setting, value, words):
    edit(there / 'config.json', **{setting: value})
    with pytest.raises(UserError, match=words) as error:
        read(there)
    assert str(there) in str(error.value)


@pytest.mark.parametrize(('change', 'words'), [
    (lambda d: (d / 'model.safetensors').rename(d / 'pytorch_model.bin'), 'pytorch_model.bin, a pickle.*save_pretrained'),
    (lambda d: (d / 'model.safetensors').unlink(), 'holds no model.safetensors$'),
    (lambda d: (d / 'model.safetensors').unlink() or (d / 'model.safetensors').mkdir(), 'holds no model.safetensors$'),
    (lambda d: (d / 'model.safetensors').write_bytes(b'version https://git'), 'cannot read .*/model.safetensors: .*damaged'),
    (lambda d: (d / 'model.safetensors').write_bytes(LFS_POINTER), 'model.safetensors is a Git LFS pointer, .*`git lfs pull`'),
    (lambda d: (d / 'model.safetensors').write_bytes(WEB_PAGE), 'model.safetensors is a web page, not the file itself'),
    (lambda d: (d / 'config.json').write_bytes(WEB_PAGE), 'config.json is a web page, not the file itself'),
    (lambda d: (d / 'model.safetensors').write_bytes((d / 'model.safetensors').read_bytes()[:-9]), 'is it damaged'),
    (lambda d: split(d, weight_map=3), 'index.json lacks weight_map, the file of each weight'),
    (lambda d: split(d, weight_map={'a': 3}), 'index.json lacks weight_map, the file of each weight'),
    (lambda d: split(d) or (d / 'part-1.safetensors').unlink(), 'cannot read transformer.* in .*/part-1.safetensors: '),
    (lambda d: (d / 'config.json').write_text('{'), 'config.json is not JSON'),
    (lambda d: (d / 'config.json').write_text('[' * 100_000), 'config.json is not JSON'),
    (lambda d: (d / 'config.json').write_text('[]'), 'config.json must hold an object'),
    (lambda d: (d / 'config.json').write_text('{"model_type": "gpt2"}'), 'config.json lacks vocab_size, n_positions'),
    (lambda d: (d / 'config.json').unlink(), 'cannot read .*/config.json: No such file'),
    (lambda d: save(d, {f'base_model.model.{name}': array for name, array in load(d).items()} | {
        'base_model.model.transformer.h.0.attn.c_attn.lora_A.default.weight': np.zeros(2, np.float32)}),
     'holds transformer.h.0.attn.c_attn.lora_A.default.weight, of a LoRA adapter beside the weights: merge it first'),
    (lambda d: save(d, load(d) | {'module.transformer.wpe.weight': np.zeros([32, 24], np.float32)}),
     'holds .*transformer.wpe.weight, a weight that is there under another name too'),
    (lambda d: save(d, load(d) | {'score.weight': np.zeros(2, np.float32)}), 'holds score.weight, which is no weight'),
    (lambda d: save(d, load(d) | {'transformer.wpe.weight': np.zeros([32, 24])}),
     'wpe.weight holds F64; expected F32, F16, BF16')])
def test_an_invalid_directory_is_refused(there, change, words):
    change(there)
    with pytest.raises(UserError, match=words) as error:
        read(there)
    assert str(there) in str(error.value)


def test_without_the_safetensors_package(there, monkeypatch):
    monkeypatch.setitem(sys.modules, 'safetensors', None)
    with pytest.raises(UserError, match='reading model.safetensors needs the safetensors package: pip install safetensors'):
        read(there)
