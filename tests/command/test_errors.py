"""How a process ends: with one line, and an exit status."""

import errno
import io
import sys
import threading

import pytest

from command import errors
from command.errors import UserError, WorkerLost
from fake_cluster import FakeCluster, fake_workers


@pytest.fixture
def status(monkeypatch):
    """Runs a function by errors.run, as the script prog.py; returns the exit status, plus 1000 if it ended by os._exit."""
    monkeypatch.setattr(sys, 'argv', ['/path/of/prog.py'])
    monkeypatch.setattr(errors, '_exiting', threading.Lock())
    monkeypatch.setattr(errors.os, '_exit', lambda code: sys.exit(code + 1000))

    def run(main):
        with pytest.raises(SystemExit) as exit:
            errors.run(main)
        return exit.value.code
    return run


def raising(error):
    def main():
        raise error
    return main


@pytest.mark.parametrize(('error', 'code', 'line'), [
    (UserError('no file\n x'), 2, 'prog.py: no file x\n'),
    (WorkerLost('worker 1 died'), 1075, 'prog.py: worker 1 died\n'),
    (KeyboardInterrupt(), 130, ''),
    (OSError(errno.ENOSPC, 'No space left on device', 'file'), 2, 'prog.py: cannot write file: No space left on device\n'),
    (OSError(errno.EIO, 'Input/output error'), 2, 'prog.py: cannot write to the disk: Input/output error\n')])
def test_errors_that_a_user_can_cause(status, capsys, error, code, line):
    assert status(raising(error)) == code
    assert capsys.readouterr() == ('', line)


def test_the_shell_s_prompt_does_not_follow_ctrl_c(status, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True)
    assert status(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr() == ('', '\n')


def test_other_errors_keep_their_traceback(capsys):
    with pytest.raises(FileNotFoundError):
        errors.run(raising(FileNotFoundError(errno.ENOENT, 'No such file or directory')))
    assert capsys.readouterr().err == ''


def test_success_writes_all_output(monkeypatch, tmp_path):
    with open(tmp_path / 'out', 'w') as out:
        monkeypatch.setattr(sys, 'stdout', out)
        errors.run(lambda: print('text'))
        assert (tmp_path / 'out').read_text() == 'text\n'


def test_an_immediate_exit_writes_all_output(status, monkeypatch, tmp_path):
    def main():
        print('text')
        raise WorkerLost('worker 1 died')

    with open(tmp_path / 'out', 'w') as out:
        monkeypatch.setattr(sys, 'stdout', out)
        assert status(main) == 1075
        assert (tmp_path / 'out').read_text() == 'text\n'


def test_a_closed_pipe_ends_quietly(status, monkeypatch, tmp_path):
    with open(tmp_path / 'out', 'w') as out:
        monkeypatch.setattr(sys, 'stdout', out)
        assert status(raising(BrokenPipeError())) == 141
        print('more', flush=True)       # as Python does at exit
    assert (tmp_path / 'out').read_text() == ''


def test_the_reason_of_an_os_error():
    assert errors.reason(OSError(errno.EACCES, 'Permission denied', 'file')) == 'Permission denied'
    assert errors.reason(OSError('something')) == 'something'


def test_only_one_thread_prints_why_the_process_exits(monkeypatch, capsys):
    monkeypatch.setattr(errors, '_exiting', threading.Lock())
    monkeypatch.setattr(errors.os, '_exit', lambda status: None)        # as if it took a while
    threads = [threading.Thread(target=errors.exit_now, args=[f'reason {i}'], daemon=True) for i in range(2)]
    for thread in threads:
        thread.start()
        thread.join(0.5)
    assert [thread.is_alive() for thread in threads] == [False, True]
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize('count', [1, 2])
def test_a_mistake_among_several_workers_ends_without_cleanup(tf, status, capsys, count):
    """TensorFlow's runtime may crash, with status 134, when a process with a server ends as others do."""
    workers = fake_workers(FakeCluster(count), sum=lambda array: array)

    def main():
        with workers.connected():
            raise UserError('a mistake')

    assert status(main) == (1002 if count > 1 else 2)
    assert capsys.readouterr().err == 'prog.py: a mistake\n'


def test_text_that_the_output_cannot_encode_is_escaped(monkeypatch):
    streams = [io.TextIOWrapper(io.BytesIO(), encoding='latin-1', newline='\n') for _ in range(2)]
    monkeypatch.setattr(sys, 'stdout', streams[0])
    monkeypatch.setattr(sys, 'stderr', streams[1])
    errors.run(lambda: print('é’\udce9', file=sys.stdout) or print('’', file=sys.stderr, flush=True))
    assert [stream.buffer.getvalue() for stream in streams] == [b'\xe9\\u2019\\udce9\n', b'\\u2019\n']


def test_a_process_without_standard_output(monkeypatch):
    monkeypatch.setattr(sys, 'stdout', None)        # closed by `>&-`
    errors.run(lambda: print('nothing'))


def test_a_name_that_is_not_utf_8_is_one_line(status, capsys):
    assert status(lambda: 'run\udce9'.encode()) == 2      # as TensorFlow does
    line = "prog.py: the name 'run\\udce9' is not UTF-8, which TensorFlow needs: choose another one\n"
    assert capsys.readouterr().err == line
    assert status(lambda: errors.check_utf8('run\udce9')) == 2
    assert capsys.readouterr().err == line
    assert errors.check_utf8('café’') == 'café’'
    with pytest.raises(UnicodeEncodeError, match='ordinal not in range'):       # a fault of the program
        errors.run(lambda: 'é'.encode('ascii'))
