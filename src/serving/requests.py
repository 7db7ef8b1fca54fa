"""From the JSON of a request to its settings, or an error that names it."""

import json
from typing import NamedTuple

from command.did_you_mean import did_you_mean
from command.errors import UserError
from command.flags import shown
from encoder import Encoder
from sampling.continuation import SMALLEST, SamplingSettings, prompt_tokens
from serving.check import Mismatch, checked
from serving.schema import Limits, fields
from vocabulary.spelling import well_formed

INVALID = 'invalid_request_error'


class RequestError(Exception):
    """A request that is answered with an error: its HTTP status, and the error object of OpenAI's API."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None, type: str = INVALID,
                 headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status, self.headers = status, headers or {}
        self.content = {'error': {'message': message, 'type': type, 'param': param, 'code': code}}


class Prompt(NamedTuple):
    """given: a text, or token ids. tokens: as ids."""
    given: str | list[int]
    tokens: list[int]


class Request(NamedTuple):
    """A valid request for completions: n texts of each prompt, or none if max_tokens is 0."""
    prompts: list[Prompt]
    settings: SamplingSettings
    max_tokens: int
    n: int
    seed: int | None
    logprobs: int | None
    echo: bool
    stream: bool
    include_usage: bool
    return_token_ids: bool


def parse(body: bytes) -> dict:
    """The object that a body holds as JSON. Raises RequestError."""
    def no_number(name: str):
        raise ValueError(f'{name} is not a number of JSON')
    try:
        content = json.loads(body.decode(), parse_constant=no_number)
    except (ValueError, RecursionError) as error:
        reason = 'it is nested too deeply' if isinstance(error, RecursionError) else str(error)
        raise RequestError(400, f'the body is not JSON in UTF-8: {reason}') from None
    if not isinstance(content, dict):
        raise RequestError(400, f'the body must be an object of JSON, not {shown(content)}')
    return content


def read(content: dict, model: str, encoder: Encoder, limits: Limits) -> Request:
    """The request. model: the name of the one that is served. Raises RequestError."""
    known, values = fields(limits), {}
    for name, value in content.items():
        if name not in known:
            raise RequestError(400, f'unknown field {shown(name)}{did_you_mean(name, known)}', param=name)
        try:
            values[name] = checked(value, known[name])
        except Mismatch as error:
            raise RequestError(400, f'{name} must be {error.expected}, not {shown(value)}', param=name) from None

    def get(name: str):
        value = values.get(name)
        return known[name].get('default') if value is None else value

    if get('model') not in (None, model):
        raise RequestError(404, f'no model {shown(get("model"))} is served here, only {shown(model)}', param='model',
                           code='model_not_found')
    if get('best_of') not in (None, get('n')):
        raise RequestError(400, f'best_of must be n, {get("n")}: no text is chosen from several', param='best_of')
    if get('stream_options') is not None and not get('stream'):
        raise RequestError(400, 'stream_options needs "stream": true', param='stream_options')
    prompts = _prompts(get('prompt'), encoder, limits)
    if len(prompts) * get('n') > limits.texts:
        raise RequestError(400, f'{len(prompts)} prompts with n {get("n")} are {len(prompts) * get("n")} texts, '
                           f'{limits.texts} are allowed in a request', param='n')
    return Request(prompts, _settings(get), **{name: get(name) for name in (
        'max_tokens', 'n', 'seed', 'logprobs', 'echo', 'stream', 'return_token_ids')},
        include_usage=bool((get('stream_options') or {}).get('include_usage')))


def _settings(get) -> SamplingSettings:
    """get: from the name of a field to its value."""
    stop = get('stop') or []
    # Numbers so close to 0 are its limit: the most likely token. SamplingSettings has 0 for a top_p that allows all tokens.
    temperature = get('temperature') if get('temperature') >= SMALLEST else 0
    top_p = 0.0 if get('top_p') == 1 else max(get('top_p'), SMALLEST)
    return SamplingSettings(
        length=max(get('max_tokens'), 1), temperature=temperature, top_p=top_p, truncate=True,
        stop=tuple(map(well_formed, [stop] if isinstance(stop, str) else stop)),
        **{name: get(name) for name in ('top_k', 'repetition_penalty', 'presence_penalty', 'frequency_penalty')})


def _prompts(given: object, encoder: Encoder, limits: Limits) -> list[Prompt]:
    """given: a text, ids, or a list of either."""
    several = isinstance(given, list) and not isinstance(given[0], int)
    prompts = []
    for prompt in given if several else [given]:
        if not isinstance(prompt, list):        # an empty text is what begins a document
            prompt = well_formed(prompt or '') or encoder.special_tokens.end_of_text
        try:
            prompts.append(Prompt(prompt, prompt_tokens(prompt, encoder, limits.n_ctx)))
        except UserError as error:
            raise RequestError(400, str(error), param='prompt', code='context_length_exceeded') from None
    return prompts
