"""From what a batcher delivers to an answer, complete or in parts."""

import codecs
import time
import uuid
from collections.abc import Callable

import numpy as np

from encoder import Encoder
from sampling.scores import Score
from serving.batcher import Job, Scored, Token
from serving.requests import Prompt, Request


class Answer:
    """The completions of one request. model: its name.

    `job` is what the batcher must do, if anything; each event that it delivers goes to `take`, which returns the parts of the
    answer that it completes. `whole` is the complete answer.
    """

    def __init__(self, request: Request, model: str, generator):
        self._request, self._generator = request, generator
        self._head = {'id': f'cmpl-{uuid.uuid4().hex}', 'object': 'text_completion', 'created': int(time.time()), 'model': model}
        self._choices = [Choice(number * request.n + i, prompt, request, generator.encoder)
                         for number, prompt in enumerate(request.prompts) for i in range(request.n)]

    def job(self, deliver: Callable[[object], None]) -> Job | None:
        """What to do; None if that is nothing. deliver: see Job."""
        request, seed = self._request, self._request.seed
        # Seeds from 0 on mean the same as in the sampling scripts.
        seed = None if seed is None else seed % 2 ** 64
        texts = [self._generator.continuation(prompt.given, request.settings, [seed, number, i], request.logprobs)
                 for number, prompt in enumerate(request.prompts) for i in range(request.n)] if request.max_tokens else []
        scored = request.echo and request.logprobs is not None
        prompts = [np.array(prompt.tokens, self._generator.encoder.dtype) for prompt in request.prompts] if scored else []
        return Job(texts, prompts, request.logprobs, deliver) if texts or prompts else None

    def begin(self) -> list[dict]:
        """The parts that need no event: prompts that are echoed, but not scored."""
        if self._request.echo and self._request.logprobs is not None:
            return []
        return [self._part(part) for choice in self._choices if (part := choice.prompt_part(None))]

    def take(self, event: Token | Scored) -> list[dict]:
        """The parts that an event completes."""
        if isinstance(event, Token):
            part = self._choices[event.text].add(event)
            return [self._part(part)] if part else []
        n, first = self._request.n, event.prompt * self._request.n
        return [self._part(choice.prompt_part(event.score)) for choice in self._choices[first:first + n]]

    def _part(self, choice: dict) -> dict:
        return self._head | {'choices': [choice]} | ({'usage': None} if self._request.include_usage else {})

    def usage_part(self) -> list[dict]:
        """The last part, if the request wants it."""
        return [self._head | {'choices': [], 'usage': self._usage()}] if self._request.include_usage else []

    def whole(self) -> dict:
        return self._head | {'choices': [choice.whole for choice in self._choices], 'usage': self._usage()}

    def _usage(self) -> dict:
        read = sum(len(prompt.tokens) for prompt in self._request.prompts)
        written = sum(choice.n_written for choice in self._choices)
        return {'prompt_tokens': read, 'completion_tokens': written, 'total_tokens': read + written}


class Choice:
    """One text of an answer, in parts that have complete characters. whole: all parts until now as one."""

    def __init__(self, index: int, prompt: Prompt, request: Request, encoder: Encoder):
        self._index, self._prompt, self._request, self._encoder = index, prompt, request, encoder
        self._waiting, self.n_written = [], 0       # the tokens since the last part
        self._begin = 0                             # where the text begins in the whole, after the prompt
        self.whole = self._part('', [], None)

    def prompt_part(self, score: Score | None) -> dict | None:
        """The part before the first token of the text: the prompt, with its score if there is one. None if there is none."""
        request, text, tokens = self._request, '', []
        if request.echo:
            text, offsets = self._decoded()
            self._begin = len(text)
            if score is not None:
                found = [(None, None), *zip(score.log_probabilities.tolist(), score.alternatives)]
                tokens = [Token(0, id, '', None, *each, offset)
                          for id, each, offset in zip(self._prompt.tokens, found, offsets, strict=True)]
        finish_reason = None if request.max_tokens else 'length'
        if not (text or finish_reason or request.return_token_ids):
            return None
        part = self._part(text, tokens, finish_reason)
        if request.return_token_ids:
            part |= {'token_ids': [], 'prompt_token_ids': self._prompt.tokens}
        return self._join(part)

    def _decoded(self) -> tuple[str, list[int]]:
        """The text of the prompt, and where each of its tokens begins in it. A last character that is incomplete is left out
        if a text follows."""
        utf8, text, offsets = codecs.getincrementaldecoder('utf-8')('replace'), '', []
        for token in self._prompt.tokens:
            offsets.append(len(text))
            text += utf8.decode(self._encoder.decode_bytes([token]))
        return text + utf8.decode(b'', final=not self._request.max_tokens), offsets

    def add(self, token: Token) -> dict | None:
        """The part that a token completes; None if it shows no text yet."""
        self._waiting.append(token if token.offset is None else token._replace(offset=self._begin + token.offset))
        self.n_written += 1
        if not token.piece and token.stop_reason is None:
            return None
        tokens, self._waiting = self._waiting, []
        reason = token.stop_reason and ('length' if token.stop_reason == 'length' else 'stop')
        return self._join(self._part(token.piece, tokens, reason))

    def _part(self, text: str, tokens: list[Token], finish_reason: str | None) -> dict:
        part = {'index': self._index, 'text': text, 'logprobs': None, 'finish_reason': finish_reason}
        if self._request.logprobs is not None:
            part['logprobs'] = {'tokens': [spelled(self._encoder, token.id) for token in tokens],
                                'token_logprobs': [token.log_probability for token in tokens],
                                'top_logprobs': [self._most_likely(token) for token in tokens],
                                'text_offset': [token.offset for token in tokens]}
        if self._request.return_token_ids:
            part['token_ids'] = [token.id for token in tokens]
        return part

    def _most_likely(self, token: Token) -> dict[str, float] | None:
        """The alternatives of a token, and the token itself."""
        if token.alternatives is None:
            return None
        pairs = [*token.alternatives[:self._request.logprobs], (token.id, token.log_probability)]
        found = {}
        for id, log_probability in pairs:
            found.setdefault(spelled(self._encoder, id), log_probability)
        return found

    def _join(self, part: dict) -> dict:
        """Adds a part to the whole, and returns it."""
        whole = self.whole
        whole['text'] += part['text']
        whole['finish_reason'] = part['finish_reason']
        for name in ('token_ids', 'prompt_token_ids'):
            if name in part:
                whole[name] = [*whole.get(name, []), *part[name]]
        if part['logprobs'] is not None:
            # A token of a stop, which is left out, begins where the text ends.
            part['logprobs']['text_offset'] = [min(offset, len(whole['text'])) for offset in part['logprobs']['text_offset']]
            for name, values in part['logprobs'].items():
                whole['logprobs'][name] += values
        return part


def spelled(encoder: Encoder, token: int) -> str:
    """The text of a token. One that is not UTF-8, as a part of a character is not, is spelled as bytes.

        b'\xe2\x80' -> 'bytes:\\xe2\\x80'
    """
    content = encoder.decode_bytes([token])
    try:
        return content.decode()
    except UnicodeDecodeError:
        return 'bytes:' + ''.join(chr(byte) if 32 <= byte < 127 and byte != 92 else f'\\x{byte:02x}' for byte in content)
