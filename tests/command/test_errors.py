"""How a process ends: in one line, and with its status."""

import sys
import threading

import pytest

from command import errors
from command.errors import UserError


def test_a_worker_leaves_with_one_line(monkeypatch, capsys):
    monkeypatch.setattr(errors, '_leaving', threading.Lock())
    monkeypatch.setattr(errors.os, '_exit', lambda status: None)        # as if it took a while
    threads = [threading.Thread(target=errors.leave, args=[f'reason {i}'], daemon=True) for i in range(2)]
    for thread in threads:
        thread.start()
        thread.join(0.5)
    assert [thread.is_alive() for thread in threads] == [False, True]
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize('several', [False, True])
def test_a_mistake_among_workers_ends_without_tearing_down(tf, monkeypatch, several):
    """TensorFlow's runtime was seen to crash, status 134, where a process with a server ended as others do."""
    from workers import collectives
    monkeypatch.setattr(collectives.Workers, '_meet', lambda _: None)
    monkeypatch.setattr(errors, 'leave', lambda *how: sys.exit(how[1] + 97))
    workers = collectives.Workers()
    workers.count += several

    def main():
        with workers.together():
            raise UserError('a mistake')

    with pytest.raises(SystemExit) as end:
        errors.run(main)
    assert end.value.code == (99 if several else 2)
