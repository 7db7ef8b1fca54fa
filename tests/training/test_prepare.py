"""What a run reads and checks before TensorFlow: its job, its directory, and what workers compare before they start."""

import dataclasses
import fcntl
import json
import os
import re
import shutil
import sys

import numpy as np
import pytest

from command.errors import UserError
from conftest import ROOT, TEXT
from load_dataset import Sampler
from network.hparams import HParams
from storage.model_directory import Model
from storage.run_state import RunState
from training.prepare import ALIKE, Job, prepare
from training.settings import Settings, make_settings
from workers.cluster import ONE_WORKER, Cluster

HPARAMS = HParams(n_vocab=9, n_ctx=8, n_embd=6, n_head=2, n_layer=1)
# Flags that workers need not share. Any other is in ALIKE: a new flag belongs to one of them.
OWN = {'dataset', 'processes', 'no_cache', 'model_name', 'models_dir', 'warn_epochs', 'seed', 'run_name', 'restore_from',
       'overwrite', 'save_every', 'save_secs', 'keep', 'plot', 'dry_run', 'sample_every', 'sample_length', 'sample_num', 'top_k',
       'top_p', 'val_dataset', 'keep_best', 'local_workers', 'max_restarts', 'workers', 'worker_index', 'slurm', 'dist_timeout',
       'dist_startup_timeout', 'worker_count'}


@pytest.fixture
def make_job(parse):
    """Makes a worker's job with some settings: make_job(batch_size=7). number: its step, and the seed of its generators."""
    settings = make_settings(parse(), HPARAMS)

    def make(number=0, **changed):
        return Job(settings=dataclasses.replace(settings, **changed), model=Model('models/toy', HPARAMS, None, None),
                   checkpoint=None, state=RunState(step=number), lock=None,
                   record={'corpus': {'tokens': 9, 'sha256': '0123456789'}, 'versions': {'tensorflow': '2.21'}},
                   train=Sampler([np.arange(100)], number), validation=[np.arange(6), np.arange(5)],
                   noise=np.random.default_rng(number + 1), contexts=Sampler([np.arange(100)], number + 2),
                   sampling=np.random.default_rng(number + 3))
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
    assert list(expected) == ['data', 'noise', 'contexts', 'sampling']
    assert len(set(expected.values())) == 4
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
    assert len({*states(job).values(), *states(prepared('--seed', 2)).values()}) == 8
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
    from training import prepare as module
    from training import record
    changed = json.loads(json.dumps(job.record)) | {'workers': 2}
    record.write_record('checkpoint/run1', changed)
    capsys.readouterr()
    module.print_changes(job)
    assert capsys.readouterr().out == ('This run continues with other settings: the number of workers, each with --batch_size '
                                       'sequences: 2 before, 1 now\n')
    job.state.step = 0
    module.print_changes(job)
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
    with pytest.raises(UserError, match='two documents'):
        prepared('--val_split', 0.5)
    assert not os.path.exists('checkpoint') and not os.path.exists('samples')
    os.makedirs('checkpoint/run1')
    with pytest.raises(UserError, match='two documents'):
        prepared('--val_split', 0.5)
    with open('checkpoint/run1/lock', encoding='utf-8') as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)        # raises BlockingIOError while it is locked


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
    (['--val_split', 0.5], '--val_every is 0: no validation takes place', True),
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
    assert [batch.shape for batch in job.validation] == [(2, 16)] * (3 if '--val_every' in flags else 0)
    if '--val_every' in flags:
        other = 'Q' in job.model.encoder.decode(np.ravel(job.validation).tolist())
        assert other == ('--val_dataset' in flags)


def test_a_directory_that_cannot_be_written_to(prepared):
    open('samples', 'w').close()
    with pytest.raises(UserError, match='^cannot write to samples/run1: Not a directory$'):
        prepared()
