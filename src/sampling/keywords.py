"""Methods that take the sampling settings as keyword arguments."""

import functools
import inspect
from collections.abc import Callable

from command.did_you_mean import did_you_mean
from sampling.continuation import SamplingSettings


def takes_settings(method: Callable) -> Callable:
    """A decorator that shows the fields of SamplingSettings, with their defaults, in the signature instead of **settings.

    So help() and the completion of notebooks know them. The method raises TypeError for any other keyword, with the nearest
    right one.
    """
    signature = inspect.signature(method)
    own = [parameter for parameter in signature.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
    settings = [parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in
                inspect.signature(SamplingSettings).parameters.values()]
    signature = signature.replace(parameters=[*own, *settings])

    @functools.wraps(method)
    def checked(*args, **keywords):
        for name in keywords:
            if name not in signature.parameters:
                raise TypeError(f'{method.__name__}() has no argument {name!r}{did_you_mean(name, signature.parameters)}')
        return method(*args, **keywords)

    checked.__signature__ = signature
    return checked
