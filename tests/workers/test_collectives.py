"""Real workers over loopback: their sums, their training compared with one process, and how they exit."""

import dataclasses
import json
import signal
import socket
import time

import numpy as np
import pytest

import worker_group
from checkpoint_files import read_checkpoint
from command.errors import UserError
from conftest import SMALL_RUN
from fake_cluster import FakeCluster, fake_workers
from graph_walk import ancestors, ops_of
from storage import run_state

TRAIN = ('--learning_rate', 0.003, '--sample_every', 0, '--save_every', 0, '--seed', 5)
SMALL = (*TRAIN, *SMALL_RUN)
ADAM = (*SMALL, '--optimizer', 'adam')


def sums(addresses, index, path):
    """Writes the results of every kind of sum to a file."""
    import tensorflow.compat.v1 as tf

    from workers import collectives
    from workers.cluster import Cluster
    from workers.collectives import Workers
    collectives.BUCKET = 80
    workers = Workers(Cluster(tuple(addresses), index))
    with workers.connected(), tf.Graph().as_default() as graph:
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


def test_sums_broadcasts_and_texts(tmp_path, count=3):
    with worker_group.group(count, tmp_path, sums, 'got') as workers:
        assert [worker.status() for worker in workers] == [0] * count, workers[0].err
    offset = 100 * np.mean(range(count))
    for got in [json.loads((tmp_path / f'got{i}').read_text()) for i in range(count)]:
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


def test_buckets_are_sent_one_at_a_time_and_each_notes_when_it_begins_to_wait(tf, monkeypatch):
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
    assert {op.get_attr('timeout_seconds') for op in sums} == {0}       # TensorFlow may crash at its own timeout


@pytest.mark.parametrize(('mine', 'other', 'nccl', 'hint'), [
    ('GPU-a', 'GPU-b', True, 'nccl'), ('GPU-a', 'GPU-a', True, 'auto'), ('GPU-a', None, True, 'auto'),
    (None, 'GPU-b', True, 'auto'), ('GPU-a', 'GPU-b', False, 'auto')])
def test_nccl_sums_what_is_on_gpus_if_each_worker_has_its_own(tf, monkeypatch, mine, other, nccl, hint):
    """nccl: whether this worker wants it; the other one does."""
    from workers import collectives
    monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind: [kind])
    sent = []

    def sum(array):
        if array.dtype != np.int64:
            return array
        monkeypatch.setattr(collectives, 'gpu_id', lambda: other)
        sent.append(array.copy())
        array[0] = fake_workers(FakeCluster(2))._gpu_number()
        return array
    monkeypatch.setattr(collectives, 'gpu_id', lambda: mine)
    workers = fake_workers(FakeCluster(2, 1), sum=sum, nccl=nccl)
    with tf.Graph().as_default() as graph, workers.connected():
        workers.mean([tf.zeros([3])])
        workers._broadcast_op(tf.Variable([1.0]))
        on_host = workers.all_reduce(tf.zeros([3]), collectives.HOST_GROUP)
        ops = [op for op in graph.get_operations() if op.type.startswith('Collective')]
    assert len(ops) == 3
    assert {op.get_attr('communication_hint').decode() for op in ops if op is not on_host.op} == {hint}
    assert on_host.op.get_attr('communication_hint') == b'auto'
    assert [bool(number) for number in sent[0]] == [False, bool(mine and nccl)]


def test_one_worker_sums_nothing(tf):
    from workers.collectives import Workers
    workers = Workers()
    with tf.Graph().as_default() as graph, workers.connected():
        tensors = [tf.zeros([3]), tf.zeros([2])]
        assert workers.mean(tensors) is tensors
        assert workers.all_reduce(tensors[0]) is tensors[0]
        workers.broadcast(None, tensors)
        assert workers.gather('text') == ['text']
        assert not any('Collective' in op.type for op in graph.get_operations())


def variables(tf, home, run):
    return read_checkpoint(home / 'checkpoint' / run)


def rows(home, run):
    return [json.loads(line) for line in (home / f'checkpoint/{run}/metrics.jsonl').read_text().splitlines()]


def train_together(home, count, *flags):
    """Trains with `count` workers; returns the output of each."""
    with worker_group.group(count, home, worker_group.train, *flags) as workers:
        assert [worker.status() for worker in workers] == [0] * count, [worker.err for worker in workers]
        return [worker.out for worker in workers]


@pytest.mark.parametrize(('count', 'flags'), [
    (2, ('--optimizer', 'adam', '--noise', 0.2, '--val_every', 5, '--val_batch_count', 3)),
    (3, ('--optimizer', 'sgd', '--learning_rate', 0.1, '--accumulate_gradients', 2, '--memory_saving_gradients',
         '--clip_norm', 1)),
    (2, ('--lora_rank', 4, '--learning_rate', 0.01, '--base_weights', 'int8')),
])
def test_workers_train_like_one_with_a_larger_batch(tf, train, home, count, flags):
    """The same sequences in the same order give the same losses and weights."""
    flags = (*TRAIN, '--max_steps', 20, *flags)
    train('--run_name', 'one', *flags, '--batch_size', 2 * count)
    train_together(home, count, '--run_name', 'several', *flags, '--batch_size', 2)
    one, several = rows(home, 'one'), rows(home, 'several')
    assert [row['step'] for row in one] == [row['step'] for row in several]
    for key in ('loss', 'val_loss', 'gradient_norm', 'epoch', 'learning_rate'):
        np.testing.assert_allclose([row[key] for row in several if key in row], [row[key] for row in one if key in row],
                                   rtol=1e-5, err_msg=key)
    first, second = variables(tf, home, 'one'), variables(tf, home, 'several')
    assert first.keys() == second.keys()
    for name in first:
        if name.endswith('c_attn/b'):       # the keys' bias has no effect: its gradient is rounding errors, which adam scales up
            n_embd = first[name].size // 3
            first[name], second[name] = (np.delete(each[name], np.s_[n_embd:2 * n_embd]) for each in (first, second))
        np.testing.assert_allclose(second[name], first[name], rtol=0, atol=1e-5, err_msg=name)


def test_a_run_resumes_bit_for_bit_and_with_another_number_of_workers(tf, train, home):
    flags = (*ADAM, '--noise', 0.2, '--save_every', 3)
    train_together(home, 2, '--run_name', 'uninterrupted', '--max_steps', 6, *flags)
    train_together(home, 2, '--run_name', 'parts', '--max_steps', 3, *flags)
    [output, quiet] = train_together(home, 2, '--run_name', 'parts', '--max_steps', 6, *flags)
    assert 'Loading checkpoint checkpoint/parts/model-3' in output
    assert quiet.startswith('worker 1 (localhost:') and len(quiet.splitlines()) == 1
    uninterrupted, parts = ({name: value.tobytes() for name, value in variables(tf, home, run).items()}
                            for run in ('uninterrupted', 'parts'))
    assert uninterrupted == parts
    assert 'has already ended after 6 steps' in train_together(home, 2, '--run_name', 'parts', '--max_steps', 6, *flags)[0]
    output = train('--run_name', 'parts', '--max_steps', 7, *flags)
    assert 'the number of workers, each with --batch_size sequences: 2 before, 1 now' in output


def test_gradients_in_bfloat16_are_nearly_the_same(train, home):
    flags = (*ADAM, '--max_steps', 4)
    train('--run_name', 'one', *flags, '--batch_size', 2)
    train_together(home, 2, '--run_name', 'several', *flags, '--reduce_precision', 'bfloat16')
    one, several = ([row['loss'] for row in rows(home, run)] for run in ('one', 'several'))
    assert several[0] == pytest.approx(one[0], rel=1e-6)        # the loss itself is not rounded
    assert several == pytest.approx(one, rel=0.01)
    assert several != pytest.approx(one, rel=1e-6)


def test_all_workers_skip_a_step_that_overflows_in_float16(tf, home):
    flags, run = (*ADAM, '--precision', 'float16'), home / 'checkpoint/run1'

    def continue_with(scale, step):
        """Makes a step with this scale; returns the weights after it, and the state."""
        state = run_state.read(str(run / f'model-{step - 1}'))
        run_state.write(str(run / f'model-{step - 1}'), dataclasses.replace(state, loss_scale=scale))
        train_together(home, 2, *flags, '--max_steps', step)
        return variables(tf, home, 'run1'), run_state.read(str(run / f'model-{step}'))
    train_together(home, 2, *flags, '--max_steps', 1)
    before = variables(tf, home, 'run1')
    after, state = continue_with(2.0 ** 60, 2)
    assert all((after[name] == value).all() for name, value in before.items())
    assert (state.loss_scale, state.skipped, state.good_steps) == (2 ** 59, 1, 0)
    after, state = continue_with(2.0 ** 10, 3)
    assert all((after[name] != value).any() for name, value in before.items())
    assert (state.loss_scale, state.skipped, state.good_steps) == (2 ** 10, 1, 1)


def late_to_compare(addresses, index, *flags):
    """worker_group.train, but worker 1 learns the others' settings three seconds after worker 0, on a busy machine, say."""
    from workers.collectives import Workers
    gather = Workers.gather

    def late(workers, text):
        texts = gather(workers, text)
        time.sleep(3 * index)
        return texts
    Workers.gather = late
    worker_group.train(addresses, index, *flags)


def test_settings_that_differ_name_the_flag_and_the_worker(home):
    (home / 'corpus.txt').write_text('the quick brown fox ' * 100)
    with worker_group.group(2, home, late_to_compare, *SMALL, '--batch_size', [1, 2]) as workers:
        assert [worker.status() for worker in workers] == [2, 2]
        for worker in workers:
            assert worker.err == ('train.py: --batch_size is 2 for worker 1 but 1 for worker 0: give all workers the '
                                  'same\n')
    assert not list((home / 'checkpoint/run1').glob('model-*'))


def finishes_early(addresses, index):
    """Worker 1 finishes a second before worker 0, which would notice its death within 0.05 s."""
    from workers.cluster import Cluster
    from workers.collectives import Workers
    from workers.watch import Watch
    cluster = Cluster(tuple(addresses), index)
    with Workers(cluster, watch=Watch(cluster, 60.0, interval=0.05)).connected():
        if index == 0:
            time.sleep(1)


def test_no_worker_exits_before_all_have_finished(tmp_path):
    with worker_group.group(2, tmp_path, finishes_early) as workers:
        assert [worker.status() for worker in workers] == [0, 0], workers[0].err


ENDLESS = (*SMALL, '--save_every', 2, '--keep', 1)


@pytest.mark.parametrize(('count', 'victim'), [(2, 0), (3, 2)])
def test_when_a_worker_is_killed_the_others_exit(home, count, victim):
    with worker_group.group(count, home, worker_group.train, *ENDLESS) as workers:
        workers[0].wait_for('[4 |')
        workers[victim].signal(signal.SIGKILL)
        survivors = [worker for i, worker in enumerate(workers) if i != victim]
        assert [worker.status() for worker in survivors] == [75] * (count - 1)
        for worker in survivors:
            [line] = worker.err.splitlines()
            assert 'died: start all workers again; they resume from the last checkpoint' in line


def test_when_a_worker_freezes_the_others_exit(home):
    with worker_group.group(2, home, worker_group.train, *ENDLESS, '--dist_timeout', 8) as workers:
        workers[0].wait_for('[4 |')
        workers[0].signal(signal.SIGSTOP)       # the one that TensorFlow's runtime needs most
        assert workers[1].status() == 75
        [line] = workers[1].err.splitlines()
        assert 'a worker did not answer within --dist_timeout 8 seconds' in line


def test_a_signal_to_one_worker_saves_once_and_stops_all(home):
    with worker_group.group(2, home, worker_group.train, *SMALL) as workers:
        workers[0].wait_for('[4 |')
        workers[1].signal(signal.SIGTERM)
        assert [worker.status() for worker in workers] == [0, 0]
        assert not any(worker.err for worker in workers)
        step = (home / 'checkpoint/run1/counter').read_text().strip()
        lines = workers[0].out.splitlines()
        stopping = lines.index('another worker received a signal: stopping')
        assert lines[stopping + 1] == f'Saving checkpoint/run1/model-{step}'
        assert f'[{step} |' in workers[0].out
        assert f'[{int(step) + 1} |' not in workers[0].out


def listens_only(addresses, index, *flags):
    """Worker 1 opens its port but never answers, as a worker that hangs."""
    if index == 0:
        worker_group.train(addresses, index, *flags)
    else:
        with socket.create_server(('localhost', int(addresses[1].rpartition(':')[2]))):
            time.sleep(worker_group.TIMEOUT)


def test_a_worker_that_never_answers(home):
    with worker_group.group(2, home, listens_only, *SMALL, '--dist_startup_timeout', 3) as workers:
        assert workers[0].status() == 75
        [line] = workers[0].err.splitlines()
        assert line.startswith('train.py: not every worker answered within --dist_startup_timeout 3 seconds')


def test_a_port_in_use_is_named(tf):
    from workers.cluster import Cluster
    from workers.collectives import Workers
    with socket.create_server(('', 0)) as other:
        address = f'localhost:{other.getsockname()[1]}'
        with pytest.raises(UserError, match=rf'cannot listen at the port of worker 1 \({address}\): .*; end the process '
                                            'that listens there, perhaps an earlier run, or give'):
            Workers(Cluster(('localhost:1', address), 1))


def test_sums_and_broadcasts_have_a_time_limit(tf, session, monkeypatch):
    """TensorFlow itself sets no limit to the first run of a graph with sums, which waits for worker 0."""
    from workers import collectives
    from workers.watch import silence_message
    limits = []

    class Late(Exception):
        pass

    def alarm(seconds, message):
        limits.append((seconds, message))
        raise Late

    monkeypatch.setattr(collectives, 'alarm', alarm)
    workers = fake_workers(FakeCluster(2), timeout=7, startup_timeout=9)
    for run in (workers.barrier, lambda: workers.broadcast(session, [tf.Variable(1.0)])):
        with pytest.raises(Late):
            run()
    [(seconds, message), (seconds_of_start, message_of_start)] = limits
    assert (seconds, message) == (7, silence_message(7))
    assert seconds_of_start == 9
    assert 'within --dist_startup_timeout 9 seconds' in message_of_start


def test_a_save_holds_the_exit_lock(train, monkeypatch):
    from storage import saver
    from workers import collectives
    made, held = [], []
    session = collectives.Workers.session
    monkeypatch.setattr(collectives.Workers, 'session', lambda self, graph: made.append(self) or session(self, graph))
    monkeypatch.setattr(saver.RunSaver, 'save', lambda *_: held.append(made[0].exit_lock.locked()))
    train(*SMALL, '--max_steps', 1)
    assert held == [True]


@pytest.mark.parametrize(('learning_rate', 'words'), [
    (1e30, 'the norm of its gradient'), (5, 'more than 10 times that of guessing')])
def test_all_report_a_loss_of_nan_or_far_too_high_and_worker_0_the_checkpoint_to_return_to(home, learning_rate, words):
    with worker_group.group(2, home, worker_group.train, *ADAM, '--dropout', 0.1, '--learning_rate', learning_rate) as workers:
        assert [worker.status() for worker in workers] == [2, 2]
        assert all(words in worker.err for worker in workers)
        assert 'models/one_block/model.ckpt is safe' in workers[0].err
        assert 'worker 0 reports which checkpoint is safe' in workers[1].err
