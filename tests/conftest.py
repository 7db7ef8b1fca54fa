"""What the tests share: a small model directory, and the scripts run as a person would run them."""

import dataclasses
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from command import tensorflow_setup
from encoder import load_encoder
from network.hparams import HParams
from text_samples import CODE, LETTERS, SAMPLES
from vocabulary.files import write_vocabulary
from vocabulary.learn import learn_vocabulary

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Flags of train.py for runs of which neither the network nor the optimizer matters: a graph a third as large as others.
SMALL_RUN = ('--model_name', 'one_block', '--optimizer', 'sgd', '--sample_every', 0)
TEXT = 'the quick brown fox jumps over the lazy dog; the dog sleeps, and the fox goes on.\n' * 40


@pytest.fixture(scope='session', autouse=True)
def interruptible():
    """Ctrl-C and a closed terminal mean the same to what the tests start, even in the background of a shell or under nohup."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope='session')
def tf():
    """tensorflow.compat.v1, imported as the scripts import it."""
    tensorflow_setup.load_tensorflow()
    import tensorflow.compat.v1
    return tensorflow.compat.v1


@pytest.fixture
def session(tf):
    """A session on a graph of its own, which is the default graph."""
    with tf.Graph().as_default(), tf.Session(config=tensorflow_setup.session_config()) as session:
        yield session


@pytest.fixture(scope='session')
def toy_directory(tmp_path_factory):
    """The directory of a vocabulary of 900 tokens, whose merges reach into most of SAMPLES."""
    directory = tmp_path_factory.mktemp('toy')
    texts = [CODE, *(text[:2_000] for text in SAMPLES.values()), ''.join(LETTERS[:2_000]) * 2]
    write_vocabulary(directory, *learn_vocabulary(texts, 900))
    return directory


@pytest.fixture(scope='session')
def toy(toy_directory):
    return load_encoder(toy_directory)


@pytest.fixture(scope='session')
def settings_directory(tmp_path_factory):
    """A model directory without weights: a toy vocabulary, and sizes for two blocks."""
    directory = tmp_path_factory.mktemp('settings')
    ids, merges = learn_vocabulary([TEXT], 300)
    write_vocabulary(str(directory), ids, merges)
    hparams = HParams(n_vocab=len(ids), n_ctx=32, n_embd=24, n_head=3, n_layer=2)
    (directory / 'hparams.json').write_text(json.dumps(vars(hparams)))
    return directory


@pytest.fixture(scope='session')
def model_directory(tf, settings_directory, tmp_path_factory):
    """A model directory `models/toy` with random weights, larger than a new model's so that every term shows."""
    return write_model(settings_directory, tmp_path_factory.mktemp('home') / 'models' / 'toy')


@pytest.fixture(scope='session')
def one_block(tf, settings_directory, tmp_path_factory):
    """A model directory `models/one_block`: as `models/toy`, with half of the graph to build."""
    return write_model(settings_directory, tmp_path_factory.mktemp('home') / 'models' / 'one_block', n_layer=1)


def write_model(settings_directory, directory, **sizes):
    """Writes a model directory with random weights, of these sizes and otherwise those of a model directory without weights."""
    import tensorflow.compat.v1 as tf

    import model
    from network.hparams import load_hparams
    from reference import random_params
    from storage import saver
    shutil.copytree(settings_directory, directory)
    hparams = dataclasses.replace(load_hparams(str(directory)), **sizes)
    (directory / 'hparams.json').write_text(json.dumps(vars(hparams)))
    with tf.Graph().as_default(), tf.Session() as session:
        model.model(hparams, tf.placeholder(tf.int32, [None, None]))
        load_params(session, random_params(hparams, seed=0))
        saver.save_model(session, str(directory))
    return directory


def load_params(session, params):
    """Sets the graph's variables model/NAME to params[NAME]."""
    import tensorflow.compat.v1 as tf
    variables = tf.trainable_variables()
    values = {v.initializer.inputs[1]: params[v.op.name.removeprefix('model/')].astype(np.float32) for v in variables}
    session.run([v.initializer for v in variables], values)     # in one run: each first looks through the complete graph


@pytest.fixture
def home(tmp_path, model_directory, one_block):
    """An empty working directory with `models/toy`, `models/one_block` and a `corpus.txt`."""
    (tmp_path / 'models').mkdir()
    for directory in (model_directory, one_block):
        (tmp_path / 'models' / directory.name).symlink_to(directory)
    (tmp_path / 'corpus.txt').write_text(TEXT)
    return tmp_path


@pytest.fixture
def script(home):
    """Runs a script in `home`: script('train.py', '--dataset', …) -> CompletedProcess with text output."""
    def run(name, *flags, **kwargs):
        command = [sys.executable, os.path.join(ROOT, name), *map(str, flags)]
        return subprocess.run(command, cwd=home, capture_output=True, text=True, encoding='utf-8', timeout=300,
                              check=False, **kwargs)
    return run


@pytest.fixture
def without_tensorflow(script, tmp_path_factory):
    """As `script`, but importing TensorFlow fails: for what must be found wrong before."""
    fake = tmp_path_factory.mktemp('fake')
    (fake / 'tensorflow.py').write_text('raise SystemExit("TensorFlow was imported")')
    return lambda name, *flags, **kwargs: script(name, *flags, env=os.environ | {'PYTHONPATH': str(fake)}, **kwargs)


@pytest.fixture
def mistake(home, monkeypatch, capsys):
    """Runs a script with a mistake in this process, where importing TensorFlow fails: mistake('train.py', …) -> its error.

    Without the script's name, which begins it. Checks that it is one line, and the status 2.
    """
    def run(name, *flags):
        monkeypatch.chdir(home)
        monkeypatch.setattr(sys, 'argv', [name, *map(str, flags)])
        monkeypatch.setattr(sys, 'path', [*sys.path])       # to which a script adds src
        for module in ('tensorflow', 'tensorflow.compat.v1'):
            monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(os.path.join(ROOT, name), run_name='__main__')
        [line] = capsys.readouterr().err.splitlines()
        assert ended.value.code == 2, line
        assert line.startswith(f'{name}: ')
        return line.removeprefix(f'{name}: ')
    return run


@pytest.fixture
def train(tf, home, monkeypatch, capsys):
    """Runs train.py in this process, which saves the import of TensorFlow: train('--max_steps', 3) -> what it prints."""
    def run(*flags):
        import train
        monkeypatch.chdir(home)
        monkeypatch.setattr(sys, 'argv', ['train.py', '--model_name', 'toy', '--dataset', 'corpus.txt',
                                          *map(str, flags)])
        capsys.readouterr()
        train.main()
        return capsys.readouterr().out
    return run


@pytest.fixture(scope='module')
def generators():
    """Checkpoint -> its Generator, which takes seconds to build."""
    return {}


@pytest.fixture
def built_once(tf, generators, monkeypatch):
    """Gives a script the Generator that an earlier call has built for the same checkpoint."""
    import generator
    build = generator.Generator

    def find_or_build(model, weights='float32'):
        key = os.path.realpath(model if isinstance(model, str) else model.checkpoint), weights
        return generators.get(key) or generators.setdefault(key, build(model, weights))
    monkeypatch.setattr(generator, 'Generator', find_or_build)


def one_line_error(result):
    """The single line on standard error with which a script must end on bad input; its status must be 2."""
    assert result.returncode == 2, result.stderr + result.stdout
    [line] = result.stderr.splitlines()
    return line


@pytest.fixture
def parse(monkeypatch):
    """The flags of train.py, parsed: parse('--max_steps', 3) -> Namespace."""
    def run(*flags):
        import train
        monkeypatch.setattr(sys, 'argv', ['train.py', '--dataset', 'corpus.txt', *map(str, flags)])
        return train.parse_flags()
    return run
