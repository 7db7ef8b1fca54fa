"""The files that a path stands for: one file, all below a directory, or what a glob matches."""

import fnmatch
import os
import stat
import sys
from collections.abc import Iterable, Iterator

from command.errors import UserError, reason

_KINDS = {stat.S_IFIFO: 'a FIFO', stat.S_IFSOCK: 'a socket', stat.S_IFCHR: 'a device', stat.S_IFBLK: 'a device'}


def find_files(path: str) -> list[str]:
    """The files that `path` stands for: one file, all below a directory, or what a glob (`**` too) matches.

    Sorted. Hidden files and directories are left out of a directory and a glob, and so is what is neither a file nor a
    directory (a FIFO would wait for ever), with a line on standard error; named directly, a pipe is read. A directory and
    `**` do not follow links to directories, which may go in circles.

    Raises UserError if there is none, or a directory cannot be read.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        if files := _readable(_walk(path)):
            return files
        raise UserError(f'no files in the directory {path} (hidden ones are skipped)')
    try:
        os.stat(path)
        return [path]
    except OSError as error:
        if not _is_pattern(path):
            raise UserError(f'cannot find {path!r}: {reason(error)}') from None
    matches = sorted(set(_expand('/' if path.startswith('/') else '', [part for part in path.split('/') if part])))
    if files := _readable(match for match in matches if not os.path.isdir(match)):
        return files
    if matches:
        raise UserError(f'the pattern {path} matches only directories, or links to them; name one of them')
    raise UserError(f'nothing matches the pattern {path}')


def would_match(pattern: str, path: str) -> bool:
    """Whether find_files would find the file `path` by this pattern, if it were there. Its directory must be there."""
    parts = [part for part in pattern.split('/') if part]
    fixed = next((number for number, part in enumerate(parts) if _is_pattern(part)), len(parts))
    place = os.path.realpath(os.path.join('/' if pattern.startswith('/') else '.', *parts[:fixed]))
    path = os.path.join(os.path.realpath(os.path.dirname(path) or '.'), os.path.basename(path))
    return _matches(os.path.relpath(path, place).split('/'), parts[fixed:])


def _matches(names: list[str], parts: list[str]) -> bool:
    """Whether the parts of a pattern match these names, as `_expand` goes about it: ['b', 'c'] and ['*', 'c']."""
    if not parts or not names:
        return not parts and not names
    if names[0].startswith('.') and not parts[0].startswith('.'):
        return parts[0] == '**' and _matches(names, parts[1:])
    if parts[0] == '**':
        return len(names) == 1 and len(parts) == 1 or _matches(names, parts[1:]) or _matches(names[1:], parts)
    return fnmatch.fnmatchcase(names[0], parts[0]) and _matches(names[1:], parts[1:])


def file_size(path: str) -> int:
    """Bytes of a file, 0 where there is no telling (a pipe)."""
    try:
        return os.path.getsize(path)
    except OSError:
        return 0        # whoever opens the file reports what is wrong with it


def _walk(directory: str) -> list[str]:
    """Paths of all that is not hidden below a directory, sorted, directories themselves excepted."""
    found = []
    for parent, directories, names in os.walk(directory, onerror=_fail):
        directories[:] = [name for name in directories if not name.startswith('.')]
        found += [os.path.join(parent, name) for name in names if not name.startswith('.')]
    return sorted(found)


def _fail(error: OSError) -> None:
    raise UserError(f'cannot read {error.filename}: {reason(error)}') from None


def _is_pattern(text: str) -> bool:
    return any(character in text for character in '*?[')


def _expand(place: str, parts: list[str]) -> Iterator[str]:
    """The paths below `place` that the parts of a pattern match, in any order: a, ['*', 'c'] -> a/b/c.

    Unlike glob's, its `**` follows no links: two links to their own directory would make it go on for ages.
    """
    if not parts:
        yield place
        return
    first, rest = parts[0], parts[1:]
    if not _is_pattern(first):
        if os.path.lexists(path := os.path.join(place, first)):
            yield from _expand(path, rest)
        return
    if first == '**' and rest:
        yield from _expand(place, rest)
    for entry in _entries(place):
        path = os.path.join(place, entry.name)
        if entry.name.startswith('.') and not first.startswith('.'):
            continue
        if first == '**':
            if entry.is_dir(follow_symlinks=False):
                yield from _expand(path, parts)
            elif not rest:
                yield path
        elif fnmatch.fnmatchcase(entry.name, first) and (not rest or entry.is_dir()):
            yield from _expand(path, rest)


def _entries(directory: str) -> list[os.DirEntry]:
    try:
        with os.scandir(directory or '.') as entries:
            return list(entries)
    except NotADirectoryError:
        return []
    except OSError as error:
        raise UserError(f'cannot read {directory or "."}: {reason(error)}') from None


def _readable(paths: Iterable[str]) -> list[str]:
    """Those that are files, or broken links, which are better an error than a document silently missing."""
    files = []
    for path in paths:
        try:
            kind = stat.S_IFMT(os.stat(path).st_mode)
        except OSError:
            kind = stat.S_IFREG
        if kind in _KINDS:
            print(f'skipping {path}: it is {_KINDS[kind]}', file=sys.stderr)
        elif kind == stat.S_IFREG:
            files.append(path)
    return files
