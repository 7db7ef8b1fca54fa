"""storage/peft_format.py: which factors it reads or refuses, and what they do; test_convert.py compares with peft."""

import json
import os
import re
import runpy

import numpy as np
import pytest

from command.errors import UserError
from network.hparams import HParams
from network.lora import Lora
from optional import HUGGINGFACE, needs
from storage import peft_config, peft_format

numpy_format = needs('safetensors.numpy', HUGGINGFACE)
HPARAMS = HParams(n_vocab=7, n_ctx=4, n_embd=6, n_head=2, n_layer=2)
LORA = Lora(rank=2, alpha=6)
FIRST = 'base_model.model.transformer.h.0.attn.c_attn.lora_A.weight'


@pytest.fixture
def there(tmp_path):
    """A directory of peft, with random factors for all matrices."""
    peft_config.write_config(str(tmp_path), LORA, 'gpt2')
    rng = np.random.default_rng(0)
    save(tmp_path, {factor.peft_name: rng.normal(size=factor.peft_shape).astype(np.float32)
                    for factor in peft_format.factors(LORA, HPARAMS)})
    return tmp_path


def save(directory, factors):
    numpy_format.save_file(factors, directory / 'adapter_model.safetensors', metadata={'format': 'pt'})


def load(directory):
    return numpy_format.load_file(directory / 'adapter_model.safetensors')


def read(directory, hparams=HPARAMS):
    """What the factors add to each weight of a base of zeros."""
    adapter = peft_format.Adapter(str(directory), hparams)
    return {name: adapter.merged(name, np.zeros(shape, np.float32)) for name, shape in hparams.shapes().items()}


def same(one, other):
    return all(np.array_equal(one[name], other[name]) for name in one)


def test_names_and_shapes():
    names = {factor.name: (factor.peft_name, factor.peft_shape) for factor in peft_format.factors(LORA, HPARAMS)}
    assert len(names) == 16
    assert names['model/h0/attn/c_attn/lora_a'] == (FIRST, [2, 6])
    assert names['model/h1/mlp/c_proj/lora_b'] == ('base_model.model.transformer.h.1.mlp.c_proj.lora_B.weight', [6, 2])
    sorted_names = [factor.peft_name for factor in peft_format.factors(LORA, HPARAMS)]
    assert sorted_names == sorted(sorted_names)


def test_the_factors_are_added_to_their_matrices_alone(there):
    found, stored = read(there), load(there)
    for name, value in found.items():
        if name.endswith('/w'):
            module = name.removesuffix('/w').replace('/', '.').replace('model.h', 'base_model.model.transformer.h.')
            a, b = (stored[f'{module}.lora_{part}.weight'] for part in 'AB')
            np.testing.assert_allclose(value, 3 * (b @ a).T[None], rtol=1e-5, atol=1e-6)
        else:
            assert not value.any()
    assert sum(value.any() for value in found.values()) == 8 == len(peft_format.Adapter(str(there), HPARAMS).matrices)


def test_a_matrix_without_factors_stays(there):
    everything = read(there)
    save(there, {name: value for name, value in load(there).items() if '.h.1.attn.c_proj.' in name})
    found = read(there)
    assert [name for name in found if found[name].any()] == ['model/h1/attn/c_proj/w']
    assert np.array_equal(found['model/h1/attn/c_proj/w'], everything['model/h1/attn/c_proj/w'])


@pytest.mark.parametrize('rename', [
    lambda name: name.replace('.weight', '.default.weight'),                                # with the adapter's name
    lambda name: name.removeprefix('base_model.model.'),
    lambda name: name.replace('base_model.model.', 'base_model.model._orig_mod.'),          # of a compiled model
    lambda name: name.replace('transformer.', '')])                                         # of GPT2Model
def test_other_names_of_the_same_factors(there, rename):
    expected = read(there)
    save(there, {rename(name): value for name, value in load(there).items()})
    assert same(read(there), expected)


@pytest.mark.parametrize('kind', ['float16', 'bfloat16'])
def test_half_precision_is_read(there, kind):
    import ml_dtypes  # noqa: F401  (adds bfloat16 to numpy)
    save(there, {name: value.astype(kind).astype(np.float32) for name, value in load(there).items()})
    expected = read(there)
    save(there, {name: value.astype(kind) for name, value in load(there).items()})
    assert same(read(there), expected) and all(value.dtype == np.float32 for value in read(there).values())


def test_fan_in_fan_out_changes_nothing(there):
    expected = read(there)
    path = there / 'adapter_config.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | {'fan_in_fan_out': False}))
    assert same(read(there), expected)


def with_name(name):
    return lambda d: save(d, load(d) | {f'base_model.model.{name}': np.zeros([2, 2], np.float32)})


def changed(name, change):
    return lambda d: save(d, load(d) | {name: change(load(d)[name])})


OTHERS = 'only factors of attn.c_attn, attn.c_proj, mlp.c_fc, mlp.c_proj are read here'
TIED = 'a change of the token embeddings or of the output layer alone cannot be merged'
MERGE = 'merge it with its base in peft (merge_and_unload)'


@pytest.mark.parametrize(('change', 'words'), [
    (with_name('lm_head.lora_A.weight'), f'holds base_model.model.lm_head.lora_A.weight; {OTHERS}: {TIED}'),
    (with_name('transformer.wte.lora_embedding_A'), f'holds base_model.model.transformer.wte.lora_embedding_A; {OTHERS}: {TIED}'),
    (with_name('transformer.wte.weight'), f'holds base_model.model.transformer.wte.weight; {OTHERS}: {MERGE}'),
    (with_name('transformer.h.0.attn.c_attn.lora_B.bias'), f'lora_B.bias; {OTHERS}: {MERGE}'),
    (with_name('transformer.h.0.attn.c_attn.lora_A.default.weight'),
     'lora_A.weight, a factor that is there under another name too'),
    (with_name('transformer.h.2.mlp.c_fc.lora_A.weight'),
     'transformer.h.2.mlp.c_fc, but the base has 2 blocks; adapter_config.json names its base: "gpt2", here 124M'),
    (lambda d: save(d, {FIRST: load(d)[FIRST]}), 'holds one factor of transformer.h.0.attn.c_attn, without its lora_B'),
    (lambda d: save(d, {FIRST.replace('_A', '_B'): load(d)[FIRST.replace('_A', '_B')]}), 'without its lora_A'),
    (lambda d: save(d, {}), 'holds no weights'),
    (changed(FIRST, lambda a: a[:1]), (f'{FIRST} is [1, 6]; with rank 2, by adapter_config.json, and a base with n_embd 6, it '
                                       'should be [2, 6]; adapter_config.json names its base: "gpt2"')),
    (changed(FIRST, lambda a: np.ascontiguousarray(a.T)), f'{FIRST} is [6, 2]; with rank 2'),
    (changed(FIRST.replace('_A', '_B'), lambda b: b[:6]), 'lora_B.weight is [6, 2]; with rank 2'),
    (changed(FIRST, lambda a: a * np.float32('nan')), f'{FIRST} holds NaN or infinite numbers: the adapter is of no use'),
    (changed(FIRST, lambda a: np.full_like(a, -np.inf, np.float16)), f'{FIRST} holds NaN or infinite numbers'),
    (changed(FIRST, lambda a: a.astype(np.float64)), f'{FIRST} holds F64; expected F32, F16, BF16'),
    (lambda d: (d / 'adapter_model.safetensors').unlink(), 'holds no adapter_model.safetensors'),
    (lambda d: (d / 'adapter_model.safetensors').rename(d / 'adapter_model.bin'),
     'holds its weights as adapter_model.bin, a pickle, which could run any code and is not read here; with PyTorch, this makes'),
    (lambda d: os.truncate(d / 'adapter_model.safetensors', 999), 'is it damaged?'),
    (lambda d: (d / 'adapter_config.json').unlink(), 'cannot read')])
def test_what_is_no_adapter_of_this_base_is_refused(there, change, words):
    change(there)
    with pytest.raises(UserError, match=re.escape(words)) as error:
        read(there)
    assert str(there) in str(error.value)


def test_a_base_of_another_size(there):
    with pytest.raises(UserError, match=r'is \[2, 6\]; with rank 2, .* a base with n_embd 8, it should be \[2, 8\]'):
        read(there, HParams(n_vocab=7, n_ctx=4, n_embd=8, n_head=2, n_layer=2))


def test_the_advice_for_a_pickle_works(there):
    torch = needs('torch', HUGGINGFACE)
    expected, path = read(there), there / 'adapter_model.safetensors'
    torch.save({name: torch.tensor(value) for name, value in load(there).items()}, there / 'adapter_model.bin')
    path.unlink()
    with pytest.raises(UserError) as error:
        read(there)
    (there / 'advice.py').write_text(re.search(r'python3 -c "(.*)"$', str(error.value))[1])
    runpy.run_path(str(there / 'advice.py'))
    assert same(read(there), expected)
