"""Comparing the workers' settings and corpus before training starts."""

import json
from collections.abc import Callable

from command.errors import UserError


def agree(gather: Callable[[str], list[str]], common: dict[str, object], own: dict) -> dict:
    """Returns worker 0's `own`. Raises UserError, in all workers, if a value of `common` (name -> value) differs between them.

    gather: this worker's text -> the texts of all workers, by index.
    """
    settings = [json.loads(text) for text in gather(json.dumps([common, own]))]
    expected, own_of_worker_0 = settings[0]
    for index, (values, _) in enumerate(settings):
        for name, value in expected.items():
            if values[name] != value:
                raise UserError(f'{name} is {values[name]} for worker {index} but {value} for worker 0: give all '
                                'workers the same', in_all_workers=True)
    return own_of_worker_0
