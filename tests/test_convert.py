"""convert.py: what it writes is what the libraries write, byte for byte, and what transformers computes is what we compute."""

import json
import shutil
import sys

import numpy as np
import pytest

import reference
from checkpoint_files import read_checkpoint, write_checkpoint
from command.errors import UserError
from command.models import FILES
from conftest import ROOT, one_line_error
from encoder import load_encoder
from network.hparams import HParams, load_hparams
from network.lora import Lora
from optional import HUGGINGFACE, needs
from storage import adapters
from storage import safetensors as safetensors_format
from vocabulary.spelling import END_OF_TEXT

safetensors = needs('safetensors', HUGGINGFACE)
TINY = f'{ROOT}/models/tiny'
NASTY = ["it's we'Re\u2019ll  x", ' \u00a0\u3000 \t\n\n  end ',
         'e\u0301\u0301 \U0001f468\u200d\U0001f469\u200d\U0001f467 \u2603\ufe0f', '\u0000\u0001\ufeff\ufffd\u2028',
         '\u0661\u0662\u2167\u00bd \u0e20\u0e32\u0e29\u0e32 \u4e2d\u6587\u3002', '#version: 0.2\r\n',
         f'a{END_OF_TEXT}{END_OF_TEXT} b<|endoftext', 'x' * 300]


@pytest.fixture
def convert(tf, home, monkeypatch, capsys):
    """Runs convert.py in this process: convert(*arguments) -> what it prints."""
    def run(*arguments):
        import convert
        monkeypatch.chdir(home)
        monkeypatch.setattr(sys, 'argv', ['convert.py', *map(str, arguments)])
        capsys.readouterr()
        convert.main()
        return capsys.readouterr().out
    return run


@pytest.fixture
def there(convert, home):
    """models/toy as a Hugging Face directory."""
    convert('to_hf', 'toy', 'there')
    return home / 'there'


@pytest.fixture
def auto():
    """transformers, for its AutoModelForCausalLM and AutoTokenizer."""
    needs('torch', HUGGINGFACE)
    return needs('transformers', HUGGINGFACE)


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewrite(directory, change):
    """Replaces the weights, name -> array, by change(weights)."""
    from safetensors.numpy import load_file, save_file
    path = directory / 'model.safetensors'
    save_file(change(load_file(path)), path, metadata={'format': 'pt'})


def same_weights(one, other):
    one, other = read_checkpoint(one), read_checkpoint(other)
    assert one.keys() == other.keys()
    return len(one) > 0 and all(np.array_equal(one[name], other[name]) for name in one)


def our_logits(tf, directory, tokens, checkpoint='model.ckpt'):
    import model
    from storage import saver
    with tf.Graph().as_default(), tf.Session() as session:
        inputs = tf.placeholder(tf.int32, [None, None])
        logits = model.model(load_hparams(str(directory)), inputs)['logits']
        saver.restore(session, str(directory / checkpoint), tf.trainable_variables())
        return session.run(logits, {inputs: tokens})


def test_there_and_back_is_the_same_to_the_byte(convert, there, home, model_directory):
    assert sorted(path.name for path in there.iterdir()) == [
        'README.md', 'config.json', 'generation_config.json', 'merges.txt', 'model.safetensors', 'tokenizer_config.json',
        'vocab.json']
    assert convert('from_hf', 'there', 'back') == 'models/back: 28 weights of there\n'
    assert {path.name for path in (home / 'models/back').iterdir()} == set(FILES)
    for name in FILES:
        if name not in ('checkpoint', 'hparams.json', 'model.ckpt.meta'):
            assert (home / 'models/back' / name).read_bytes() == (model_directory / name).read_bytes(), name
    with open(f'{TINY}/checkpoint', encoding='utf-8') as file:
        assert (home / 'models/back/checkpoint').read_text() == file.read()
    assert load_hparams(str(home / 'models/back')) == load_hparams(str(model_directory))
    (home / 'again').mkdir()       # empty, so accepted
    convert('to_hf', 'models/back', 'again')
    for path in there.iterdir():
        assert path.name == 'README.md' or path.read_bytes() == (home / 'again' / path.name).read_bytes()


def test_the_meta_graph_is_there_to_be_imported(tf, convert, there, home):
    convert('from_hf', 'there', 'back')
    with tf.Graph().as_default(), tf.Session() as session:
        tf.train.import_meta_graph(str(home / 'models/back/model.ckpt.meta')).restore(session,
                                                                                     str(home / 'models/back/model.ckpt'))
        assert len(tf.trainable_variables()) == 28
        assert session.run('model/wte:0').any()


def test_the_file_is_what_the_library_writes(there):
    from safetensors.numpy import load_file, save
    path = there / 'model.safetensors'
    weights = load_file(path)
    assert path.read_bytes() == save(weights, metadata={'format': 'pt'})
    assert weights['transformer.h.1.mlp.c_fc.weight'].shape == (24, 96)


def test_transformers_computes_the_same(tf, auto, convert, home):
    import torch

    from generator import Generator
    convert('to_hf', TINY, 'there')
    model, tokenizer = (kind.from_pretrained(home / 'there') for kind in (auto.AutoModelForCausalLM, auto.AutoTokenizer))
    encoder = load_encoder(TINY)
    for text in NASTY:
        assert tokenizer(text)['input_ids'] == encoder.encode_with_special(text), text
        assert tokenizer.decode(tokenizer(text)['input_ids']) == text
    assert tokenizer.all_special_ids == [encoder.end_of_text]
    assert (model.config.eos_token_id, model.generation_config.eos_token_id) == (encoder.end_of_text,) * 2
    assert model.config.n_positions == tokenizer.model_max_length == 128

    tokens = np.random.default_rng(0).integers(1024, size=[2, 128])
    with torch.no_grad():
        theirs = model(torch.tensor(tokens)).logits.numpy()
    (home / 'models/tiny').symlink_to(TINY)
    assert np.abs(our_logits(tf, home / 'models/tiny', tokens) - theirs).max() < 1e-4

    prompt = 'ROMEO:\nWhat'
    greedy = model.generate(**tokenizer(prompt, return_tensors='pt'), max_new_tokens=64, do_sample=False)
    [ours] = Generator(TINY).generate([prompt], length=64, temperature=0, stop_at_eot=False)
    assert len(ours) > 64
    assert tokenizer.decode(greedy[0]) == prompt + ours


def test_a_random_124m_computes_the_same(tf, auto, convert, home):
    import torch
    torch.manual_seed(0)
    model = auto.GPT2LMHeadModel(auto.GPT2Config()).eval()
    model.save_pretrained(home / 'there')
    for name, ours in (('vocab.json', 'encoder.json'), ('merges.txt', 'vocab.bpe')):      # fewer tokens than wte has rows
        shutil.copyfile(f'{TINY}/{ours}', home / 'there' / name)
    convert('from_hf', 'there', 'random')
    tokens = np.random.default_rng(0).integers(50257, size=[1, 40])
    with torch.no_grad():
        theirs = model(torch.tensor(tokens)).logits.numpy()
    assert np.abs(our_logits(tf, home / 'models/random', tokens) - theirs).max() < 1e-4
    convert('to_hf', 'random', 'again')
    again = auto.AutoModelForCausalLM.from_pretrained(home / 'again')
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), again.parameters(), strict=True))
    shutil.rmtree(home / 'models/random')       # half a gigabyte each
    shutil.rmtree(home / 'there')
    shutil.rmtree(home / 'again')


def test_what_transformers_saves_can_be_read_in_pieces_and_with_its_tokenizer(auto, convert, there, home, model_directory):
    model, tokenizer = (kind.from_pretrained(there) for kind in (auto.AutoModelForCausalLM, auto.AutoTokenizer))
    model.save_pretrained(home / 'theirs', max_shard_size='40KB')
    tokenizer.save_pretrained(home / 'theirs')
    assert (home / 'theirs/model.safetensors.index.json').exists()
    assert (home / 'theirs/tokenizer.json').exists()
    convert('from_hf', 'theirs', 'back')
    assert same_weights(home / 'models/back', model_directory)
    for name in ('encoder.json', 'vocab.bpe'):
        assert (home / 'models/back' / name).read_bytes() == (model_directory / name).read_bytes()


def in_chat_form(there):
    """Gives a Hugging Face directory two added tokens, the second of which ends a text, and wte rows for three."""
    rewrite(there, lambda w: w | {'transformer.wte.weight': np.concatenate([w['transformer.wte.weight'],
                                                                            np.full([3, 24], 0.25, np.float32)])})
    edit(there / 'config.json', vocab_size=303)
    (there / 'added_tokens.json').write_text(json.dumps({'<|im_start|>': 300, '<|im_end|>': 301}))
    (there / 'special_tokens_map.json').write_text(json.dumps(
        {'eos_token': '<|im_end|>', 'additional_special_tokens': ['<|im_start|>']}))
    (there / 'tokenizer_config.json').unlink()


def test_added_tokens_are_kept_through_training_and_back(convert, train, there, home):
    in_chat_form(there)
    assert convert('from_hf', 'there', 'chat').splitlines()[1:] == [
        "special tokens: '<|endoftext|>', '<|im_start|>', '<|im_end|>'; a text ends with '<|im_end|>', not with '<|endoftext|>'"]
    assert sorted(path.name for path in (home / 'models/chat').iterdir()) == sorted([*FILES, 'special_tokens.json'])
    (home / 'talk').mkdir()
    for name in ('1.txt', '2.txt'):
        (home / 'talk' / name).write_text('<|im_start|>the dog\n<|im_end|>\n the fox<|im_start|>')
    train('--model_name', 'chat', '--dataset', 'talk', '--max_steps', 6, '--learning_rate', 0.1, '--seq_length', 16,
          '--sample_every', 0, '--run_name', 'r')
    with np.load(home / 'checkpoint/r/dataset.npz') as corpus:
        tokens = corpus['arr_0'].tolist()
    encoder = load_encoder('checkpoint/r')
    words = [encoder.encode(text) for text in ('the dog\n', '\n the fox')]
    document = [300, *words[0], 301, *words[1], 300]
    assert tokens == [*document, 301, *document]
    convert('to_hf', 'r', 'again')
    for name in ('config.json', 'generation_config.json'):
        assert json.loads((home / 'again' / name).read_text())['eos_token_id'] == 301
    convert('from_hf', 'again', 'back')
    trained, back = read_checkpoint('checkpoint/r'), read_checkpoint('models/back')
    assert back['model/wte'].shape == (303, 24) and all(np.array_equal(trained[name], back[name]) for name in back)
    for name in ('hparams.json', 'encoder.json', 'vocab.bpe', 'special_tokens.json'):
        assert (home / 'models/back' / name).read_text() == (home / 'checkpoint/r' / name).read_text()


def test_generation_ends_at_the_added_token(tf, auto, convert, there, home):
    import torch

    from generator import Generator
    in_chat_form(there)
    rewrite(there, lambda w: w | {'transformer.ln_f.weight': np.zeros(24, np.float32),      # the end token always wins
                                  'transformer.ln_f.bias': np.eye(24, dtype=np.float32)[5] * 100,
                                  'transformer.wte.weight': np.eye(303, 24, k=5 - 301).astype(np.float32)})
    edit(there / 'generation_config.json', eos_token_id=301)
    convert('from_hf', 'there', 'chat')
    assert Generator('models/chat').generate(['the dog'], length=9, temperature=0) == ['<|im_end|>']
    convert('to_hf', 'chat', 'back')
    model, tokenizer = (kind.from_pretrained(home / 'back') for kind in (auto.AutoModelForCausalLM, auto.AutoTokenizer))
    ids = model.generate(torch.tensor([[tokenizer('the')['input_ids'][0]]]), max_new_tokens=9, do_sample=False)[0, 1:]
    assert ids.tolist() == [301] == [tokenizer.eos_token_id] and model.config.vocab_size == 303


def test_half_precision_becomes_float32(convert, there, home, model_directory):
    rewrite(there, lambda weights: {name: array.astype(np.float16) for name, array in weights.items()})
    convert('from_hf', 'there', 'back')
    found, expected = (read_checkpoint(directory)['model/h1/mlp/c_fc/w'] for directory in (home / 'models/back', model_directory))
    assert found.dtype == np.float32
    assert np.array_equal(found, expected.astype(np.float16).astype(np.float32))


def test_six_blocks_as_distilgpt2_has_them(convert, home, model_directory):
    hparams = HParams(**(vars(load_hparams(str(model_directory))) | {'n_layer': 6}))
    shutil.copytree(model_directory, home / 'models/six')
    (home / 'models/six/hparams.json').write_text(json.dumps(vars(hparams)))
    write_checkpoint(home / 'models/six/model.ckpt', reference.random_params(hparams, seed=6), 'model/')
    convert('to_hf', 'six', 'there')
    convert('from_hf', 'there', 'back')
    assert load_hparams(str(home / 'models/back')).n_layer == 6
    # By prefix: the `checkpoint` file that was copied names the directory it came from.
    assert same_weights(home / 'models/back', home / 'models/six/model.ckpt')


def test_the_card_of_a_run(convert, train, home):
    train('--max_steps', 4, '--sample_every', 0, '--val_every', 2, '--val_batch_count', 1, '--run_name', 'r')
    rows = [json.loads(line) for line in (home / 'checkpoint/r/metrics.jsonl').read_text().splitlines()]
    [loss] = [row['val_loss'] for row in rows if 'val_loss' in row and row['step'] == 4]
    convert('to_hf', 'r', 'there')
    card = (home / 'there/README.md').read_text()
    assert card.startswith('---\nlibrary_name: transformers\n')
    for fact in ('base model: toy', 'corpus: `corpus.txt`, ', 'weights: checkpoint `model-4`, after 4 steps',
                 'validation loss on the corpus itself, '):
        assert f'\n- {fact}' in card
    assert f' {loss:.4f} ' in card
    assert 'base_model' not in card     # of the hub


def refused(convert, home, *arguments):
    """The message of a conversion that must fail and leave nothing."""
    before = sorted(home.rglob('*'))
    with pytest.raises(UserError) as error:
        convert(*arguments)
    assert sorted(home.rglob('*')) == before
    return str(error.value)


@pytest.mark.parametrize(('change', 'words'), [
    (lambda d: edit(d / 'config.json', model_type='gpt_neo'), "model_type is 'gpt_neo'"),
    (lambda d: (d / 'model.safetensors').write_bytes((d / 'model.safetensors').read_bytes()[:-9]), 'damaged'),
    (lambda d: (d / 'merges.txt').write_text('#version: 0.2\nno pair here\n'),
     'the vocabulary in there is not valid: merges.txt line 2'),
    (lambda d: rewrite(d, lambda w: w | {'transformer.ln_f.bias': np.full(24, np.nan, np.float32)}),
     'there/model.safetensors: transformer.ln_f.bias holds NaN or infinite numbers: the model is of no use'),
    (lambda d: edit(d / 'tokenizer_config.json', add_prefix_space=True), 'add_prefix_space is True, which is not supported')])
def test_an_invalid_directory_is_refused(convert, there, home, change, words):
    change(there)
    assert words in refused(convert, home, 'from_hf', 'there', 'back')


def test_a_vocabulary_larger_than_the_model_is_refused(convert, there, home):
    n_tokens = json.loads((there / 'config.json').read_text())['vocab_size']
    edit(there / 'config.json', vocab_size=n_tokens - 1)
    rewrite(there, lambda w: w | {'transformer.wte.weight': w['transformer.wte.weight'][:-1]})
    assert refused(convert, home, 'from_hf', 'there', 'back') == (
        f'there: the vocabulary has {n_tokens} tokens, but vocab_size in config.json is {n_tokens - 1}')


def test_an_existing_target_is_left_alone(convert, there, home, train):
    assert 'there exists already' in refused(convert, home, 'to_hf', 'toy', 'there')
    assert 'models/toy exists already' in refused(convert, home, 'from_hf', 'there', 'toy')
    assert 'no model' in (message := refused(convert, home, 'to_hf', 'none', 'new')) and 'no run' in message
    train('--max_steps', 1, '--sample_every', 0, '--run_name', 'toy')
    assert 'checkpoint/toy' in refused(convert, home, 'to_hf', 'toy', 'new')


def test_a_damaged_checkpoint_leaves_nothing(convert, home, model_directory):
    shutil.copytree(model_directory, home / 'models/cut')
    data = home / 'models/cut/model.ckpt.data-00000-of-00001'
    content = bytearray(data.read_bytes())
    content[-5] ^= 1
    data.write_bytes(content)
    assert 'cannot read the checkpoint models/cut/model.ckpt' in refused(convert, home, 'to_hf', 'cut', 'new')
    for n_layer in (1, 3):
        edit(home / 'models/cut/hparams.json', n_layer=n_layer)
        assert 'another model' in refused(convert, home, 'to_hf', 'cut', 'new')


def test_a_disk_that_fills_up_leaves_nothing(convert, home, monkeypatch):
    def full(*_):
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(safetensors_format, 'write_safetensors', full)
    assert refused(convert, home, 'to_hf', 'toy', 'new') == 'cannot write new: No space left on device'


def test_mistakes_are_found_before_tensorflow(without_tensorflow, there, home):
    (there / 'model.safetensors').rename(there / 'pytorch_model.bin')
    assert 'pytorch_model.bin, a pickle' in one_line_error(without_tensorflow('convert.py', 'from_hf', 'there', 'back'))
    assert 'COMMAND' in one_line_error(without_tensorflow('convert.py'))


def test_a_name_that_tensorflow_cannot_use_is_refused(convert, there, home):
    assert refused(convert, home, 'from_hf', 'there', 'r\udce9').startswith("the name 'models/r\\udce9' is not UTF-8")


@pytest.fixture
def peft(auto):
    return needs('peft', HUGGINGFACE)


def their_logits(model, tokens):
    import torch
    with torch.no_grad():
        return model.eval()(torch.tensor(tokens)).logits.numpy()


TOKENS = np.random.default_rng(0).integers(300, size=[2, 32])


@pytest.fixture
def write_run(home, model_directory):
    """Writes a run with a checkpoint of random adapters: write_run('a', base, Lora(3, 12))."""
    def write(name, base, lora):
        directory = home / 'checkpoint' / name
        directory.mkdir(parents=True)
        for file in ('hparams.json', 'encoder.json', 'vocab.bpe'):
            shutil.copyfile(model_directory / file, directory / file)
        rng = np.random.default_rng(lora.rank)
        write_checkpoint(directory / 'model-2', {factor: rng.normal(size=shape, scale=0.1) for factor, shape in lora.shapes(
            load_hparams(str(directory))).items()})
        (directory / 'checkpoint').write_text('model_checkpoint_path: "model-2"\n')
        (directory / 'adapter.json').write_text(adapters.on(str(home / base), lora).text(str(directory)))
    return write


def test_peft_computes_the_same_with_our_adapters(tf, auto, peft, convert, train, there, home):
    from safetensors.numpy import load_file, save
    train('--run_name', 'a', '--lora_rank', 3, '--lora_alpha', 12, '--learning_rate', 0.05, '--max_steps', 2, '--sample_every', 0)
    assert convert('to_hf', 'a', 'out', '--adapter') == (
        'out: 16 weights of checkpoint/a/model-2, which are added to toy; ./convert.py to_hf models/toy/model.ckpt DIR writes '
        'that base\n')
    assert {path.name for path in (home / 'out').iterdir()} == {'README.md', 'adapter_config.json', 'adapter_model.safetensors'}
    factors, path = load_file(home / 'out/adapter_model.safetensors'), home / 'out/adapter_model.safetensors'
    assert all(factor.any() for factor in factors.values())
    assert path.read_bytes() == save(factors, metadata={'format': 'pt'})

    base = auto.AutoModelForCausalLM.from_pretrained(there)
    before = their_logits(base, TOKENS)
    theirs = their_logits(peft.PeftModel.from_pretrained(base, home / 'out'), TOKENS)
    ours = our_logits(tf, home / 'checkpoint/a', TOKENS, 'model-2')
    assert np.abs(theirs - before).max() > 0.1
    assert np.abs(theirs - ours).max() < 1e-4

    convert('from_hf', 'out', 'back', '--base', 'toy')
    assert np.abs(our_logits(tf, home / 'models/back', TOKENS) - ours).max() < 1e-5
    card = (home / 'out/README.md').read_text()
    assert card.startswith('---\nlibrary_name: peft\n') and '\n- base model: toy\n- corpus: `corpus.txt`, ' in card
    assert "\nbase = 'toy'     # as a Hugging Face directory\n" in card and 'base_model:' not in card


def test_adapters_on_a_run_of_adapters(tf, auto, peft, convert, write_run, home):
    write_run('a', 'models/toy/model.ckpt', Lora(3, 12))
    write_run('b', 'checkpoint/a/model-2', Lora(2, 2))
    assert convert('to_hf', 'b', 'out', '--adapter') == (
        'out: 16 weights of checkpoint/b/model-2, which are added to a/2, merged with its own base; ./convert.py to_hf '
        f'{home}/checkpoint/a/model-2 DIR writes that base\n')
    assert json.loads((home / 'out/adapter_config.json').read_text())['base_model_name_or_path'] == 'a/2'
    convert('to_hf', 'checkpoint/a/model-2', 'base')
    model = peft.PeftModel.from_pretrained(auto.AutoModelForCausalLM.from_pretrained(home / 'base'), home / 'out')
    ours = our_logits(tf, home / 'checkpoint/b', TOKENS, 'model-2')
    assert np.abs(their_logits(model, TOKENS) - ours).max() < 1e-4
    assert convert('from_hf', 'out', 'back', '--base', 'a') == (
        'models/back: 28 weights of checkpoint/a/model-2, 8 of them merged with the adapter out; adapter_config.json names its '
        'base: "a/2"\n')
    assert np.abs(our_logits(tf, home / 'models/back', TOKENS) - ours).max() < 1e-5


def their_adapter(auto, peft, there, directory, **settings):
    """Saves a random adapter of peft on the model in a directory. Returns its logits."""
    import torch
    torch.manual_seed(0)
    model = peft.get_peft_model(auto.AutoModelForCausalLM.from_pretrained(there),
                                peft.LoraConfig(task_type='CAUSAL_LM', r=4, lora_alpha=6, **settings))
    factors = [parameter for name, parameter in model.named_parameters() if '.lora_' in name]
    for parameter in factors:
        torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(directory)
    assert factors
    return their_logits(model, TOKENS)


@pytest.mark.parametrize(('settings', 'n_changed'), [
    ({}, 2),                                                                            # c_attn alone
    ({'target_modules': ['c_attn', 'c_proj', 'c_fc'], 'use_rslora': True, 'fan_in_fan_out': True}, 8),
    ({'target_modules': 'all-linear', 'rank_pattern': {'h.1.attn.c_proj': 2, 'c_fc': 1}, 'alpha_pattern': {'mlp.c_proj': 20}}, 8),
    ({'target_modules': ['c_proj'], 'layers_to_transform': [1], 'init_lora_weights': 'gaussian', 'lora_dropout': 0.5}, 2)])
def test_adapters_of_peft_are_merged(tf, auto, peft, convert, there, home, settings, n_changed):
    theirs = their_adapter(auto, peft, there, home / 'theirs', **settings)
    assert f' {n_changed} of them merged with the adapter theirs; ' in convert('from_hf', 'theirs', 'merged', '--base', 'toy')
    assert {path.name for path in (home / 'models/merged').iterdir()} == set(FILES)
    assert np.abs(our_logits(tf, home / 'models/merged', TOKENS) - theirs).max() < 1e-4
    assert np.abs(our_logits(tf, home / 'models/toy', TOKENS) - theirs).max() > 1e-2
    base, merged = (read_checkpoint(home / 'models' / name) for name in ('toy', 'merged'))
    assert sum(not np.array_equal(merged[name], value) for name, value in base.items()) == n_changed


@pytest.fixture
def adapter(home):
    """A directory of peft that is missing its factors; what is wrong with it otherwise is found before."""
    (home / 'adapter').mkdir()
    (home / 'adapter/adapter_config.json').write_text(json.dumps(
        {'peft_type': 'LORA', 'base_model_name_or_path': 'gpt2', 'use_dora': True}))
    return home / 'adapter'


def test_mistakes_with_adapters_are_found_before_tensorflow(mistake, adapter, there, home):
    assert mistake('convert.py', 'to_hf', 'toy', 'out', '--adapter') == (
        'models/toy/model.ckpt holds a complete model, no adapters: --adapter is for runs with --lora_rank; leave it out')
    assert mistake('convert.py', 'from_hf', 'adapter', 'new') == (
        'adapter holds a LoRA adapter, not a complete model: give the model that it was trained on with --base MODEL_OR_RUN; '
        'adapter_config.json names its base: "gpt2", here 124M (./download_model.py 124M)')
    assert mistake('convert.py', 'from_hf', 'there', 'new', '--base', 'toy') == (
        'there holds no adapter_config.json, so it is no adapter of peft; --base is for these')
    assert mistake('convert.py', 'from_hf', 'adapter', 'new', '--base', 'there') == (
        '--base there is a Hugging Face directory: ./convert.py from_hf there NAME makes a model of it, which --base takes')
    assert "no model 'toi' in models: did you mean toy?" in mistake('convert.py', 'from_hf', 'adapter', 'new', '--base', 'toi')
    assert 'use_dora is true' in mistake('convert.py', 'from_hf', 'adapter', 'new', '--base', 'toy')
    edit(adapter / 'adapter_config.json', use_dora=False)
    assert mistake('convert.py', 'from_hf', 'adapter', 'new', '--base', 'toy') == 'adapter holds no adapter_model.safetensors'
    assert {path.name for path in home.iterdir()} == {'models', 'corpus.txt', 'there', 'adapter'}
    assert {path.name for path in (home / 'models').iterdir()} == {'toy', 'one_block'}


def test_a_complete_model_with_an_adapter_next_to_it(convert, there, home, model_directory):
    (there / 'adapter_config.json').write_text('{}')
    assert convert('from_hf', 'there', 'back').splitlines()[1:] == [
        'there holds a LoRA adapter too, which is not in the new model; --base reads it']
    assert same_weights(home / 'models/back', model_directory)
    assert "peft_type is null; expected 'LORA'" in refused(convert, home, 'from_hf', 'there', 'new', '--base', 'back')


def test_a_disk_that_fills_up_leaves_no_adapter(convert, write_run, home, monkeypatch):
    def full(*_):
        raise OSError(28, 'No space left on device')
    write_run('a', 'models/toy/model.ckpt', Lora(3, 12))
    monkeypatch.setattr(safetensors_format, 'write_safetensors', full)
    assert refused(convert, home, 'to_hf', 'a', 'new', '--adapter') == 'cannot write new: No space left on device'
