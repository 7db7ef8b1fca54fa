"""The OpenAPI document: what a request may hold, and what an answer does."""

import dataclasses

LOGPROBS = 5                # alternatives of a token, at most
SEEDS = 2 ** 63 - 1


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a request may ask for. n_vocab, n_ctx: of the model. texts: prompts times n. body: bytes of a request."""
    n_vocab: int
    n_ctx: int
    max_tokens: int = 2048
    texts: int = 128
    body: int = 2 ** 20


def null_or(schema: dict, **more) -> dict:
    """A field that may be null, which means its default."""
    return {'anyOf': [schema, {'type': 'null'}], **more}


def whole(least: int, most: int) -> dict:
    return {'type': 'integer', 'minimum': least, 'maximum': most}


def real(least: float, most: float) -> dict:
    return {'type': 'number', 'minimum': least, 'maximum': most}


def fields(limits: Limits) -> dict[str, dict]:
    """The schema of each field of a request for a completion."""
    text, ids = {'type': 'string'}, {'type': 'array', 'minItems': 1, 'items': whole(0, limits.n_vocab - 1)}
    stop = {'type': 'string', 'minLength': 1}
    flag = null_or({'type': 'boolean'}, default=False)
    nothing = {'type': 'null'}
    return {
        'model': null_or(text, description='The name of the model that is served, which /v1/models gives.'),
        'prompt': null_or({'anyOf': [
            text, ids, *({'type': 'array', 'minItems': 1, 'maxItems': limits.texts, 'items': each} for each in (text, ids))],
            'title': f'a text, its token ids (0 to {limits.n_vocab - 1}), or a list of at most {limits.texts} texts or of their '
                     'lists of ids'},
            description='A text or several, or their token ids; null, or an empty text, begins a document.'),
        'max_tokens': null_or(whole(0, limits.max_tokens), default=16),
        'temperature': null_or(real(0, 2), default=1, description='0 takes the most likely token.'),
        'top_p': null_or(real(0, 1), default=1, description='Below 1, overrides top_k.'),
        'top_k': null_or(whole(0, limits.n_vocab), default=0, description='0 draws from all tokens.'),
        'repetition_penalty': null_or(real(0.01, 100), default=1),
        'presence_penalty': null_or(real(-2, 2), default=0),
        'frequency_penalty': null_or(real(-2, 2), default=0),
        'n': null_or(whole(1, limits.texts), default=1),
        'best_of': null_or(whole(1, limits.texts), description='Must be n.'),
        'stop': null_or({'anyOf': [stop, {'type': 'array', 'maxItems': 4, 'items': stop}]}),
        'seed': null_or(whole(-SEEDS - 1, SEEDS)),
        'logprobs': null_or(whole(0, LOGPROBS), description='Alternatives of each token.'),
        'echo': flag,
        'stream': flag,
        'stream_options': null_or({'type': 'object', 'properties': {'include_usage': {'type': 'boolean'}},
                                   'additionalProperties': False}, description='Only with stream.'),
        'return_token_ids': flag,
        'user': null_or(text, description='Ignored.'),
        'suffix': nothing,
        'logit_bias': nothing,
    }


def document(limits: Limits, model: str, with_token: bool) -> dict:
    """The OpenAPI 3.1 document. with_token: whether requests need one."""
    def answer(schema: str, description: str, kind: str = 'application/json') -> dict:
        return {'description': description, 'content': {kind: {'schema': {'$ref': f'#/components/schemas/{schema}'}}}}

    def get(summary: str, schema: str, *errors: str) -> dict:
        return {'get': {'summary': summary, 'responses': {'200': answer(schema, summary), **_errors(errors)}}}

    completions = {
        'summary': 'Continues prompts, or scores them.',
        'requestBody': {'required': True, 'content': {'application/json': {
            'schema': {'$ref': '#/components/schemas/CompletionRequest'}}}},
        'responses': {'200': answer('Completion', 'The completions; with stream, server-sent events of parts of them.'),
                      **_errors(('400', '401', '403', '404', '408', '413', '415', '500', '503'))}}
    completions['responses']['200']['content']['text/event-stream'] = {}     # events, which OpenAPI 3.1 has no schema for
    paths = {'/v1/completions': {'post': completions},
             '/v1/models': get('The model that is served.', 'Models', '401', '403'),
             '/healthz': get('Whether the server runs.', 'Health', '403')}
    components = {'schemas': _schemas(limits, model)}
    if with_token:
        components['securitySchemes'] = {'token': {'type': 'http', 'scheme': 'bearer'}}
        for path, method in (('/v1/completions', 'post'), ('/v1/models', 'get')):
            paths[path][method]['security'] = [{'token': []}]
    return {'openapi': '3.1.0', 'info': {'title': 'Completions', 'version': '1'}, 'paths': paths, 'components': components}


def _errors(statuses: tuple) -> dict:
    return {status: {'description': 'An error.', 'content': {'application/json': {
        'schema': {'$ref': '#/components/schemas/Error'}}}} for status in statuses}


def _object(optional: tuple = (), **properties: dict) -> dict:
    return {'type': 'object', 'properties': properties, 'required': [name for name in properties if name not in optional]}


def _list(items: dict) -> dict:
    return {'type': 'array', 'items': items}


def _schemas(limits: Limits, model: str) -> dict:
    text, count = {'type': 'string'}, {'type': 'integer', 'minimum': 0}
    ids, number = _list(count), {'type': ['number', 'null']}
    logprobs = _object(tokens=_list(text), token_logprobs=_list(number), text_offset=_list(count),
                       top_logprobs=_list({'type': ['object', 'null'], 'additionalProperties': {'type': 'number'}}))
    choice = _object(('token_ids', 'prompt_token_ids'), text=text, index=count, logprobs=null_or(logprobs), token_ids=ids,
                     prompt_token_ids=ids, finish_reason={'enum': ['stop', 'length']})
    usage = _object(prompt_tokens=count, completion_tokens=count, total_tokens=count)
    entry = _object(id=text, object={'const': 'model'}, created=count, owned_by=text, max_model_len=count)
    return {
        'CompletionRequest': {'type': 'object', 'properties': fields(limits), 'additionalProperties': False,
                              'example': {'model': model, 'prompt': 'The', 'max_tokens': 8}},
        'Completion': _object(id=text, object={'const': 'text_completion'}, created=count, model=text, choices=_list(choice),
                              usage=usage),
        'Models': _object(object={'const': 'list'}, data=_list(entry)),
        'Health': _object(status={'const': 'ok'}),
        'Error': _object(error=_object(message=text, type=text, param={'type': ['string', 'null']},
                                       code={'type': ['string', 'null']}))}
