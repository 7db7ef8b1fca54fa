"""A server that speaks as serve.py does, without a model: what it answers is set by the test.

Run as a program, it serves the page at the port that is given: fake_completions.py 8000.
"""

import json
import math
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from layout import SRC

sys.path.insert(0, SRC)     # for a start as a program

from serving.page import read_page

# What it writes: (spelling of the token, the text that comes with it).
STORY = [(' there', ' there'), (' was', ' was'), (' a', ' a'), (' <img', ' <img'), (' src=x', ' src=x'),
         (' onerror=', ' onerror='), ('alert', 'alert'), ('(1)>', '(1)>'), (' &amp;', ' &amp;'), (' caf', ' caf'),
         ('bytes:\\xc3', ''), ('bytes:\\xa9', 'é'), ('\n', '\n'), ('The', 'The'), (' end', ' end'), ('.', '.')]


class FakeCompletions(ThreadingHTTPServer):
    """story: the tokens of each continuation. delay: seconds before each. token: what it wants as a Bearer token.

    errors: what the next requests for a completion get instead: (status, error object, headers). breaks_after: tokens after
    which the connection closes. requests: the bodies of all requests for completions.
    """

    daemon_threads = True

    def __init__(self, port: int = 0):
        super().__init__(('127.0.0.1', port), Handler)
        self.story, self.delay, self.token, self.errors, self.breaks_after, self.requests = STORY, 0.0, None, [], None, []
        self.stopped = 0        # streams that the client has left
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.address = f'http://127.0.0.1:{self.server_address[1]}/'

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):

    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.path == '/':
            page = read_page()
            self.answer(200, page.content, 'text/html; charset=utf-8', {'Content-Security-Policy': page.policy})
        elif self.allowed():
            self.answer(200, json.dumps({'object': 'list', 'data': [{'id': 'fake', 'object': 'model'}]}).encode())

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        self.server.requests.append(body)
        if not self.allowed():
            return
        if self.server.errors:
            status, error, headers = self.server.errors.pop(0)
            self.answer(status, json.dumps({'error': error}).encode(), headers=headers)
            return
        self.send_response(200)
        self.send_header('Content-Type', 'text/event-stream')
        self.end_headers()
        try:
            self.stream(body)
        except OSError:
            self.server.stopped += 1

    def stream(self, body):
        offset = len(body['prompt'])
        story = self.server.story[:body['max_tokens']]
        for number, (spelling, text) in enumerate(story):
            if number == self.server.breaks_after:
                return
            time.sleep(self.server.delay)
            logprob = -0.1 - 0.9 * (number % 5) ** 1.5
            top = {spelling: logprob, ' never': math.log(0.1), ' 7': math.log(0.05), 'bytes:\\xe2': math.log(0.01),
                   '\n\n': math.log(0.001)}
            choice = {
                'index': 0, 'text': text, 'finish_reason': 'length' if number + 1 == len(story) else None,
                'logprobs': {'tokens': [spelling], 'text_offset': [offset], 'token_logprobs': [logprob], 'top_logprobs': [top]}}
            self.send({'id': 'cmpl-1', 'object': 'text_completion', 'created': 1, 'model': 'fake', 'choices': [choice]})
            offset += len(text)
        self.wfile.write(b'data: [DONE]\n\n')

    def send(self, event):
        self.wfile.write(f'data: {json.dumps(event)}\n\n'.encode())
        self.wfile.flush()

    def allowed(self) -> bool:
        if self.server.token in (None, self.headers.get('Authorization', '').removeprefix('Bearer ')):
            return True
        self.answer(401, json.dumps({'error': {'message': 'wrong token', 'type': 'authentication_error', 'param': None,
                                               'code': None}}).encode())
        return False

    def answer(self, status, body, kind='application/json', headers=None):
        self.send_response(status)
        for name, value in {'Content-Type': kind, 'Content-Length': str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


if __name__ == '__main__':
    server = FakeCompletions(int(sys.argv[1]))
    server.delay = 0.05
    print(server.address)
    threading.Event().wait()
