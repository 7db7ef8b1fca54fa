"""A generator without a network, whose steps a test makes one by one."""

import itertools
import types

import numpy as np

from sampling.continuation import Continuation, SamplingSettings
from sampling.scores import Score

LETTERS = 'abcdefghijklmnopqrstuvwxyz'
EOT = len(LETTERS)


class FakeEncoder:
    """A token for each letter, and one for the end of a text."""
    n_vocab, end_of_text, dtype = EOT + 1, EOT, np.dtype(np.uint16)
    special_tokens = types.SimpleNamespace(end_of_text='<|endoftext|>')

    def encode_with_special(self, text):
        return [EOT] if text == '<|endoftext|>' else [LETTERS.index(letter) for letter in text]

    def decode_bytes(self, ids):
        return b''.join(b'<|endoftext|>' if id == EOT else LETTERS[id].encode() for id in ids)


class FakeGenerator:
    """batches: for each step the texts that got a token, as they were before it. rows: its Rows. fault: raised by the next."""

    def __init__(self, n_ctx=16):
        self.hparams, self.encoder = types.SimpleNamespace(n_ctx=n_ctx), FakeEncoder()
        self.batches, self.rows, self.scored, self.fault = [], [], [], None

    def continuation(self, prompt, settings, seed, logprobs=None):
        tokens = self.encoder.encode_with_special(prompt) if isinstance(prompt, str) else prompt
        return Continuation(prompt, tokens, settings, seed, self.encoder, 8, logprobs)

    def step(self, rows):
        """New texts first, then all, as Generator does."""
        self.rows.append(rows)
        fault, self.fault = self.fault, None
        if fault:
            raise fault
        rows.fit()
        texts = [text for text in rows if not text.cached] or list(rows)
        self.batches.append([self.encoder.decode_bytes(text.tokens).decode() for text in texts])
        for text in texts:
            text.cached = True
            token = (text.tokens[-1] + 1) % len(LETTERS)
            text.add(token, -0.5, [(token, -0.5), (0, -2.0)][:text.logprobs])
        return texts

    def finish(self, texts, batch_size):
        return iter(())

    def scores(self, chunks, *, length, stride, batch_size, logprobs):
        self.scored.append((len(chunks), logprobs))
        for chunk in chunks:
            n = len(chunk) - 1
            best = [(0, -1.0), (1, -2.0), (2, -3.0)][:logprobs] if logprobs is not None else None
            yield Score(chunk[1:], np.full(n, -1.5, np.float32), n, 1.5, None, None, None if best is None else [best] * n)


def text_of(generator, prompt='a', length=3, **settings):
    return generator.continuation(prompt, SamplingSettings(length=length, **settings), [0, 0, 0])


class Client:
    """Takes what a job delivers. ended: by what."""

    def __init__(self):
        self.events = []

    def __call__(self, event):
        self.events.append(event)

    def texts(self):
        """Number of a text -> its text until now."""
        tokens = sorted(((event.text, event) for event in self.events if hasattr(event, 'piece')), key=lambda pair: pair[0])
        return {number: ''.join(token.piece for _, token in of) for number, of in itertools.groupby(tokens, lambda pair: pair[0])}
