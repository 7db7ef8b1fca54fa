"""Which worker watches which, and what ends a process: with a fake cluster, and a Watch that only records its exits."""

import contextlib
import os
import signal
import threading
import time
import types

import numpy as np
import pytest

import worker_group
from command.errors import UserError
from fake_cluster import FakeCluster, fake_workers
from workers.cluster import PARENT
from workers.watch import Watch, alarm


def make_watch(cluster, timeout=60.0, **options):
    return Watch(cluster, timeout, **{'interval': 0.01, 'search_seconds': 0.3} | options)


@pytest.mark.parametrize(('index', 'watched'), [(0, [1, 2]), (1, [0])])
def test_which_worker_watches_which_and_a_save_is_finished_first(index, watched):
    cluster, exited = FakeCluster(3, index, gone=lambda indices: watched[-1:]), threading.Event()

    def exit(message):
        assert watch.exit_lock.locked()
        assert message.startswith(f'worker {watched[-1]} (')
        exited.set()
        watch.end()

    watch = make_watch(cluster, exit=exit)
    with watch.exit_lock:
        watch.start()
        assert not exited.wait(0.3)
    assert exited.wait(worker_group.TIMEOUT)
    assert cluster.asked[0] == watched


def test_a_sum_that_waits_too_long_ends_the_process(tf, session):
    exits, ended = [], threading.Event()

    def exit(message):
        exits.append((message, time.monotonic() - began))
        watch.end()
        ended.set()

    cluster = FakeCluster(2)
    watch = make_watch(cluster, timeout=0.3, exit=exit)
    workers = fake_workers(cluster, watch)
    began = time.monotonic()
    watch.start()
    time.sleep(0.4)
    assert not exits            # no sum has begun
    note = workers._note_waiting(tf.constant(1.0))
    workers.run(session, note)
    time.sleep(0.4)
    assert not exits            # the sum is finished
    began = time.monotonic()
    session.run(note)           # as if the sum after it did not finish
    assert ended.wait(worker_group.TIMEOUT)
    [(message, seconds)] = exits
    assert message.startswith('a worker did not answer within --dist_timeout 0.3 seconds')
    assert seconds > 0.3


def failing_session(tf, text):
    """A session whose runs raise TensorFlow's error for a lost worker."""
    def run(*_):
        raise tf.errors.UnavailableError(None, None, text)
    return types.SimpleNamespace(run=run)


@pytest.mark.parametrize(('text', 'answers', 'line'), [
    ('Graph execution error:\n\nSocket closed\nmore', [[], [], [1]], 'worker 1 (b:1) died'),
    ('Graph execution error:\n\nSocket closed\nmore', [], 'lost the connection to another worker (Socket closed)'),
    ('', [], 'lost the connection to another worker (UnavailableError)')])
def test_a_lost_connection_is_explained_by_the_worker_that_died(tf, text, answers, line):
    exits, answers = [], iter(answers)
    cluster = FakeCluster(2, gone=lambda _: next(answers, []))
    workers = fake_workers(cluster, make_watch(cluster, exit=exits.append))
    workers.run(failing_session(tf, text), [])
    assert exits == [f'{line}: start all workers again; they resume from the last checkpoint']


@pytest.mark.parametrize('index', [0, 1])
def test_a_worker_that_exits_after_the_last_sum_is_not_lost(tf, index):
    """Once worker 0 has finished the last barrier it needs no others."""
    exits, answers = [], iter([[1], [1], [1, 2]])
    cluster = FakeCluster(3, index, gone=lambda _: next(answers, [0]) if index == 0 else [0])
    sums = iter([lambda: np.zeros(3),       # the first and the last
                 lambda: workers.run(failing_session(tf, 'Socket closed'), [])])
    workers = fake_workers(cluster, make_watch(cluster, exit=exits.append, interval=60.0), sum=lambda _: next(sums)(),
                           startup_timeout=9.0)
    with workers.connected():
        assert cluster.timeouts == [9.0]
    if index == 0:
        assert next(answers, None) is None      # it waited until both others were gone
        assert exits == []
    else:                                       # without worker 0, the run may not have been saved
        assert [exit.partition(':')[0] for exit in exits] == ['worker 0 (a']


@pytest.mark.parametrize('error', [None, UserError('of all', in_all_workers=True), UserError('of this one')])
def test_the_last_worker_exits_first_also_after_an_error_of_all(error):
    """In the ring of the last barrier each worker reads from the one before it, which must not have exited."""
    answers, barriers = iter([[], [2], [2, 3]]), []
    cluster = FakeCluster(4, 1, gone=lambda _: next(answers))
    watch = make_watch(cluster, interval=60.0)
    workers = fake_workers(cluster, watch, sum=lambda _: barriers.append(watch.ended) or np.zeros(4))
    with contextlib.suppress(UserError), workers.connected():
        if error:
            raise error
    together = error is None or error.in_all_workers
    assert barriers == [False] + [True] * together      # the first one is that of the start; a lost worker ends none after it
    assert cluster.asked == [[2, 3]] * 3 * together
    assert not error or error.skip_cleanup


def test_workers_that_exit_while_the_watch_ends_are_not_lost():
    exits = []
    watch = make_watch(FakeCluster(2, gone=lambda _: watch.end() or [1]), exit=exits.append)
    watch.watch()
    assert not exits


def test_a_worker_whose_cause_of_death_ends_this_one_too_is_not_reported():
    exits = []
    def gone(_):
        threading.Timer(0.2, watch.end).start()     # it reports the same loss of NaN a moment later
        return [1]
    watch = make_watch(FakeCluster(2, gone=gone), interval=2.0, exit=exits.append)
    watch.watch()
    assert not exits


def test_an_error_of_its_own_ends_the_watch(tf):
    from workers.collectives import Workers
    workers = Workers()

    def run(*_):
        raise tf.errors.InternalError(None, None, 'of the graph')       # with several workers, it would mean a lost one

    with pytest.raises(tf.errors.InternalError), workers.connected():
        workers.run(types.SimpleNamespace(run=run), [])
    assert workers._watch.ended


@pytest.mark.parametrize(('parent', 'signals'), [('1', [(os.getpid(), signal.SIGTERM)]), ('2', [])])
def test_the_end_of_the_starting_command_stops_a_worker_once(monkeypatch, parent, signals):
    sent = []
    monkeypatch.setenv(PARENT, parent)
    monkeypatch.setattr(os, 'getppid', lambda: 2)
    monkeypatch.setattr(os, 'kill', lambda *arguments: sent.append(arguments))
    cluster = FakeCluster(2, gone=lambda _: [] if len(cluster.asked) < 3 else watch.end() or [])
    watch = make_watch(cluster)
    watch.watch()
    assert sent == signals      # a second signal would end the process unsaved


def test_a_worker_of_one_command_gives_no_advice(monkeypatch):
    """The command itself starts all again, and reports it."""
    monkeypatch.setenv(PARENT, '1')
    exits = []
    cluster = FakeCluster(2, gone=lambda _: [1])
    make_watch(cluster, exit=exits.append).report_lost(None)
    assert exits == ['worker 1 (b:1) died']


def test_an_alarm_ends_the_process_unless_the_block_finishes_in_time(monkeypatch):
    exited = threading.Event()
    monkeypatch.setattr('workers.watch.exit_now', lambda message: exited.set())
    with alarm(0.2, 'late'):
        pass
    assert not exited.wait(0.5)
    with alarm(0.2, 'late'):
        assert exited.wait(worker_group.TIMEOUT)
