"""What the workers of a run must have in common, compared before they begin, and what worker 0 decides for all."""

import json
from collections.abc import Callable

from command.errors import UserError


def agree(gather: Callable[[str], list[str]], common: dict[str, object], own: dict) -> dict:
    """Compares `common` (what it is -> its value) with that of the other workers; returns the `own` of worker 0.

    gather: a text of this worker -> those of all, in their order. Raises UserError that names what differs, and the worker.
    """
    given = list(map(json.loads, gather(json.dumps([common, own]))))
    first = given[0][0]
    for index, (theirs, _) in enumerate(given):
        for name, expected in first.items():
            if theirs[name] != expected:
                raise UserError(f'{name} is {theirs[name]} with worker {index} and {expected} with worker 0: give all workers '
                                'the same')
    return given[0][1]
