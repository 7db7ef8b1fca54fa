"""Atomic writes, checksums, and checks for write permission."""

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from typing import BinaryIO

from command.errors import UserError, reason
from command.notes import print_once

CHUNK = 1 << 20
# What fsync raises where the file system cannot do it, as opposed to a disk that is full or broken.
NOT_SUPPORTED = {errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


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
            sync_file(file.fileno(), path)
        os.replace(part, path)
    finally:
        with contextlib.suppress(OSError):      # after success it no longer exists
            os.remove(part)


def write_text(path: str, text: str) -> None:
    """Writes UTF-8 text atomically. Lone surrogates, as in file names that are not UTF-8, are escaped: \\udce9."""
    with replacing(path) as file:
        file.write(text.encode(errors='backslashreplace'))


def sync(path: str) -> None:
    """Waits until a file's bytes are on disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        sync_file(descriptor, path)
    finally:
        os.close(descriptor)


def sync_file(descriptor: int, path: str) -> None:
    """Waits until the bytes of an open file are on disk; prints it if the file system cannot do that. Raises OSError."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NOT_SUPPORTED:
            raise
        _print_not_synced(path, error)


def sync_directory(path: str) -> None:
    """Waits until the names in a directory are on disk; prints it if that fails, because its files are complete without it.

    Docker on Windows and macOS, WSL and some network file systems refuse it, each with another error.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        _print_not_synced(path, error)


def _print_not_synced(path: str, error: OSError) -> None:
    """One line for the first path of each process."""
    print_once('sync', f'the file system of {path} cannot sync it to disk ({reason(error)}): if the power fails, what was '
                       'written last may be lost')


def sha256(path: str) -> str:
    """The checksum of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def free_space(directory: str) -> int:
    """Bytes that can be written in a directory, or where it would be made."""
    return shutil.disk_usage(_existing(directory)).free


def check_writable(directory: str) -> None:
    """Raises UserError unless this process can write to a directory, or create it. Writes nothing."""
    existing = _existing(directory)
    if not os.path.isdir(existing):
        raise UserError(f'cannot write to {directory}: {existing} is not a directory')
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f'cannot write to {directory}: there is no permission to write to {existing}')


def _existing(directory: str) -> str:
    """The directory, or the nearest one above it that is there."""
    existing = os.path.abspath(directory)
    while not os.path.lexists(existing):
        existing = os.path.dirname(existing)
    return existing
