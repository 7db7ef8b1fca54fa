"""storage/lock.py: one process at a time, and who it is."""

import os
import threading

import pytest

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


def test_one_at_a_time(tmp_path):
    path = str(tmp_path / 'run' / 'dataset')
    order = []

    def second():
        with lock.one_at_a_time(path):
            order.append('second')

    with lock.one_at_a_time(path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        order.append('first')
    thread.join(60)
    assert order == ['first', 'second']
