"""training/graph.py: what the flags change in the graph, which is built without its updates."""

import types

import pytest

from conftest import SMALL_RUN
from graph_walk import ancestors, compiled_calls
from training.prepare import prepare


@pytest.fixture
def built(tf, home, parse, monkeypatch):
    """Builds the graph of a run: built(*flags) -> the graph, and the arguments of its TrainStep."""
    from training import graph
    given = {}
    monkeypatch.setattr(graph, 'TrainStep', lambda loss, trained, **kwargs: given.update(kwargs))
    monkeypatch.chdir(home)

    def build(*flags, leads=True):
        job = prepare(parse(*map(str, SMALL_RUN), *flags))
        job.lock.close()
        workers = types.SimpleNamespace(leads=leads, session=lambda graph: tf.Session(graph=graph))
        return graph.TrainingGraph(job, workers), given
    yield build
    tf.config.experimental.enable_tensor_float_32_execution(False)


def test_only_tf32_rounds_float32(tf, built):
    for precision in ('tf32', 'float32'):
        built('--precision', precision)
        assert tf.config.experimental.tensor_float_32_execution_enabled() == (precision == 'tf32')


@pytest.mark.parametrize(('xla', 'recompute', 'compiled'), [
    ([], False, True), ([], True, False), (['--xla'], True, True), (['--no-xla'], False, False)])
def test_what_is_not_recomputed_is_compiled_unless_a_flag_decides(built, monkeypatch, xla, recompute, compiled):
    from network import gradients
    monkeypatch.setattr(gradients, 'COMPILED_SIZE', 1)
    graph, given = built('--memory_saving_gradients' if recompute else '--no-memory_saving_gradients', *xla)
    assert any(compiled_calls(graph.session.graph)) == compiled
    assert given['memory_saving'] == recompute


def test_only_the_relative_schedule_scales_with_the_weights(built):
    for schedule in ('relative', 'constant'):
        _, given = built('--optimizer', 'adafactor', '--learning_rate_schedule', schedule)
        assert given['scale_parameter'] == (schedule == 'relative')


def test_only_worker_0_of_a_run_with_samples_can_sample(built):
    assert hasattr(built('--sample_every', 1)[0], '_samples')
    assert not hasattr(built('--sample_every', 1, leads=False)[0], '_samples')
    assert not hasattr(built('--sample_every', 0)[0], '_samples')


def test_validation_computes_no_gradient(built):
    graph, _ = built('--val_every', 1, '--val_batch_count', 1)
    assert 'InplaceSub' not in {op.type for op in ancestors(graph._validation_loss.op)}
