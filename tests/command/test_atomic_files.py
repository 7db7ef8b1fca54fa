"""Atomic writes, and checks for write permission."""

import hashlib
import os

import pytest

from command import atomic_files
from command.errors import UserError


def test_a_file_is_replaced_at_the_end_and_synced_before(tmp_path, monkeypatch):
    path, synced = tmp_path / 'file', []
    path.write_text('old')
    monkeypatch.setattr(os, 'fsync', lambda descriptor: synced.append((os.fstat(descriptor).st_size, path.read_text())))
    with atomic_files.replacing(str(path)) as file:
        file.write(b'new text')
        assert path.read_text() == 'old'
        assert sorted(os.listdir(tmp_path)) == ['file', 'file.part']
    assert path.read_text() == 'new text'
    assert synced == [(8, 'old')]
    assert os.listdir(tmp_path) == ['file']


def test_an_exception_leaves_the_file_as_it_was(tmp_path):
    atomic_files.write_text(str(tmp_path / 'file'), 'ä')
    with pytest.raises(KeyboardInterrupt), atomic_files.replacing(str(tmp_path / 'file')) as file:
        file.write(b'new')
        raise KeyboardInterrupt
    assert (tmp_path / 'file').read_bytes() == 'ä'.encode()
    assert os.listdir(tmp_path) == ['file']


def test_what_prevents_writing_is_named_and_kept(tmp_path):
    path = tmp_path / 'file'
    (tmp_path / 'file.part').mkdir()
    with pytest.raises(UserError) as error, atomic_files.replacing(str(path)):
        pass
    assert str(error.value) == f'cannot write {path}.part, the unfinished {path}: Is a directory; remove {path}.part'
    assert os.listdir(tmp_path) == ['file.part']
    with pytest.raises(UserError) as error, atomic_files.replacing(str(tmp_path / 'nowhere/file')):
        pass
    assert str(error.value) == f'cannot write {tmp_path}/nowhere/file: No such file or directory'


def test_sync_and_checksum(tmp_path, monkeypatch):
    content, synced = os.urandom(atomic_files.CHUNK + 5), []
    (tmp_path / 'file').write_bytes(content)
    assert atomic_files.sha256(str(tmp_path / 'file')) == hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(os, 'fsync', lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    open_before = os.listdir('/proc/self/fd')
    atomic_files.sync_directory(str(tmp_path))
    atomic_files.sync(str(tmp_path / 'file'))
    assert synced == [path.stat().st_ino for path in (tmp_path, tmp_path / 'file')]
    assert os.listdir('/proc/self/fd') == open_before


def test_directories_that_can_be_written_to_or_created(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'file').touch()
    (tmp_path / 'link').symlink_to('nowhere')
    atomic_files.check_writable('.')
    atomic_files.check_writable('a/b')
    assert sorted(os.listdir(tmp_path)) == ['file', 'link']
    for name in ('file', 'link'):
        with pytest.raises(UserError, match=f'^cannot write to {name}/a: {tmp_path}/{name} is not a directory$'):
            atomic_files.check_writable(f'{name}/a')
    asked = []
    monkeypatch.setattr(os, 'access', lambda *arguments: bool(asked.append(arguments)))
    with pytest.raises(UserError, match=f'^cannot write to a/b: there is no permission to write to {tmp_path}$'):
        atomic_files.check_writable('a/b')
    assert asked == [(str(tmp_path), os.W_OK | os.X_OK)]


def test_a_file_name_that_is_not_utf_8_can_be_written_into_a_file(tmp_path):
    atomic_files.write_text(str(tmp_path / 'file'), 'é caf\udce9')
    assert (tmp_path / 'file').read_text(encoding='utf-8') == 'é caf\\udce9'
