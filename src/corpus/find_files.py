"""Finds a corpus's files: one file, all below a directory, or a glob."""

import fnmatch
import os
import stat
import sys
from collections.abc import Iterable, Iterator

from command.errors import UserError, reason

_KINDS = {stat.S_IFIFO: 'a FIFO', stat.S_IFSOCK: 'a socket', stat.S_IFCHR: 'a device', stat.S_IFBLK: 'a device'}


def find_files(path: str) -> list[str]:
    """The files that `path` stands for: one file, all below a directory, or what a glob (`**` too) matches.

    Sorted. A directory and a glob leave out hidden files and directories. They skip what is neither a file nor a
    directory with a line on standard error (reading a FIFO could block forever); a pipe named directly is read. A
    directory and `**` do not follow links to directories, which may form cycles.

    Raises UserError if there is none, or a directory cannot be read.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        if files := _regular_files(_expand(path, {('**', '*')})):
            return files
        raise UserError(f'no files in the directory {path} (hidden ones are skipped)')
    try:
        os.stat(path)
        return [path]
    except OSError as error:
        if not _is_pattern(path):
            raise UserError(f'cannot find {path!r}: {reason(error)}') from None
    directory, parts = _split(path)
    matches = list(_expand(directory, {parts}))
    if files := _regular_files(matches):
        return files
    if matches:
        raise UserError(f'the pattern {path} matches only directories, or links to them; name one of them')
    raise UserError(f'nothing matches the pattern {path}')


def would_match(pattern: str, path: str) -> bool:
    """Whether find_files would find the file `path` by this pattern, if it existed. Its directory must exist."""
    directory, parts = _split(pattern)
    path = os.path.join(os.path.realpath(os.path.dirname(path) or '.'), os.path.basename(path))
    patterns = {parts}
    for name in os.path.relpath(path, os.path.realpath(directory or '.')).split('/'):
        patterns = _match(patterns, name)
    return () in patterns


def file_size(path: str) -> int:
    """Bytes of a file; 0 where the size is not known (a pipe)."""
    try:
        return os.path.getsize(path)
    except OSError:
        return 0        # opening the file reports what is wrong with it


def _is_pattern(text: str) -> bool:
    return any(character in text for character in '*?[')


def _split(pattern: str) -> tuple[str, tuple[str, ...]]:
    """The directory before the first part with a wildcard, and the other parts: 'a/b/*/c' -> 'a/b', ('*', 'c').

    A ** at the end becomes **/*, so that ** always stands for directories.
    """
    parts = [part for part in pattern.split('/') if part]
    if parts[-1] == '**':
        parts.append('*')
    fixed = next((number for number, part in enumerate(parts) if _is_pattern(part)), len(parts))
    return os.path.join('/' if pattern.startswith('/') else '', *parts[:fixed]), tuple(parts[fixed:])


def _match(patterns: set[tuple[str, ...]], name: str, is_link: bool = False) -> set[tuple[str, ...]]:
    """Matches one name of a path. Returns the patterns for the names after it; () is one that matches here.

        {('*', 'c')}, 'b' -> {('c',)};  {('**', 'c')}, 'b' -> {('**', 'c')};  {('**', 'c')}, 'c' -> {('**', 'c'), ()}

    Only a part that begins with a dot matches a hidden name. ** does not match links.
    """
    remaining, untried = set(), [pattern for pattern in patterns if pattern]
    for first, *rest in untried:
        hidden = name.startswith('.') and not first.startswith('.')
        if first == '**':
            untried.append(tuple(rest))     # it may stand for no directory at all
            if not hidden and not is_link:
                remaining.add((first, *rest))
        elif not hidden and fnmatch.fnmatchcase(name, first):
            remaining.add(tuple(rest))
    return remaining


def _expand(directory: str, patterns: set[tuple[str, ...]]) -> Iterator[str]:
    """The paths below a directory that match one of the patterns. Nothing else is looked into.

    Unlike glob's, this ** follows no links: two links to their own directory would give 2 ** 40 paths.
    """
    for entry in _entries(directory):
        path, is_link = os.path.join(directory, entry.name), entry.is_symlink()
        remaining = _match(patterns, entry.name, is_link)
        if () in remaining:
            yield path
        if any(remaining) and (os.path.isdir(path) if is_link else entry.is_dir()):     # is_dir() fails for a cycle
            yield from _expand(path, remaining)


def _entries(directory: str) -> list[os.DirEntry]:
    try:
        with os.scandir(directory or '.') as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f'cannot read {directory or "."}: {reason(error)}') from None


def _regular_files(paths: Iterable[str]) -> list[str]:
    """The files among these paths, sorted. Broken links stay: reading them is an error, and no document is missing."""
    files = []
    for path in sorted(paths):
        try:
            kind = stat.S_IFMT(os.stat(path).st_mode)
        except OSError:
            kind = stat.S_IFREG
        if kind in _KINDS:
            print(f'skipping {path}: it is {_KINDS[kind]}', file=sys.stderr)
        elif kind == stat.S_IFREG:
            files.append(path)
    return files
