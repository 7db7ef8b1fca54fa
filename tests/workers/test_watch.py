"""Who watches whom among workers, and what ends a process: a fake cluster, and a watch that leaves into a list."""

import os
import signal
import threading
import time
import types

import pytest

import worker_group
from fake_cluster import FakeCluster, fake_workers
from workers.cluster import PARENT
from workers.watch import Watch, alarm


def watching(cluster, timeout=60.0, leave=None, **times):
    """A watch that looks often, in place of a process's own."""
    return Watch(cluster, timeout, **{'every': 0.01, 'look_for': 0.3} | times, leave=leave)


@pytest.mark.parametrize(('index', 'watched'), [(0, [1, 2]), (1, [0])])
def test_who_watches_whom_and_a_save_is_not_cut_off(index, watched):
    cluster, left = FakeCluster(3, index, gone=lambda among: watched[-1:]), threading.Event()

    def leave(message):
        assert watch.undisturbed.locked()
        assert message.startswith(f'worker {watched[-1]} (')
        left.set()
        watch.end()

    watch = watching(cluster, leave=leave)
    with watch.undisturbed:
        watch.start()
        assert not left.wait(0.3)
    assert left.wait(worker_group.TIMEOUT)
    assert cluster.asked[0] == watched


def test_a_sum_of_a_step_that_waits_too_long_ends_the_process(tf, session):
    left, ended = [], threading.Event()

    def leave(message):
        left.append((message, time.monotonic() - began))
        watch.end()
        ended.set()

    cluster = FakeCluster(2)
    watch = watching(cluster, timeout=0.3, leave=leave)
    workers = fake_workers(cluster, watch)
    began = time.monotonic()
    watch.start()
    time.sleep(0.4)
    assert not left             # as long as nothing waits
    noted = workers._waits(tf.constant(1.0))
    workers.run(session, noted)
    time.sleep(0.4)
    assert not left             # what waited is done
    began = time.monotonic()
    session.run(noted)          # as if the sum behind it did not end
    assert ended.wait(worker_group.TIMEOUT)
    [(message, after)] = left
    assert message.startswith('a worker did not answer within --dist_timeout 0.3 seconds')
    assert after > 0.3


def unavailable(tf, text):
    """A session whose runs raise what TensorFlow raises when another worker is lost."""
    def fails(*_):
        raise tf.errors.UnavailableError(None, None, text)
    return types.SimpleNamespace(run=fails)


@pytest.mark.parametrize(('found', 'line'), [
    ([[], [], [1]], 'worker 1 (b:1) went away: start all workers again, they go on from the last checkpoint'),
    ([], 'the workers lost each other (Socket closed): start them all again')])
def test_what_the_runtime_reports_of_a_loss_is_looked_into_first(tf, found, line):
    left, answers = [], iter(found)
    cluster = FakeCluster(2, gone=lambda _: next(answers, []))
    workers = fake_workers(cluster, watching(cluster, leave=left.append))
    workers.run(unavailable(tf, 'Graph execution error:\n\nSocket closed\nmore'), [])
    assert left == [line]


def test_one_that_left_at_the_end_has_not_gone_away(tf, monkeypatch):
    """Those that come first to the end of the last barrier may be gone before the others see that it is over."""
    left, answers = [], iter([[1], [1], [1, 2]])
    for index in (0, 1):
        cluster = FakeCluster(3, index, gone=lambda _: next(answers, [0]))
        workers = fake_workers(cluster, watching(cluster, leave=left.append, every=60.0))
        failing = iter([False])     # the first sum is the one at which all meet
        lost = unavailable(tf, 'Socket closed')
        monkeypatch.setattr(workers, 'sum', lambda _, workers=workers, failing=failing, lost=lost: (
            workers.run(lost, []) if next(failing, True) else None))
        with workers.together():
            pass
        assert next(answers, None) is None      # worker 0 waited until both were gone
        assert len(left) == index               # the loss of worker 0, which saves, is one even then


def test_who_is_looked_for_while_the_end_comes_is_not_missed():
    left = []
    watch = watching(FakeCluster(2, gone=lambda _: watch.end() or [1]), leave=left.append)
    watch.watch()
    assert not left


def test_after_an_error_of_its_own_a_worker_watches_nobody(tf):
    from workers.collectives import Workers
    workers = Workers()

    def fails(*_):
        raise tf.errors.InternalError(None, None, 'of the graph')       # which with several would be the loss of another

    with pytest.raises(tf.errors.InternalError), workers.together():
        workers.run(types.SimpleNamespace(run=fails), [])
    assert workers._watch.ended


def test_a_command_that_is_gone_is_noticed_once(monkeypatch):
    sent = []
    monkeypatch.setenv(PARENT, '1')
    monkeypatch.setattr(os, 'getppid', lambda: 2)
    monkeypatch.setattr(os, 'kill', lambda *what: sent.append(what))
    cluster = FakeCluster(2, gone=lambda _: [] if len(cluster.asked) < 3 else watch.end() or [])
    watch = watching(cluster)
    watch.watch()
    assert sent == [(os.getpid(), signal.SIGTERM)]      # a second one would end the process immediately, unsaved


def test_what_takes_too_long_ends_the_process_and_what_does_not_continues(monkeypatch):
    left = threading.Event()
    monkeypatch.setattr('workers.watch.leave', lambda message: left.set())
    with alarm(0.2, 'late'):
        pass
    assert not left.wait(0.5)
    with alarm(0.2, 'late'):
        assert left.wait(30)
