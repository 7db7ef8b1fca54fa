"""Comparing the workers' settings, and taking worker 0's."""

import pytest

from command.errors import UserError
from workers.agreement import agree


def agree_all(workers):
    """Calls agree for each worker (common, own) with the texts of all; returns what each gets."""
    texts = []
    for common, own in workers:
        agree(lambda text: texts.append(text) or [text], common, own)
    return [agree(lambda _: texts, *worker) for worker in workers]


def test_a_difference_is_named_with_the_worker():
    workers = [({'--batch_size': 1, 'the corpus': 'x'}, {}) for _ in range(3)]
    workers[2][0]['--batch_size'] = 7
    with pytest.raises(UserError, match='^--batch_size is 7 for worker 2 but 1 for worker 0: give all workers the same$'):
        agree_all(workers)


def test_all_get_the_values_of_worker_0():
    workers = [({'--seq_length': 8}, {'step': step}) for step in (5, 6, 7)]
    assert agree_all(workers) == [{'step': 5}] * 3
