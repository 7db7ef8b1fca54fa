"""The settings in the signature of methods that take them."""

import inspect

import pytest

from sampling.continuation import SamplingSettings
from sampling.keywords import takes_settings


@takes_settings
def method(prompt, *, n=1, **settings):
    """What it does."""
    return prompt, n, settings


def test_the_signature_shows_every_setting_with_its_default():
    parameters = inspect.signature(method).parameters
    settings = inspect.signature(SamplingSettings).parameters
    assert list(parameters) == ['prompt', 'n', *settings]
    assert {name: parameters[name].default for name in settings} == {name: settings[name].default for name in settings}
    assert method.__doc__ == 'What it does.'


def test_only_what_is_given_is_passed_on():
    assert method('a', n=2, top_k=3) == ('a', 2, {'top_k': 3})


@pytest.mark.parametrize(('name', 'message'), [('temprature', ": did you mean temperature?"), ('N', ''), ('zzz', '')])
def test_a_wrong_keyword_is_named_with_the_nearest_right_one(name, message):
    with pytest.raises(TypeError) as error:
        method('a', **{name: 1})
    assert str(error.value) == f"method() has no argument '{name}'{message}"
