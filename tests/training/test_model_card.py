"""training/model_card.py: the README.md of a converted model has the facts of its run, and no private path."""

import json

import pytest

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
                           '- steps: 4\n- validation loss: 2.2500 nats per token, at step 4\n\n'
                           'Converted from a TensorFlow checkpoint.')
    assert 'secret' not in card


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
    assert '- steps: 4\n\n' in model_card(str(run), str(run / 'model-4'))


@pytest.mark.parametrize(('name', 'hub_name'), [('345M', 'openai-community/gpt2-medium'), ('774M', 'openai-community/gpt2-large'),
                                                ('mine', None)])
def test_a_model(tmp_path, name, hub_name):
    (tmp_path / name).mkdir()
    card = model_card(f'{tmp_path}/{name}/', str(tmp_path / name / 'model.ckpt'))
    assert (f'\nbase_model: {hub_name}\n' in card) if hub_name else ('base_model' not in card)
    assert f'\n# {name}, a GPT-2\n\nConverted from' in card
    assert card.endswith('```\n')
