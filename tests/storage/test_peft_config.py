"""storage/peft_config.py: which settings of peft are read, how, and which are refused; test_convert.py compares with peft."""

import json

import pytest

from command.errors import UserError
from network.hparams import HParams, default_hparams
from network.lora import Lora
from storage import peft_config

TOY = HParams(n_vocab=7, n_ctx=4, n_embd=6, n_head=2, n_layer=2)
# As peft 0.21 writes it, where that matters here.
CONTENT = {'peft_type': 'LORA', 'task_type': 'CAUSAL_LM', 'base_model_name_or_path': 'gpt2-medium', 'r': 4, 'lora_alpha': 6,
           'bias': 'none', 'rank_pattern': {}, 'alpha_pattern': {}, 'init_lora_weights': True, 'fan_in_fan_out': False,
           'lora_bias': False, 'modules_to_save': None, 'qalora_group_size': 16, 'megatron_core': 'megatron.core',
           'loftq_config': {}, 'eva_config': None, 'use_dora': False, 'use_rslora': False, 'use_qalora': False,
           'use_bdlora': None, 'target_modules': ['c_attn']}


@pytest.fixture
def config(tmp_path):
    """The config with changes: config(r=8) -> Config."""
    def read(**changes):
        (tmp_path / 'adapter_config.json').write_text(json.dumps(CONTENT | changes))
        return peft_config.Config(str(tmp_path))
    return read


def test_rank_and_scale(config, tmp_path):
    module = 'transformer.h.0.attn.c_attn'
    assert config().lora(module) == Lora(4, 6)
    assert config().lora(module).scale == 1.5
    assert config(use_rslora=True).lora(module).scale == 3.0              # 6 / sqrt(4)
    assert config(lora_alpha=0.5, init_lora_weights='Gaussian').lora(module) == Lora(4, 0.5)
    (tmp_path / 'adapter_config.json').write_text('{"peft_type": "LORA"}')
    assert peft_config.Config(str(tmp_path)).lora(module) == Lora(8, 8)     # peft's defaults


def test_the_first_pattern_that_matches_the_end_of_a_name_counts(config):
    read = config(rank_pattern={'c_attn': 2, r'h\.1\.attn\.c_attn': 3, 'proj': 9}, alpha_pattern={r'h\.\d+\.attn\.c_proj': 5.5})
    assert [read.lora(f'transformer.h.{layer}.{matrix}') for layer, matrix in (
        (0, 'attn.c_attn'), (1, 'attn.c_attn'), (0, 'attn.c_proj'), (1, 'mlp.c_proj'))] == [
        Lora(2, 6), Lora(2, 6), Lora(4, 5.5), Lora(4, 6)]
    assert config(rank_pattern={'h.0.attn.c_attn': 2}).lora('h.0.attn.c_attn') == Lora(2, 6)
    assert config(rank_pattern={'c_attn': 4}, lora_alpha=1, use_rslora=True).lora('h.0.attn.c_attn').scale == 0.5


@pytest.mark.parametrize(('setting', 'value', 'words'), [
    ('peft_type', 'IA3', 'peft_type is "IA3"; expected \'LORA\''),
    ('peft_type', None, 'peft_type is null; expected \'LORA\''),
    ('use_dora', True, 'use_dora is true, which is more than the two factors'),
    ('use_qalora', True, 'use_qalora is true'),
    ('use_of_2031', {'a': 1}, 'use_of_2031 is {"a": 1}'),
    ('bias', 'all', 'bias is "all", which is more than'),
    ('lora_bias', True, 'lora_bias is true'),
    ('modules_to_save', ['ln_f'], 'modules_to_save is ["ln_f"], which is more than'),
    ('modules_to_save', ['lm_head'], ('modules_to_save is ["lm_head"], which is more than the two factors of a matrix that are '
                                      'read here: a change of the token embeddings or of the output layer alone cannot be')),
    ('trainable_token_indices', [3], 'trainable_token_indices is [3]'),
    ('layer_replication', [[0, 2]], 'layer_replication is [[0, 2]]'),
    ('alora_invocation_tokens', [3], 'alora_invocation_tokens is [3]'),
    ('init_lora_weights', 'pissa_niter_4', 'init_lora_weights is "pissa_niter_4"'),
    ('init_lora_weights', 'olora', 'init_lora_weights is "olora"'),
    ('init_lora_weights', [1], 'init_lora_weights is [1]'),
    ('r', 0, 'r is 0; expected a whole number above 0'),
    ('r', '8', 'r is "8"; expected a whole number above 0'),
    ('r', True, 'r is true; expected a whole number above 0'),
    ('rank_pattern', {'c_attn': 1.5}, 'rank_pattern of "c_attn" is 1.5; expected a whole number above 0'),
    ('rank_pattern', [8], 'rank_pattern is [8]; expected an object'),
    ('rank_pattern', {'(': 8}, 'rank_pattern has "(", which is no regular expression'),
    ('lora_alpha', None, 'lora_alpha is null; expected a number'),
    ('lora_alpha', float('nan'), 'lora_alpha is NaN; expected a number'),
    ('lora_alpha', 10 ** 400, 'lora_alpha is 1000'),
    ('alpha_pattern', {'c_attn': '1'}, 'alpha_pattern of "c_attn" is "1"; expected a number')])
def test_what_is_not_read_is_refused_by_name(config, tmp_path, setting, value, words):
    with pytest.raises(UserError) as error:
        config(**{setting: value})
    assert str(error.value).startswith(f'{tmp_path}/adapter_config.json: {words}')
    assert ('merge_and_unload' in str(error.value)) == ('more than' in str(error.value) and value != ['lm_head'])


@pytest.mark.parametrize(('content', 'words'), [('{', 'is not JSON'), ('[]', 'must hold an object'), (None, 'No such file')])
def test_a_damaged_config(tmp_path, content, words):
    if content:
        (tmp_path / 'adapter_config.json').write_text(content)
    for read in (peft_config.Config, peft_config.named_base):
        with pytest.raises(UserError, match=f'adapter_config.json.*{words}'):
            read(str(tmp_path))


@pytest.mark.parametrize(('prefix', 'hparams', 'name'), [
    ('models/124M/model.ckpt', default_hparams(), 'openai-community/gpt2'),
    ('/home/me/117M/model.ckpt', default_hparams(), 'openai-community/gpt2'),
    ('models/1558M/model.ckpt', HParams(50257, 1024, 1600, 25, 48), 'openai-community/gpt2-xl'),
    ('models/124M/model.ckpt', TOY, '124M'),                                          # another model of that name
    ('models/124M/model.ckpt', HParams(5000, 1024, 768, 12, 12), '124M'),             # of another vocabulary
    ('checkpoint/124M/model-5', default_hparams(), '124M/5'),                         # a run
    ('/home/me/private/models/toy/model.ckpt', TOY, 'toy'),
    ('checkpoint/exp/b/model-500', TOY, 'b/500')])
def test_what_a_base_is_called(prefix, hparams, name):
    assert peft_config.base_name(prefix, hparams) == name


@pytest.mark.parametrize(('named', 'words'), [
    ('gpt2-medium', 'names its base: "gpt2-medium", here 355M (./download_model.py 355M)'),
    ('openai-community/gpt2', 'names its base: "openai-community/gpt2", here 124M (./download_model.py 124M)'),
    ('someone/gpt2', 'names its base: "someone/gpt2"'), ('', 'does not name its base'), (None, 'does not name its base')])
def test_which_base_a_message_names(config, tmp_path, named, words):
    config(base_model_name_or_path=named)
    assert peft_config.named_base(str(tmp_path)) == f'adapter_config.json {words}'


def test_what_is_written_is_read(tmp_path):
    for lora in (Lora(3, 12.0), Lora(8, 0.5)):
        peft_config.write_config(str(tmp_path), lora, 'toy')
        assert peft_config.Config(str(tmp_path)).lora('transformer.h.0.mlp.c_fc') == lora
    assert '"lora_alpha": 0.5' in (tmp_path / 'adapter_config.json').read_text()
