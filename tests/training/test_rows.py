"""training/rows.py: the rows of metrics.jsonl are those of one branch, also after a return to an abandoned one."""

import json

import pytest

from storage import run_state
from storage.run_state import RunState
from training import rows
from training.rows import Average, read_metrics, rows_until, start_branch

A = [{'step': step, 'loss': 8.0 - step} for step in range(1, 6)]
B = [*A[:2], {'step': 3, 'loss': 1.0}, {'step': 4, 'loss': 0.5}]


def average(branch):
    total = [0.0, 0.0]
    for row in branch:
        Average(total).add(row['loss'])
    return total


def state_at(branch, step):
    return RunState(step=step, average=average(branch[:step]))


@pytest.fixture
def run(tmp_path):
    """run(branch, *steps) -> a directory with metrics.jsonl of a branch, and its checkpoints, whose weights are not needed."""
    def make(branch, *steps):
        (tmp_path / 'metrics.jsonl').write_text(rows.text_of(branch))
        for step in steps:
            run_state.write(str(tmp_path / f'model-{step}'), state_at(branch, step))
            (tmp_path / f'model-{step}.index').touch()
        return tmp_path
    return make


def continue_from(directory, state):
    """What metrics.Log does with metrics.jsonl."""
    found, common = start_branch(str(directory), state)
    (directory / 'metrics.jsonl').write_text(rows.text_of(found))
    rows.remove_outdated(str(directory), found)
    return found, common


def given_up(directory):
    return {path.name: read_metrics(str(path)) for path in directory.glob('metrics-*.jsonl')}


def test_a_branch_that_is_given_up_is_kept_and_comes_back(run):
    directory = run(A, 2, 4)
    assert continue_from(directory, state_at(A, 2)) == (A[:2], 2)
    assert given_up(directory) == {'metrics-4.jsonl': A[:4]}        # step 5 is in no checkpoint
    assert rows_until(str(directory), state_at(A, 4)) == A[:4]      # without a change, for a model card
    run(B, 3)
    assert continue_from(directory, state_at(A, 4)) == (A[:4], 2)
    assert given_up(directory) == {'metrics-3.jsonl': B[:3]}
    assert continue_from(directory, state_at(B, 3)) == (B[:3], 2)
    assert given_up(directory) == {'metrics-4.jsonl': A[:4]}


def test_rows_that_no_checkpoint_holds_are_dropped(run):
    directory = run(A, 2)
    assert continue_from(directory, state_at(A, 2)) == (A[:2], 2)
    assert given_up(directory) == {}


def test_nothing_changes_where_a_run_continues(run):
    directory = run(A, 2, 5)
    assert continue_from(directory, state_at(A, 5)) == (A, 5)
    assert given_up(directory) == {}


def test_a_branch_without_a_checkpoint_is_removed(run):
    directory = run(A, 2, 4)
    continue_from(directory, state_at(A, 2))
    (directory / 'model-4.index').unlink()
    (directory / 'metrics-x.jsonl').touch()         # not ours
    continue_from(directory, state_at(A, 2))
    assert given_up(directory) == {'metrics-x.jsonl': []}


def test_a_checkpoint_without_a_state_takes_metrics_as_it_is(run):
    directory = run(A, 4)
    (directory / 'metrics-4.jsonl').write_text(rows.text_of(B))
    assert continue_from(directory, RunState(step=3, validated=3)) == (A[:3], 3)


def test_a_damaged_state_keeps_nothing(run):
    directory = run(A, 2, 4)
    (directory / 'model-4.json').write_text(json.dumps({'state': {}}))
    assert continue_from(directory, state_at(A, 2)) == (A[:2], 2)
    assert given_up(directory) == {}


def test_validations_after_the_last_one_of_the_checkpoint_are_dropped(run):
    directory = run([{'step': 0, 'val_loss': 9.0}, *A[:2], {'step': 2, 'val_loss': 7.0}])
    state = state_at(A, 2)
    state.validated = 0
    assert continue_from(directory, state) == ([{'step': 0, 'val_loss': 9.0}, *A[:2]], 3)
