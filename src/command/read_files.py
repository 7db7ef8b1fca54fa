"""Reads small files; what cannot be read is a UserError that names it."""

import json

from command.errors import UserError, reason


def read_bytes(path: str) -> bytes:
    """The content of a file. Raises UserError."""
    try:
        with open(path, 'rb') as file:
            return file.read()
    except OSError as error:
        raise UserError(f'cannot read {path}: {reason(error)}') from None


def read_json(path: str) -> dict:
    """The object in a JSON file. Raises UserError."""
    try:
        content = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f'{path} is not JSON: {error}') from None
    if not isinstance(content, dict):
        raise UserError(f'{path} must hold an object')
    return content
