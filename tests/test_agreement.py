"""What workers compare before they begin, thing by thing, and what all of them take from worker 0."""

import argparse
import types

import numpy as np
import pytest

import agreement
from errors import UserError
from hparams import HParams
from run_state import RunState

FLAGS = ('combine', 'encoding', 'noise', 'batch_size', 'accumulate_gradients', 'only_train_transformer_layers', 'optimizer',
         'learning_rate', 'learning_rate_schedule', 'warmup_steps', 'clip_norm', 'precision', 'val_split', 'max_steps', 'epochs',
         'patience', 'val_every', 'val_batch_size', 'val_batch_count', 'reduce_precision')


def worker(seed=0):
    """The flags and the job of a worker."""
    generators = {'data': np.random.default_rng(seed), 'noise': np.random.default_rng(seed + 1)}
    job = types.SimpleNamespace(
        hparams=HParams(n_vocab=9, n_ctx=8, n_embd=6, n_head=2, n_layer=1), seq_length=8, weight_decay=0.1, memory_saving=False,
        settings={'corpus': {'tokens': 9, 'sha256': '0123456789'}, 'versions': {'tensorflow': '2.21'}},
        validation=[np.arange(6)], state=RunState(step=seed), generators=lambda: generators)
    return argparse.Namespace(**dict.fromkeys(agreement.ALIKE, 1), model_name='toy', seed=seed), job


def agree(workers):
    """Has each of some workers hear what all of them say."""
    said = []
    for each in workers:
        agreement.agree(lambda text: said.append(text) or [text], *each)
    for each in workers:
        agreement.agree(lambda _: said, *each)


@pytest.mark.parametrize('flag', FLAGS)
def test_a_flag_that_differs(flag):
    workers = [worker() for _ in range(3)]
    setattr(workers[2][0], flag, 7)
    with pytest.raises(UserError, match=f'^--{flag} is 7 with worker 2 and 1 with worker 0: give all workers the same$'):
        agree(workers)


def change(name, value):
    return lambda job: setattr(job, name, value)


@pytest.mark.parametrize(('differ', 'message'), [
    (change('seq_length', 4), '--seq_length is 4 with worker 1 and 8 with worker 0'),
    (change('weight_decay', 0.2), '--weight_decay is 0.2 with worker 1'),
    (change('memory_saving', True), '--memory_saving_gradients is True with worker 1'),
    (change('hparams', HParams(9, 8, 6, 3, 1)), "the model is .*'n_head': 3.* with worker 1 and .*'n_head': 2.* with worker 0"),
    (change('validation', [np.arange(6) + 1]), 'the validation data is .{8} with worker 1'),
    (lambda job: job.settings['corpus'].update(sha256='1123456789'), r'the corpus is 9 tokens \(11234567\) with worker 1'),
    (lambda job: job.settings['versions'].clear(), 'the version of TensorFlow is None with worker 1 and 2.21 with worker 0')])
def test_a_job_that_differs(differ, message):
    workers = [worker(), worker()]
    differ(workers[1][1])
    with pytest.raises(UserError, match=message):
        agree(workers)


def test_all_go_on_as_worker_0_does():
    workers = [worker(seed) for seed in (5, 6, 7)]      # another --seed is no mistake, nor is another name of the model
    workers[1][0].model_name = 'copy'
    expected = {name: generator.random() for name, generator in worker(5)[1].generators().items()}
    agree(workers)
    for _, job in workers:
        assert job.state.step == 5
        assert {name: generator.random() for name, generator in job.generators().items()} == expected
