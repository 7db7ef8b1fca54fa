"""Model and run directories that will not do, with every script that reads one: a line that names the file, and nothing written."""

import importlib
import json
import os
import shutil
import sys

import pytest

from checkpoint_files import write_checkpoint, zeros
from command import errors, models
from conftest import TEXT
from network.hparams import load_hparams

WEIGHTS = 'model.ckpt.data-00000-of-00001'


@pytest.fixture
def place(settings_directory, tmp_path, monkeypatch):
    """A working directory with a corpus, and models/bad and checkpoint/bad, in which all is well still."""
    for parent in ('models', 'checkpoint'):
        directory = tmp_path / parent / 'bad'
        shutil.copytree(settings_directory, directory)
        (directory / 'checkpoint').write_text('model_checkpoint_path: "model.ckpt"\n')
        write_checkpoint(directory / 'model.ckpt', zeros(load_hparams(str(settings_directory)).shapes()))
    (tmp_path / 'corpus.txt').write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    for name in ('tensorflow', 'tensorflow.compat.v1'):     # which makes an import of it fail
        monkeypatch.setitem(sys.modules, name, None)
    return tmp_path


@pytest.fixture
def mistake(place, monkeypatch, capfd):
    """Runs a script in this process that must end with status 2, one line, and nothing written: that line."""
    def run(script, *arguments):
        before = sorted(place.rglob('*'))
        monkeypatch.setattr(sys, 'argv', [f'{script}.py', *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit:
            errors.run(importlib.import_module(script).main)
        output, [line] = (text.splitlines() for text in capfd.readouterr())
        assert exit.value.code == 2 and output == []
        assert sorted(place.rglob('*')) == before
        assert line.startswith(f'{script}.py: ')
        return line.removeprefix(f'{script}.py: ')
    return run


def replace_by_directory(path):
    path.unlink()
    path.mkdir()


def without(path, field):
    path.write_text(json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != field}))


def with_size(path, value):
    path.write_text(json.dumps(json.loads(path.read_text()) | {'n_ctx': value}))


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


def cut_lines(path, count):
    path.write_text('\n'.join(path.read_text().split('\n')[:count]))


@pytest.mark.parametrize(('name', 'harm', 'words'), [
    ('hparams.json', lambda path: path.unlink(), 'bad holds no file hparams.json: copy hparams.json, encoder.json, vocab.bpe into'),
    ('hparams.json', replace_by_directory, 'bad holds no file hparams.json'),
    ('hparams.json', lambda path: cut(path, 0), 'bad/hparams.json is not JSON'),
    ('hparams.json', lambda path: without(path, 'n_head'), 'bad/hparams.json lacks n_head'),
    ('hparams.json', lambda path: with_size(path, '32'), "bad/hparams.json: n_ctx must be a positive whole number, not '32'"),
    ('hparams.json', lambda path: with_size(path, 64), 'bad/model.ckpt is a checkpoint of another model, it looks like'),
    ('encoder.json', lambda path: path.unlink(), 'cannot read {}: No such file or directory'),
    ('encoder.json', replace_by_directory, 'cannot read {}: Is a directory'),
    ('encoder.json', lambda path: cut(path, 999), '{} is not JSON'),
    ('vocab.bpe', lambda path: path.unlink(), 'cannot read {}: No such file or directory'),
    ('vocab.bpe', lambda path: cut(path, 0), "{} line 1: expected '#version: 0.2', not ''"),
    ('vocab.bpe', lambda path: cut_lines(path, 20), '{} ends after 19 merges, none of which makes '),
    ('checkpoint', lambda path: path.unlink(), 'bad/checkpoint is missing, or does not name one that is there; checkpoints there:'),
    ('checkpoint', replace_by_directory, 'bad/checkpoint is missing, or does not name one that is there; checkpoints there:'),
    ('checkpoint', lambda path: path.write_text('x'), 'bad/checkpoint is missing, or does not name one that is there'),
    ('model.ckpt.index', lambda path: path.unlink(), 'bad holds no checkpoints'),
    ('model.ckpt.index', replace_by_directory, 'bad holds no checkpoints'),
    ('model.ckpt.index', lambda path: cut(path, 0), '{} is cut off or damaged'),
    ('model.ckpt.index', lambda path: cut(path, 200), '{} is cut off or damaged'),
    (WEIGHTS, lambda path: path.unlink(), '{}: No such file or directory'),
    (WEIGHTS, replace_by_directory, '{}: Is a directory'),
    (WEIGHTS, lambda path: cut(path, 1000), '{} is cut off: it has 1,000 bytes of '),
])
def test_a_directory_that_will_not_do(place, mistake, name, harm, words):
    for parent in ('models', 'checkpoint'):
        harm(place / parent / 'bad' / name)
    model, run = (words.format(f'{parent}/bad/{name}') for parent in ('models', 'checkpoint'))
    assert model in mistake('evaluate', '--dataset', 'corpus.txt', '--model_name', 'bad')
    assert run in mistake('evaluate', '--dataset', 'corpus.txt', '--run_name', 'bad')
    assert run in mistake('create_model', 'new', '--from_run', 'bad')
    assert model in mistake('generate_unconditional_samples', '--model_name', 'bad')
    assert run in mistake('interactive_conditional_samples', '--run_name', 'bad')
    if words.startswith('bad holds no file'):
        assert words in mistake('convert', 'to_hf', 'bad', 'out')
    else:
        assert model in mistake('convert', 'to_hf', 'models/bad', 'out')


@pytest.mark.parametrize(('block', 'words'), [
    (lambda target: target.mkdir() or (target / 'x').touch(), '{} is there already: choose another name, or remove it'),
    (lambda target: target.touch(), '{} is there already: choose another name, or remove it'),
    (lambda target: target.symlink_to('nowhere'), '{} is there already: choose another name, or remove it'),
    (lambda target: (target.parent / 'new.part').touch(), '{}.part, which would become {} when it is whole, is there already')])
def test_an_output_that_is_there(place, mistake, block, words):
    block(place / 'models/new')
    words = words.format('models/new', 'models/new')
    assert mistake('convert', 'to_hf', 'models/bad', 'models/new').startswith(words)
    assert mistake('create_model', 'new', '--dataset', 'corpus.txt', '--vocab_size', '260').startswith(words)


def test_where_nothing_can_be_written(place, mistake):
    for target in ('corpus.txt/new', '/proc/new'):
        assert mistake('convert', 'to_hf', 'models/bad', target).startswith(f'cannot write {target}: ')
        assert mistake('create_model', 'new', '--dataset', 'corpus.txt', '--models_dir', os.path.dirname(target)).startswith(
            f'cannot write {target}: ')


def test_a_name_that_is_nothing(place, mistake):
    for name in ('corpus.txt', '../corpus.txt', 'nowhere', ''):
        assert f'no model {name!r} in models; models here: bad' in mistake('convert', 'to_hf', name, 'out')
    assert mistake('create_model', 'new', '--from_run', 'nowhere').startswith("no run 'nowhere' in checkpoint; runs here: bad")


def test_a_directory_without_a_checkpoint_is_not_spoken_of(place):
    """What is left of a download that broke off: the way on is to go on with it."""
    (place / 'models/124M').mkdir()
    with pytest.raises(errors.UserError, match=r"no model '124M' in models: ./download_model.py 124M fetches it"):
        models.find_model('124M')
