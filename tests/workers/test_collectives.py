"""Real workers over loopback: what they sum, that together they train as one would, and how they end."""

import json
import signal
import socket
import time

import numpy as np
import pytest

import worker_group
from command.errors import UserError
from fake_cluster import FakeCluster, fake_workers
from graph_walk import ancestors, ops_of

TRAIN = ('--learning_rate', 0.003, '--sample_every', 0, '--save_every', 0, '--seed', 5)


def sums(addresses, index, path):
    """What a worker gets from sums of all kinds, into a file."""
    import tensorflow.compat.v1 as tf

    from workers import collectives
    from workers.cluster import Cluster
    from workers.collectives import Workers
    collectives.BUCKET = 80
    workers = Workers(Cluster(tuple(addresses), index))
    with workers.together(), tf.Graph().as_default() as graph:
        tensors = [tf.constant(np.arange(n) + 100.0 * index, tf.float32) for n in (3, 30, 8, 1)]
        tensors[1] = tf.reshape(tensors[1], [5, 6])
        rounded = tf.constant([float(workers.leads)], tf.bfloat16)
        means = workers.mean([*tensors, rounded])
        variables = [tf.Variable(tf.fill([2, 3], float(index + i))) for i in range(20)]
        session = workers.session(graph)
        if workers.leads:
            session.run(tf.global_variables_initializer())
        workers.broadcast(session, variables)
        got = {'mean': [value.tolist() for value in session.run(means)],
               'broadcast': [value.tolist() for value in session.run([v.read_value() for v in variables])],
               'sum': workers.sum(np.array([index + 0.1, 1e-9])).tolist(),
               'gather': workers.gather('ä' * index + '€'),
               'collectives': len(ops_of(graph, 'CollectiveReduceV2'))}
    with open(f'{path}{index}', 'w') as file:
        json.dump(got, file)


@pytest.mark.parametrize('count', [2, 3])
def test_sums_broadcasts_and_texts(tmp_path, count):
    with worker_group.group(count, tmp_path, sums, 'got') as workers:
        assert [worker.status() for worker in workers] == [0] * count, workers[0].err
    everyone = [json.loads((tmp_path / f'got{i}').read_text()) for i in range(count)]
    offset = 100 * np.mean(range(count))
    for got in everyone:
        for mean, shape in zip(got['mean'], [(3,), (5, 6), (8,), (1,)]):
            np.testing.assert_allclose(mean, np.arange(np.prod(shape)).reshape(shape) + offset, rtol=1e-6)
        assert got['mean'][4] == pytest.approx([1 / count], rel=1e-6)       # the sum is rounded, the mean is not
        assert got['broadcast'] == [[[float(i)] * 3] * 2 for i in range(20)]
        assert got['sum'] == pytest.approx([sum(range(count)) + 0.1 * count, count * 1e-9], rel=1e-12)
        assert got['gather'] == ['ä' * i + '€' for i in range(count)]
        assert got['collectives'] == 4      # 168 bytes in buckets of 80, and one of another type


def test_buckets(tf, monkeypatch):
    from workers import collectives
    monkeypatch.setattr(collectives, 'BUCKET', 24)
    assert collectives.buckets([5, 2, 9], [tf.float32] * 3) == [
        [(0, 0, 5), (1, 0, 1)], [(1, 1, 2), (2, 0, 5)], [(2, 5, 9)]]
    assert collectives.buckets([6, 6], [tf.float32] * 2) == [[(0, 0, 6)], [(1, 0, 6)]]
    assert collectives.buckets([14, 2, 1], [tf.bfloat16, tf.float32, tf.float32]) == [
        [(0, 0, 12)], [(0, 12, 14)], [(1, 0, 2), (2, 0, 1)]]


def test_one_bucket_goes_after_the_other_and_each_notes_when_it_begins_to_wait(tf, monkeypatch):
    from workers import collectives
    monkeypatch.setattr(collectives, 'BUCKET', 24)
    with tf.Graph().as_default() as graph:
        fake_workers(FakeCluster(2), timeout=7).mean([tf.zeros([14]), tf.zeros([2])])
        sums = ops_of(graph, 'CollectiveReduceV2')
    assert [len(ancestors(op) & {*sums} - {op}) for op in sums] == [0, 1, 2]
    notes = ops_of(graph, 'PyFunc')
    for i, (note, op) in enumerate(zip(notes, sums, strict=True)):
        assert note in ancestors(op)
        assert note.control_inputs == [op.inputs[0].op]
        assert len(ancestors(note) & {*sums}) == i
    assert {op.get_attr('timeout_seconds') for op in sums} == {0}       # TensorFlow's own may crash


def test_one_worker_sums_nothing(tf):
    from workers.collectives import Workers
    workers = Workers()
    with tf.Graph().as_default() as graph, workers.together():
        tensors = [tf.zeros([3]), tf.zeros([2])]
        assert workers.mean(tensors) is tensors
        assert workers.all_reduce(tensors[0]) is tensors[0]
        workers.broadcast(None, tensors)
        assert workers.gather('text') == ['text']
        assert not any('Collective' in op.type for op in graph.get_operations())


def variables(tf, home, run):
    reader = tf.train.load_checkpoint(str(home / 'checkpoint' / run))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def rows(home, run):
    return [json.loads(line) for line in (home / f'checkpoint/{run}/metrics.jsonl').read_text().splitlines()]


def together(home, count, *flags):
    with worker_group.group(count, home, worker_group.train, *flags) as workers:
        assert [worker.status() for worker in workers] == [0] * count, [worker.err for worker in workers]
        return [worker.out for worker in workers]


@pytest.mark.parametrize(('count', 'flags'), [
    (2, ('--optimizer', 'adam', '--clip_norm', 1, '--noise', 0.2, '--val_every', 5, '--val_batch_count', 3)),
    (2, ('--optimizer', 'sgd', '--accumulate_gradients', 2, '--memory_saving_gradients', '--learning_rate', 0.1)),
    (3, ('--optimizer', 'adamw', '--accumulate_gradients', 2, '--clip_norm', 1, '--memory_saving_gradients')),
])
def test_workers_train_as_one_with_their_batches_together(tf, train, home, count, flags):
    """The same sequences in the same order: the same losses, and the same weights."""
    flags = (*TRAIN, '--max_steps', 20, *flags)
    train('--run_name', 'one', *flags, '--batch_size', 2 * count)
    together(home, count, '--run_name', 'several', *flags, '--batch_size', 2)
    one, several = rows(home, 'one'), rows(home, 'several')
    assert [row['step'] for row in one] == [row['step'] for row in several]
    for key in ('loss', 'val_loss', 'gradient_norm', 'epoch', 'learning_rate'):
        np.testing.assert_allclose([row[key] for row in several if key in row], [row[key] for row in one if key in row],
                                   rtol=1e-5, err_msg=key)
    first, second = variables(tf, home, 'one'), variables(tf, home, 'several')
    assert first.keys() == second.keys()
    for name in first:
        if name.endswith('c_attn/b'):       # a bias of all keys changes no softmax: its gradient is noise, which adam scales up
            n_embd = first[name].size // 3
            first[name], second[name] = (np.delete(each[name], np.s_[n_embd:2 * n_embd]) for each in (first, second))
        np.testing.assert_allclose(second[name], first[name], rtol=0, atol=1e-5, err_msg=name)


def test_a_run_of_workers_goes_on_bit_for_bit_and_with_another_number(tf, train, home):
    flags = (*TRAIN, '--optimizer', 'adam', '--noise', 0.2, '--save_every', 3)
    together(home, 2, '--run_name', 'whole', '--max_steps', 6, *flags)
    together(home, 2, '--run_name', 'parts', '--max_steps', 3, *flags)
    [output, quiet] = together(home, 2, '--run_name', 'parts', '--max_steps', 6, *flags)
    assert 'Loading checkpoint checkpoint/parts/model-3' in output
    assert quiet.startswith('worker 1 (localhost:') and len(quiet.splitlines()) == 1
    whole, parts = variables(tf, home, 'whole'), variables(tf, home, 'parts')
    assert {name: value.tobytes() for name, value in whole.items()} == {
        name: value.tobytes() for name, value in parts.items()}
    assert 'at its end after 6 steps already' in together(home, 2, '--run_name', 'parts', '--max_steps', 6, *flags)[0]
    output = train('--run_name', 'parts', '--max_steps', 7, *flags)
    assert 'the number of workers, each with --batch_size sequences: 2 before, 1 now' in output


def test_gradients_in_bfloat16_are_nearly_the_same(train, home):
    flags = (*TRAIN, '--max_steps', 4)
    train('--run_name', 'one', *flags, '--batch_size', 2)
    together(home, 2, '--run_name', 'several', *flags, '--reduce_precision', 'bfloat16')
    one, several = ([row['loss'] for row in rows(home, run)] for run in ('one', 'several'))
    assert several[0] == pytest.approx(one[0], rel=1e-6)        # the loss itself is not rounded
    assert several == pytest.approx(one, rel=0.01)
    assert several != pytest.approx(one, rel=1e-6)


def test_settings_that_differ_name_the_flag_and_the_worker(home):
    (home / 'corpus.txt').write_text('the quick brown fox ' * 100)
    with worker_group.group(2, home, worker_group.train, *TRAIN, '--batch_size', [1, 2]) as workers:
        assert [worker.status() for worker in workers] == [2, 2]
        for worker in workers:
            assert worker.err == ('train.py: --batch_size is 2 with worker 1 and 1 with worker 0: give all workers the '
                                  'same\n')
    assert not list((home / 'checkpoint/run1').glob('model-*'))


def leaves_early(addresses, index):
    """Worker 0, which looks after the others, still has something to do when they have come to the end."""
    from workers import collectives
    from workers.cluster import Cluster
    collectives.WATCH_EVERY = 0.05
    with collectives.Workers(Cluster(tuple(addresses), index)).together():
        if index == 0:
            time.sleep(1)


def test_no_worker_ends_before_the_last(tmp_path):
    with worker_group.group(2, tmp_path, leaves_early) as workers:
        assert [worker.status() for worker in workers] == [0, 0], workers[0].err


ENDLESS = (*TRAIN, '--save_every', 2, '--keep', 1)


@pytest.mark.parametrize(('count', 'victim'), [(2, 1), (2, 0), (3, 2)])
def test_a_worker_that_is_killed_takes_the_others_along(home, count, victim):
    with worker_group.group(count, home, worker_group.train, *ENDLESS) as workers:
        workers[0].wait_for('[4 |')
        workers[victim].signal(signal.SIGKILL)
        killed = time.monotonic()
        survivors = [worker for i, worker in enumerate(workers) if i != victim]
        assert [worker.status() for worker in survivors] == [75] * (count - 1)
        assert time.monotonic() - killed < 20       # five seconds on a machine that has nothing else to do
        for worker in survivors:
            [line] = worker.err.splitlines()
            assert 'went away: start all workers again, they go on from the last checkpoint' in line


@pytest.mark.parametrize('victim', [0, 1])
def test_a_frozen_worker_is_given_up(home, victim):
    with worker_group.group(2, home, worker_group.train, *ENDLESS, '--dist_timeout', 8) as workers:
        workers[0].wait_for('[4 |')
        workers[victim].signal(signal.SIGSTOP)
        assert workers[1 - victim].status() == 75
        [line] = workers[1 - victim].err.splitlines()
        assert 'a worker did not answer within --dist_timeout 8 seconds' in line


def test_a_worker_that_never_comes_is_named(home):
    with worker_group.group(2, home, one_is_missing, *TRAIN, '--dist_startup_timeout', 2) as workers:
        assert workers[0].status() == 75
        [line] = workers[0].err.splitlines()
        assert line.startswith('train.py: not there within --dist_startup_timeout 2 seconds: worker 1 (localhost:')


def one_is_missing(addresses, index, *flags):
    if index == 0:
        worker_group.train(addresses, index, *flags)


@pytest.mark.parametrize('told', [0, 1])
def test_a_signal_to_any_worker_saves_once_and_stops_all(home, told):
    with worker_group.group(2, home, worker_group.train, *TRAIN) as workers:
        workers[0].wait_for('[4 |')
        workers[told].signal(signal.SIGTERM)
        assert [worker.status() for worker in workers] == [0, 0]
        assert not any(worker.err for worker in workers)
        step = (home / 'checkpoint/run1/counter').read_text().strip()
        assert workers[0].out.splitlines()[-2:] == [
            'another worker was told to stop: stopping' if told else 'SIGTERM: stopping',
            f'Saving checkpoint/run1/model-{step}']
        assert f'[{step} |' in workers[0].out
        assert f'[{int(step) + 1} |' not in workers[0].out


def listens_only(addresses, index, *flags):
    """As a worker of an earlier run, or one that hangs: its port is open."""
    if index == 0:
        worker_group.train(addresses, index, *flags)
    else:
        with socket.create_server(('localhost', int(addresses[1].rpartition(':')[2]))):
            time.sleep(worker_group.TIMEOUT)


def test_a_worker_that_never_answers(home):
    with worker_group.group(2, home, listens_only, *TRAIN, '--dist_startup_timeout', 3) as workers:
        assert workers[0].status() == 75
        [line] = workers[0].err.splitlines()
        assert line.startswith('train.py: not every worker answered within --dist_startup_timeout 3 seconds')


def test_a_port_that_is_taken_is_named(tf):
    from workers.cluster import Cluster
    from workers.collectives import Workers
    with socket.create_server(('', 0)) as other:
        address = f'localhost:{other.getsockname()[1]}'
        with pytest.raises(UserError, match=rf'cannot listen at the port of worker 1 \({address}\): .*; end what listens there, '
                                            'perhaps an earlier run, or give'):
            Workers(Cluster(('localhost:1', address), 1))


def test_every_run_of_a_sum_of_its_own_has_an_alarm(tf, session, monkeypatch):
    """TensorFlow waits for worker 0 without end when a graph with sums is first run."""
    from workers import collectives
    from workers.watch import silence
    bounds = []

    class Late(Exception):
        pass

    def alarm(seconds, message):
        bounds.append((seconds, message))
        raise Late

    monkeypatch.setattr(collectives, 'alarm', alarm)
    workers = fake_workers(FakeCluster(2), timeout=7, startup_timeout=9)
    for run in (workers.barrier, lambda: workers.broadcast(session, [tf.Variable(1.0)])):
        with pytest.raises(Late):
            run()
    [(seconds, message), (seconds_of_start, message_of_start)] = bounds
    assert (seconds, message) == (7, silence(7))
    assert seconds_of_start == 9
    assert 'within --dist_startup_timeout 9 seconds' in message_of_start


def test_a_save_is_not_disturbed(train, monkeypatch):
    from storage import saver
    from workers import collectives
    made, held = [], []
    session = collectives.Workers.session
    monkeypatch.setattr(collectives.Workers, 'session', lambda self, graph: made.append(self) or session(self, graph))
    monkeypatch.setattr(saver.Run, 'save', lambda *_: held.append(made[0].undisturbed.locked()))
    train(*TRAIN, '--max_steps', 1)
    assert held == [True]


def test_a_loss_that_is_no_number_is_told_by_all_and_the_way_back_by_worker_0(home):
    with worker_group.group(2, home, worker_group.train, *TRAIN, '--learning_rate', 1e30) as workers:
        assert [worker.status() for worker in workers] == [2, 2]
        assert 'models/toy/model.ckpt is safe' in workers[0].err
        assert 'worker 0 says what is safe' in workers[1].err
