"""find_files.py: what a path, a directory or a glob stands for."""

import contextlib
import glob
import os
import socket

import pytest

from byte_encoder import error_of, load, write
from command.errors import UserError
from corpus.find_files import file_size, find_files, would_match


def test_one_file_is_itself(tmp_path):
    path = write(tmp_path / '.hidden', 'x')
    assert find_files(path) == [path]
    assert find_files(tmp_path / '.hidden') == [path]


def test_directory_is_recursive_sorted_and_without_hidden(tmp_path):
    for name in ('b.txt', 'a/z.txt', 'a/deep/er.txt', 'c', '.hidden', '.git/config', 'a/.cache/x.txt', 'a-b.txt'):
        write(tmp_path / name, 'x')
    (tmp_path / 'empty').mkdir()
    names = [os.path.relpath(file, tmp_path) for file in find_files(str(tmp_path))]
    assert names == ['a-b.txt', 'a/deep/er.txt', 'a/z.txt', 'b.txt', 'c']


def test_a_directory_that_is_itself_hidden_or_relative_is_read(tmp_path, monkeypatch):
    write(tmp_path / '.corpus' / 'a.txt', 'x')
    assert len(find_files(str(tmp_path / '.corpus'))) == 1
    monkeypatch.chdir(tmp_path / '.corpus')
    assert find_files('.') == ['./a.txt']


@pytest.mark.parametrize('pattern, names', [
    ('*.txt', ['a.txt', 'b.txt']),
    ('**/*.txt', ['a.txt', 'b.txt', 'sub/c.txt', 'sub/deep/d.txt']),
    ('sub/**', ['sub/c.txt', 'sub/deep/d.txt', 'sub/e.md']),
    ('*', ['a.txt', 'b.txt']),
    ('[ab].txt', ['a.txt', 'b.txt']),
    ('?.txt', ['a.txt', 'b.txt']),
])
def test_glob_is_sorted_and_without_hidden(tmp_path, pattern, names):
    for name in ('b.txt', 'a.txt', '.h.txt', 'sub/c.txt', 'sub/e.md', 'sub/deep/d.txt', '.git/g.txt'):
        write(tmp_path / name, 'x')
    assert find_files(f'{tmp_path}/{pattern}') == [f'{tmp_path}/{name}' for name in names]


def test_a_file_whose_name_looks_like_a_glob(tmp_path):
    path = write(tmp_path / 'a[1].txt', 'x')
    assert find_files(path) == [path]


def test_pipes_and_sockets_are_skipped_and_reported(tmp_path, monkeypatch, capfd):
    write(tmp_path / 'a.txt', 'x')
    os.mkfifo(tmp_path / 'pipe')
    monkeypatch.chdir(tmp_path)     # the name of a socket must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind('door')
        for path in (str(tmp_path), f'{tmp_path}/*'):
            assert find_files(path) == [f'{tmp_path}/a.txt']
            assert capfd.readouterr().err == (f'skipping {tmp_path}/door: it is a socket\n'
                                              f'skipping {tmp_path}/pipe: it is a FIFO\n')


def test_links_that_form_cycles(tmp_path):
    """glob's ** would follow these in 2 ** 40 ways."""
    write(tmp_path / 'sub' / 'a.txt', 'x')
    for name in ('left', 'right'):
        (tmp_path / 'sub' / name).symlink_to('..')
    assert find_files(str(tmp_path)) == find_files(f'{tmp_path}/**') == [f'{tmp_path}/sub/a.txt']
    assert find_files(f'{tmp_path}/**/*.txt') == [f'{tmp_path}/sub/a.txt']
    assert find_files(f'{tmp_path}/sub/left/*/a.txt') == [f'{tmp_path}/sub/left/sub/a.txt']
    (tmp_path / 'self.txt').symlink_to('self.txt')
    assert error_of(load, tmp_path) == f'cannot read {tmp_path}/self.txt: Too many levels of symbolic links'
    assert find_files(f'{tmp_path}/*/a.txt') == [f'{tmp_path}/sub/a.txt']


@pytest.mark.parametrize('pattern, scanned', [
    ('*.txt', ['']),
    ('*/*.txt', ['', 'a', 'b']),
    ('*/deep/*.txt', ['', 'a', 'a/deep', 'b']),
    ('b/*', ['b']),
    ('**/*.txt', ['', 'a', 'a/deep', 'a/deep/er', 'a/other', 'b']),
    ('.*/*', ['', '.hidden']),
])
def test_only_directories_that_can_hold_a_match_are_read(tmp_path, monkeypatch, pattern, scanned):
    for name in ('top.txt', 'a/1.txt', 'a/deep/2.txt', 'a/deep/er/3.txt', 'a/other/x', 'b/4.txt', '.hidden/5.txt', 'b/.git/x'):
        write(tmp_path / name, 'x')
    seen, scandir = [], os.scandir
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, 'scandir', lambda path: seen.append(path) or scandir(path))
    find_files(pattern)
    assert sorted('' if path == '.' else path for path in seen) == scanned


@pytest.mark.parametrize('pattern', ['[.]h*', '.h*', '.git/*', '.g*/g.txt'])
def test_patterns_that_begin_with_a_dot_find_hidden_files(tmp_path, pattern):
    write(tmp_path / '.h.txt', 'x')
    write(tmp_path / '.git' / 'g.txt', 'x')
    expected = sorted(glob.glob(f'{tmp_path}/{pattern}'))
    if expected:
        assert find_files(f'{tmp_path}/{pattern}') == expected
    else:
        assert error_of(find_files, f'{tmp_path}/{pattern}') == f'nothing matches the pattern {tmp_path}/{pattern}'


def test_a_pipe_named_directly_is_read():
    reader, writer = os.pipe()
    os.write(writer, b'hi')
    os.close(writer)
    assert load(f'/dev/fd/{reader}') == [[*b'hi']]
    os.close(reader)


def test_the_size_of_a_file_and_of_what_is_not_there(tmp_path):
    assert file_size(write(tmp_path / 'a', 'four')) == 4 and file_size(tmp_path / 'b') == 0


def test_no_such_path(tmp_path):
    assert error_of(find_files, f'{tmp_path}/corpus') == f"cannot find '{tmp_path}/corpus': No such file or directory"


def test_glob_without_a_match(tmp_path):
    assert error_of(find_files, f'{tmp_path}/*.txt') == f'nothing matches the pattern {tmp_path}/*.txt'


def test_glob_that_matches_only_directories(tmp_path):
    (tmp_path / 'sub').mkdir()
    assert 'matches only directories' in error_of(find_files, f'{tmp_path}/*')


def test_directory_without_files(tmp_path):
    write(tmp_path / '.hidden', 'x')
    os.mkfifo(tmp_path / 'pipe')
    assert error_of(find_files, str(tmp_path)) == f'no files in the directory {tmp_path} (hidden ones are skipped)'


def test_a_broken_link_is_an_error(tmp_path):
    write(tmp_path / 'a.txt', 'x')
    (tmp_path / 'b.txt').symlink_to('nowhere')
    assert error_of(load, tmp_path) == f'cannot read {tmp_path}/b.txt: No such file or directory'


@contextlib.contextmanager
def without_rights():
    """Root may read what has no permissions: be somebody else."""
    root = os.geteuid() == 0
    if root:
        try:
            os.seteuid(65534)
        except PermissionError:
            pytest.skip('root of a container that cannot give up its rights: run the tests as another user')
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.parametrize('name', ['a.txt', 'a.npz'])
def test_unreadable_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)     # the directories above it may be closed to somebody else
    tmp_path.chmod(0o755)
    write(tmp_path / name, 'x')
    os.chmod(name, 0)
    with without_rights():
        assert error_of(load, name) == f'cannot read {name}: Permission denied'


def test_unreadable_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o755)
    write(tmp_path / 'corpus' / 'locked' / 'a.txt', 'x')
    os.chmod('corpus/locked', 0)
    with without_rights():
        assert error_of(load, 'corpus') == 'cannot read corpus/locked: Permission denied'
    os.chmod('corpus/locked', 0o700)    # so that it can be removed


@pytest.mark.parametrize('pattern', ['*', '*.npz', '**', '**/*.npz', 'sub/*', './sub/**', 'sub/../*.npz', '*/*.npz', '?ub/**/*',
                                     '.*', '.hidden/*', '**/.*', '**/deep/*', '*/deep/*.txt', '[o]ut.npz', '{tmp_path}/*/*',
                                     '**/**', '*/**'])
def test_would_match_predicts_what_find_files_finds(tmp_path, monkeypatch, pattern):
    monkeypatch.chdir(tmp_path)
    pattern = pattern.format(tmp_path=tmp_path)
    write(tmp_path / 'sub' / 'deep' / 'a.txt', 'x')
    write(tmp_path / '.hidden' / 'a.txt', 'x')
    for directory in ('.', 'sub', './sub/deep', '.hidden', str(tmp_path)):
        for name in ('out.npz', '.out.npz'):
            path = f'{directory}/{name}'
            expected = would_match(pattern, path)
            write(tmp_path / path, 'x')
            try:
                found = find_files(pattern)
            except UserError:
                found = []
            assert expected == (os.path.realpath(path) in map(os.path.realpath, found)), path
            os.remove(path)
