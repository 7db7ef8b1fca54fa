"""encode.py as a person runs it, where importing TensorFlow would end it."""

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
def place(tmp_path, settings_directory):
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
def encode(place):
    """encode('corpus', 'out.npz', …) -> CompletedProcess, with the vocabulary `toy`."""
    def run(*arguments, model='toy'):
        command = [sys.executable, ENCODE, *arguments, '--model_name', model]
        return subprocess.run(command, cwd=place, env=environment(place), capture_output=True, text=True,
                              encoding='utf-8', timeout=60, check=False)
    return run


def environment(place):
    return os.environ | {'PYTHONPATH': str(place / 'poison')}


def read(path):
    with np.load(path, allow_pickle=False) as npz:
        return [npz[name].tolist() for name in npz.files]


def files_below(directory):
    return sorted(os.path.relpath(os.path.join(parent, name), directory)
                  for parent, _, names in os.walk(directory) for name in names)


def test_directory(place, encode, settings_directory):
    result = encode('corpus', 'out.npz')
    assert result.returncode == 0 and result.stderr == ''
    enc = load_encoder(str(settings_directory))
    tokens = [*enc.encode(TEXT), enc.end_of_text, *enc.encode('short')]
    assert read(place / 'out.npz') == [tokens]
    size = len(TEXT + 'short')
    line, seconds = result.stdout.split(' seconds=')
    assert line == (f'out.npz files=3 tokens={len(tokens)} chunks=1 bytes={size} bytes/token={size / len(tokens):.2f}')
    seconds, speed = seconds.split(' MB/s=')
    assert float(seconds) >= 0 and float(speed) >= 0


def test_combine_glob_encoding_and_the_old_output_replaced(place, encode, settings_directory):
    (place / 'out.npz').write_text('old')
    for name in ('1.txt', '2.txt'):
        (place / name).write_bytes('é\r\n'.encode('latin-1'))
    result = encode('*.txt', './out.npz', '--combine', '1', '--encoding', 'latin-1', '--models_dir', './models')
    assert result.stdout.startswith('./out.npz files=2 ')
    assert read(place / 'out.npz') == [load_encoder(str(settings_directory)).encode('é\n')] * 2
    assert not (place / 'out.npz.part').exists()


def test_an_encoded_corpus_can_be_encoded_again(place, encode):
    np.savez_compressed(place / 'old.npz', np.array([3, 1]), np.array([2]))
    assert encode('old.npz', 'new.npz').returncode == 0
    assert read(place / 'new.npz') == [[3, 1], [2]]


def test_runs_as_a_program(place):
    """By its own first line, with `src` found beside it."""
    assert os.access(ENCODE, os.X_OK)
    with open(ENCODE, encoding='utf-8') as file:
        assert file.readline() == '#!/usr/bin/env python3\n'
    path = os.path.dirname(sys.executable) + os.pathsep + os.environ['PATH']
    result = subprocess.run([ENCODE, '--help'], cwd=place, env=environment(place) | {'PATH': path},
                            capture_output=True, text=True, encoding='utf-8', timeout=60, check=False)
    assert result.returncode == 0 and result.stderr == ''
    for word in ('IN', 'OUT.npz', '--model_name', '117M', '--combine', '50000', '--encoding', 'utf-8', '--models_dir'):
        assert word in result.stdout


@pytest.mark.parametrize('arguments, message', [
    (['corpus'], 'the following arguments are required: OUT.npz (see encode.py --help)'),
    (['corpus', 'out.txt'], "the output must end in .npz, not 'out.txt'"),
    (['corpus', 'out'], "the output must end in .npz, not 'out'"),
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
    (['records', 'out.npz'], 'records/a.jsonl holds records: name the column of its text (--text_column)'),
    (['records', 'out.npz', '--text_column', 'text'], "records/a.jsonl line 2 has no column 'text' (--text_column); it has "),
    (['records/b.csv', 'out.npz', '--text_column', 'text'], 'records/b.csv line 3 has 1 columns, but the header 2'),
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
    (['corpus', 'out.npz', '--comb', '5'], 'unrecognized arguments: --comb 5 '),
    (['corpus', 'out.npz', '--models_dir', 'elsewhere'], "no model 'toy' in elsewhere; "),
])
def test_mistakes_are_one_line_and_leave_nothing(place, monkeypatch, capfd, arguments, message):
    """In this process: they are many, and a process takes long to start."""
    (place / 'directory.npz').mkdir()
    (place / 'latin.txt').write_bytes(b'caf\xe9 au lait')
    for name in ('records', 'nothing'):
        (place / name).mkdir()
    (place / 'records/a.jsonl').write_text('{"text": "a"}\n{"txt": "b"}\n')
    (place / 'records/b.csv').write_text('id,text\n1,a\nb\n')
    (place / 'records/c.jsonl').write_text('text\n')
    (place / 'packed.gz').write_bytes(gzip.compress(b'x' * 99)[:-5])
    long = bytearray(gzip.compress(np.random.default_rng(0).choice(list(b'the dog '), 3_000_000).astype(np.uint8).tobytes(), 1))
    long[len(long) // 2] ^= 1
    (place / 'long.gz').write_bytes(long)       # found out after some text was encoded
    (place / 'more.gz').write_bytes(gzip.compress(b'x') + b'more')
    (place / 'plain.gz').write_text('x')
    (place / 'binary').write_bytes(b'\x7fELF\0')
    (place / 'nothing/.hidden').write_text('x')
    (place / 'loop').symlink_to('loop')
    np.savez(place / 'old.npz', np.array([50256]))
    before = files_below(place)
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, 'argv', ['encode.py', *arguments, '--model_name', 'toy'])
    with pytest.raises(SystemExit) as exit:
        errors.run(encode_script.main)
    output, [line] = (text.splitlines() for text in capfd.readouterr())
    assert exit.value.code == 2 and output == []
    assert line.startswith(f'encode.py: {message}')
    assert files_below(place) == before


def test_mistake_in_a_flag(place, encode):
    line = one_line_error(encode('corpus', 'out.npz', '--combine', '-5'))
    assert line == ("encode.py: argument --combine: expected a whole number above 0, not '-5' (see encode.py --help)")
    assert not (place / 'out.npz').exists()


def test_model_that_is_not_here(encode):
    line = one_line_error(encode('corpus', 'out.npz', model='117M'))
    assert './download_model.py 117M' in line and 'toy' in line


def test_failed_corpus_leaves_the_old_output(place, encode):
    (place / 'out.npz').write_text('old')
    (place / 'corpus' / 'z.txt').write_bytes(b'\xff')
    assert one_line_error(encode('corpus', 'out.npz')).startswith('encode.py: corpus/z.txt is not utf-8 text')
    assert (place / 'out.npz').read_text() == 'old' and not (place / 'out.npz.part').exists()


@pytest.mark.parametrize(('block', 'why'), [
    (lambda part: part.mkdir(), 'Is a directory'),
    (lambda part: part.symlink_to(part.name), 'Too many levels of symbolic links'),
    (lambda part: part.symlink_to('nowhere/file'), 'No such file or directory')])
def test_a_place_for_the_unfinished_output_that_is_taken(place, monkeypatch, capfd, block, why):
    block(place / 'out.npz.part')
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, 'argv', ['encode.py', 'corpus', 'out.npz', '--model_name', 'toy'])
    with pytest.raises(SystemExit) as exit:
        errors.run(encode_script.main)
    assert exit.value.code == 2
    assert capfd.readouterr().err == f'encode.py: cannot write out.npz.part, the unfinished out.npz: {why}; remove out.npz.part\n'
    assert not (place / 'out.npz').exists() and os.path.lexists(place / 'out.npz.part')     # it is not ours


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='needs /dev/full')
def test_full_disk(place, encode):
    (place / 'out.npz.part').symlink_to('/dev/full')
    assert one_line_error(encode('corpus', 'out.npz')) == 'encode.py: cannot write out.npz: No space left on device'
    assert not [name for name in os.listdir(place) if name.startswith('out.npz')]


@pytest.mark.parametrize('text', ['few ' * 30_000, 'many ' * 3_000_000])
def test_a_disk_that_fills_up_at_the_end_or_before(place, monkeypatch, capfd, text):
    """The tokens that wait for their chunk to end are written to the disk too."""
    (place / 'large.txt').write_text(text)
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, 'argv', ['encode.py', 'large.txt', 'out.npz', '--model_name', 'toy', '--processes', '2'])
    before = files_below(place)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(SystemExit) as exit:
            errors.run(encode_script.main)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert exit.value.code == 2
    assert capfd.readouterr().err == 'encode.py: cannot write out.npz: File too large\n'
    assert files_below(place) == before


def test_formats_and_options(place, monkeypatch, capfd, settings_directory):
    (place / 'in').mkdir()
    (place / 'in/a.jsonl.gz').write_bytes(gzip.compress(b'{"text": "one"}\n{"text": "two"}\n'))
    (place / 'in/b.csv').write_text('text\nthree\n')
    (place / 'in/c.txt').write_bytes(b'four\n\nfi\xffve\n')
    os.mkfifo(place / 'in/pipe')
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, 'argv', ['encode.py', 'in', 'out.npz', '--model_name', 'toy', '--text_column', 'text',
                                      '--document_per_line', '--encoding_errors', 'ignore', '--combine', '9'])
    encode_script.main()
    enc = load_encoder(str(settings_directory))
    assert read(place / 'out.npz') == [enc.encode_with_special(text) for text in (
        'one<|endoftext|>two<|endoftext|>three', 'four<|endoftext|>five')]
    output, chatter = capfd.readouterr()
    assert ' files=3 ' in output and ' bytes=19 ' in output
    assert chatter == 'skipping in/pipe: it is a FIFO\n'


def test_interrupted(place):
    """Ctrl-C while it waits for text that does not come."""
    os.mkfifo(place / 'pipe')
    command = [sys.executable, ENCODE, 'pipe', 'out.npz', '--model_name', 'toy']
    process = subprocess.Popen(command, cwd=place, env=environment(place), stderr=subprocess.PIPE)
    writer = os.open(place / 'pipe', os.O_WRONLY)       # succeeds once encode.py has opened its end
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, chatter = process.communicate(timeout=60)
    os.close(writer)
    assert process.returncode == 130 and chatter == b''
    assert not [name for name in os.listdir(place) if name.startswith('out.npz')]


def test_interrupted_while_other_processes_encode(place):
    """Ctrl-C in a terminal is sent to all of them."""
    os.mkfifo(place / 'pipe')
    command = [sys.executable, ENCODE, 'pipe', 'out.npz', '--model_name', 'toy', '--processes', '2']
    process = subprocess.Popen(command, cwd=place, env=environment(place), stderr=subprocess.PIPE, start_new_session=True)
    with open(place / 'pipe', 'wb', buffering=0) as pipe:
        pipe.writelines(b'the dog and the fox ' * 60_000 for _ in range(3))
        wait_for(lambda: len(in_session(process.pid)) == 3)
        for each in set(in_session(process.pid)) - {process.pid}:
            os.kill(each, signal.SIGINT)
        time.sleep(0.2)
        assert len(in_session(process.pid)) == 3      # they leave it to the first
        os.killpg(process.pid, signal.SIGINT)
        _, chatter = process.communicate(timeout=60)
    assert process.returncode == 130 and chatter == b''
    assert not [name for name in os.listdir(place) if name.startswith('out.npz')]
    assert not in_session(process.pid)


def test_processes_end_when_the_first_is_killed(place):
    os.mkfifo(place / 'pipe')
    command = [sys.executable, ENCODE, 'pipe', 'out.npz', '--model_name', 'toy', '--processes', '3']
    process = subprocess.Popen(command, cwd=place, env=environment(place), start_new_session=True)
    with open(place / 'pipe', 'wb', buffering=0) as pipe:
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
    raise AssertionError('nothing happened for a minute')


def in_session(number):
    """The processes of a session that still run."""
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
