"""Finding models and runs by name."""

import pytest

from command import models
from command.errors import UserError

HERE = 'models here: 124M, mine, theirs; ./download_model.py fetches 124M, 355M, 774M, 1558M'


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A working directory with models/124M, models/mine and checkpoint/run1; another project directory, with models/theirs."""
    for path in ('home/models/124M', 'home/models/mine', 'home/checkpoint/run1', 'project/models/theirs'):
        (tmp_path / path).mkdir(parents=True)
        (tmp_path / path / 'hparams.json').touch()
    (tmp_path / 'home/models/unfinished').mkdir()
    (tmp_path / 'home/models/file').touch()
    monkeypatch.setattr(models, 'PROJECT_DIR', str(tmp_path / 'project'))
    monkeypatch.chdir(tmp_path / 'home')
    return tmp_path / 'home'


def test_published_names():
    assert [models.published_name(name) for name in ('117M', '124M', '345M')] == ['124M', '124M', '355M']
    with pytest.raises(UserError, match="^no published model is called '9M'; there are 124M, 355M, 774M, 1558M, 117M, 345M$"):
        models.published_name('9M')
    with pytest.raises(UserError, match=r"^no published model is called '125M': did you mean 124M\? there are 124M, 355M, "):
        models.published_name('125M')


def test_the_published_sizes_have_the_published_numbers_of_parameters():
    counts = {name: (50257 + 1024) * n_embd + n_layer * (12 * n_embd ** 2 + 13 * n_embd) + 2 * n_embd
              for name, (n_layer, n_embd) in models.SIZES.items()}
    assert counts == {'124M': 124_439_808, '355M': 354_823_168, '774M': 774_030_080, '1558M': 1_557_611_200}


def test_models_are_found_by_either_name_and_next_to_the_scripts(home):
    assert models.list_models('models') == ['124M', 'mine']
    assert models.list_models('nowhere') == []
    assert models.find_model('117M') == models.find_model('124M') == 'models/124M'
    (home / 'models/124M').rename(home / 'models/117M')
    assert models.find_model('124M') == 'models/117M'
    assert models.find_model('theirs') == str(home.parent / 'project/models/theirs')
    assert models.find_model('mine', str(home / 'models')) == str(home / 'models/mine')


@pytest.mark.parametrize(('arguments', 'message'), [
    (('355M',), "no model '355M' in models: ./download_model.py 355M fetches it; models here: 124M, mine, theirs"),
    (('345M',), "no model '345M' in models: ./download_model.py 345M fetches it; models here: 124M, mine, theirs"),
    (('x',), "no model 'x' in models; models here: 124M, mine, theirs; ./download_model.py fetches 124M, 355M, 774M, 1558M"),
    (('thiers',), f"no model 'thiers' in models: did you mean theirs? {HERE}"),
    (('356M',), f"no model '356M' in models: did you mean 355M? {HERE}"),
    (('theirs', 'empty'), "no model 'theirs' in empty; no models are here; ./download_model.py fetches 124M, 355M, 774M, 1558M"),
])
def test_a_missing_model_names_those_that_are_here(home, arguments, message):
    with pytest.raises(UserError) as error:
        models.find_model(*arguments)
    assert str(error.value) == message


def test_runs(home):
    assert models.find_run('run1') == 'checkpoint/run1'
    with pytest.raises(UserError, match=r"^no run 'run2' in checkpoint: did you mean run1\? runs here: run1$"):
        models.find_run('run2')
    with pytest.raises(UserError, match="^no run 'other' in checkpoint; runs here: run1$"):
        models.find_run('other')
    with pytest.raises(UserError, match=r"^no run 'run1' in empty; no runs are here; ./train.py makes one$"):
        models.find_run('run1', 'empty')


@pytest.mark.parametrize(('path', 'parts'), [
    ('checkpoint/run1', ('checkpoint/run1', None)), ('checkpoint/run1/best', ('checkpoint/run1', 'best')),
    ('checkpoint/run1/latest', ('checkpoint/run1', 'latest')), ('checkpoint/run1/20', ('checkpoint/run1', '20')),
    ('checkpoint/run1/model-20', ('checkpoint/run1', 'model-20')), ('checkpoint/run1/x.index', ('checkpoint/run1', 'x')),
    ('checkpoint/run1/x', ('checkpoint/run1/x', None)), ('models/mine/model.ckpt', ('models/mine', 'model.ckpt')),
    ('checkpoint/run1/own', ('checkpoint/run1', 'own')), ('checkpoint/run1/7', ('checkpoint/run1/7', None)),
    ('model-20', ('.', 'model-20')), ('', ('', None))])
def test_what_a_path_names(home, path, parts):
    (home / 'checkpoint/run1/own.index').touch()
    (home / 'checkpoint/run1/7').mkdir()
    assert models.split_path(path) == parts
    assert models.directory_of(path) == parts[0]


def test_a_checkpoint_of_a_model_or_run_and_paths_of_them(home):
    for name in ('run1/best', 'run1/20', 'run1/model-20.index'):
        assert models.find_run(name) == f'checkpoint/{name}'
        for path in (f'checkpoint/{name}', f'{home}/checkpoint/{name}', f'./checkpoint/{name}'):
            assert models.find_run(path) == models.find_model(path) == path
    assert models.find_run('checkpoint/run1') == models.find_model('checkpoint/run1') == 'checkpoint/run1'
    assert models.find_model('mine/model.ckpt') == 'models/mine/model.ckpt'
    for name in ('run2/best', 'checkpoint/run2/best', 'best', '20', 'run1/x'):
        with pytest.raises(UserError, match=rf"^no run '{name}' in checkpoint(;|: did you mean run1\?) runs here: run1$"):
            models.find_run(name)
        with pytest.raises(UserError, match=rf"^no model '{name}' in models(;|: did you mean .*\?) models here: "):
            models.find_model(name)


def test_an_empty_name_is_never_this_directory(home, monkeypatch):
    monkeypatch.chdir(home / 'checkpoint/run1')
    for find in (models.find_run, models.find_model):
        for name in ('', 'best'):
            with pytest.raises(UserError, match=f"^no (run|model) '{name}'"):
                find(name)


def test_paths_of_runs(home):
    assert models.run_path('checkpoint', 'run1') == models.run_path('checkpoint', './run1/') == 'checkpoint/run1'
    assert models.run_path('/data', 'exp/..b') == '/data/exp/..b'
    for name in ('', '.', '..', '../a', '/a', 'a/../..'):
        with pytest.raises(UserError, match=f"^--run_name '{name}' is not the name of a directory in checkpoint: give a name "):
            models.run_path('checkpoint', name)


def test_a_checkpoint_without_settings_names_the_files_to_copy(home):
    for directory in ('models/old', 'checkpoint/old'):
        (home / directory).mkdir()
        (home / directory / 'model-7.index').touch()
    for find, directory in ((models.find_model, 'models/old'), (models.find_run, 'checkpoint/old')):
        with pytest.raises(UserError, match=f'^{directory} holds no file hparams.json: copy hparams.json, encoder.json, '):
            find('old')
        with pytest.raises(UserError, match=f'^{directory} holds no file hparams.json: copy hparams.json, encoder.json, '):
            find('old/best')


def test_a_name_that_is_not_utf_8_is_refused(home):
    for find, path in ((models.find_model, 'models/t\udce9'), (models.find_run, 'checkpoint/t\udce9')):
        (home / path).mkdir()
        (home / path / 'hparams.json').touch()
        with pytest.raises(UserError, match='is not UTF-8, which TensorFlow needs'):
            find('t\udce9')
