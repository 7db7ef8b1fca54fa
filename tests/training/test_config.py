"""--config: a file gives what the flags would, is checked as they are, and is overridden by them."""

import argparse
import json
import os
import sys

import pytest

from checkpoint_files import read_checkpoint
from command.errors import UserError
from conftest import TEXT
from training.config import OF_A_START, not_taken, read_config

TOML = pytest.mark.skipif(sys.version_info < (3, 11), reason='Python 3.10 has no tomllib')


@pytest.fixture
def flags(tmp_path, monkeypatch):
    """flags(text of a TOML file, *arguments) -> what train.py takes from them."""
    def run(text, *arguments):
        import train
        monkeypatch.chdir(tmp_path)
        (tmp_path / 'flags.toml').write_bytes(text if isinstance(text, bytes) else text.encode())
        return train.parse_flags(['--config', 'flags.toml', *map(str, arguments)])
    return run


@TOML
def test_a_file_gives_what_the_command_line_would(flags, parse):
    given = flags('''
        # a comment
        dataset = ["corpus.txt", "~/poems/=3"]
        val_dataset = "test.txt"
        batch_size = 4
        learning_rate = 1e-4
        clip_norm = 1
        run_name = "poems"
        text_column = "2"
        plot = true
        keep_best = false
        memory_saving_gradients = false
        optimizer = "adamw"
        models_dir = "~/models"
    ''')
    expected = parse('--dataset', 'corpus.txt', '~/poems/=3', '--val_dataset', 'test.txt', '--batch_size', 4, '--clip_norm', 1,
                     '--learning_rate', 1e-4, '--run_name', 'poems', '--text_column', '2', '--plot', '--optimizer', 'adamw',
                     '--no-memory_saving_gradients', '--models_dir', '~/models', '--config', 'flags.toml')
    assert vars(given) == vars(expected)
    assert {name: type(value) for name, value in vars(given).items()} == {
        name: type(value) for name, value in vars(expected).items()}


@TOML
def test_flags_override_the_file_and_the_file_the_defaults(flags):
    text = 'dataset = ["a.txt", "b.txt"]\nbatch_size = 4\nplot = true\nmemory_saving_gradients = true\nkeep = 2\n'
    given = flags(text, '--batch', 8, '--dataset', 'c.txt', '--no-memory_saving_gradients')
    assert (given.batch_size, given.dataset, given.memory_saving_gradients) == (8, ['c.txt'], False)
    assert (given.plot, given.keep, given.save_every) == (True, 2, 1000)


@TOML
def test_a_corpus_is_required_in_the_file_or_on_the_command_line(flags):
    with pytest.raises(UserError, match='^the following arguments are required: --dataset'):
        flags('batch_size = 4')
    assert flags('dataset = "a.txt"').dataset == ['a.txt']
    assert flags('', '--dataset', 'a.txt').dataset == ['a.txt']


@TOML
def test_a_byte_order_mark(flags):
    assert flags('\ufeffdataset = "a.txt"\n').dataset == ['a.txt']


@TOML
@pytest.mark.parametrize(('line', 'words'), [
    ('bach_size = 4', 'unknown flag bach_size: did you mean batch_size? (see train.py --help)'),
    ('batch-size = 4', 'unknown flag batch-size: did you mean batch_size? (see train.py --help)'),
    ('help = true', 'unknown flag help (see train.py --help)'),
    ('batch_size = "4"', 'batch_size: expected a number, not "4"'),
    ('batch_size = 4.0', "batch_size: expected a whole number above 0, not '4.0'"),
    ('batch_size = 0', "batch_size: expected a whole number above 0, not '0'"),
    ('batch_size = [4]', 'batch_size: expected one text or number, not [4]'),
    ('batch_size = true', 'batch_size: expected one text or number, not true'),
    ('learning_rate = nan', "learning_rate: expected a number above 0, not 'nan'"),
    ('run_name = 5', 'run_name: expected a text in quotes, not 5'),
    ('run_name = 2026-01-01', 'run_name: expected one text or number, not "2026-01-01"'),
    ('optimizer = "adan"', "optimizer: invalid choice: 'adan' (choose from "),
    ('plot = "yes"', 'plot: expected true or false, not "yes"'),
    ('memory_saving_gradients = 1', 'memory_saving_gradients: expected true or false, not 1'),
    ('dataset = []', 'dataset: expected a text in quotes, or a list of them, not []'),
    ('dataset = ["a.txt", 1]', 'dataset: expected a text in quotes, or a list of them, not ["a.txt", 1]'),
    (f'dataset = {list(range(99))}', f'dataset: expected a text in quotes, or a list of them, not {str(list(range(99)))[:60]}…'),
    *((f'{name} = 1', f'{name} is for one start of a run: give --{name} on the command line') for name in OF_A_START),
    ('[training]\nbatch_size = 4', '[training] is a table: write all flags without tables, as in: batch_size = 4')])
def test_a_mistake_in_the_file_is_one_line_that_names_it(mistake, home, line, words):
    (home / 'flags.toml').write_text(line)
    assert mistake('train.py', '--dataset', 'corpus.txt', '--config', 'flags.toml').startswith(f'flags.toml: {words}')


@TOML
@pytest.mark.parametrize('content', [b'batch_size', b'batch_size = 1\nbatch_size = 2', b'run_name = "\xff"', b'{"flags": {}}',
                                     b'batch_size = ' + b'9' * 5000, b'dataset = ' + b'[' * 5000])
def test_a_file_that_is_not_toml(mistake, home, content):
    (home / 'flags.toml').write_bytes(content)
    assert mistake('train.py', '--config', 'flags.toml').startswith('flags.toml is not TOML: ')


@pytest.mark.parametrize(('name', 'words'), [
    ('none.toml', 'cannot read none.toml: No such file or directory'), ('models', 'cannot read models: Is a directory'),
    ('none.json', 'cannot read none.json: No such file or directory'),
    ('models/toy/hparams.json', 'models/toy/hparams.json is not the settings.json of a run: it has no "flags"; ')])
def test_a_file_that_cannot_be_used(mistake, home, name, words):
    if name.endswith('.json') or sys.version_info >= (3, 11):
        assert mistake('train.py', '--config', name).startswith(words)


def test_a_python_without_toml(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'tomllib', None)
    with pytest.raises(UserError, match='^--config a.toml: reading TOML needs Python 3.11 or newer$'):
        read_config('a.toml')


def settings_file(directory, flags, **record):
    path = directory / 'settings.json'
    path.write_text(json.dumps({'flags': flags, 'versions': {'numpy': '2'}, 'corpus': {'tokens': 9}, **record}))
    return str(path)


def test_defaults_in_a_run_s_record_do_not_stand_in_the_way(tmp_path):
    """A run with another optimizer than adamw has a --weight_decay in its record, which the command line refuses."""
    given = {'weight_decay': 0.01, 'seed': None, 'processes': 64, 'val_every': 0, 'val_split': 0.0, 'batch_size': 2,
             'sample_length': 1023}
    assert read_config(settings_file(tmp_path, given)) == {'val_split': 0.0, 'batch_size': 2}
    given |= {'weight_decay': 0.1, 'seed': 0, 'val_split': 0.1, 'sample_length': 100}
    assert read_config(settings_file(tmp_path, given)) == {
        'weight_decay': 0.1, 'seed': 0, 'val_every': 0, 'val_split': 0.1, 'batch_size': 2, 'sample_length': 100}


def test_what_a_run_s_record_does_not_give_is_printed(tmp_path, parse):
    path = settings_file(tmp_path, {'run_name': 'a', 'restore_from': 'novel', 'workers': 'a:1,b:1', 'worker_index': 0}, workers=2)
    assert read_config(path) == {'run_name': 'a'}
    start = f'The run of {path} was started with --restore_from novel: give that too for the same start'
    workers = f'The run of {path} had 2 workers, this one has 1: see --local_workers and --workers'
    given = ('--config', path, '--run_name')
    assert not_taken(parse(*given, 'b'), 1) == [start, workers]
    assert not_taken(parse(*given, 'b'), 2) == [start]
    assert not_taken(parse(*given, 'b', '--restore_from', 'novel'), 1) == not_taken(parse(*given, 'a'), 1) == [workers]
    for start in ('latest', 'fresh'):
        settings_file(tmp_path, {'restore_from': start})
        assert not_taken(parse(*given, 'b'), 1) == []
    assert not_taken(parse(), 1) == not_taken(argparse.Namespace(config='flags.toml'), 1) == []


def test_an_unknown_flag_of_a_run_s_record(mistake, home):
    settings_file(home, {'bach_size': 2})
    assert mistake('train.py', '--config', 'settings.json').startswith(
        'settings.json: unknown flag bach_size: did you mean batch_size?')


def test_a_run_s_settings_make_the_same_run_again(tf, home, monkeypatch, capsys):
    import train
    monkeypatch.chdir(home)
    (home / 'corpus.txt').write_text(TEXT + 'Other words.')
    train.main(['--model_name', 'toy', '--dataset', 'corpus.txt', '--seed', '1', '--max_steps', '2', '--batch_size', '2',
                '--sample_every', '1', '--sample_length', '5', '--seq_length', '16', '--learning_rate', '0.01',
                '--overwrite', '--no-memory_saving_gradients'])
    capsys.readouterr()
    train.main(['--config', 'checkpoint/run1/settings.json', '--run_name', 'run2'])
    assert 'Training...' in capsys.readouterr().out
    first, second = (read_checkpoint(home / 'checkpoint' / run / 'model-2') for run in ('run1', 'run2'))
    assert all((first[name] == second[name]).all() for name in first)
    assert (home / 'samples/run1/samples-2').read_text() == (home / 'samples/run2/samples-2').read_text()
    flags = [json.loads((home / 'checkpoint' / run / 'settings.json').read_text())['flags'] for run in ('run1', 'run2')]
    assert {name for name in flags[0] if flags[0][name] != flags[1][name]} == {'config', 'run_name', 'overwrite'}
    train.main(['--config', 'checkpoint/run1/settings.json'])       # which continues it
    assert 'checkpoint/run1 has already ended after 2 steps' in capsys.readouterr().out
    assert os.listdir('checkpoint/run1').count('model-2.index') == 1
