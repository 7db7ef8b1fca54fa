"""--dropout in a run: only of training, other masks for each batch and each worker."""

import json
import types

import numpy as np
import pytest

from checkpoint_files import read_checkpoint
from conftest import SMALL_RUN
from graph_walk import ops_of
from training import loop

FLAGS = (*SMALL_RUN, '--seed', 1, '--max_steps', 2, '--learning_rate', 1e-30, '--val_every', 1, '--val_batch_count', 1,
         '--sample_every', 1, '--sample_length', 9)


def losses(home, run, kind):
    rows = [json.loads(line) for line in (home / f'checkpoint/{run}/metrics.jsonl').read_text().splitlines()]
    return [row[kind] for row in rows if kind in row]


def test_validation_and_samples_are_without_dropout(train, home):
    train('--run_name', 'without', *FLAGS)
    train('--run_name', 'with', *FLAGS, '--dropout', 0.5)
    assert losses(home, 'with', 'val_loss') == losses(home, 'without', 'val_loss')
    for step in (1, 2):
        texts = [(home / f'samples/{run}/samples-{step}').read_text() for run in ('with', 'without')]
        assert texts[0] == texts[1]
    assert abs(losses(home, 'with', 'loss')[0] - losses(home, 'without', 'loss')[0]) > 0.01


@pytest.fixture
def seen(monkeypatch):
    """The graphs of runs, and the seeds of the batches of each step."""
    found = types.SimpleNamespace(graphs=[], seeds=[])
    update = loop.TrainingGraph.update

    def noted(graph, batches, *args, **kwargs):
        found.graphs.append(graph.session.graph)
        found.seeds.append([seed for *_, seed in batches])
        return update(graph, batches, *args, **kwargs)
    monkeypatch.setattr(loop.TrainingGraph, 'update', noted)
    return found


def test_each_batch_of_an_update_has_masks_of_its_own(train, home, seen):
    flags = (*SMALL_RUN, '--seed', 1, '--max_steps', 3, '--accumulate_gradients', 2)
    train('--run_name', 'a', *flags, '--dropout', 0.1)
    assert len({tuple(seed) for seeds in seen.seeds for seed in seeds}) == 6
    assert ops_of(seen.graphs[0], 'StatelessRandomUniform')
    train('--run_name', 'b', *flags, '--dropout', 0.1)
    assert seen.seeds[3:] == seen.seeds[:3]
    train('--run_name', 'c', *flags, '--dropout', 0.1, '--seed', 2)
    assert not {tuple(seed) for seeds in seen.seeds[6:] for seed in seeds} & {tuple(seeds[0]) for seeds in seen.seeds[:6]}


def test_without_dropout_nothing_is_drawn_and_nothing_in_the_graph(train, home, seen):
    train('--max_steps', 1, *SMALL_RUN, '--dropout', 0)
    assert seen.seeds == [[None]]
    assert not ops_of(seen.graphs[0], 'StatelessRandomUniform')
    assert 'dropout_seed' not in [op.name for op in seen.graphs[0].get_operations()]


def test_workers_draw_other_masks_and_the_same_state(tf):
    seeds, states = [], []
    for index in range(3):
        job = types.SimpleNamespace(dropout=np.random.default_rng(5))
        worker = types.SimpleNamespace(_job=job, _settings=types.SimpleNamespace(dropout=0.1),
                                       _workers=types.SimpleNamespace(index=index))
        seeds.append([tuple(loop.Training._draw_seed(worker)) for _ in range(2)])
        states.append(job.dropout.bit_generator.state)
    assert len({seed for of_worker in seeds for seed in of_worker}) == 6
    # The masks of a batch are counted up from its seed: those of two workers must not meet.
    assert min(abs(a[1] - b[1]) for a, b in zip(seeds[0], seeds[1])) > 1_000_000
    assert states[0] == states[1] == states[2]


def test_a_run_with_dropout_learns_something_else(tf, train, home):
    flags = (*SMALL_RUN, '--seed', 1, '--max_steps', 2, '--learning_rate', 0.01)
    weights = []
    for name, rate in (('a', 0), ('b', 0.1), ('c', 0.2)):
        train('--run_name', name, *flags, '--dropout', rate)
        weights.append(read_checkpoint(home / f'checkpoint/{name}')['model/h0/mlp/c_fc/w'].tobytes())
    assert len(set(weights)) == 3
    output = train('--run_name', 'c', *flags, '--dropout', 0.3, '--max_steps', 3)
    assert '--dropout: 0.2 before, 0.3 now' in output
