"""What a run reads and checks before TensorFlow: its job, its directory, and what workers compare before they start."""

import dataclasses
import errno
import fcntl
import glob
import hashlib
import json
import os
import re
import shutil
import signal
import sys

import numpy as np
import pytest

from checkpoint_files import write_checkpoint
from command.errors import UserError
from conftest import ROOT, TEXT
from corpus.chunks import Corpus
from load_dataset import Sampler
from network.hparams import HParams, load_hparams
from storage import run_directory, run_state
from storage.model_directory import Model
from storage.run_state import RunState
from training import prepare as prepare_module
from training import record
from training.job import ALIKE, Job
from training.prepare import prepare
from training.settings import Settings, make_settings
from workers.cluster import ONE_WORKER, Cluster

HPARAMS = HParams(n_vocab=9, n_ctx=8, n_embd=6, n_head=2, n_layer=1)
# Flags that workers need not share. Any other is in ALIKE: a new flag belongs to one of them.
OWN = {'dataset', 'processes', 'no_cache', 'model_name', 'models_dir', 'warn_epochs', 'seed', 'run_name', 'restore_from',
       'overwrite', 'checkpoint_dir', 'sample_dir', 'save_every', 'save_secs', 'keep', 'plot', 'dry_run', 'sample_every',
       'sample_length', 'sample_num', 'sample_prompt', 'sample_temperature', 'top_k', 'log_every', 'config', 'measure_steps',
       'top_p', 'val_dataset', 'keep_best', 'local_workers', 'max_restarts', 'workers', 'worker_index', 'slurm', 'dist_timeout',
       'dist_startup_timeout', 'worker_count', 'gpu_memory', 'xla', 'no_nccl'}


@pytest.fixture
def make_job(parse):
    """Makes a worker's job with some settings: make_job(batch_size=7). number: its step, and the seed of its generators."""
    settings = make_settings(parse(), HPARAMS)

    def make(number=0, **changed):
        return Job(settings=dataclasses.replace(settings, **changed), model=Model('models/toy', HPARAMS, None, None),
                   checkpoint=None, state=RunState(step=number), lock=None,
                   record={'corpus': {'tokens': 9, 'sha256': '0123456789'}, 'versions': {'tensorflow': '2.21'}},
                   train=Sampler([np.arange(100)], number), validation=[np.arange(6), np.arange(5)],
                   noise=np.random.default_rng(number + 1), dropout=np.random.default_rng(number + 4),
                   contexts=Sampler([np.arange(100)], number + 2), sampling=np.random.default_rng(number + 3),
                   initial=np.random.default_rng(number + 5))
    return make


def agree(*jobs):
    """Has each worker get the texts of all."""
    texts = []
    for job in jobs:
        job.agree(lambda text: texts.append(text) or [text])
    for job in jobs:
        job.agree(lambda _: texts)


def test_every_flag_is_compared_or_may_differ():
    assert sorted([*ALIKE, *OWN]) == sorted(field.name for field in dataclasses.fields(Settings))


@pytest.mark.parametrize('flag', ALIKE)
def test_a_flag_that_differs_is_named(make_job, flag):
    value = getattr(make_job().settings, flag)
    other = not value if isinstance(value, bool) else 'other' if value is None or isinstance(value, str) else value + 1
    with pytest.raises(UserError, match=f'^--{flag} is {re.escape(f"{other} for worker 2 but {value} for worker 0")}: '):
        agree(make_job(), make_job(), make_job(**{flag: other}))


@pytest.mark.parametrize(('change', 'error'), [
    (lambda job: setattr(job, 'model', dataclasses.replace(job.model, hparams=dataclasses.replace(HPARAMS, n_head=3))),
     "the model is .*'n_head': 3.* for worker 1 but .*'n_head': 2.* for worker 0"),
    (lambda job: job.record['corpus'].update(sha256='1123456789'), r'the corpus is 9 tokens \(11234567\) for worker 1'),
    (lambda job: job.record['corpus'].update(tokens=8), r'the corpus is 8 tokens \(01234567\) for worker 1'),
    (lambda job: job.record['corpus'].update(weights=[[2.0, 9]]),
     'the weights of the data sets is 2 for 9 tokens for worker 1 but none for worker 0'),
    (lambda job: job.validation.pop(), 'the validation data is .{8} for worker 1 but .{8} for worker 0'),
    (lambda job: job.record['versions'].clear(), 'the version of TensorFlow is None for worker 1 but 2.21 for worker 0')])
def test_a_job_that_differs_is_named(make_job, change, error):
    jobs = make_job(), make_job()
    change(jobs[1])
    with pytest.raises(UserError, match=error):
        agree(*jobs)


def test_all_continue_with_the_state_and_generators_of_worker_0(make_job):
    """Another --seed, or another name of the model, is no mistake."""
    jobs = make_job(5, seed=5), make_job(6, seed=6, model_name='copy'), make_job(7)
    expected = {name: generator.random() for name, generator in make_job(5).generators().items()}
    assert list(expected) == ['data', 'noise', 'dropout', 'contexts', 'sampling']
    assert len(set(expected.values())) == 5
    agree(*jobs)
    for job in jobs:
        assert job.state.step == 5
        assert {name: generator.random() for name, generator in job.generators().items()} == expected


@pytest.mark.parametrize(('settings', 'state', 'words'), [
    ({}, {'step': 10 ** 6, 'tokens': 10 ** 9, 'not_better': 99}, None),
    ({'max_steps': 5}, {'step': 4}, None),
    ({'max_steps': 5}, {'step': 5}, '--max_steps 5 reached'),
    ({'epochs': 1.5}, {'tokens': 149}, None),
    ({'epochs': 1.5}, {'tokens': 150}, '--epochs 1.5 reached'),
    ({'patience': 2}, {'not_better': 1}, None),
    ({'patience': 2}, {'not_better': 2, 'best_loss': 3.14159, 'best_step': 7},
     '--patience 2 reached: no validation loss below 3.1416 since step 7')])
def test_when_a_run_has_ended(make_job, settings, state, words):
    job = make_job(**settings)
    job.state = RunState(**state)
    assert job.finished() == words


@pytest.fixture
def prepared(parse, tmp_path, monkeypatch):
    """Prepares a run of the model that ships, without TensorFlow: prepared(*flags) -> its job, whose lock is released."""
    monkeypatch.chdir(tmp_path)
    for module in ('tensorflow', 'tensorflow.compat.v1'):
        monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / 'corpus.txt').write_text(TEXT)

    def run(*flags, cluster=ONE_WORKER):
        job = prepare(parse('--model_name', 'tiny', '--models_dir', os.path.join(ROOT, 'models'), '--seq_length', 16,
                            '--val_batch_count', 3, *flags), cluster)
        if job.lock:
            job.lock.close()
        return job
    return run


def states(job):
    return {name: generator.bit_generator.state['state']['state'] for name, generator in job.generators().items()}


def test_a_new_run_starts_from_the_model(prepared):
    job = prepared('--seed', 1)
    assert (job.checkpoint, job.state) == (os.path.join(ROOT, 'models/tiny/model.ckpt'), RunState())
    assert states(job) == states(prepared('--seed', 1))
    assert len({*states(job).values(), *states(prepared('--seed', 2)).values()}) == 10
    assert states(prepared()) != states(prepared())
    assert job.validation == []
    assert job.train.total_size == job.record['corpus']['tokens'] == job.contexts.total_size
    assert os.listdir('samples/run1') == []


def test_a_resumed_run_restores_its_generators_and_prints_what_changed(prepared, capsys):
    job = prepared('--seed', 1)
    before = states(job)
    job.state.generators = {name: generator.bit_generator.state for name, generator in job.generators().items()}
    job.train.sample(3)
    assert states(job) != before
    job.set_generators()
    assert states(job) == before
    job.state.step = 1
    changed = json.loads(json.dumps(job.record)) | {'workers': 2}
    record.write_record('checkpoint/run1', changed)
    capsys.readouterr()
    prepare_module.print_changes(job)
    assert capsys.readouterr().out == ('This run continues with other settings: the number of workers, each with --batch_size '
                                       'sequences: 2 before, 1 now\n')
    job.state.step = 0
    prepare_module.print_changes(job)
    assert capsys.readouterr().out == ''


def test_special_tokens_are_part_of_the_cached_corpus_s_key(prepared, tmp_path, capsys):
    shutil.copytree(os.path.join(ROOT, 'models/tiny'), tmp_path / 'models/tiny')
    sizes = []
    for added in ([], ['the'], ['the', 'o'], ['the', 'o']):
        (tmp_path / 'models/tiny/special_tokens.json').write_text(json.dumps(
            {'end_of_text': '<|endoftext|>', 'special': ['<|endoftext|>'], 'added': added}))
        sizes.append(prepared('--models_dir', 'models').train.total_size)
    assert sizes[0] < sizes[1] < sizes[2] == sizes[3]
    assert capsys.readouterr().out.count('encoding it into') == 3


def test_a_mistake_gives_the_directory_back(prepared):
    with pytest.raises(UserError, match='leaves nothing to train on'):
        prepared('--val_split', 1)
    assert os.listdir() == ['corpus.txt']
    os.makedirs('checkpoint/run1')
    for name in ('lock', 'dataset.json'):
        open(f'checkpoint/run1/{name}', 'w').close()
    with pytest.raises(UserError, match='leaves nothing to train on'):
        prepared('--val_split', 1)
    assert sorted(os.listdir('checkpoint/run1')) == ['dataset.json', 'lock']        # those that were there before
    with open('checkpoint/run1/lock', encoding='utf-8') as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)        # raises BlockingIOError while it is locked


@pytest.mark.parametrize('number', [None, signal.SIGINT])
def test_a_start_that_fails_leaves_a_run_that_was_made_below_it(prepared, monkeypatch, number):
    """number: a signal while the corpus is read; None: a mistake in the corpus."""
    def read(*_, read_corpus=prepare_module.read_corpus):
        monkeypatch.setattr(prepare_module, 'read_corpus', read_corpus)
        prepared('--no_cache', '--run_name', 'exp/b')
        open('checkpoint/exp/b/model-3.index', 'w').close()
        if number:
            signal.raise_signal(number)
        raise UserError('bad byte')
    monkeypatch.setattr(prepare_module, 'read_corpus', read)
    with pytest.raises(KeyboardInterrupt if number else UserError):
        prepared('--no_cache', '--run_name', 'exp')
    assert os.listdir('checkpoint/exp') == ['b']
    assert sorted(os.listdir('checkpoint/exp/b')) == ['lock', 'model-3.index']


@pytest.mark.parametrize('name', ['', '.', './', '..', '../run1', '/run1', 'a/../..', 'a/..'])
def test_a_name_that_is_no_directory_of_its_own(prepared, name):
    with pytest.raises(UserError, match='is not the name of a directory in runs: give a name like run1 or exp/run1; --checkp'):
        prepared('--run_name', name, '--checkpoint_dir', 'runs')
    assert os.listdir() == ['corpus.txt']


def test_other_directories(prepared):
    job = prepared('--checkpoint_dir', 'runs', '--sample_dir', 'texts', '--run_name', 'exp/b/')
    assert (job.settings.run_directory, job.settings.sample_directory) == ('runs/exp/b', 'texts/exp/b')
    assert sorted(os.listdir()) == ['corpus.txt', 'runs', 'texts']
    assert os.path.exists('runs/exp/b/dataset.npz')
    with pytest.raises(UserError, match="no checkpoint 'x'; this run has none; runs in runs: none"):
        prepared('--checkpoint_dir', 'runs', '--restore_from', 'x')


def run_of_seven_steps(model):
    """A run `checkpoint/run1` with a checkpoint of a model's weights, without their state."""
    shutil.copytree(os.path.join(ROOT, 'models', model), 'checkpoint/run1')
    for path in glob.glob('checkpoint/run1/model.ckpt*'):
        os.rename(path, path.replace('model.ckpt', 'model-7'))
    with open('checkpoint/run1/checkpoint', 'w', encoding='utf-8') as file:
        file.write('model_checkpoint_path: "model-7"\n')


def test_a_run_continues_without_the_model_that_it_is_made_from(prepared, parse, capsys):
    run_of_seven_steps('tiny')
    job = prepared('--models_dir', 'nowhere')
    assert job.model.directory == 'checkpoint/run1' and job.checkpoint == 'checkpoint/run1/model-7'
    assert (job.state.step, job.settings.model_name) == (7, 'tiny')
    assert ('no model \'tiny\' in nowhere: checkpoint/run1 continues with its own sizes and vocabulary\n'
            in capsys.readouterr().out)
    for flags in (['--overwrite'], ['--restore_from', 'fresh'], ['--run_name', 'new']):
        with pytest.raises(UserError, match="no model 'tiny' in nowhere"):
            prepared('--models_dir', 'nowhere', *flags)


def test_a_run_has_its_own_model_if_none_is_named(prepared, parse, capsys):
    """Also if the default, 117M, is there."""
    run_of_seven_steps('tiny')
    shutil.copytree(os.path.join(ROOT, 'models/tiny'), 'models/124M')
    shutil.copytree(os.path.join(ROOT, 'models/tiny'), 'models/tiny')
    change_size('models/124M')
    job = prepare(parse('--seq_length', 16))
    job.lock.close()
    assert job.model.directory == 'checkpoint/run1' and job.settings.model_name == '117M'       # nothing says which it was
    record.write_record('checkpoint/run1', {**job.record, 'flags': {**job.record['flags'], 'model_name': 'tiny'}})
    job = prepare(parse('--seq_length', 16))
    job.lock.close()
    assert job.settings.model_name == 'tiny'
    assert 'continues with its own' not in capsys.readouterr().out
    with pytest.raises(UserError, match='run1 is a run of a model of another size than 124M'):
        prepare(parse('--seq_length', 16, '--model_name', '124M'))


def change_size(directory):
    with open(f'{directory}/hparams.json', encoding='utf-8') as file:
        hparams = json.load(file)
    with open(f'{directory}/hparams.json', 'w', encoding='utf-8') as file:
        json.dump(hparams | {'n_layer': hparams['n_layer'] + 1}, file)


@pytest.mark.parametrize('where', ['latest', '7', 'checkpoint/run1/model-7'])
def test_a_state_that_was_not_copied_along_is_printed(prepared, capsys, where):
    run_of_seven_steps('tiny')
    job = prepared('--restore_from', where)
    assert job.state == RunState(step=7, validated=7, sampled=7)
    assert ('checkpoint/run1/model-7.json, the state of the run, is missing\n'
            'continuing with the weights of checkpoint/run1/model-7 alone: the order of the data, the running average, the best '
            'validation loss and the tokens that --epochs counts start from scratch\n') in capsys.readouterr().out


def test_memory_is_checked_before_the_corpus_is_read(prepared, monkeypatch):
    def refuse(*_):
        raise UserError('too much memory')
    monkeypatch.setattr(prepare_module.memory, 'check', refuse)
    with pytest.raises(UserError, match='too much memory'):
        prepared('--dataset', 'nowhere.txt')


def test_a_run_without_adapters_does_not_continue_with_them(prepared):
    run_of_seven_steps('tiny')
    with pytest.raises(UserError, match='^checkpoint/run1 is a run with no adapters, not with --lora_rank 2 '):
        prepared('--lora_rank', 2)


def test_a_damaged_checkpoint_is_passed_over(prepared, capsys):
    run_of_seven_steps('tiny')
    for path in glob.glob('checkpoint/run1/model-7*'):
        shutil.copy(path, path.replace('model-7', 'model-9'))
    run_state.write('checkpoint/run1/model-9', RunState(step=9))
    os.truncate('checkpoint/run1/model-9.data-00000-of-00001', 1000)
    with open('checkpoint/run1/checkpoint', 'w', encoding='utf-8') as file:
        file.write('model_checkpoint_path: "model-9"\n')
    job = prepared()
    assert (job.checkpoint, job.state.step) == ('checkpoint/run1/model-7', 7)
    assert 'model-9.data-00000-of-00001 is damaged: its checksum does not match: skipping' in capsys.readouterr().out


def test_a_start_after_an_overwrite_that_had_no_checkpoint(prepared, capsys):
    run_of_seven_steps('tiny')
    run_directory.set_aside('checkpoint/run1')
    job = prepared()
    assert (job.state.step, job.checkpoint) == (7, 'checkpoint/run1/model-7')
    assert 'checkpoint/run1: the run that --overwrite was to replace is back' in capsys.readouterr().out


def test_workers_that_cannot_lock_the_cache_leave_it_to_worker_0(prepared, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, 'No locks available')
    monkeypatch.setattr(fcntl, 'flock', refuse)
    prepared(cluster=Cluster(('a:1', 'b:1'), 1))
    assert not os.path.exists('checkpoint/run1/dataset.npz')
    prepared(cluster=Cluster(('a:1', 'b:1'), 0))
    assert os.path.exists('checkpoint/run1/dataset.npz')


def test_only_worker_0_takes_the_directory_and_the_checkpoint(prepared):
    job = prepared(cluster=Cluster(('a:1', 'b:1'), 1))
    assert (job.lock, job.checkpoint, job.settings.worker_count) == (None, None, 2)
    assert not os.path.exists('samples') and not os.path.exists('checkpoint/run1/lock')
    job = prepared(cluster=Cluster(('a:1', 'b:1'), 0))
    assert job.lock.closed and job.checkpoint and os.path.exists('samples/run1')


@pytest.mark.parametrize(('flags', 'printed', 'held_out'), [
    (['--val_every', 1], 'Neither --val_dataset nor --val_split is given: validating on the training data', None),
    (['--val_every', 1, '--val_dataset', 'other.txt'], 'Loading dataset other.txt', None),
    (['--val_every', 1, '--val_split', 0.5], 'held out for validation: ', True),
    (['--val_every', 0, '--val_split', 0.5], '--val_every is 0: no validation takes place', True),
    (['--val_split', 0.5], '--val_split is given without --val_every: validating every 100 steps\n', True),
    (['--val_dataset', 'other.txt'], '--val_every is 0: no validation takes place', None)])
def test_what_is_validated_on(prepared, capsys, flags, printed, held_out):
    with open('corpus.txt', 'a', encoding='utf-8') as corpus, open('other.txt', 'w', encoding='utf-8') as other:
        corpus.write('<|endoftext|>' + TEXT)
        other.write('Q' * 99)
    complete = prepared('--run_name', 'complete').train.total_size
    capsys.readouterr()
    job = prepared(*flags)
    assert printed in capsys.readouterr().out
    assert (job.train.total_size < complete) == bool(held_out)
    assert [batch.shape for batch in job.validation] == [(2, 16)] * (3 if job.settings.val_every else 0)
    if job.settings.val_every:
        other = 'Q' in job.model.encoder.decode(np.ravel(job.validation).tolist())
        assert other == ('--val_dataset' in flags)


@pytest.fixture
def texts():
    """Three files with a letter each that tells their tokens apart."""
    for letter, size in (('Q', 300), ('X', 200), ('Z', 100)):
        with open(f'{letter}.txt', 'w', encoding='utf-8') as file:
            file.write(f'{letter} ' * size)


def drawn(sampler, job, letter, n=300):
    """The share of n samples of 16 tokens that are of the file with this letter."""
    return sum(letter in job.model.encoder.decode(sampler.sample(16).tolist()) for _ in range(n)) / n


def test_data_sets_without_weights_are_one_corpus(prepared, texts):
    several = prepared('--seed', 1, '--dataset', 'Q.txt', 'X.txt', 'Z.txt', '--run_name', 'several')
    one = prepared('--seed', 1, '--dataset', '[QXZ].txt', '--run_name', 'one')
    equal = prepared('--seed', 1, '--dataset', 'Q.txt=3', 'X.txt=3', 'Z.txt=3', '--run_name', 'equal')
    draws = [[job.train.sample(16).tolist() for _ in range(9)] for job in (several, one, equal)]
    assert draws[0] == draws[1] == draws[2]
    assert several.record['corpus']['key'] == one.record['corpus']['key'] == equal.record['corpus']['key']
    assert several.record['corpus']['name'] == several.record['flags']['dataset'] == ['Q.txt', 'X.txt', 'Z.txt']
    assert one.record['corpus']['name'] == one.record['flags']['dataset'] == '[QXZ].txt'
    assert not any('weights' in job.record['corpus'] for job in (several, one, equal))


def test_weighted_data_sets(prepared, texts, capsys):
    job = prepared('--seed', 1, '--dataset', 'Q.txt=0.001', 'X.txt=100', 'Z.txt=0.001', '--val_every', 1, '--val_dataset',
                   'Q.txt=100', 'Z.txt')
    output = capsys.readouterr().out
    assert 'Loading dataset Q.txt=0.001, X.txt=100, Z.txt=0.001\n' in output
    (light, light_tokens), (heavy, heavy_tokens) = job.record['corpus']['weights']
    assert (light, heavy) == (0.001, 100)
    assert f'weights of its data sets: 0.001 for {light_tokens} tokens, 100 for {heavy_tokens} tokens\n' in output
    assert light_tokens + heavy_tokens == job.train.total_size == job.record['corpus']['tokens']
    assert drawn(job.train, job, 'X') > 0.95 and drawn(job.contexts, job, 'X') > 0.95
    validated = job.model.encoder.decode(np.ravel(job.validation).tolist())
    assert validated.count('Q') > 20 * validated.count('Z')
    assert job.record['flags']['val_dataset'] == ['Q.txt=100', 'Z.txt']


def test_one_text_is_split_by_tokens(prepared, capsys):
    """Without anything else: a text without documents, and no interval."""
    complete = prepared('--run_name', 'complete').train
    tokens = complete.chunks[0][:].tolist()
    capsys.readouterr()
    jobs = [prepared('--val_split', 0.1), prepared('--val_split', 0.1, cluster=Cluster(('a:1', 'b:1'), 1))]
    assert f'held out for validation: {round(0.1 * len(tokens))} tokens\n' in capsys.readouterr().out
    for job in jobs:
        [chunk] = job.train.chunks
        assert chunk[:].tolist() == tokens[:-round(0.1 * len(tokens))]
        rest = np.array(tokens[len(chunk):])
        windows = {tuple(window) for window in np.lib.stride_tricks.sliding_window_view(rest, 16)}
        assert {tuple(row) for row in np.concatenate(job.validation)} <= windows
    with pytest.raises(UserError, match=r'^--val_split 0.01 holds out \d+ tokens, fewer than a sequence of 16: give a larger '):
        prepared('--val_split', 0.01)
    prepared('--val_split', 0.01, '--val_every', 0)


def test_a_split_by_documents_of_an_earlier_version_is_another_corpus(prepared):
    """Its key must not be the present one, or the checksum of the tokens would be taken from its record."""
    plain = record.describe(prepared('--val_split', 0.1).settings, Corpus([np.arange(9)]), 'the key')['corpus']['key']
    assert plain != hashlib.sha256(b'the key 0.1').hexdigest()
    unsplit = record.describe(prepared().settings, Corpus([np.arange(9)]), 'the key')['corpus']['key']
    assert unsplit == hashlib.sha256(b'the key 0.0').hexdigest()


def test_what_is_held_out_of_weighted_data_sets(prepared):
    for letter in 'QX':
        with open(f'{letter}.txt', 'w', encoding='utf-8') as file:
            file.write('<|endoftext|>'.join([f'{letter} ' * 50] * 20))
    job = prepared('--seed', 1, '--dataset', 'Q.txt=1000', 'X.txt', '--val_split', 0.5, '--val_every', 1)
    assert drawn(job.train, job, 'Q') > 0.95
    validated = job.model.encoder.decode(np.ravel(job.validation).tolist())
    assert validated.count('Q') > 20 * validated.count('X')
    weights = job.record['corpus']['weights']
    assert [weight for weight, _ in weights] == [1000, 1]
    assert sum(tokens for _, tokens in weights) == job.train.total_size


def test_one_file_of_records_among_the_data_sets_is_enough_for_a_column(prepared, texts):
    with open('a.tsv', 'w', encoding='utf-8') as file:
        file.write('t\n' + 'words ' * 99 + '\n')
    column = ('--text_column', 't')
    prepared(*column, '--val_every', 1, '--dataset', 'Q.txt', '--val_dataset', 'a.tsv')
    prepared(*column, '--val_every', 1, '--dataset', 'a.tsv', '--val_dataset', 'Q.txt', '--run_name', 'other')
    for flags in (['--val_every', 1], ['--val_dataset', 'a.tsv']):      # the second one validates nothing
        with pytest.raises(UserError, match='^--text_column t has no effect: '):
            prepared(*column, *flags, '--dataset', 'Q.txt', '--run_name', 'third')
    assert not os.path.exists('checkpoint/third')


def test_a_directory_that_cannot_be_written_to(prepared):
    open('samples', 'w').close()
    with pytest.raises(UserError, match='^cannot write to samples/run1: Not a directory$'):
        prepared()


@pytest.fixture
def new_model(tmp_path):
    """Writes models/new, with the sizes of models/tiny and the weights of a new model, maybe with changes."""
    def make(**changed):
        shutil.copytree(os.path.join(ROOT, 'models/tiny'), tmp_path / 'models/new', dirs_exist_ok=True)
        shapes = load_hparams(os.path.join(ROOT, 'models/tiny')).shapes()
        weights = {name: np.full(shape, float(name.endswith('/g')), np.float32) for name, shape in shapes.items()}
        for name, shape in shapes.items():
            if len(shape) > 1:
                weights[name] += 0.02
        for name, value in changed.items():
            weights[f'model/h3/{name}'][-1] = value
        write_checkpoint(tmp_path / 'models/new/model.ckpt', weights)
    return make


WARNING = ('models/new/model.ckpt has new weights, which --learning_rate {}, a rate for fine-tuning, changes slowly: for a '
           'model from scratch, begin with --learning_rate 0.0005{}\n')


@pytest.mark.parametrize(('flags', 'rate', 'more'), [
    ([], '2e-05', ''), (['--learning_rate', '0.00001', '--optimizer', 'adamw'], '1e-05', ''),
    (['--optimizer', 'sgd', '--dry_run'], '2e-05', ' --optimizer adam')], ids=str)
def test_a_model_from_scratch_is_warned_of_the_rate_for_fine_tuning(prepared, new_model, capsys, flags, rate, more):
    new_model()
    prepared('--model_name', 'new', '--models_dir', 'models', *flags)
    assert WARNING.format(rate, more) in capsys.readouterr().out


@pytest.mark.parametrize(('changes', 'flags'), [
    ({}, ['--learning_rate', '0.0005']), ({}, ['--learning_rate', '0.000021']),
    ({}, ['--optimizer', 'adafactor', '--learning_rate_schedule', 'relative']), ({'ln_1/g': 1.00001}, []),
    ({'attn/c_attn/b': 1e-9}, []), ({'mlp/c_proj/b': -0.1}, [])], ids=str)
def test_no_warning_of_another_rate_or_for_weights_that_were_trained(prepared, new_model, capsys, changes, flags):
    new_model(**changes)
    prepared('--model_name', 'new', '--models_dir', 'models', *flags)
    prepared('--run_name', 'other')         # models/tiny, which is trained
    assert 'new weights' not in capsys.readouterr().out
