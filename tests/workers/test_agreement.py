"""What workers compare before they begin, and what all of them take from worker 0."""

import pytest

from command.errors import UserError
from workers.agreement import agree


def exchange(workers):
    """Has each of some workers (common, own) hear what all of them give; what each takes from worker 0."""
    given = []
    for each in workers:
        agree(lambda text: given.append(text) or [text], *each)
    return [agree(lambda _: given, *each) for each in workers]


def test_what_differs_is_named_with_the_worker():
    workers = [({'--batch_size': 1, 'the corpus': 'x'}, {}) for _ in range(3)]
    workers[2][0]['--batch_size'] = 7
    with pytest.raises(UserError, match='^--batch_size is 7 with worker 2 and 1 with worker 0: give all workers the same$'):
        exchange(workers)


def test_all_take_what_worker_0_has():
    workers = [({'--seq_length': 8}, {'step': step}) for step in (5, 6, 7)]
    assert exchange(workers) == [{'step': 5}] * 3
