"""The web application: routes, errors, and the headers that make it safe."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from command.errors import UserError
from serving import requests, schema
from serving.access import Access
from serving.batcher import FINISHED, Batcher, Failed, Job, Unavailable
from serving.completions import Answer
from serving.page import NOTHING, read_page
from serving.requests import RequestError

RETRY_AFTER = '1'       # seconds after which a request may be sent again that was too much
BODY_TIMEOUT = 30       # seconds in which the body of a request must arrive
LEFT = 'left'           # the event that the client has closed the connection
HEADERS = {'X-Content-Type-Options': 'nosniff', 'Referrer-Policy': 'no-referrer', 'Cache-Control': 'no-store',
           'Cross-Origin-Resource-Policy': 'same-origin', 'Content-Security-Policy': NOTHING}


class Served(NamedTuple):
    """What is served. name: of the model; created: when its weights were written, in seconds since 1970."""
    name: str
    created: int
    generator: object
    limits: schema.Limits


def to_json(content: dict) -> bytes:
    """UTF-8, in which a lone surrogate, of a field's name for example, becomes a question mark."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False).encode(errors='replace')


def json_response(content: dict, status: int = 200, headers: dict | None = None) -> Response:
    return Response(to_json(content), status, headers, 'application/json')


def make_app(served: Served, batcher: Batcher, access: Access, with_token: bool) -> Callable:
    """The ASGI application."""
    page = read_page()
    entry = {'id': served.name, 'object': 'model', 'created': served.created, 'owned_by': 'you',
             'max_model_len': served.limits.n_ctx}

    async def model(request: Request) -> Response:
        if request.path_params['name'] != served.name:
            raise RequestError(404, f'no model {request.path_params["name"]!r} is served here, only {served.name!r}',
                               code='model_not_found')
        return json_response(entry)

    def constant(content: dict) -> Callable:
        async def respond(_: Request) -> Response:
            return json_response(content)
        return respond

    async def show_page(_: Request) -> Response:
        return Response(page.content, headers={'Content-Security-Policy': page.policy}, media_type='text/html')

    async def complete(request: Request) -> Response:
        return await _complete(request, served, batcher)

    routes = [Route('/', show_page), Route('/healthz', constant({'status': 'ok'})),
              Route('/openapi.json', constant(schema.document(served.limits, served.name, with_token))),
              Route('/v1/models', constant({'object': 'list', 'data': [entry]})), Route('/v1/models/{name:path}', model),
              Route('/v1/completions', complete, methods=['POST'])]
    app = Starlette(routes=routes, exception_handlers={
        RequestError: _show_request_error, HTTPException: _show_http_error, Exception: _show_fault})
    app.router.redirect_slashes = False
    return Guarded(app, access)


class Guarded:
    """An application that refuses requests as Access says, and has HEADERS on every answer."""

    def __init__(self, app: Callable, access: Access):
        self._app, self._access = app, access

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        async def send_with_headers(message: dict) -> None:
            if message['type'] == 'http.response.start':
                given = {name.lower() for name, _ in message['headers']}
                message['headers'] = [*message['headers'], *(
                    (name.lower().encode(), value.encode()) for name, value in HEADERS.items()
                    if name.lower().encode() not in given)]
            await send(message)

        headers = {}
        for name, value in scope['headers']:
            headers.setdefault(name.decode('latin-1').lower(), []).append(value.decode('latin-1'))
        refusal = self._access.refusal(scope['path'], headers)
        if refusal is None:
            await self._app(scope, receive, send_with_headers)
            return
        code = {401: 'invalid_api_key'}.get(refusal.status)
        error = RequestError(refusal.status, refusal.message, code=code)
        extra = {'WWW-Authenticate': 'Bearer'} if refusal.status == 401 else None
        await json_response(error.content, error.status, extra)(scope, receive, send_with_headers)


async def _show_request_error(_: Request, error: RequestError) -> Response:
    return json_response(error.content, error.status, error.headers)


async def _show_http_error(request: Request, error: HTTPException) -> Response:
    message = {404: f'there is nothing at {request.url.path}', 405: f'{request.url.path} does not take {request.method}'}
    wrong = RequestError(error.status_code, message.get(error.status_code, error.detail))
    return json_response(wrong.content, error.status_code, error.headers)


async def _show_fault(*_) -> Response:
    return json_response(_fault('the server has a fault, which its output shows').content, 500)


def _fault(message: str) -> RequestError:
    return RequestError(500, message, type='server_error')


async def _body(request: Request, most: int) -> bytes:
    """The body of a request. Raises RequestError if it is larger than `most` bytes, slow, or not JSON by its header."""
    kind = request.headers.get('content-type', '').partition(';')[0].strip().lower()
    if kind != 'application/json':      # which a page of another site cannot send without being asked first
        raise RequestError(415, f'Content-Type must be application/json, not {kind or "missing"}')
    too_large = RequestError(413, f'the body is larger than {most:,} bytes')
    length = request.headers.get('content-length', '0')
    if length.isdecimal() and int(length) > most:
        raise too_large

    async def read() -> bytes:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > most:
                raise too_large
        return bytes(body)

    try:
        return await asyncio.wait_for(read(), BODY_TIMEOUT)
    except asyncio.TimeoutError:
        raise RequestError(408, f'the body did not arrive within {BODY_TIMEOUT} seconds') from None


async def _complete(request: Request, served: Served, batcher: Batcher) -> Response:
    body = await _body(request, served.limits.body)
    loop, events = asyncio.get_running_loop(), asyncio.Queue()

    def deliver(event: object) -> None:
        with contextlib.suppress(RuntimeError):     # the loop is closed: nobody waits for an answer any more
            loop.call_soon_threadsafe(events.put_nowait, event)

    def prepare() -> tuple[requests.Request, Answer, Job | None]:
        wanted = requests.read(requests.parse(body), served.name, served.generator.encoder, served.limits)
        answer = Answer(wanted, served.name, served.generator)
        return wanted, answer, answer.job(deliver)

    # In another thread: to encode a long text takes time, in which others would not get their tokens.
    wanted, answer, job = await asyncio.to_thread(prepare)
    if job is None:
        events.put_nowait(FINISHED)
    else:
        try:
            batcher.submit(job)
        except Unavailable as error:
            raise _unavailable(error) from None
    parts = _parts(answer, job, events, request)
    if wanted.stream:
        return Stream(await anext(parts, None), parts)
    async for _ in parts:
        pass
    return json_response(answer.whole())


async def _parts(answer: Answer, job: Job | None, events: asyncio.Queue, request: Request) -> AsyncIterator[dict]:
    """The parts of an answer as its events come, until the client leaves. Raises RequestError if the job fails."""
    watching = asyncio.ensure_future(_watch(request, events))
    try:
        for part in answer.begin():
            yield part
        while (event := await events.get()) is not FINISHED and event is not LEFT:
            if isinstance(event, Failed):
                raise _failure(event.error)
            for part in answer.take(event):
                yield part
        for part in answer.usage_part():
            yield part
    finally:
        watching.cancel()
        if job is not None:
            job.cancel()


async def _watch(request: Request, events: asyncio.Queue) -> None:
    """Puts LEFT into the events when the client closes the connection."""
    while (await request.receive())['type'] != 'http.disconnect':
        pass
    events.put_nowait(LEFT)


def _failure(error: Exception) -> RequestError:
    if isinstance(error, Unavailable):
        return _unavailable(error)
    return _fault(str(error) if isinstance(error, UserError) else 'the model failed, as the output of the server shows')


def _unavailable(error: Unavailable) -> RequestError:
    return RequestError(503, str(error), type='server_error', code='unavailable', headers={'Retry-After': RETRY_AFTER})


class Stream:
    """The response that sends parts as server-sent events. first: the first one, if it is here already."""

    def __init__(self, first: dict | None, parts: AsyncIterator[dict]):
        self._first, self._parts = first, parts

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        async def send_event(data: bytes) -> None:
            await send({'type': 'http.response.body', 'body': b'data: ' + data + b'\n\n', 'more_body': True})

        async with contextlib.aclosing(self._parts) as parts:
            await send({'type': 'http.response.start', 'status': 200,
                        'headers': [(b'content-type', b'text/event-stream; charset=utf-8')]})
            try:
                if self._first is not None:
                    await send_event(to_json(self._first))
                async for part in parts:
                    await send_event(to_json(part))
                await send_event(b'[DONE]')
            except RequestError as error:       # it is too late for another status
                await send_event(to_json(error.content))
        await send({'type': 'http.response.body', 'body': b'', 'more_body': False})
