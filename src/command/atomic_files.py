"""Atomic writes, checksums, and checks for write permission."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from typing import BinaryIO

from command.errors import UserError, reason

CHUNK = 1 << 20


@contextlib.contextmanager
def replacing(path: str) -> Iterator[BinaryIO]:
    """A file to write to that replaces `path` at the end of the block, synced to disk, unless an exception is raised.

    Until then it is `path`.part. Raises UserError if that cannot be opened.
    """
    part = f'{path}.part'
    try:
        file = open(part, 'wb')     # noqa: SIM115  (not in the `try` below, which removes it)
    except OSError as error:
        if os.path.lexists(part):
            raise UserError(f'cannot write {part}, the unfinished {path}: {reason(error)}; remove {part}') from None
        raise UserError(f'cannot write {path}: {reason(error)}') from None
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        with contextlib.suppress(OSError):      # after success it no longer exists
            os.remove(part)


def write_text(path: str, text: str) -> None:
    """Writes UTF-8 text atomically. Lone surrogates, as in file names that are not UTF-8, are escaped: \\udce9."""
    with replacing(path) as file:
        file.write(text.encode(errors='backslashreplace'))


def sync(path: str) -> None:
    """Waits until a file's bytes, or the names in a directory, are on disk; not on Windows, which cannot open directories."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        if os.path.isdir(path):
            return
        raise
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
    """Raises UserError unless this process can write to a directory, or create it. Writes nothing."""
    existing = os.path.abspath(directory)
    while not os.path.lexists(existing):
        existing = os.path.dirname(existing)
    if not os.path.isdir(existing):
        raise UserError(f'cannot write to {directory}: {existing} is not a directory')
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f'cannot write to {directory}: there is no permission to write to {existing}')
