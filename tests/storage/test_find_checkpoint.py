"""storage/find_checkpoint.py: which checkpoint a name means, and what is said about one that is not there."""

import json
import os

import pytest

from command.errors import UserError
from storage import checkpoints, run_state
from storage.find_checkpoint import find_checkpoint, find_start
from storage.run_state import RunState


@pytest.mark.parametrize('name', [
    'checkpoint/run', 'checkpoint/run/model-3', 'checkpoint/run/model-3.index', '3', 'run', 'run/3', 'run/latest', 'run/model-3',
    'checkpoint/run/3', 'checkpoint/run/latest', './checkpoint/run/3', 'model-3', 'run/model-3.index'])
def test_ways_to_name_a_checkpoint(write, name):
    write('checkpoint/run/model-2', 'checkpoint/run/model-3')
    assert os.path.normpath(find_start(name, 'checkpoint/run')) == 'checkpoint/run/model-3'
    if name.startswith('checkpoint'):
        assert find_checkpoint(name) == 'checkpoint/run/model-3'


@pytest.fixture
def over(write, tmp_path):
    """The directory of a run with --keep_best of which step 10 is the best, and 20 and 30 are worse."""
    write('checkpoint/over/model-10', state=True, validated=10, best_step=10, best_loss=5.25)
    write('checkpoint/over/model-20', state=True, validated=20, best_step=10, best_loss=5.25, not_better=1)
    write('checkpoint/over/model-30', state=True, validated=30, best_step=10, best_loss=5.25, not_better=2)
    (tmp_path / 'checkpoint/over/settings.json').write_text(json.dumps({'flags': {'keep_best': True}}))
    return tmp_path / 'checkpoint/over'


def test_a_run_that_keeps_its_best_is_its_best(over, capsys):
    assert find_checkpoint('checkpoint/over') == 'checkpoint/over/model-10'
    assert capsys.readouterr() == ('', (
        'note: taking checkpoint/over/model-10, which has the lowest validation loss of the run, 5.2500 (--keep_best); '
        'checkpoint/over/latest is the newest, model-30\n'))
    assert find_checkpoint('checkpoint/over/latest') == find_checkpoint('checkpoint/over/30') == 'checkpoint/over/model-30'
    assert find_checkpoint('checkpoint/over/model-20') == 'checkpoint/over/model-20'
    assert capsys.readouterr().err == ''
    assert find_checkpoint('checkpoint/over/best') == 'checkpoint/over/model-10'
    assert capsys.readouterr().err == ('note: checkpoint/over/best is checkpoint/over/model-10, which has the lowest validation '
                                       'loss of the run, 5.2500\n')


@pytest.mark.parametrize('settings', ['{"flags": {"keep_best": false}}', '{"flags": {}}', '[]', '{', None])
def test_other_runs_are_their_newest(over, settings, capsys):
    (over / 'settings.json').write_text(settings) if settings else (over / 'settings.json').unlink()
    assert find_checkpoint('checkpoint/over') == 'checkpoint/over/model-30'
    assert capsys.readouterr().err == ''
    assert find_checkpoint('checkpoint/over/best') == 'checkpoint/over/model-10'


def test_another_run_starts_from_the_best_but_the_run_itself_from_its_newest(over):
    for name in ('over', 'checkpoint/over', 'over/best'):
        assert find_start(name, 'checkpoint/other') == 'checkpoint/over/model-10'
    assert find_start('over/latest', 'checkpoint/other') == 'checkpoint/over/model-30'
    for name in ('over', 'checkpoint/over'):
        assert find_start(name, 'checkpoint/over') == 'checkpoint/over/model-30'
    for name in ('best', 'over/best', '10', 'model-10'):
        assert find_start(name, 'checkpoint/over') == 'checkpoint/over/model-10'


def test_nothing_is_printed_where_the_best_is_the_newest(over, write, capsys):
    write('checkpoint/over/model-40', state=True, validated=40, best_step=40, best_loss=5.0)
    assert find_checkpoint('checkpoint/over') == 'checkpoint/over/model-40'
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize(('change', 'words'), [
    (lambda: checkpoints.remove_checkpoint('checkpoint/over/model-10'),
     'checkpoint/over has no best checkpoint: the lowest validation loss, 5.2500, was that of step 10, which was not kept ('),
    # Written before the run went back to an earlier step: another model than the one that has this loss.
    (lambda: run_state.write('checkpoint/over/model-10', RunState(step=10, validated=10, best_step=10, best_loss=5.75)),
     'checkpoint/over has no best checkpoint: the lowest validation loss, 5.2500, was that of step 10, which was not kept'),
    (lambda: run_state.write('checkpoint/over/model-30', RunState(step=30)),
     'checkpoint/over has no best checkpoint: its validation loss was not measured (--val_every); checkpoints there: '),
    (lambda: run_state.write('checkpoint/over/model-30', RunState(step=30, best_step=0, best_loss=4.5)),
     'checkpoint/over has no best checkpoint: the lowest validation loss, 4.5000, was measured before its first step; '),
    (lambda: os.remove('checkpoint/over/model-30.json'),
     'checkpoint/over/model-30.json, which names the best checkpoint of checkpoint/over, is missing; checkpoints there: '),
    (lambda: os.truncate('checkpoint/over/model-30.json', 30), 'checkpoint/over/model-30.json is damaged')])
def test_a_run_without_a_best(over, change, words, capsys):
    change()
    with pytest.raises(UserError) as error:
        find_checkpoint('checkpoint/over/best')
    assert str(error.value).startswith(words)
    assert capsys.readouterr().err == ''
    assert find_checkpoint('checkpoint/over') == 'checkpoint/over/model-30'
    assert capsys.readouterr().err.startswith(f'note: taking the newest checkpoint, checkpoint/over/model-30: {words}')


@pytest.mark.parametrize('own', [RunState(step=10, validated=0), None])
def test_the_best_was_saved_before_its_validation_or_lost_its_state(over, own):
    """As when Ctrl-C stops the run after a step at which it would validate, which the next start does first."""
    run_state.write('checkpoint/over/model-10', own) if own else os.remove('checkpoint/over/model-10.json')
    assert find_checkpoint('checkpoint/over/best') == 'checkpoint/over/model-10'


def test_a_directory_with_such_a_name_comes_first(over, write):
    for prefix in ('best/model-1', '20/model-2', 'latest/model-3'):
        write(f'checkpoint/over/{prefix}')
    for name, prefix in (('best', 'best/model-1'), ('20', '20/model-2'), ('latest', 'latest/model-3'), ('30', 'model-30')):
        assert find_checkpoint(f'checkpoint/over/{name}') == f'checkpoint/over/{prefix}'
        assert find_start(f'over/{name}', 'checkpoint/other') == f'checkpoint/over/{prefix}'


@pytest.mark.parametrize(('name', 'words'), [
    ('9', "no checkpoint 'checkpoint/run/model-9'; checkpoints there: checkpoint/run/model-2, checkpoint/run/model-3"),
    ('checkpoint/empty', "no checkpoint 'checkpoint/empty'; checkpoint/empty holds no checkpoints"),
    ('run/9', "no checkpoint 'checkpoint/run/model-9'; checkpoints there: checkpoint/run/model-2, checkpoint/run/model-3"),
    ('run/model-9', "no checkpoint 'checkpoint/run/model-9'; checkpoints there: checkpoint/run/model-2, checkpoint/run/model-3"),
    ('nothing', "no checkpoint 'nothing'; this run has checkpoint/run/model-2, checkpoint/run/model-3; runs in checkpoint: run")])
def test_a_checkpoint_that_does_not_exist(write, name, words):
    write('checkpoint/run/model-2', 'checkpoint/run/model-3')
    os.makedirs('checkpoint/empty')
    open('checkpoint/run/hparams.json', 'w').close()
    with pytest.raises(UserError) as error:
        find_start(name, 'checkpoint/run')
    assert str(error.value) == words


def test_without_any_run(write):
    with pytest.raises(UserError, match="no checkpoint 'x'; this run has none; runs in checkpoint: none"):
        find_start('x', 'checkpoint/run')
    with pytest.raises(UserError, match="no checkpoint 'a/b'; a holds no checkpoints"):
        find_checkpoint('a/b')


def test_a_checkpoint_file_that_names_none(write):
    write('run/model-3')
    os.remove('run/checkpoint')
    with pytest.raises(UserError, match='run/checkpoint is missing, or does not name one that is there; checkpoints there: '
                                        'run/model-3'):
        find_checkpoint('run')


def test_the_run_before_overwrite_is_named(write):
    os.makedirs('run/.overwritten')
    with pytest.raises(UserError, match="run holds no checkpoints; run/.overwritten holds the run before --overwrite, which the "
                                        "next ./train.py puts back"):
        find_checkpoint('run')
