"""Class Generator: texts from a model, in batches of unequal prompts."""

import collections
import itertools
import math
import threading
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import tensorflow.compat.v1 as tf

import sample
from command.errors import UserError
from command.tensorflow_setup import ctrl_c_held_back, open_session, session_config, shards_for
from corpus import windows
from sampling import scores
from sampling.continuation import Continuation, SamplingSettings, check_weights, check_whole_number, prompt_tokens
from sampling.inference import ShardedNetwork
from sampling.keywords import takes_settings
from sampling.scores import Score
from storage.model_directory import Model, open_model

CAPACITY_STEP = 256     # tokens by which the cache grows; attention reads all of it, filled or not


class Generator:
    """Continues texts with a model. The graph is built once; every setting is fed.

        generator = Generator('models/117M')
        generator.generate('Once upon a time', n=3, length=50, top_k=40, seed=1)    # -> a list of three texts
        for piece in generator.stream('Once upon a time', length=50):
            print(piece, end='', flush=True)

    model: a model or run directory, a checkpoint in one ('checkpoint/run1/best'), or an opened model. weights: 'float32',
    'bfloat16' or 'int8': as what the matrices are in memory; fewer bytes are read faster, and rounded. Raises UserError for a
    directory without a complete model, or other weights; its methods also if memory runs out.

    Several threads may use it. `generate` makes other threads wait until its texts are complete; `stream`, `finish` and
    `steps` wait only for one token, and calls that take turns read their texts again at each turn, which is slow. One
    that is abandoned before its end holds nothing up.
    """

    def __init__(self, model: str | Model, weights: str = 'float32'):
        check_weights(weights)
        model = model if isinstance(model, Model) else open_model(model)
        self.hparams, self.encoder = model.hparams, model.encoder
        graph, shards = tf.Graph(), shards_for(self.hparams.n_head)
        # Before the network: its compiled programs would give an op all threads, which all shards would have to share.
        self._session = open_session(graph, session_config(shards))
        with graph.as_default():
            network = ShardedNetwork(self.hparams, shards, stored_as=weights)
            self._cache = network.cache
            self._build(network)
            try:
                network.load(self._session, model.checkpoint)
            except tf.errors.ResourceExhaustedError:
                smaller = {'float32': 'bfloat16 or int8', 'bfloat16': 'int8'}.get(weights)
                raise UserError(f'out of memory for the weights of {model.checkpoint} in {weights}: use '
                                f'{f"{smaller}, or " if smaller else ""}a smaller model') from None
        graph.finalize()
        self._decode_call = None
        self._lock = threading.RLock()  # held while the cache is used; a thread that has it may take it again
        self._cache_owner = None        # the call of `steps` whose texts the cache holds

    @takes_settings
    def generate(self, prompts: Iterable[str] | str, *, n: int = 1, seed: int | None = None, batch_size: int = 8,
                 **settings) -> list[str]:
        """Continues each prompt n times; '' starts a new text.

        Returns one flat list: the n texts of the first prompt, then the n texts of the second, and so on. A seed gives the same
        texts for every batch size, and text i of a prompt is the same for every n: it is sample i + 1 of the sampling scripts
        with that --seed. prompts: a string is one prompt. A literal <|endoftext|> in a prompt is that token. The other
        arguments: see SamplingSettings. Raises UserError for an invalid one or a prompt longer than the model's window.
        """
        if not isinstance(prompts, Iterable):
            raise UserError(f'prompts must be strings, not {prompts!r}')
        check_whole_number('n', n, 1)
        settings, prompts = SamplingSettings(**settings), [prompts] if isinstance(prompts, (str, bytes)) else prompts
        texts = [self.continuation(prompt, settings, [seed, number, i]) for number, prompt in enumerate(prompts)
                 for i in range(n)]
        with self._lock:
            return [text.text for text in self.finish(texts, batch_size)]

    @takes_settings
    def stream(self, prompt: str, *, seed: int | None = None, **settings) -> Iterator[str]:
        """The text that `generate` returns for one prompt, in pieces of complete characters as they are drawn."""
        steps = self.steps([self.continuation(prompt, SamplingSettings(**settings), [seed, 0, 0])], 1)
        return (piece for text in steps if (piece := text.new_text()))

    def continuation(self, prompt: str, settings: SamplingSettings, seed: list) -> Continuation:
        """A text for `finish` or `steps`. seed: numbers, or [None, …] for a random one.

        Raises UserError if it is invalid, or the prompt is longer than the window.
        """
        for number in [] if seed[0] is None else seed:
            check_whole_number('seed', number, 0, math.inf)
        context = prompt_tokens(prompt, self.encoder, self.hparams.n_ctx)
        return Continuation(prompt, context, settings, seed, self.encoder, self.hparams.n_ctx // 2)

    def finish(self, texts: Iterable[Continuation], batch_size: int) -> Iterator[Continuation]:
        """Completes the texts and yields them in order, each as soon as it and all before it are complete."""
        started = collections.deque()

        def starting():
            for text in texts:
                started.append(text)
                yield text

        for _ in self.steps(starting(), batch_size):
            while started and started[0].stop_reason:
                yield started.popleft()

    def steps(self, texts: Iterable[Continuation], batch_size: int) -> Iterator[Continuation]:
        """Completes the texts in batches of batch_size; yields a text after each of its tokens.

        All must have the same temperature, top_k, top_p and repetition_penalty. The next text takes the row of one that
        is complete. A text whose window is full continues from the last half of it. Raises UserError for an invalid
        batch_size.
        """
        check_whole_number('batch_size', batch_size, 1)
        source, this_call = iter(texts), object()
        rows = list(itertools.islice(source, batch_size))
        while any(rows):
            with self._lock:    # never while suspended at `yield`, where a call may be abandoned
                try:
                    rows, active, drawn = self._draw_next(rows, this_call)
                except tf.errors.ResourceExhaustedError:
                    raise self._out_of_memory(rows) from None
            for row, token, log_probability in zip(active, *drawn):
                text = rows[row]
                text.add(int(token), float(log_probability))
                if text.stop_reason:
                    rows[row] = next(source, None)
                yield text

    def _out_of_memory(self, rows: list) -> UserError:
        """The error for texts that do not fit. Empties the cache, of which a part may have been resized."""
        self._cache_owner = None
        self._session.run(self._cache.initializer)
        longest = max(len(text.tokens) - text.window_start for text in rows if text)
        smaller = 'a smaller batch_size or length' if len(rows) > 1 else 'a smaller length'
        return UserError(f'out of memory with batch_size {len(rows)} and texts of up to {longest} tokens: give {smaller}, or '
                         'weights of fewer bytes (bfloat16, int8)')

    def _draw_next(self, rows: list, call: object) -> tuple[list, list, list]:
        """Draws a token for each uncached row, or, if there is none, for all.

        Returns the rows that are kept, the numbers of those rows, and their next tokens and log-probabilities.
        """
        if self._cache_owner is not call:       # at the beginning, or because another call used the cache
            self._cache_owner, self._cache_rows, self._capacity = call, 0, 0
            for text in filter(None, rows):
                text.cached = False
        for text in filter(None, rows):
            text.slide(self.hparams.n_ctx)
        rows = self._fit_cache(rows)
        uncached = [row for row, text in enumerate(rows) if text and not text.cached]
        active = uncached or [row for row, text in enumerate(rows) if text]
        return rows, active, (self._run_prefill if uncached else self._run_decode)(rows, active)

    def _fit_cache(self, rows: list) -> list:
        """Resizes the cache to the longest window, and drops rows without a text once they are half of all."""
        kept = [row for row, text in enumerate(rows) if text]
        if self._cache_rows and len(kept) > len(rows) / 2:
            kept = list(range(len(rows)))
        needed = max(len(text.tokens) - text.window_start for text in rows if text)
        capacity = max(self._capacity, min(-(-needed // CAPACITY_STEP) * CAPACITY_STEP, self.hparams.n_ctx))
        if (len(kept), capacity) != (self._cache_rows, self._capacity):
            cached = kept if self._cache_rows else []
            with ctrl_c_held_back():
                self._session.run(self._cache.resize, {self._cache.kept_rows: cached,
                                                       self._cache.new_size: [len(kept), capacity]})
            self._cache_rows, self._capacity = len(kept), capacity
        return [rows[row] for row in kept]

    def _build(self, network: ShardedNetwork) -> None:
        self._tokens = tf.placeholder(tf.int32, [None, None])
        self._rows_or_positions = tf.placeholder(tf.int32, [None])      # to prefill, or to decode at
        self._uniform = tf.placeholder(tf.float32, [None])
        self._history = tf.placeholder(tf.int32, [None, None])
        self._settings = {'temperature': tf.placeholder(tf.float32, []), 'top_k': tf.placeholder(tf.int32, []),
                          'top_p': tf.placeholder(tf.float32, [])}
        self._penalty = tf.placeholder(tf.float32, [])
        self._banned = tf.placeholder(tf.int32, [None, 2])      # pairs (row, token)
        self._lengths = tf.placeholder(tf.int32, [None])
        self._columns, self._labels = (tf.placeholder(tf.int32, [None]) for _ in range(2))      # of prompts to score
        logits, written, score = network.prefill(self._tokens, self._lengths, self._rows_or_positions)
        self._scores = score(self._columns, self._labels)
        self._prefill = [*self._draw(logits, sample.log_probability), written]
        logits = network.decode(self._tokens[:, 0], self._rows_or_positions)
        self._decode = self._draw(logits, network.program(sample.log_probability))

    def _draw(self, logits, log_probability) -> list:
        """The next token of each row, and its log-probability."""
        if self.encoder.n_vocab < self.hparams.n_vocab:     # a padded vocabulary: the last rows of wte are no tokens
            logits = logits[:, :self.encoder.n_vocab]
        with tf.device('/cpu:0'):       # which chooses the branches, and would wait for a GPU
            unpenalized, unbanned = tf.equal(self._penalty, 1), tf.equal(tf.size(self._banned), 0)
        penalized = tf.cond(unpenalized, lambda: logits, lambda: sample.penalize(logits, self._history, self._penalty))
        allowed = tf.cond(unbanned, lambda: penalized, lambda: sample.ban(penalized, self._banned))
        token = sample.next_token(allowed, self._uniform, **self._settings)
        return [token, log_probability(logits, token)]

    def _run_prefill(self, rows: list, uncached: list) -> tuple:
        """Reads the windows of the uncached rows into the cache. Returns their next tokens and log-probabilities."""
        texts = [rows[row] for row in uncached]
        lengths = [len(text.tokens) - text.window_start for text in texts]
        tokens = np.zeros([len(texts), max(lengths)], np.int32)
        for row, length, text in zip(tokens, lengths, texts):
            row[:length] = text.tokens[text.window_start:]
            text.cached = True
        feed = {self._tokens: tokens, self._lengths: lengths, self._rows_or_positions: uncached, **self._feed(texts)}
        with ctrl_c_held_back():
            return self._session.run(self._prefill, feed)[:2]

    def _run_decode(self, rows: list, active: list) -> list:
        """Reads the last token of each row. Returns the next tokens of the active rows and their log-probabilities."""
        last = [text.tokens[-1] if text else 0 for text in rows]
        positions = [len(text.tokens) - 1 - text.window_start if text else 0 for text in rows]
        feed = {self._tokens: np.array(last)[:, None], self._rows_or_positions: positions, **self._feed(rows)}
        if self._decode_call is None:       # saves half a millisecond a token, compared with session.run
            self._decode_call = self._session.make_callable(self._decode, feed_list=list(feed))
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
        banned = [(row, token) for row, text in enumerate(texts) if text for token in text.banned_tokens()]
        return {self._banned: np.array(banned, np.int32).reshape(-1, 2),
                self._uniform: [text.random.random() if text else 0.0 for text in texts],
                self._history: history, self._penalty: settings.repetition_penalty,
                **{placeholder: getattr(settings, name) for name, placeholder in self._settings.items()}}

    def score(self, texts: Iterable[str], *, batch_size: int = 8) -> list[Score]:
        """How well the model predicts each text; a single string is one text.

        Every token is scored, the first one after an end-of-text token, as if the text began a document; <|endoftext|> in a
        text is that token. A text longer than the model's window is scored by windows that slide by half of it (see
        corpus.windows). batch_size: windows to read at a time, or as many shorter texts as have so many tokens; it does not
        change the scores. Raises UserError for an invalid argument, if memory runs out, or if the loss is NaN or infinite.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        for text in texts:
            if not isinstance(text, str):
                raise UserError(f'a text to score must be a string, not {text!r}')
        check_whole_number('batch_size', batch_size, 1)
        n_ctx, encoder = self.hparams.n_ctx, self.encoder
        start = np.array([encoder.end_of_text], encoder.dtype)
        chunks = (np.concatenate([start, encoder.encode_array(text)]) for text in texts)
        return list(self.scores(chunks, length=n_ctx, stride=max(n_ctx // 2, 1), batch_size=batch_size))

    def scores(self, chunks: Iterable[np.ndarray], *, length: int, stride: int, batch_size: int,
               scored: Callable[[int], None] = lambda count: None) -> Iterator[Score]:
        """The scores of chunks of token ids without their first token, which the second one is predicted from.

        Arguments and errors: see scores.log_probabilities. Does not change the cache.
        """
        def run(batch: scores.Batch) -> np.ndarray:
            try:
                with ctrl_c_held_back():
                    return self._session.run(self._scores, {
                        self._tokens: batch.inputs, self._columns: batch.columns, self._labels: batch.labels})
            except tf.errors.ResourceExhaustedError:
                raise UserError(f'out of memory with batch_size {batch_size} and windows of {length} tokens: give a '
                                'smaller batch_size') from None

        for chunk, found in scores.log_probabilities(chunks, run, length=length, stride=stride, batch_size=batch_size,
                                                     scored=scored):
            n_bytes, _ = windows.measure_text(self.encoder, [chunk])
            yield scores.score(chunk[1:], found, n_bytes)
