"""Files that are there whole or not at all."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from typing import BinaryIO

from command.errors import UserError, reason

CHUNK = 1 << 20


@contextlib.contextmanager
def replacing(path: str) -> Iterator[BinaryIO]:
    """A file to write to that takes the place of `path` at the end, on disk for good; an exception leaves `path` alone.

    Until then it is `path`.part. Raises UserError that names what is in the way if it cannot be opened.
    """
    part = f'{path}.part'
    try:
        file = open(part, 'wb')     # noqa: SIM115  (what is there but cannot be written to is not ours to remove)
    except OSError as error:
        if os.path.lexists(part):
            raise UserError(f'cannot write {part}, which would become {path} when it is whole: {reason(error)}; remove {part}'
                            ) from None
        raise UserError(f'cannot write {path}: {reason(error)}') from None
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        with contextlib.suppress(OSError):      # after success there is none
            os.remove(part)


def write_text(path: str, text: str) -> None:
    """Writes UTF-8 text as `replacing` does."""
    with replacing(path) as file:
        file.write(text.encode())


def sync(path: str) -> None:
    """Waits until a file's bytes, or the names in a directory, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: str) -> str:
    """The checksum of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def check_writable(directory: str) -> None:
    """Raises UserError unless one may write to a directory, or could make it and those above it. Makes and writes nothing."""
    place = os.path.abspath(directory)
    while not os.path.lexists(place):
        place = os.path.dirname(place)
    if not os.path.isdir(place):
        raise UserError(f'cannot write to {directory}: {place} is no directory')
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f'cannot write to {directory}: there is no permission to write to {place}')
