"""Checks JSON against the part of JSON Schema that schema.py uses."""

import math

TYPES = {'string': str, 'boolean': bool, 'object': dict, 'array': list, 'null': type(None)}


class Mismatch(Exception):
    """A value that a schema does not allow. expected: what it allows, in words."""

    def __init__(self, expected: str):
        super().__init__(expected)
        self.expected = expected


def checked(value: object, schema: dict) -> object:
    """The value, with whole numbers as int. Raises Mismatch.

        2.0, {'type': 'integer', 'minimum': 0} -> 2
    """
    if 'anyOf' in schema:
        for choice in schema['anyOf']:
            try:
                return checked(value, choice)
            except Mismatch:
                continue
        raise Mismatch(in_words(schema))
    kind = schema['type']
    if kind in ('integer', 'number'):
        return _checked_number(value, schema)
    if not isinstance(value, TYPES[kind]):
        raise Mismatch(in_words(schema))
    if kind in ('string', 'array'):
        smallest, largest = (schema.get(f'{end}{"Length" if kind == "string" else "Items"}') for end in ('min', 'max'))
        if len(value) < (smallest or 0) or largest is not None and len(value) > largest:
            raise Mismatch(in_words(schema))
    try:
        if kind == 'array':
            return [checked(each, schema['items']) for each in value]
        if kind == 'object':
            return {name: checked(each, schema['properties'][name]) for name, each in value.items()}
    except (Mismatch, KeyError):
        raise Mismatch(in_words(schema)) from None
    return value


def _checked_number(value: object, schema: dict) -> int | float:
    valid = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if valid and schema['type'] == 'integer':
        valid = value == int(value)
        value = int(value) if valid else value
    if not valid or not schema.get('minimum', -math.inf) <= value <= schema.get('maximum', math.inf):
        raise Mismatch(in_words(schema))
    return value


def in_words(schema: dict) -> str:
    """{'type': 'integer', 'minimum': 0, 'maximum': 5} -> 'a whole number from 0 to 5'; or the schema's own title."""
    if 'title' in schema:
        return schema['title']
    if 'anyOf' in schema:
        return ' or '.join(in_words(choice) for choice in schema['anyOf'])
    kind = schema['type']
    if kind in ('integer', 'number'):
        name = 'a whole number' if kind == 'integer' else 'a number'
        return f'{name} from {schema["minimum"]} to {schema["maximum"]}' if 'minimum' in schema else name
    if kind == 'array':
        size = f' (at most {schema["maxItems"]})' if 'maxItems' in schema else ''
        return f'a list{size} of which each is {in_words(schema["items"])}'
    if kind == 'string':
        return 'a string, and not an empty one' if schema.get('minLength') else 'a string'
    if kind == 'object':
        return f'an object with {" and ".join(f"{name} ({in_words(each)})" for name, each in schema["properties"].items())}'
    return {'boolean': 'true or false', 'null': 'null'}[kind]
