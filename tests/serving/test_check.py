"""The part of JSON Schema that requests are checked against, compared with a complete implementation."""

import pytest

from serving.check import Mismatch, checked, in_words

WHOLE = {'type': 'integer', 'minimum': 0, 'maximum': 5}
REAL = {'type': 'number', 'minimum': -1, 'maximum': 2}
SCHEMAS = [WHOLE, REAL, {'type': 'string'}, {'type': 'string', 'minLength': 1}, {'type': 'boolean'}, {'type': 'null'},
           {'type': 'array', 'minItems': 1, 'maxItems': 2, 'items': WHOLE}, {'anyOf': [WHOLE, {'type': 'null'}]},
           {'type': 'object', 'properties': {'a': {'type': 'boolean'}}, 'additionalProperties': False},
           {'anyOf': [{'type': 'string'}, {'type': 'array', 'items': {'type': 'array', 'items': {'type': 'string'}}}]}]
VALUES = [0, 5, 6, -1, 2.0, 2.5, 10 ** 30, True, False, None, '', 'a', [], [1], [1, 2], [1, 2, 3], [True], [6], [['a']], [[1]],
          {}, {'a': True}, {'a': 1}, {'b': True}]


@pytest.mark.parametrize('schema', SCHEMAS, ids=in_words)
def test_the_same_values_are_valid_as_for_jsonschema(schema):
    validator = pytest.importorskip('jsonschema').Draft202012Validator(schema)
    for value in VALUES:
        try:
            found = checked(value, schema) == value
        except Mismatch:
            found = False
        assert found == validator.is_valid(value), value


def test_a_whole_number_is_an_int():
    assert type(checked(2.0, WHOLE)) is int
    assert [type(each) for each in checked([1.0, 2], SCHEMAS[6])] == [int, int]


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_what_json_has_not(value):
    with pytest.raises(Mismatch):
        checked(value, REAL)
    with pytest.raises(Mismatch):
        checked(value, {'type': 'integer'})


def test_the_words():
    assert in_words(SCHEMAS[7]) == 'a whole number from 0 to 5 or null'
    assert in_words(SCHEMAS[6]) == 'a list (at most 2) of which each is a whole number from 0 to 5'
    assert in_words(SCHEMAS[8]) == 'an object with a (true or false)'
    assert in_words(REAL) == 'a number from -1 to 2'
