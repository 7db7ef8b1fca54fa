"""encode.py: what it writes and prints, its errors, and how it ends."""

import gzip
import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import encode as encode_script
from command import errors
from conftest import ROOT, TEXT, one_line_error
from encoder import load_encoder

ENCODE = os.path.join(ROOT, 'encode.py')


@pytest.fixture
def workdir(tmp_path, settings_directory):
    """A working directory with `models/toy`, which has no checkpoint, and a `corpus` of three files."""
    for directory in ('models', 'corpus/sub', 'poison'):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / 'models' / 'toy').symlink_to(settings_directory)
    (tmp_path / 'corpus' / 'a.txt').write_text(TEXT)
    (tmp_path / 'corpus' / 'b.txt').write_text('')
    (tmp_path / 'corpus' / 'sub' / 'c.txt').write_text('short', newline='')
    (tmp_path / 'poison' / 'tensorflow.py').write_text("raise SystemExit('TensorFlow was imported')\n")
    return tmp_path


@pytest.fixture
def encode(workdir, monkeypatch, capfd):
    """encode('corpus', 'out.npz', …) -> CompletedProcess: runs encode.py in this process, with the vocabulary `toy`."""
    def run(*arguments, model='toy'):
        monkeypatch.chdir(workdir)
        monkeypatch.setattr(sys, 'argv', ['encode.py', *arguments, '--model_name', model])
        capfd.readouterr()
        status = 0
        try:
            errors.run(encode_script.main)
        except SystemExit as end:
            status = end.code
        return subprocess.CompletedProcess(sys.argv, status, *capfd.readouterr())
    return run


def environment(workdir):
    return os.environ | {'PYTHONPATH': str(workdir / 'poison')}


def read(path):
    with np.load(path, allow_pickle=False) as npz:
        return [npz[name].tolist() for name in npz.files]


def files_below(directory):
    return sorted(os.path.relpath(os.path.join(parent, name), directory)
                  for parent, _, names in os.walk(directory) for name in names)


def test_a_directory_is_encoded_without_tensorflow(workdir, settings_directory):
    """In a process of its own, in which importing TensorFlow fails."""
    result = subprocess.run([sys.executable, ENCODE, 'corpus', 'out.npz', '--model_name', 'toy'], cwd=workdir,
                            env=environment(workdir), capture_output=True, text=True, encoding='utf-8', timeout=60, check=False)
    assert result.returncode == 0 and result.stderr == ''
    enc = load_encoder(str(settings_directory))
    tokens = [*enc.encode(TEXT), enc.end_of_text, *enc.encode('short')]
    assert read(workdir / 'out.npz') == [tokens]
    size = len(TEXT + 'short')
    line, seconds = result.stdout.split(' seconds=')
    assert line == (f'out.npz files=3 tokens={len(tokens)} chunks=1 bytes={size} bytes/token={size / len(tokens):.2f}')
    seconds, speed = seconds.split(' MB/s=')
    assert float(seconds) >= 0 and float(speed) >= 0


def test_combine_glob_encoding_and_the_old_output_replaced(workdir, encode, settings_directory):
    (workdir / 'out.npz').write_text('old')
    for name in ('1.txt', '2.txt'):
        (workdir / name).write_bytes('é\r\n'.encode('latin-1'))
    result = encode('*.txt', './out.npz', '--combine', '1', '--encoding', 'latin-1', '--models_dir', './models')
    assert result.stdout.startswith('./out.npz files=2 ')
    assert read(workdir / 'out.npz') == [load_encoder(str(settings_directory)).encode('é\n')] * 2
    assert not (workdir / 'out.npz.part').exists()


def test_an_encoded_corpus_can_be_encoded_again(workdir, encode):
    np.savez_compressed(workdir / 'old.npz', np.array([3, 1]), np.array([2]))
    assert encode('old.npz', 'new.npz').returncode == 0
    assert read(workdir / 'new.npz') == [[3, 1], [2]]


def test_runs_as_a_program(workdir):
    """By its first line; it finds `src` next to itself."""
    assert os.access(ENCODE, os.X_OK)
    with open(ENCODE, encoding='utf-8') as file:
        assert file.readline() == '#!/usr/bin/env python3\n'
    path = os.path.dirname(sys.executable) + os.pathsep + os.environ['PATH']
    result = subprocess.run([ENCODE, '--help'], cwd=workdir, env=environment(workdir) | {'PATH': path},
                            capture_output=True, text=True, encoding='utf-8', timeout=60, check=False)
    assert result.returncode == 0 and result.stderr == ''
    for word in ('IN', 'OUT.npz', '--model_name', '117M', '--combine', '50000', '--encoding', 'utf-8', '--models_dir'):
        assert word in result.stdout


@pytest.mark.parametrize('arguments, message', [
    (['corpus'], 'the following arguments are required: OUT.npz (see encode.py --help)'),
    (['corpus', 'corpus/'], 'the output corpus/ is a directory; expected the name of a file'),
    (['corpus', 'corpus/sub/out'], 'the output corpus/sub/out.npz lies in the directory to encode, corpus:'),
    (['old.npz', 'old'], 'the output old.npz is one of the files to encode; choose another name'),
    (['corpus', 'directory'], 'the output directory.npz is a directory; expected the name of a file'),
    (['corpus', 'out.npz', '--text_column', 'text'], '--text_column text has no effect: no file of the corpus ends in .json, '),
    (['corpus', 'no/out.npz'], 'cannot write into the directory no: No such file or directory'),
    (['corpus', '/proc/out.npz'], 'cannot write into the directory /proc: '),
    (['corpus', 'corpus/a.txt/out.npz'], 'the output corpus/a.txt/out.npz lies in the directory to encode, corpus:'),
    (['corpus', 'corpus/sub/out.npz'], 'the output corpus/sub/out.npz lies in the directory to encode, corpus:'),
    (['.', 'out.npz'], 'the output out.npz lies in the directory to encode, .:'),
    (['corpus', 'models/../corpus/out.npz'], 'the output models/../corpus/out.npz lies in the directory to encode'),
    (['old.npz', './old.npz'], 'the output ./old.npz is one of the files to encode; choose another name'),
    (['*.npz', 'old.npz'], 'the output old.npz is one of the files to encode; choose another name'),
    (['**', 'corpus/out.npz'], 'the output corpus/out.npz would match **: it would be part of the corpus the next time; '),
    (['c*/*', './corpus/../corpus/out.npz'], 'the output ./corpus/../corpus/out.npz would match c*/*: it would be part of '),
    (['corpus', 'directory.npz'], 'the output directory.npz is a directory; expected the name of a file'),
    (['missing', 'out.npz'], "cannot find 'missing': No such file or directory"),
    (['*.md', 'out.npz'], 'nothing matches the pattern *.md'),
    (['corpus/b.txt', 'out.npz'], 'the corpus corpus/b.txt is empty: 0 tokens in corpus/b.txt'),
    (['latin.txt', 'out.npz'], 'latin.txt is not utf-8 text: byte 0xe9 at offset 3 '),
    (['old.npz', 'out.npz'], 'array arr_0 in old.npz holds the id 50256; the vocabulary has 0 to '),
    (['corpus', 'out.npz', '--encoding', 'utf8x'], "unknown text encoding 'utf8x'; expected a name such as utf-8"),
    (['corpus', 'out.npz', '--encoding_errors', 'x'], "argument --encoding_errors: invalid choice: 'x'"),
    (['corpus', 'out.npz', '--processes', '0'], "argument --processes: expected a whole number above 0, not '0' "),
    (['records', 'out.npz'], 'records/a.jsonl line 1 holds a record: name the column of its text (--text_column), '),
    (['records', 'out.npz', '--text_column', 'text'], "records/a.jsonl line 2 has no column 'text' (--text_column); it has "),
    (['records/b.csv', 'out.npz', '--text_column', 'text'], 'records/b.csv line 3 has 1 columns, but the first row 2'),
    (['records/c.jsonl', 'out.npz', '--text_column', 'text'], 'records/c.jsonl line 1 is not JSON: '),
    (['packed.gz', 'out.npz'], 'packed.gz is cut off: its gzip data ends too early; copy, download or make it again'),
    (['long.gz', 'out.npz'], 'long.gz is damaged: its gzip data is corrupt; '),
    (['more.gz', 'out.npz'], 'more.gz is damaged: its gzip data ends at offset '),
    (['plain.gz', 'out.npz'], 'plain.gz is not a gzip file: it begins differently; '),
    (['binary', 'out.npz'], 'binary is not utf-8 text: byte 0x00 at offset 4 (a binary file?); '),
    (['nothing', 'out.npz'], 'no files in the directory nothing (hidden ones are skipped)'),
    (['loop', 'out.npz'], "cannot find 'loop': Too many levels of symbolic links"),
    (['corpus', 'out.npz', '--combine', '0'], "argument --combine: expected a whole number above 0, not '0' "),
    (['corpus', 'out.npz', '--combine', 'x'], "argument --combine: expected a whole number above 0, not 'x' "),
    (['corpus/a.txt', 'corpus/b.txt', 'corpus/b.txt', 'out.npz'],
     "unrecognized arguments: corpus/b.txt out.npz; if the shell made these of a pattern, give it in quotes: 'corpus/*.txt' "),
    (['corpus', 'out.npz', '--combined', '5'], 'unknown flag --combined: did you mean --combine?'),
    (['corpus', 'out.npz', '--models_dir', 'elsewhere'], "no model 'toy' in elsewhere; "),
])
def test_errors_are_one_line_and_leave_nothing(workdir, encode, arguments, message):
    (workdir / 'directory.npz').mkdir()
    (workdir / 'latin.txt').write_bytes(b'caf\xe9 au lait')
    for name in ('records', 'nothing'):
        (workdir / name).mkdir()
    (workdir / 'records/a.jsonl').write_text('{"text": "a"}\n{"txt": "b"}\n')
    (workdir / 'records/b.csv').write_text('id,text\n1,a\nb\n')
    (workdir / 'records/c.jsonl').write_text('text\n')
    (workdir / 'packed.gz').write_bytes(gzip.compress(b'x' * 99)[:-5])
    long = bytearray(gzip.compress(np.random.default_rng(0).choice(list(b'the dog '), 3_000_000).astype(np.uint8).tobytes(), 1))
    long[len(long) // 2] ^= 1
    (workdir / 'long.gz').write_bytes(long)       # noticed after some text was encoded
    (workdir / 'more.gz').write_bytes(gzip.compress(b'x') + b'more')
    (workdir / 'plain.gz').write_text('x')
    (workdir / 'binary').write_bytes(b'\x7fELF\0')
    (workdir / 'nothing/.hidden').write_text('x')
    (workdir / 'loop').symlink_to('loop')
    np.savez(workdir / 'old.npz', np.array([50256]))
    before = files_below(workdir)
    result = encode(*arguments)
    assert one_line_error(result).startswith(f'encode.py: {message}')
    assert result.stdout == ''
    assert files_below(workdir) == before


def test_mistake_in_a_flag(workdir, encode):
    line = one_line_error(encode('corpus', 'out.npz', '--combine', '-5'))
    assert line == ("encode.py: argument --combine: expected a whole number above 0, not '-5' (see encode.py --help)")
    assert not (workdir / 'out.npz').exists()


def test_model_that_is_not_here(encode):
    line = one_line_error(encode('corpus', 'out.npz', model='117M'))
    assert './download_model.py 117M' in line and 'toy' in line


def test_failed_corpus_leaves_the_old_output(workdir, encode):
    (workdir / 'out.npz').write_text('old')
    (workdir / 'corpus' / 'z.txt').write_bytes(b'\xff')
    assert one_line_error(encode('corpus', 'out.npz')).startswith('encode.py: corpus/z.txt is not utf-8 text')
    assert (workdir / 'out.npz').read_text() == 'old' and not (workdir / 'out.npz.part').exists()


@pytest.mark.parametrize(('block', 'why'), [
    (lambda part: part.mkdir(), 'Is a directory'),
    (lambda part: part.symlink_to(part.name), 'Too many levels of symbolic links'),
    (lambda part: part.symlink_to('nowhere/file'), 'No such file or directory')])
def test_the_name_of_the_unfinished_output_is_taken(workdir, encode, block, why):
    block(workdir / 'out.npz.part')
    line = one_line_error(encode('corpus', 'out.npz'))
    assert line.startswith('encode.py: cannot write out.npz.part, ') and line.endswith(f': {why}; remove out.npz.part')
    assert not (workdir / 'out.npz').exists() and os.path.lexists(workdir / 'out.npz.part')     # not removed


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='needs /dev/full')
def test_full_disk(workdir, encode):
    (workdir / 'out.npz.part').symlink_to('/dev/full')
    assert one_line_error(encode('corpus', 'out.npz')) == 'encode.py: cannot write out.npz: No space left on device'
    assert not [name for name in os.listdir(workdir) if name.startswith('out.npz')]


@pytest.mark.parametrize('text', ['few ' * 30_000, 'many ' * 3_000_000])
def test_a_disk_that_fills_up_at_the_end_or_before(workdir, encode, text):
    """A large chunk is on disk before it is complete."""
    (workdir / 'large.txt').write_text(text)
    before = files_below(workdir)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        result = encode('large.txt', 'out.npz', '--processes', '2')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert one_line_error(result) == 'encode.py: cannot write out.npz: File too large'
    assert files_below(workdir) == before


def test_formats_and_options(workdir, encode, settings_directory):
    (workdir / 'in').mkdir()
    (workdir / 'in/a.jsonl.gz').write_bytes(gzip.compress(b'{"text": "one"}\n{"text": "two"}\n'))
    (workdir / 'in/b.csv').write_text('text\nthree\n')
    (workdir / 'in/c.txt').write_bytes(b'four\n\nfi\xffve\n')
    os.mkfifo(workdir / 'in/pipe')
    result = encode('in', 'out.npz', '--text_column', 'text', '--document_per_line', '--encoding_errors', 'ignore',
                    '--combine', '9')
    enc = load_encoder(str(settings_directory))
    assert read(workdir / 'out.npz') == [enc.encode_with_special(text) for text in (
        'one<|endoftext|>two<|endoftext|>three', 'four<|endoftext|>five')]
    assert ' files=3 ' in result.stdout and ' bytes=19 ' in result.stdout
    assert result.stderr == 'skipping in/pipe: it is a FIFO\n'


def test_bad_records_are_skipped_and_counted(workdir, encode, settings_directory):
    (workdir / 'in').mkdir()
    (workdir / 'in/a.ndjson').write_text('{"text": "one"}\n{"text": 2}\n')
    np.savez(workdir / 'in/b.npz', np.array([1]))
    (workdir / 'in/c.tsv').write_text('text\tid\nthree\nfour\t4\n')
    flags = ('--text_column', 'text', '--combine', '1')
    assert one_line_error(encode('in', 'out.npz', *flags)).startswith("encode.py: in/a.ndjson line 2: the column 'text' holds 2")
    result = encode('in', 'out.npz', *flags, '--skip_bad_records')
    enc = load_encoder(str(settings_directory))
    assert read(workdir / 'out.npz') == [enc.encode('one'), [1], enc.encode('four')] and result.returncode == 0
    assert result.stderr == ("skipped bad records: 2; the first: in/a.ndjson line 2: the column 'text' holds 2; expected text\n")
    (workdir / 'in/a.ndjson').write_text('{}\n')
    line = one_line_error(encode('in/a.ndjson', 'none.npz', *flags, '--skip_bad_records'))
    assert line.endswith('0 tokens in in/a.ndjson; skipped bad records: 1; the first: in/a.ndjson line 1 has no column '
                         "'text' (--text_column); it has none")
    assert not (workdir / 'none.npz').exists()


def test_names_are_completed(workdir, encode, monkeypatch):
    """.npz, as numpy does; and the home directory, which the shell does not see in quotes."""
    monkeypatch.setenv('HOME', str(workdir))
    (workdir / 'out.txt').write_text('text')
    result = encode('~/c*/a.txt', '~/out.txt', '--models_dir', '~/models')
    assert result.stdout.startswith(f'{workdir}/out.txt.npz files=1 ')
    assert read(workdir / 'out.txt.npz') and (workdir / 'out.txt').read_text() == 'text'


def test_interrupted(workdir):
    """Ctrl-C while it waits for text."""
    os.mkfifo(workdir / 'pipe')
    command = [sys.executable, ENCODE, 'pipe', 'out.npz', '--model_name', 'toy']
    process = subprocess.Popen(command, cwd=workdir, env=environment(workdir), stderr=subprocess.PIPE)
    writer = os.open(workdir / 'pipe', os.O_WRONLY)       # succeeds once encode.py has opened its end
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    os.close(writer)
    assert process.returncode == 130 and error == b''
    assert not [name for name in os.listdir(workdir) if name.startswith('out.npz')]


def test_interrupted_while_other_processes_encode(workdir):
    """A terminal sends Ctrl-C to all processes."""
    os.mkfifo(workdir / 'pipe')
    command = [sys.executable, ENCODE, 'pipe', 'out.npz', '--model_name', 'toy', '--processes', '2']
    process = subprocess.Popen(command, cwd=workdir, env=environment(workdir), stderr=subprocess.PIPE, start_new_session=True)
    with open(workdir / 'pipe', 'wb', buffering=0) as pipe:
        pipe.writelines(b'the dog and the fox ' * 60_000 for _ in range(3))
        wait_for(lambda: len(in_session(process.pid)) == 3)
        for each in set(in_session(process.pid)) - {process.pid}:
            os.kill(each, signal.SIGINT)
        time.sleep(0.2)
        assert len(in_session(process.pid)) == 3      # the parent ends them
        os.killpg(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and error == b''
    assert not [name for name in os.listdir(workdir) if name.startswith('out.npz')]
    assert not in_session(process.pid)


def test_processes_end_when_their_parent_is_killed(workdir):
    os.mkfifo(workdir / 'pipe')
    command = [sys.executable, ENCODE, 'pipe', 'out.npz', '--model_name', 'toy', '--processes', '3']
    process = subprocess.Popen(command, cwd=workdir, env=environment(workdir), start_new_session=True)
    with open(workdir / 'pipe', 'wb', buffering=0) as pipe:
        pipe.writelines(b'the dog and the fox ' * 60_000 for _ in range(3))
        wait_for(lambda: len(in_session(process.pid)) == 4)
        process.kill()
        process.wait()
        wait_for(lambda: not in_session(process.pid))


def wait_for(condition):
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError('the condition was not met within a minute')


def in_session(number):
    """The processes of a session that are still running."""
    found = []
    for name in filter(str.isdigit, os.listdir('/proc')):
        try:
            with open(f'/proc/{name}/stat', encoding='utf-8') as file:
                state, _, _, session = file.read().rsplit(') ', 1)[1].split()[:4]
        except OSError:
            continue
        if int(session) == number and state != 'Z':
            found.append(int(name))
    return found
