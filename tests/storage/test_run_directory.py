"""storage/run_directory.py: what a failed start takes away again, and that --overwrite never leaves neither run."""

import contextlib
import os

import pytest

from command.errors import UserError
from storage import lock, run_directory

OLD = ('checkpoint', 'counter', 'settings.json', 'metrics.jsonl', 'loss.png', 'hparams.json', 'adapter.json', 'model-1.index',
       'model-1.json', 'model-1.data-00000-of-00001', 'metrics-1.jsonl', 'events.out.tfevents.1.host',
       'validation/events.out.tfevents.1.host')
OTHERS = ('lock', 'dataset.npz', 'model.py', 'notes.txt')


def contents(directory):
    return {str(path.relative_to(directory)): path.read_text() for path in directory.rglob('*') if path.is_file()}


def test_a_failed_start_removes_what_it_made_alone(tmp_path):
    (tmp_path / 'mine').mkdir()
    with contextlib.ExitStack() as undo:
        run_directory.take(str(tmp_path / 'mine/checkpoint/exp'), undo)
        assert lock.training_process(str(tmp_path / 'mine/checkpoint/exp')) == str(os.getpid())
    assert [path.name for path in tmp_path.rglob('*')] == ['mine']
    with contextlib.ExitStack() as undo:
        run_directory.take(str(tmp_path / 'mine/checkpoint/exp'), undo)
        (tmp_path / 'mine/checkpoint/exp/b').mkdir()        # another run, which starts in the meantime
        (tmp_path / 'mine/checkpoint/exp/b/model-1.index').touch()
    assert contents(tmp_path) == {'mine/checkpoint/exp/b/model-1.index': ''}


def test_a_lock_file_that_was_there_before_stays(tmp_path):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run/lock').touch()
    with contextlib.ExitStack() as undo:
        run_directory.take(str(tmp_path / 'run'), undo)
    assert list(contents(tmp_path)) == ['run/lock']
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match='cannot write to .*file/run: Not a directory'), contextlib.ExitStack() as undo:
        run_directory.take(str(tmp_path / 'file/run'), undo)


@pytest.fixture
def run(tmp_path):
    """A run's directory with a file for each name of OLD and OTHERS, which contains its name."""
    (tmp_path / 'validation').mkdir()
    for name in (*OLD, *OTHERS):
        (tmp_path / name).write_text(name)
    return tmp_path


def write_new(run, names):
    for name in names:
        (run / name).write_text('new')


def interrupt(monkeypatch, moment):
    """Makes the call number `moment` that changes a directory raise KeyboardInterrupt."""
    left = [moment]
    for name, do in [(name, getattr(os, name)) for name in ('replace', 'remove', 'rmdir', 'mkdir')]:
        def interrupted(*arguments, _do=do, **kwargs):
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
            return _do(*arguments, **kwargs)
        monkeypatch.setattr(os, name, interrupted)


def test_a_new_run_with_a_checkpoint_replaces_the_old(run):
    run_directory.set_aside(str(run))
    assert {path.name for path in run.iterdir()} == {*OTHERS, '.overwritten', 'validation'}
    assert not list((run / 'validation').iterdir())
    write_new(run, ['settings.json', 'model-1.index', 'checkpoint'])
    run_directory.settle(str(run))
    new = dict.fromkeys(['settings.json', 'model-1.index', 'checkpoint'], 'new')
    assert contents(run) == {name: name for name in OTHERS} | new
    run_directory.settle(str(run))
    assert not (run / '.overwritten').exists() and (run / 'checkpoint').exists()


def test_what_others_keep_where_the_old_run_is_set_aside_stays(run):
    (run / '.overwritten').mkdir()
    (run / '.overwritten/notes.txt').write_text('mine')
    run_directory.set_aside(str(run))
    write_new(run, ['checkpoint'])
    run_directory.settle(str(run))
    assert contents(run) == {name: name for name in OTHERS} | {'checkpoint': 'new', '.overwritten/notes.txt': 'mine'}


def test_a_new_run_without_a_checkpoint_does_not(run, capsys):
    run_directory.set_aside(str(run))
    write_new(run, ['settings.json', 'metrics.jsonl', 'model-1.index'])       # all but the file `checkpoint`
    run_directory.settle(str(run))
    assert contents(run) == {name: name for name in (*OLD, *OTHERS)}
    assert capsys.readouterr().out == f'{run}: the run that --overwrite was to replace is back, because the new one had no ' \
                                      'checkpoint yet\n'


@pytest.mark.parametrize('moment', range(1, len(OLD) + 2))
def test_an_interruption_while_the_old_run_is_set_aside(run, monkeypatch, moment):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, moment)
        run_directory.set_aside(str(run))
    run_directory.settle(str(run))
    assert contents(run) == {name: name for name in (*OLD, *OTHERS)}
    assert not (run / '.overwritten').exists()


@pytest.mark.parametrize('moment', range(1, len(OLD) + 2))
@pytest.mark.parametrize('new', [['settings.json'], ['settings.json', 'model-1.index', 'checkpoint']], ids=['without', 'with'])
def test_an_interruption_while_it_is_settled(run, monkeypatch, moment, new):
    run_directory.set_aside(str(run))
    write_new(run, new)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, moment)
        run_directory.settle(str(run))
    run_directory.settle(str(run))
    expected = dict.fromkeys(new, 'new') if 'checkpoint' in new else {name: name for name in OLD}
    assert contents(run) == {name: name for name in OTHERS} | expected
    assert not (run / '.overwritten').exists()


def test_files_that_cannot_be_moved_are_one_line(run):
    (run / '.overwritten').touch()
    with pytest.raises(UserError, match='cannot write to .*/.overwritten: File exists'):
        run_directory.set_aside(str(run))
