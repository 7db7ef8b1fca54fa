"""A model directory in, text out: prompts of any length side by side, each as if it were alone."""

import collections
import itertools
from collections.abc import Iterable, Iterator

import numpy as np
import tensorflow.compat.v1 as tf

import sample
from command.errors import UserError
from command.tensorflow_setup import ctrl_c_held_back, session_config, shards_for
from sampling.continuation import Continuation, Settings
from sampling.inference import Decoder
from storage.model_directory import Model, open_model

ROOM = 256      # tokens by which the cache grows: attention reads all that it has room for


class Generator:
    """Samples from the model in a model or run directory. The graph is built once; every setting is fed.

        generator = Generator('models/117M')
        generator.generate(['Once upon a time'], length=50, top_k=40, seed=1)   # -> a list of one text
        for piece in generator.stream('Once upon a time', length=50):
            print(piece, end='', flush=True)

    model: its directory, or what open_model gave for it. Raises UserError for a directory without a complete model.
    """

    def __init__(self, model: str | Model):
        model = model if isinstance(model, Model) else open_model(model)
        self.hparams, self.encoder = model.hparams, model.encoder
        graph, shards = tf.Graph(), shards_for(self.hparams.n_head)
        # First: the decoder's programs, too, would settle how many threads an op may use, and let the shards share them.
        self._session = tf.Session(graph=graph, config=session_config(shards))
        with graph.as_default():
            decoder = Decoder(self.hparams, shards)
            self._cache = decoder.cache
            self._build(decoder)
            decoder.load(self._session, model.checkpoint)
        graph.finalize()
        self._decode_call = None
        self._user = None       # of the cache: the call of `steps` that wrote it

    def generate(self, prompts: Iterable[str], *, seed: int | None = None, batch_size: int = 8, **settings) -> list[str]:
        """Continues each prompt; '' writes from nothing. A seed gives the same texts for every batch size.

        settings: the fields of continuation.Settings. Raises UserError for one that will not do, and for a prompt longer than
        the model's window.
        """
        settings = Settings(**settings)
        texts = [self.continuation(prompt, settings, [seed, number]) for number, prompt in enumerate(prompts)]
        return [text.text for text in self.finish(texts, batch_size)]

    def stream(self, prompt: str, *, seed: int | None = None, **settings) -> Iterator[str]:
        """The text that `generate` gives for one prompt, piece by piece as it is written, whole characters only."""
        for text in self.steps([self.continuation(prompt, Settings(**settings), [seed, 0])], 1):
            if piece := text.new_text():
                yield piece

    def continuation(self, prompt: str, settings: Settings, seed: list) -> Continuation:
        """A text to be written (see Continuation). Raises UserError if the prompt is longer than the window."""
        context = self.encoder.encode(prompt) or [self.encoder.end_of_text]
        if len(context) > self.hparams.n_ctx:
            raise UserError(f'the prompt has {len(context)} tokens, the model\'s window holds {self.hparams.n_ctx}: '
                            'give a shorter one')
        return Continuation(prompt, context, settings, seed, self.encoder, self.hparams.n_ctx // 2)

    def finish(self, texts: Iterable[Continuation], batch_size: int) -> Iterator[Continuation]:
        """Writes the texts and yields them in order, each as soon as it and all before it are done."""
        begun = collections.deque()

        def noted():
            for text in texts:
                begun.append(text)
                yield text

        for _ in self.steps(noted(), batch_size):
            while begun and begun[0].stop_reason:
                yield begun.popleft()

    def steps(self, texts: Iterable[Continuation], batch_size: int) -> Iterator[Continuation]:
        """Writes the texts, batch_size of them side by side; yields a text after each of its tokens.

        All must have the same temperature, top_k, top_p and repetition_penalty. A text that is done makes place for the
        next. One whose window is full goes on from the last half of it.
        """
        source, me = iter(texts), object()
        rows = list(itertools.islice(source, batch_size))
        while any(rows):
            if self._user is not me:    # at the beginning, or because another call came between
                self._user, self._rows, self._room = me, 0, 0
                for text in filter(None, rows):
                    text.cached = False
            for text in filter(None, rows):
                text.slide(self.hparams.n_ctx)
            rows = self._arrange(rows)
            fresh = [row for row, text in enumerate(rows) if text and not text.cached]
            advanced = fresh or [row for row, text in enumerate(rows) if text]
            for row, token, log_probability in zip(advanced, *(self._prefill if fresh else self._decode)(rows, advanced)):
                text = rows[row]
                text.accept(int(token), float(log_probability))
                if text.stop_reason:
                    rows[row] = next(source, None)
                yield text

    def _arrange(self, rows: list) -> list:
        """Makes the cache fit the rows: closes up those without a text when they are half, and adds room."""
        kept = [row for row, text in enumerate(rows) if text]
        if self._rows and len(kept) > len(rows) / 2:
            kept = list(range(len(rows)))
        needed = max(len(text.tokens) - text.window for text in rows if text)
        room = max(self._room, min(-(-needed // ROOM) * ROOM, self.hparams.n_ctx))
        if (len(kept), room) != (self._rows, self._room):
            old = kept if self._rows else []
            with ctrl_c_held_back():
                self._session.run(self._cache.resized, {self._cache.kept: old, self._cache.size: [len(kept), room]})
            self._rows, self._room = len(kept), room
        return [rows[row] for row in kept]

    def _build(self, decoder: Decoder) -> None:
        self._tokens = tf.placeholder(tf.int32, [None, None])
        self._places = tf.placeholder(tf.int32, [None])
        self._uniform = tf.placeholder(tf.float32, [None])
        self._history = tf.placeholder(tf.int32, [None, None])
        self._settings = {'temperature': tf.placeholder(tf.float32, []), 'top_k': tf.placeholder(tf.int32, []),
                          'top_p': tf.placeholder(tf.float32, [])}
        self._penalty = tf.placeholder(tf.float32, [])
        self._lengths = tf.placeholder(tf.int32, [None])
        logits, written = decoder.prefill(self._tokens, self._lengths, self._places)
        self._prefilled = [*self._drawn(logits, sample.log_probability), written]
        logits = decoder.decode(self._tokens[:, 0], self._places)
        self._decoded = self._drawn(logits, decoder.program(sample.log_probability))

    def _drawn(self, logits, log_probability) -> list:
        """The next token of each row, and its log-probability."""
        if self.encoder.n_vocab < self.hparams.n_vocab:     # rows of wte that mean nothing
            logits = logits[:, :self.encoder.n_vocab]
        likely = tf.cond(tf.equal(self._penalty, 1), lambda: logits,
                         lambda: sample.penalize(logits, self._history, self._penalty))
        token = sample.next_token(likely, self._uniform, **self._settings)
        return [token, log_probability(logits, token)]

    def _prefill(self, rows: list, fresh: list) -> tuple:
        """Reads the windows of the rows `fresh` into the cache. Returns their next tokens and log-probabilities."""
        windows = [rows[row].tokens[rows[row].window:] for row in fresh]
        lengths = [len(window) for window in windows]
        tokens = np.zeros([len(fresh), max(lengths)], np.int32)
        for row, window in zip(tokens, windows):
            row[:len(window)] = window
        for row in fresh:
            rows[row].cached = True
        feed = {self._tokens: tokens, self._lengths: lengths, self._places: fresh, **self._feed([rows[row] for row in fresh])}
        with ctrl_c_held_back():
            return self._session.run(self._prefilled, feed)[:2]

    def _decode(self, rows: list, active: list) -> list:
        """Reads the last token of each row. Returns the next ones of the active rows and their log-probabilities."""
        last = [text.tokens[-1] if text else 0 for text in rows]
        positions = [len(text.tokens) - 1 - text.window if text else 0 for text in rows]
        feed = {self._tokens: np.array(last)[:, None], self._places: positions, **self._feed(rows)}
        if self._decode_call is None:       # which saves half a millisecond of `run`
            self._decode_call = self._session.make_callable(self._decoded, feed_list=list(feed))
        with ctrl_c_held_back():
            return [values[active] for values in self._decode_call(*feed.values())]

    def _feed(self, texts: list) -> dict:
        settings = next(text.settings for text in texts if text)
        history = np.zeros([len(texts), 0], np.int32)
        if settings.repetition_penalty != 1:
            longest = max(len(text.tokens) for text in texts if text)
            history = np.full([len(texts), longest], -1, np.int32)
            for row, text in zip(history, texts):
                if text:
                    row[:len(text.tokens)] = text.tokens
        return {self._uniform: [text.random.random() if text else 0.0 for text in texts],
                self._history: history, self._penalty: settings.repetition_penalty,
                **{placeholder: getattr(settings, name) for name, placeholder in self._settings.items()}}
