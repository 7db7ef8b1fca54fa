"""settings.json: what it holds, and what has changed between two of them."""

import copy

import numpy as np
import pytest

from corpus.chunks import Corpus
from training import record

FLAGS = {**dict.fromkeys(record.MATHEMATICS, 1), 'max_steps': 5, 'learning_rate_schedule': 'constant'}
RECORD = {'flags': FLAGS, 'workers': 1, 'corpus': {'name': 'a.txt', 'tokens': 9, 'sha256': 'x'}}


def changes(**flags):
    now = copy.deepcopy(RECORD)
    now['flags'].update(flags)
    return record.changes(RECORD, now)


@pytest.mark.parametrize('flag', record.MATHEMATICS)
def test_a_flag_of_the_mathematics_that_changed(flag):
    assert changes(**{flag: 2})[0] == f'--{flag}: {FLAGS[flag]} before, 2 now'


def test_other_flags_may_change():
    assert changes() == changes(max_steps=7) == []


def test_what_an_earlier_version_recorded_is_no_change():
    before = copy.deepcopy(RECORD)
    for flag, new in (('seq_length', 8), ('weight_decay', 0.01), ('text_column', 'x')):
        before['flags'][flag] = None
        assert len(record.changes(before, copy.deepcopy(RECORD))) == (flag == 'text_column'), flag
    del before['flags']['text_column'], before['workers']       # flags that it did not have
    assert record.changes(before, RECORD) == []


def test_max_steps_counts_where_a_schedule_ends():
    before = copy.deepcopy(RECORD)
    before['flags']['learning_rate_schedule'] = 'cosine'
    now = copy.deepcopy(before)
    assert record.changes(before, now) == []
    now['flags']['max_steps'] = 7
    assert record.changes(before, now) == ['--max_steps, where the learning rate ends: 5 before, 7 now']


def test_another_corpus_of_the_same_name_and_size_is_a_change():
    now = copy.deepcopy(RECORD)
    now['corpus']['sha256'] = 'y'
    assert record.changes(RECORD, now) == ['the corpus: a.txt of 9 tokens before, a.txt of 9 tokens now']


def test_weights_and_several_names():
    before, now = copy.deepcopy(RECORD), copy.deepcopy(RECORD)
    now['corpus']['weights'] = [[2.0, 5], [0.5, 4]]
    assert record.changes(before, now) == ['the weights of the data sets: none before, 2 for 5 tokens, 0.5 for 4 tokens now']
    assert record.changes(now, copy.deepcopy(now)) == []
    now['corpus'].update(name=['a.txt=2', 'b.txt=0.5'], sha256='y')
    assert record.changes(before, now)[0] == 'the corpus: a.txt of 9 tokens before, a.txt=2, b.txt=0.5 of 9 tokens now'


def test_weights_are_summed_over_chunks_in_a_row():
    chunks = [np.arange(size) for size in (3, 4, 5, 6)]
    assert record.weight_sums(Corpus(chunks, [2.0, 2.0, 1.0, 2.0])) == [[2, 7], [1, 5], [2, 6]]
    assert record.weight_sums(Corpus(chunks)) == []


def test_the_checksum_depends_on_tokens_and_chunks_alone(monkeypatch):
    small, large = [np.arange(9, dtype=np.uint16)], [np.arange(9, dtype=np.int32)]
    checksum = record._checksum(small)
    assert checksum == record._checksum(large)
    assert checksum != record._checksum([np.arange(4), np.arange(4, 9)])
    monkeypatch.setattr(record, 'PIECE', 4)
    assert checksum == record._checksum(small)
