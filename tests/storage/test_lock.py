"""storage/lock.py: one process at a time, and who it is."""

import errno
import fcntl
import os
import sys
import threading

import pytest

from command import notes
from command.errors import UserError
from storage import lock


def test_a_run_has_one_process(tmp_path):
    directory = str(tmp_path / 'checkpoint/run')
    assert lock.training_process(directory) is None
    with lock.lock(directory):
        for _ in range(2):      # a probe does not disturb the next
            assert lock.training_process(directory) == str(os.getpid())
        with pytest.raises(UserError, match=rf'another process \(number {os.getpid()}\) trains in .*run: '
                                            'give another --run_name'):
            lock.lock(directory)
    assert lock.training_process(directory) is None
    (tmp_path / 'checkpoint/run/lock').write_text('a longer text than a process number\n')
    with lock.lock(directory):
        assert (tmp_path / 'checkpoint/run/lock').read_text() == f'{os.getpid()}\n'


def test_a_process_without_a_number(tmp_path):
    with lock.lock(str(tmp_path)):
        (tmp_path / 'lock').write_text('')
        assert lock.training_process(str(tmp_path)) == 'unknown'


def test_a_directory_that_cannot_be_created(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match='cannot write to .*file/run: Not a directory'):
        lock.lock(str(tmp_path / 'file/run'))
    with (pytest.raises(UserError, match='cannot write to .*file/run: Not a directory'),
          lock.one_at_a_time(str(tmp_path / 'file/run/x'))):
        pass


@pytest.mark.parametrize('error', [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, None])
def test_a_file_system_without_locks(tmp_path, monkeypatch, capsys, error):
    """error: flock's; None for a system that has no flock, like Windows."""
    def refuse(*_):
        raise OSError(error, os.strerror(error))
    if error is None:
        monkeypatch.setitem(sys.modules, 'fcntl', None)
    else:
        monkeypatch.setattr('fcntl.flock', refuse)
    monkeypatch.setattr(notes, '_printed', set())
    directory = str(tmp_path / 'run')
    for _ in range(2):
        with lock.lock(directory), lock.one_at_a_time(f'{directory}/dataset') as alone:
            assert not alone
            assert lock.is_locked(directory)
            assert lock.training_process(directory) is None
    cause = os.strerror(error) if error else 'this system has no flock'
    assert capsys.readouterr().out == (f'{directory} cannot be locked ({cause}): two processes that train in the same directory '
                                       'there are not noticed, and harm each other\n')


def test_a_lock_file_that_is_removed_before_it_is_locked(tmp_path, monkeypatch):
    """Its process gives the directory back, after a failed start, between our opening of the file and our lock on it."""
    directory, path, flock = str(tmp_path / 'run'), tmp_path / 'run/lock', fcntl.flock

    def give_back_first(*arguments):
        monkeypatch.setattr(fcntl, 'flock', flock)
        path.unlink()
        flock(*arguments)
    monkeypatch.setattr(fcntl, 'flock', give_back_first)
    with lock.lock(directory):
        assert lock.training_process(directory) == str(os.getpid())


def test_whose_lock_it_is(tmp_path):
    assert not lock.is_locked(str(tmp_path / 'run'))
    with lock.lock(str(tmp_path / 'run')):
        assert lock.is_locked(str(tmp_path / 'run'))
        (tmp_path / 'run/lock').write_text('1\n')
        assert not lock.is_locked(str(tmp_path / 'run'))


def test_one_at_a_time(tmp_path):
    path = str(tmp_path / 'run' / 'dataset')
    order = []

    def second():
        with lock.one_at_a_time(path):
            order.append('second')

    with lock.one_at_a_time(path) as alone:
        assert alone
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        order.append('first')
    thread.join(60)
    assert order == ['first', 'second']
