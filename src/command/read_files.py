"""Reads small files of a model; a UserError names what cannot be read."""

import json
import re

from command.errors import UserError, reason

HEAD = 256          # bytes of a file by which `foreign` recognises it
WEB_PAGE = re.compile(rb'(\xef\xbb\xbf)?\s*<[?!]?[a-z]+[\s>]', re.IGNORECASE)
LFS_POINTER = re.compile(rb'version https://git-lfs\.github\.com/spec/')


def foreign(head: bytes) -> str | None:
    """What a file holds in place of a model's data, by its first HEAD bytes: a Git LFS pointer or a web page. Else None."""
    if LFS_POINTER.match(head):
        return 'is a Git LFS pointer, not the file itself: `git lfs pull` fetches the file'
    if WEB_PAGE.match(head):
        return 'is a web page, not the file itself: download the file again'
    return None


def check_kind(path: str) -> None:
    """Raises UserError if a file that exists holds a Git LFS pointer or a web page."""
    try:
        with open(path, 'rb') as file:
            kind = foreign(file.read(HEAD))
    except OSError:
        return      # whoever reads all of it names the error
    if kind:
        raise UserError(f'{path} {kind}')


def read_any(path: str) -> bytes:
    """The content of a file, whatever it is. Raises UserError."""
    try:
        with open(path, 'rb') as file:
            return file.read()
    except OSError as error:
        raise UserError(f'cannot read {path}: {reason(error)}') from None


def read_bytes(path: str) -> bytes:
    """The content of a file of a model. Raises UserError, also if it is a Git LFS pointer or a web page."""
    content = read_any(path)
    if kind := foreign(content[:HEAD]):
        raise UserError(f'{path} {kind}')
    return content


def read_json(path: str) -> dict:
    """The object in a JSON file. Raises UserError."""
    try:
        content = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f'{path} is not JSON: {error}') from None
    if not isinstance(content, dict):
        raise UserError(f'{path} must hold an object')
    return content
