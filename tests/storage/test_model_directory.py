"""storage/model_directory.py: what is wrong with a model or run directory is one line, in every script that opens one."""

import importlib
import json
import os
import shutil
import sys

import numpy as np
import pytest

from checkpoint_files import write_checkpoint, zeros
from command import errors, models
from conftest import TEXT
from network.hparams import HParams, load_hparams
from storage import bundle, run_state
from storage.model_directory import new_directory, open_model
from storage.run_state import RunState
from text_samples import LFS_POINTER, WEB_PAGE

WEIGHTS = 'model.ckpt.data-00000-of-00001'


@pytest.fixture
def home(settings_directory, tmp_path, monkeypatch):
    """A working directory with a corpus, and valid models/bad and checkpoint/bad, for tests to damage."""
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
def mistake(home, monkeypatch, capfd):
    """Runs a script in this process that must end with status 2, one line, and nothing written: that line."""
    def run(script, *arguments):
        before = sorted(home.rglob('*'))
        monkeypatch.setattr(sys, 'argv', [f'{script}.py', *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit:
            errors.run(importlib.import_module(script).main)
        output, [line] = (text.splitlines() for text in capfd.readouterr())
        assert exit.value.code == 2 and output == []
        assert sorted(home.rglob('*')) == before
        assert line.startswith(f'{script}.py: ')
        return line.removeprefix(f'{script}.py: ')
    return run


def replace_by_directory(path):
    path.unlink()
    path.mkdir()



def without(path, field):
    path.write_text(json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != field}))


def with_size(path, value, name='n_ctx'):
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


def cut_lines(path, count):
    path.write_text('\n'.join(path.read_text().split('\n')[:count]))


def with_number(path, name, position, number):
    """Changes a number of a weight in a data file."""
    entry = bundle.read_index(str(path).partition('.data-')[0])[0][name]
    numbers = np.memmap(path, '<f4', 'r+', entry.offset, entry.size // 4)
    numbers[position] = float(number)
    numbers.flush()


@pytest.mark.parametrize('parent', ['models', 'checkpoint'])
def test_a_valid_directory_is_opened(home, parent):
    opened = open_model(f'{parent}/bad')
    assert opened.directory == f'{parent}/bad' and opened.checkpoint == f'{parent}/bad/model.ckpt'
    assert vars(opened.hparams) == json.loads((home / parent / 'bad/hparams.json').read_text())
    assert opened.encoder.decode(opened.encoder.encode('the fox')) == 'the fox'


def test_fewer_tokens_than_n_vocab_are_accepted(home):
    """As in a model whose n_vocab was rounded up."""
    hparams = json.loads((home / 'models/bad/hparams.json').read_text())
    larger = HParams(**(hparams | {'n_vocab': hparams['n_vocab'] + 1}))
    (home / 'models/bad/hparams.json').write_text(json.dumps(vars(larger)))
    write_checkpoint(home / 'models/bad/model.ckpt', zeros(larger.shapes()))
    assert open_model('models/bad').hparams == larger


def test_a_model_is_opened_without_weights_where_they_are_not_needed(home):
    for name in ('checkpoint', 'model.ckpt.index', WEIGHTS):
        (home / 'models/bad' / name).unlink()
    assert open_model('models/bad', weights=False).checkpoint is None
    with pytest.raises(errors.UserError, match='models/bad holds no checkpoints'):
        open_model('models/bad')


@pytest.mark.parametrize(('name', 'harm', 'words'), [
    ('hparams.json', lambda path: path.unlink(),
     'bad holds no file hparams.json: copy hparams.json, encoder.json, vocab.bpe into'),
    ('hparams.json', replace_by_directory, 'bad holds no file hparams.json'),
    ('hparams.json', lambda path: cut(path, 0), 'bad/hparams.json is not JSON'),
    ('hparams.json', lambda path: without(path, 'n_head'), 'bad/hparams.json lacks n_head'),
    ('hparams.json', lambda path: with_size(path, '32'), "bad/hparams.json: n_ctx must be a positive whole number, not '32'"),
    ('hparams.json', lambda path: with_size(path, 64), 'bad/model.ckpt is a checkpoint of another model, it looks like'),
    ('hparams.json', lambda path: with_size(path, 32, 'n_vocab'), ': encoder.json has '),
    ('encoder.json', lambda path: path.unlink(), 'cannot read {}: No such file or directory'),
    ('encoder.json', replace_by_directory, 'cannot read {}: Is a directory'),
    ('encoder.json', lambda path: cut(path, 999), '{} is not JSON'),
    ('vocab.bpe', lambda path: path.unlink(), 'cannot read {}: No such file or directory'),
    ('vocab.bpe', lambda path: cut(path, 0), "{} line 1: expected '#version: 0.2', not ''"),
    ('vocab.bpe', lambda path: cut_lines(path, 20), '{} ends after 19 merges, none of which makes '),
    ('checkpoint', lambda path: path.unlink(),
     'bad/checkpoint is missing, or does not name one that is there; checkpoints there:'),
    ('checkpoint', replace_by_directory, 'bad/checkpoint is missing, or does not name one that is there; checkpoints there:'),
    ('checkpoint', lambda path: path.write_text('x'), 'bad/checkpoint is missing, or does not name one that is there'),
    ('model.ckpt.index', lambda path: path.unlink(), 'bad holds no checkpoints'),
    ('model.ckpt.index', replace_by_directory, 'bad holds no checkpoints'),
    ('model.ckpt.index', lambda path: cut(path, 0), '{} is cut off or damaged'),
    ('model.ckpt.index', lambda path: cut(path, 200), '{} is cut off or damaged'),
    ('hparams.json', lambda path: path.write_bytes(WEB_PAGE), 'bad/hparams.json is a web page, not the file itself'),
    ('encoder.json', lambda path: path.write_bytes(WEB_PAGE), '{} is a web page, not the file itself'),
    ('vocab.bpe', lambda path: path.write_bytes(LFS_POINTER), '{} is a Git LFS pointer, not the file itself: `git lfs pull`'),
    ('model.ckpt.index', lambda path: path.write_bytes(LFS_POINTER), '{} is a Git LFS pointer'),
    (WEIGHTS, lambda path: path.write_bytes(LFS_POINTER), '{} is a Git LFS pointer'),
    (WEIGHTS, lambda path: with_number(path, 'model/h1/mlp/c_fc/w', 7, 'nan'),
     'bad/model.ckpt is of no use: its weight model/h1/mlp/c_fc/w holds NaN or infinite numbers; take an earlier checkpoint'),
    (WEIGHTS, lambda path: path.unlink(), '{}: No such file or directory'),
    (WEIGHTS, replace_by_directory, '{}: Is a directory'),
    (WEIGHTS, lambda path: cut(path, 1000), '{} is cut off: it has 1,000 bytes of '),
])
def test_every_script_refuses_an_invalid_directory(home, mistake, name, harm, words):
    for parent in ('models', 'checkpoint'):
        harm(home / parent / 'bad' / name)
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


@pytest.mark.parametrize('command', [
    ('evaluate', '--dataset', 'corpus.txt', '--run_name', 'x'), ('create_model', 'new', '--from_run', 'x'),
    ('convert', 'to_hf', 'x', 'out'), ('interactive_conditional_samples', '--run_name', 'x'),
    ('generate_unconditional_samples', '--run_name', 'x')], ids=lambda command: command[0])
def test_every_script_takes_another_directory_of_runs(home, mistake, command):
    (home / 'checkpoint/bad').rename(home / 'checkpoint/x')
    (home / 'runs').mkdir()
    error = mistake(*command, '--checkpoint_dir', 'runs')
    assert error.endswith("no run 'x' in runs; no runs are here; ./train.py makes one")


@pytest.fixture
def run(home):
    """A run `checkpoint/bad` with checksums, as train.py writes it."""
    directory = home / 'checkpoint/bad'
    for path in [*directory.glob('model.ckpt*')]:
        path.rename(directory / path.name.replace('model.ckpt', 'model-5'))
    (directory / 'model-5.meta').write_bytes(b'a graph')
    run_state.write(str(directory / 'model-5'), RunState(step=5))
    (directory / 'checkpoint').write_text('model_checkpoint_path: "model-5"\n')
    return directory


def test_a_run_with_matching_checksums_is_opened(run):
    assert open_model('checkpoint/bad').checkpoint == 'checkpoint/bad/model-5'


@pytest.mark.parametrize('suffix', ['.index', '.data-00000-of-00001', '.json'])
@pytest.mark.parametrize('harm', ['flip', 'remove'])
def test_every_script_refuses_a_run_whose_checksums_do_not_match(run, mistake, suffix, harm):
    path = run / f'model-5{suffix}'
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content) if harm == 'flip' else path.unlink()
    if suffix == '.json':       # the weights are sound without it, as in a checkpoint of the 2019 tools
        assert open_model('checkpoint/bad').checkpoint == 'checkpoint/bad/model-5'
        return
    words = {'.index': 'holds no checkpoints'}.get(suffix, f'model-5{suffix} is missing') if harm == 'remove' else (
        f'checkpoint/bad/model-5{suffix} is damaged')
    assert words in mistake('evaluate', '--dataset', 'corpus.txt', '--run_name', 'bad')
    assert words in mistake('create_model', 'new', '--from_run', 'bad')
    assert words in mistake('convert', 'to_hf', 'checkpoint/bad', 'out')
    assert words in mistake('interactive_conditional_samples', '--run_name', 'bad')
    assert words in mistake('generate_unconditional_samples', '--run_name', 'bad')


@pytest.mark.parametrize(('block', 'words'), [
    (lambda target: target.mkdir() or (target / 'x').touch(), '{} exists already: choose another name, or remove it'),
    (lambda target: target.touch(), '{} exists already: choose another name, or remove it'),
    (lambda target: target.symlink_to('nowhere'), '{} exists already: choose another name, or remove it'),
    (lambda target: (target.parent / 'new.part').touch(), '{}.part, the name of the unfinished {}, exists already')])
def test_an_output_that_exists(home, mistake, block, words):
    block(home / 'models/new')
    words = words.format('models/new', 'models/new')
    assert mistake('convert', 'to_hf', 'models/bad', 'models/new').startswith(words)
    assert mistake('create_model', 'new', '--dataset', 'corpus.txt', '--vocab_size', '260').startswith(words)


def test_where_nothing_can_be_written(home, mistake):
    for target in ('corpus.txt/new', '/proc/new'):
        assert mistake('convert', 'to_hf', 'models/bad', target).startswith(f'cannot write {target}: ')
        assert mistake('create_model', 'new', '--dataset', 'corpus.txt', '--models_dir', os.path.dirname(target)).startswith(
            f'cannot write {target}: ')


def test_an_unknown_name(home, mistake):
    for name in ('corpus.txt', '../corpus.txt', 'nowhere', ''):
        assert f'no model {name!r} in models; models here: bad' in mistake('convert', 'to_hf', name, 'out')
    assert mistake('create_model', 'new', '--from_run', 'nowhere').startswith("no run 'nowhere' in checkpoint; runs here: bad")


def test_an_interrupted_download_is_to_be_resumed(home):
    """Its directory has neither hparams.json nor a complete checkpoint yet."""
    (home / 'models/124M').mkdir()
    with pytest.raises(errors.UserError, match=r"no model '124M' in models: ./download_model.py 124M fetches it"):
        models.find_model('124M')


def test_a_new_directory_appears_when_it_is_complete(tmp_path):
    (tmp_path / 'new.part').mkdir()
    (tmp_path / 'new.part' / 'left over').touch()       # by a process that was killed
    (tmp_path / 'new').mkdir()
    with new_directory(f'{tmp_path}/new/') as unfinished:
        (tmp_path / 'new.part' / 'file').write_text('text')
        assert unfinished == f'{tmp_path}/new.part'
        assert os.listdir(tmp_path / 'new') == []
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob('*')] == ['new', 'new/file']


def test_a_new_directory_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match='wrong'), new_directory(f'{tmp_path}/new'):
        (tmp_path / 'new.part' / 'file').touch()
        raise ValueError('wrong')
    assert os.listdir(tmp_path) == []
