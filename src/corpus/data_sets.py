"""Data sets: the files that --dataset names, and how often they are drawn."""

import dataclasses
import math
import os

from command.errors import UserError
from corpus.find_files import find_files


@dataclasses.dataclass
class DataSet:
    """Files that are read as one corpus. weight: how often a token is drawn, compared with one of weight 1."""
    files: list[str]
    weight: float = 1.0


def find_data_sets(paths: list[str]) -> list[DataSet]:
    """The files of several paths (see find_files), those of the same weight together, in the order given.

    A path may end in =WEIGHT, unless a file of that complete name exists. Raises UserError for a wrong weight, a path
    without files, or a file that two of the paths name.
    """
    sets, owners = {}, {}
    for number, text in enumerate(paths):
        path, weight = split_weight(text)
        for file in find_files(path):
            if (owner := owners.setdefault(os.path.realpath(file), number)) != number:
                raise UserError(f'{file} is in the data set {paths[owner]} and in {text}: name it once '
                                f'({file}=2 draws it more often)')
            sets.setdefault(weight, DataSet([], weight)).files.append(file)
    return list(sets.values())


def find_texts(paths: list[str]) -> list[str]:
    """The files of several paths, for a command that reads each once. Raises UserError as find_data_sets, and for a weight."""
    for text in paths:
        path, _ = split_weight(text)
        if path != text:
            raise UserError(f'{text}: weights are for training, here each text is read once; give {path}')
    [data_set] = find_data_sets(paths)
    return data_set.files


def split_weight(text: str) -> tuple[str, float]:
    """'a.txt=2' -> ('a.txt', 2.0); 'a.txt' -> ('a.txt', 1.0). Raises UserError for a weight that is not above 0."""
    path, _, weight = text.rpartition('=')
    if not path or '/' in weight or os.path.lexists(text):
        return text, 1.0
    try:
        value = float(weight)
    except ValueError:
        if not os.path.exists(path):
            return text, 1.0        # which names what cannot be found
        value = math.nan
    if not 0 < value < math.inf:
        raise UserError(f'{text}: the weight of {path} must be a number above 0, not {weight!r}')
    return path, value


def one_or_list(paths: list[str]) -> str | list[str]:
    """The paths for a record: the path itself if there is only one."""
    return paths[0] if len(paths) == 1 else paths


def in_words(paths: list[str]) -> str:
    """The paths of data sets for a message, at most three of them: 'a.txt, b.txt, c.txt and 7 more'."""
    return ', '.join(paths[:3]) + (f' and {len(paths) - 3} more' if len(paths) > 3 else '')
