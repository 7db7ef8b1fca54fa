"""training/model_card.py: the README.md of a converted model has the facts of its run, and no private path."""

import json

import pytest

from storage import run_state
from training.model_card import model_card


@pytest.fixture
def run(tmp_path):
    """The directory of a run on a private corpus."""
    directory = tmp_path / 'my_run'
    directory.mkdir()
    (directory / 'settings.json').write_text(json.dumps(
        {'flags': {'model_name': '117M'}, 'corpus': {'name': '/home/me/secret/corpus.txt', 'tokens': 1234}}))
    rows = [{'step': 2, 'val_loss': 3.5}, {'step': 4, 'val_loss': 2.25}, {'step': 4, 'loss': 1.0}, {'step': 5, 'val_loss': 9.0}]
    (directory / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return directory


def test_a_run(run):
    card = model_card(str(run), str(run / 'model-4'))
    head, _, body = card.removeprefix('---\n').partition('\n---\n')
    assert head == ('library_name: transformers\npipeline_tag: text-generation\ntags: [gpt2]\n'
                    'base_model: openai-community/gpt2')
    assert body.startswith('\n# my_run, a GPT-2 fine-tuned on a text\n\n- base model: 117M\n- corpus: `corpus.txt`, 1234 tokens\n'
                           '- weights: checkpoint `model-4`, after 4 steps\n'
                           '- validation loss: 2.2500 nats per token, the lowest of the run up to these weights\n\n'
                           'Converted from a TensorFlow checkpoint.')
    assert 'secret' not in card


def test_the_best_is_named_and_not_the_last(run):
    assert ('- validation loss: 2.2500 nats per token at step 4, the lowest of the run up to these weights; 9.0000 with these '
            'weights\n') in model_card(str(run), str(run / 'model-5'))
    assert ('- validation loss: 3.5000 nats per token at step 2, the lowest of the run up to these weights, not measured with '
            'these weights\n') in model_card(str(run), str(run / 'model-3'))


@pytest.mark.parametrize(('validation', 'words'), [
    ({'name': '/home/me/secret/other.txt', 'split': 0.0, 'tokens': 90}, '`other.txt`, 90 tokens'),
    ({'name': ['/home/me/secret/a.txt', 'b.txt'], 'split': 0.0, 'tokens': 90}, '`a.txt, b.txt`, 90 tokens'),
    ({'name': None, 'split': 0.125, 'tokens': 123}, '12.5 % of the corpus, 123 tokens, not trained on'),
    ({'name': None, 'split': 0.0, 'tokens': 1234}, 'the corpus itself, 1234 tokens, which it was trained on'),
])
def test_what_validation_was_on(run, validation, words):
    settings = json.loads((run / 'settings.json').read_text())
    (run / 'settings.json').write_text(json.dumps(settings | {'validation': validation}))
    card = model_card(str(run), str(run / 'model-4'))
    assert f'- validation loss on {words}: 2.2500 nats per token, the' in card and 'secret' not in card


def test_a_checkpoint_of_another_branch(run):
    """Its losses are in a file of their own."""
    rows = [{'step': 1, 'loss': 7.0}, {'step': 2, 'val_loss': 1.5}, {'step': 2, 'loss': 3.0}, {'step': 4, 'val_loss': 1.75}]
    (run / 'metrics-4.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    run_state.write(str(run / 'model-4'), run_state.RunState(step=4, validated=4, average=[7 * 0.99 + 3, 1.99]))
    card = model_card(str(run), str(run / 'model-4'))
    assert ' 1.5000 nats per token at step 2, the lowest of the run up to these weights; 1.7500 with these weights\n' in card


def test_a_run_of_a_model_that_was_named_by_its_path(run):
    (run / 'settings.json').write_text(json.dumps(
        {'flags': {'model_name': '/home/me/secret/run/best'}, 'corpus': {'name': 'a', 'tokens': 1}}))
    card = model_card(str(run), str(run / 'model-4'))
    assert '\n- base model: run\n' in card and 'secret' not in card


def test_a_run_on_several_data_sets(run):
    names = ['/home/me/secret/a.txt=2', '~/secret/b/', 'c', 'd', 'e']
    (run / 'settings.json').write_text(json.dumps({'flags': {}, 'corpus': {'name': names, 'tokens': 1234}}))
    card = model_card(str(run), str(run / 'model-4'))
    assert '\n- corpus: `a.txt=2, b, c and 2 more`, 1234 tokens\n' in card and 'secret' not in card


def test_a_run_without_validation(run):
    assert 'validation loss' not in model_card(str(run), str(run / 'model-1'))
    (run / 'metrics.jsonl').unlink()
    assert '- weights: checkpoint `model-4`, after 4 steps\n\n' in model_card(str(run), str(run / 'model-4'))


@pytest.mark.parametrize(('name', 'hub_name'), [('345M', 'openai-community/gpt2-medium'), ('774M', 'openai-community/gpt2-large'),
                                                ('mine', None)])
def test_a_model(tmp_path, name, hub_name):
    (tmp_path / name).mkdir()
    card = model_card(f'{tmp_path}/{name}/', str(tmp_path / name / 'model.ckpt'))
    assert (f'\nbase_model: {hub_name}\n' in card) if hub_name else ('base_model' not in card)
    assert f'\n# {name}, a GPT-2\n\nConverted from' in card
    assert card.endswith('```\n')


@pytest.mark.parametrize(('base', 'head', 'line'), [
    ('openai-community/gpt2', '\nbase_model: openai-community/gpt2', "base = 'openai-community/gpt2'\n"),
    ('full/100', '', "base = 'full/100'     # as a Hugging Face directory\n"),
    ('124M', '', "base = '124M'     # as a Hugging Face directory\n")])       # of other sizes than the published one
def test_the_card_of_adapters(run, base, head, line):
    card = model_card(str(run), str(run / 'model-4'), adapter_of=base)
    assert card.startswith('---\nlibrary_name: peft\npipeline_tag: text-generation\ntags: [gpt2, lora]' + head + '\n---\n\n'
                           f'# my_run, a LoRA adapter for GPT-2 fine-tuned on a text\n\n- base model: {base}\n')
    assert f'\n{line}model, tokenizer = PeftModel.from_pretrained(' in card
