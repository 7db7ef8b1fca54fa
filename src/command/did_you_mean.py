"""The nearest valid name, for messages about one that does not exist."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """What a message adds to a wrong name: ': did you mean NAME?' with the nearest of the known ones, or '' if none is near.

        'temprature', ['temperature', 'top_k'] -> ': did you mean temperature?'
    """
    nearest = difflib.get_close_matches(name, known, n=1)
    return f': did you mean {nearest[0]}?' if nearest else ''
