"""Requests share a batch: steps made one by one, with a generator that has no network."""

import threading

import numpy as np
import pytest

from command.errors import UserError
from fake_generator import Client, FakeGenerator, text_of
from serving.batcher import FINISHED, Batcher, Failed, Job, Scored, Unavailable


@pytest.fixture
def generator():
    return FakeGenerator()


def submit(batcher, generator, *prompts, length=3, scored=(), logprobs=None):
    """A job that continues these prompts, and its client."""
    client = Client()
    job = Job([text_of(generator, prompt, length) for prompt in prompts], [np.array(ids) for ids in scored], logprobs, client)
    batcher.submit(job)
    return job, client


def test_requests_that_arrive_later_join_and_none_is_read_twice(generator):
    batcher = Batcher(generator, batch_size=4, queue=4)
    _, first = submit(batcher, generator, 'a', length=4)
    batcher.turn()
    _, second = submit(batcher, generator, 'm', 'p', length=2)
    for _ in range(4):
        batcher.turn()
    assert generator.batches == [['a'], ['m', 'p'], ['ab', 'mn', 'pq'], ['abc'], ['abcd']]
    assert first.texts() == {0: 'bcde'} and second.texts() == {0: 'no', 1: 'qr'}
    assert first.events[-1] is FINISHED and second.events[-1] is FINISHED
    assert [event.stop_reason for event in second.events[:-1]] == [None, None, 'length', 'length']


def test_a_large_request_does_not_hold_up_a_small_one(generator):
    batcher = Batcher(generator, batch_size=2, queue=4)
    _, large = submit(batcher, generator, *'abcdef', length=2)
    batcher.turn()
    _, small = submit(batcher, generator, 'p', length=1)
    while FINISHED not in small.events:
        batcher.turn()
    assert len(large.texts()) == 3      # two that ran, and the one that took the other free row
    while FINISHED not in large.events:
        batcher.turn()
    assert large.texts() == {0: 'bc', 1: 'cd', 2: 'de', 3: 'ef', 4: 'fg', 5: 'gh'}


def test_a_client_that_leaves_frees_its_row_before_the_next_step(generator):
    batcher = Batcher(generator, batch_size=1, queue=4)
    job, left = submit(batcher, generator, 'a', length=100)
    _, next_one = submit(batcher, generator, 'p', length=1)
    batcher.turn()
    assert left.texts() == {0: 'b'} and next_one.texts() == {}
    job.cancel()
    batcher.turn()
    assert next_one.events[-1] is FINISHED and left.texts() == {0: 'b'} and FINISHED not in left.events
    assert generator.batches == [['a'], ['p']]


def test_one_that_leaves_while_it_waits_is_never_written(generator):
    batcher = Batcher(generator, batch_size=1, queue=1)
    _, first = submit(batcher, generator, 'a')
    job, _ = submit(batcher, generator, 'p')
    job.cancel()
    while FINISHED not in first.events:
        batcher.turn()
    assert generator.batches == [['a'], ['ab'], ['abc']]
    submit(batcher, generator, 'a')
    submit(batcher, generator, 'a')     # there is room again


def test_a_full_queue_refuses_until_a_request_is_complete(generator):
    batcher = Batcher(generator, batch_size=2, queue=1)
    clients = [submit(batcher, generator, 'a', length=1)[1] for _ in range(3)]
    with pytest.raises(Unavailable, match='3 requests are running or waiting already'):
        submit(batcher, generator, 'a')
    batcher.turn()
    assert [client.events[-1:] for client in clients] == [[FINISHED], [FINISHED], []]
    submit(batcher, generator, 'a')


def test_closing_completes_what_runs_and_nothing_else(generator):
    batcher = Batcher(generator, batch_size=1, queue=4)
    _, running = submit(batcher, generator, 'a', 'm')
    _, waiting = submit(batcher, generator, 'p')
    batcher.turn()
    batcher.close()
    with pytest.raises(Unavailable, match='shutting down'):
        submit(batcher, generator, 'a')
    batcher.run()
    assert running.texts() == {0: 'bcd', 1: 'nop'} and running.events[-1] is FINISHED
    [failed] = waiting.events
    assert isinstance(failed.error, Unavailable)


def test_abandoning_completes_nothing(generator):
    batcher = Batcher(generator, batch_size=1, queue=4)
    _, running = submit(batcher, generator, 'a')
    batcher.turn()
    batcher.abandon()
    batcher.run()
    assert running.texts() == {0: 'b'}


@pytest.mark.parametrize('fault', [UserError('out of memory'), RuntimeError('a fault')])
def test_a_fault_ends_the_requests_that_ran_and_no_other(generator, fault, capsys):
    batcher = Batcher(generator, batch_size=1, queue=4)
    _, running = submit(batcher, generator, 'a')
    _, waiting = submit(batcher, generator, 'p')
    batcher.turn()
    generator.fault = fault
    batcher.turn()
    assert running.events[-1] == Failed(fault)
    while FINISHED not in waiting.events:
        batcher.turn()
    assert waiting.texts() == {0: 'qrs'}
    assert generator.rows[2] is not generator.rows[1]       # what the cache holds is not known
    assert ('a fault' in capsys.readouterr().err) == isinstance(fault, RuntimeError)


def test_prompts_are_scored_before_their_texts_are_written_together_with_those_of_others(generator):
    batcher = Batcher(generator, batch_size=2, queue=4)
    _, first = submit(batcher, generator, 'a', length=1, scored=[[0, 1, 2], [3, 4]], logprobs=1)
    _, second = submit(batcher, generator, scored=[[5, 6]])
    batcher.turn()
    assert generator.scored == [(3, 1)]
    assert [event.prompt for event in first.events] == [0, 1] and second.events[-1] is FINISHED
    batcher.turn()
    assert isinstance(first.events[0], Scored) and first.texts() == {0: 'b'} and first.events[-1] is FINISHED


def test_few_tokens_are_read_in_a_step_in_which_others_wait(generator):
    batcher = Batcher(generator, batch_size=8, queue=8)
    submit(batcher, generator, *['a' * 15] * 5, 'b', length=1)
    for _ in range(3):
        batcher.turn()
    assert [len(batch) for batch in generator.batches] == [2, 2, 2]
    _, scored = submit(batcher, generator, scored=[[1] * 16] * 5)
    for _ in range(3):
        batcher.turn()
    assert [n for n, _ in generator.scored] == [2, 2, 1] and scored.events[-1] is FINISHED


def test_it_waits_in_its_thread_for_something_to_do(generator):
    batcher = Batcher(generator, batch_size=2, queue=2)
    thread = threading.Thread(target=batcher.run, daemon=True)
    thread.start()
    finished = threading.Event()
    job = Job([text_of(generator)], [], None, lambda event: finished.set() if event is FINISHED else None)
    batcher.submit(job)
    assert finished.wait(60)
    assert thread.is_alive()
    batcher.close()
    thread.join(60)
    assert not thread.is_alive()


def test_damaged_weights_are_noticed_at_the_start(generator, monkeypatch):
    batcher = Batcher(generator, batch_size=5, queue=1)
    sizes = []
    text = text_of(generator)
    monkeypatch.setattr(generator, 'finish', lambda texts, size: sizes.append((len(texts), size)) or [text])
    batcher.warm_up()
    assert sizes == [(5, 5), (2, 2), (1, 1)]
    text.log_probability = float('nan')
    with pytest.raises(UserError, match='the loss is nan'):
        batcher.warm_up()


def test_with_logprobs_each_token_has_its_alternatives(generator):
    batcher, client = Batcher(generator, batch_size=1, queue=1), Client()
    settings = text_of(generator).settings
    batcher.submit(Job([generator.continuation('a', settings, [0, 0, 0], 2)], [], None, client))
    batcher.turn()
    batcher.turn()
    assert [(token.log_probability, token.alternatives, token.offset) for token in client.events] == [
        (-0.5, [(1, -0.5), (0, -2.0)], 0), (-0.5, [(2, -0.5), (0, -2.0)], 1)]
