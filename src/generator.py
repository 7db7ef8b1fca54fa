"""Class Generator: texts from a model, in batches of unequal prompts."""

import collections
import itertools
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf

import sample
from command.errors import UserError
from command.tensorflow_setup import ctrl_c_held_back, make_callable, open_session, session_config, shards_for
from corpus import windows
from sampling import scores
from sampling.continuation import Continuation, SamplingSettings, check_weights, check_whole_number, prompt_tokens
from sampling.inference import ShardedNetwork
from sampling.keywords import takes_settings
from sampling.rows import Rows
from sampling.scores import Score
from storage.model_directory import Model, open_model

CAPACITY_STEP = 256     # tokens by which the cache grows; attention reads all of it, filled or not
MANY_ROWS = 8           # from which it grows by half of that: reading so much takes longer than compiling more often


class Draw(NamedTuple):
    """Logits in the graph, and what is drawn from them."""
    logits: tf.Tensor               # [rows, hparams.n_vocab]; feeding others draws from those
    token: tf.Tensor                # [rows] int32
    log_probability: tf.Tensor      # [rows], of the token, in nats, before temperature and truncation
    best: list[tf.Tensor]           # the most likely tokens [rows, count] int32, and their log-probabilities


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
        self._decode_calls = {}         # fetches -> the callable that runs them
        self._lock = threading.RLock()  # held while the cache is used; a thread that has it may take it again
        self._cache_owner = None        # the Rows whose texts the cache holds

    @takes_settings
    def generate(self, prompts: Iterable[str] | str, *, n: int = 1, seed: int | None = None, batch_size: int = 8,
                 logprobs: int | None = None, **settings) -> list[str] | list[Continuation]:
        """Continues each prompt n times; '' starts a new text.

        Returns one flat list: the n texts of the first prompt, then the n texts of the second, and so on. A seed gives the same
        texts for every batch size, and text i of a prompt is the same for every n: it is sample i + 1 of the sampling scripts
        with that --seed. prompts: a string is one prompt. A literal <|endoftext|> in a prompt is that token. The other
        arguments: see SamplingSettings. Raises UserError for an invalid one or a prompt longer than the model's window.

        With logprobs, returns Continuation objects instead: with the text the ids of its tokens, their log_probabilities, and
        for each token so many `alternatives`, the tokens that were the most likely there.
        """
        if not isinstance(prompts, Iterable):
            raise UserError(f'prompts must be strings, not {prompts!r}')
        check_whole_number('n', n, 1)
        settings, prompts = SamplingSettings(**settings), [prompts] if isinstance(prompts, (str, bytes)) else prompts
        texts = [self.continuation(prompt, settings, [seed, number, i], logprobs) for number, prompt in enumerate(prompts)
                 for i in range(n)]
        with self._lock:
            finished = list(self.finish(texts, batch_size))
        return finished if logprobs is not None else [text.text for text in finished]

    @takes_settings
    def stream(self, prompt: str, *, seed: int | None = None, **settings) -> Iterator[str]:
        """The text that `generate` returns for one prompt, in pieces of complete characters as they are drawn."""
        steps = self.steps([self.continuation(prompt, SamplingSettings(**settings), [seed, 0, 0])], 1)
        return (piece for text in steps if (piece := text.new_text()))

    def continuation(self, prompt: str | Sequence[int], settings: SamplingSettings, seed: list,
                     logprobs: int | None = None) -> Continuation:
        """A text for `finish`, `steps` or `step`. prompt: a text, or token ids. seed: numbers, or [None, …] for a random one.

        logprobs: how many alternatives it has for each of its tokens; None for none, and no log_probabilities. Raises UserError
        for an invalid argument, or a prompt that is longer than the window.
        """
        for number in [] if seed[0] is None else seed:
            check_whole_number('seed', number, 0, math.inf)
        if logprobs is not None:
            check_whole_number('logprobs', logprobs, 0, self.encoder.n_vocab)
        context = prompt_tokens(prompt, self.encoder, self.hparams.n_ctx)
        return Continuation(prompt, context, settings, seed, self.encoder, self.hparams.n_ctx // 2, logprobs)

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

        The next text takes the row of one that is complete. A text whose window is full continues from the last half of it.
        Raises UserError for an invalid batch_size.
        """
        check_whole_number('batch_size', batch_size, 1)
        source = iter(texts)
        first = list(itertools.islice(source, batch_size))
        rows = Rows(len(first))
        for text in first:
            rows.join(text)
        while rows:
            for text in self.step(rows):
                if text.stop_reason:
                    rows.leave(text)
                    if (following := next(source, None)) is not None:
                        rows.join(following)
                yield text

    def step(self, rows: Rows) -> list[Continuation]:
        """Draws a token for each text that has joined the rows since the last step, or, if there is none, for all.

        Returns those texts. Between steps texts may join and leave the rows; the others' texts are not read again. Each text
        has its own settings. There must be a text.
        """
        with self._lock:    # never while suspended at `yield`, where a call may be abandoned
            try:
                drawn = self._next_tokens(rows)
            except tf.errors.ResourceExhaustedError:
                raise self._out_of_memory(rows) from None
        for text, token, log_probability, alternatives in drawn:
            text.add(token, log_probability, alternatives)
        return [text for text, *_ in drawn]

    def _next_tokens(self, rows: Rows) -> list:
        """Draws a token for each text that is not in the cache, or for all (see _draw_from)."""
        if self._cache_owner is not rows:       # at the beginning, or because another call used the cache
            self._cache_owner, self._cache_rows, self._capacity = rows, 0, 0
            for text in rows:
                text.cached = False
        for text in rows:
            text.slide(self.hparams.n_ctx)
        self._fit_cache(rows)
        return self._read_prompts(rows) or self._read_last_tokens(rows)

    def _fit_cache(self, rows: Rows) -> None:
        """Resizes the cache to the number of rows, and to the longest window, unless it would shrink by less than half."""
        kept = [row for row in rows.fit() if row < self._cache_rows]
        needed = max(len(text.tokens) - text.window_start for text in rows)
        step = CAPACITY_STEP if len(rows.texts) < MANY_ROWS else CAPACITY_STEP // 2
        capacity = min(-(-needed // step) * step, self.hparams.n_ctx)
        if self._capacity // 2 < capacity < self._capacity:
            capacity = self._capacity
        if (len(rows.texts), capacity) != (self._cache_rows, self._capacity):
            with ctrl_c_held_back():
                self._session.run(self._cache.resize, {self._cache.kept_rows: kept,
                                                       self._cache.new_size: [len(rows.texts), capacity]})
            self._cache_rows, self._capacity = len(rows.texts), capacity

    def _out_of_memory(self, rows: Rows) -> UserError:
        """The error for texts that do not fit. Empties the cache, of which a part may have been resized."""
        self._cache_owner = None
        self._session.run(self._cache.initializer)
        texts = list(rows)
        longest = max(len(text.tokens) - text.window_start for text in texts)
        smaller = 'a smaller batch_size or length' if len(texts) > 1 else 'a smaller length'
        return UserError(f'out of memory with batch_size {len(texts)} and texts of up to {longest} tokens: give {smaller}, or '
                         'weights of fewer bytes (bfloat16, int8)')

    def _build(self, network: ShardedNetwork) -> None:
        self._tokens = tf.placeholder(tf.int32, [None, None])
        self._rows_or_positions = tf.placeholder(tf.int32, [None])      # to prefill, or to decode at
        self._uniform = tf.placeholder(tf.float32, [None])
        self._history = tf.placeholder(tf.int32, [None, None])
        self._settings = {'temperature': tf.placeholder(tf.float32, []), 'top_k': tf.placeholder(tf.int32, []),
                          'top_p': tf.placeholder(tf.float32, [])}
        self._penalty = tf.placeholder(tf.float32, [])
        self._changed = tf.placeholder(tf.int32, [None, 2])     # pairs (row, token)
        self._changes = tf.placeholder(tf.float32, [None])      # what is added to the logit of each
        self._count = tf.placeholder(tf.int32, [])              # of alternatives
        self._lengths = tf.placeholder(tf.int32, [None])
        self._columns, self._labels = (tf.placeholder(tf.int32, [None]) for _ in range(2))      # of prompts to score
        logits, self._written, score = network.prefill(self._tokens, self._lengths, self._rows_or_positions)
        self._scores = score(self._columns, self._labels)
        self._scores_with_best = score(self._columns, self._labels, self._count, self.encoder.n_vocab)
        self._prefill = self._draw(logits, sample.log_probability)
        logits = network.decode(self._tokens[:, 0], self._rows_or_positions)
        self._decode = self._draw(logits, network.program(sample.log_probability))

    def _draw(self, network_logits, log_probability) -> Draw:
        """The next token of each row, its log-probability, and its alternatives."""
        logits = network_logits
        if self.encoder.n_vocab < self.hparams.n_vocab:     # a padded vocabulary: the last rows of wte are no tokens
            logits = logits[:, :self.encoder.n_vocab]
        with tf.device('/cpu:0'):       # which chooses the branches, and would wait for a GPU
            unpenalized, unchanged = tf.equal(self._penalty, 1), tf.equal(tf.size(self._changes), 0)
        penalized = tf.cond(unpenalized, lambda: logits, lambda: sample.penalize(logits, self._history, self._penalty))
        changed = tf.cond(unchanged, lambda: penalized, lambda: sample.change(penalized, self._changed, self._changes))
        token = sample.next_token(changed, self._uniform, **self._settings)
        return Draw(network_logits, token, log_probability(logits, token), sample.most_likely(logits, self._count))

    def _read_prompts(self, rows: Rows) -> list:
        """Reads the windows of the texts that are not in the cache into it, and draws their next tokens (see _draw_from)."""
        uncached = [row for row, text in enumerate(rows.texts) if text and not text.cached]
        if not uncached:
            return []
        texts = [rows.texts[row] for row in uncached]
        lengths = [len(text.tokens) - text.window_start for text in texts]
        tokens = np.zeros([len(texts), max(lengths)], np.int32)
        for row, length, text in zip(tokens, lengths, texts):
            row[:length] = text.tokens[text.window_start:]
            text.cached = True
        feed = {self._tokens: tokens, self._lengths: lengths, self._rows_or_positions: uncached}
        return self._draw_from(self._prefill, feed, texts, lambda fetches, feed: self._session.run(
            [*fetches, self._written], feed)[:-1])

    def _read_last_tokens(self, rows: Rows) -> list:
        """Reads the last token of each text, and draws the next ones (see _draw_from)."""
        last = [text.tokens[-1] if text else 0 for text in rows.texts]
        positions = [len(text.tokens) - 1 - text.window_start if text else 0 for text in rows.texts]
        feed = {self._tokens: np.array(last)[:, None], self._rows_or_positions: positions}

        def run(fetches: list, feed: dict) -> list:
            key = tuple(fetches)
            if key not in self._decode_calls:
                self._decode_calls[key] = make_callable(self._session, fetches, list(feed))
            return self._decode_calls[key](*feed.values())
        return self._draw_from(self._decode, feed, rows.texts, run)

    def _draw_from(self, draw: Draw, feed: dict, texts: list, run: Callable[[list, dict], list]) -> list:
        """Draws a token for each text. Returns (text, token, log_probability, alternatives) of each.

        texts: of the rows that the feed reads, or None. run: from fetches and a feed to values. The graph draws for rows with
        the same settings. If they differ, the network is run alone, and then each group is drawn from its logits.
        """
        groups = collections.defaultdict(list)
        for row, text in enumerate(texts):
            if text:
                groups[text.settings.distribution].append(row)
        with ctrl_c_held_back():
            if len(groups) == 1:
                fetches, drawing = self._fetches(draw, texts)
                return self._with_texts(texts, run(fetches, feed | drawing))
            [logits] = run([draw.logits], feed)
            drawn = []
            for group in groups.values():
                some = [texts[row] for row in group]
                fetches, drawing = self._fetches(self._prefill, some)
                values = self._session.run(fetches, {self._prefill.logits: logits[group], **drawing})
                drawn += self._with_texts(some, values)
            return drawn

    def _fetches(self, draw: Draw, texts: list) -> tuple[list, dict]:
        """What to fetch of a draw for these texts, and what to feed."""
        counts = [text.logprobs for text in texts if text and text.logprobs is not None]
        feed = self._feed(texts)
        if not counts:
            return [draw.token, draw.log_probability], feed
        return [draw.token, draw.log_probability, *draw.best], feed | {self._count: max(counts)}

    @staticmethod
    def _with_texts(texts: list, values: list) -> list:
        """The texts of the rows that have one, each with its token, log-probability, and alternatives if it wants them."""
        tokens, log_probabilities, *best = (each.tolist() for each in values)
        return [(text, tokens[row], log_probabilities[row],
                 list(zip(*(each[row][:text.logprobs] for each in best))) if text.logprobs is not None else None)
                for row, text in enumerate(texts) if text]

    def _feed(self, texts: list) -> dict:
        """What the draws of these texts need, of which all have the settings of one distribution."""
        settings = next(text.settings for text in texts if text)
        history = np.zeros([len(texts), 0], np.int32)
        if settings.repetition_penalty != 1:
            longest = max(len(text.tokens) for text in texts if text)
            history = np.full([len(texts), longest], -1, np.int32)
            for row, text in zip(history, texts):
                if text:
                    row[:len(text.tokens)] = text.tokens
        changes = [(row, token, change) for row, text in enumerate(texts) if text
                   for token, change in text.changed_logits().items()]
        return {self._changed: np.array([pair for *pair, _ in changes], np.int32).reshape(-1, 2),
                self._changes: np.array([change for *_, change in changes], np.float32),
                self._uniform: [text.random.random() if text else 0.0 for text in texts],
                self._history: history, self._penalty: settings.repetition_penalty,
                **{placeholder: getattr(settings, name) for name, placeholder in self._settings.items()}}

    def score(self, texts: Iterable[str], *, batch_size: int = 8, logprobs: int | None = None) -> list[Score]:
        """How well the model predicts each text; a single string is one text.

        Every token is scored, the first one after an end-of-text token, as if the text began a document; <|endoftext|> in a
        text is that token. A text longer than the model's window is scored by windows that slide by half of it (see
        corpus.windows). batch_size: windows to read at a time, or as many shorter texts as have so many tokens; it does not
        change the scores. logprobs: so many `alternatives` for each token. Raises UserError for an invalid argument, if memory
        runs out, or if the loss is NaN or infinite.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        for text in texts:
            if not isinstance(text, str):
                raise UserError(f'a text to score must be a string, not {text!r}')
        check_whole_number('batch_size', batch_size, 1)
        if logprobs is not None:
            check_whole_number('logprobs', logprobs, 0, self.encoder.n_vocab)
        n_ctx, encoder = self.hparams.n_ctx, self.encoder
        start = np.array([encoder.end_of_text], encoder.dtype)
        chunks = (np.concatenate([start, encoder.encode_array(text)]) for text in texts)
        return list(self.scores(chunks, length=n_ctx, stride=max(n_ctx // 2, 1), batch_size=batch_size,
                                logprobs=logprobs))

    def scores(self, chunks: Iterable[np.ndarray], *, length: int, stride: int, batch_size: int,
               scored: Callable[[int], None] = lambda count: None, logprobs: int | None = None) -> Iterator[Score]:
        """The scores of chunks of token ids without their first token, which the second one is predicted from.

        Arguments and errors: see `score` and scores.log_probabilities. Does not change the cache.
        """
        fetches = self._scores if logprobs is None else self._scores_with_best
        more = {} if logprobs is None else {self._count: logprobs}

        def run(batch: scores.Batch) -> list[np.ndarray]:
            try:
                with ctrl_c_held_back():
                    return self._session.run(fetches, {
                        self._tokens: batch.inputs, self._columns: batch.columns, self._labels: batch.labels, **more})
            except tf.errors.ResourceExhaustedError:
                raise UserError(f'out of memory with batch_size {batch_size} and windows of {length} tokens: give a '
                                'smaller batch_size') from None

        for chunk, found in scores.log_probabilities(chunks, run, length=length, stride=stride, batch_size=batch_size,
                                                     count=logprobs, scored=scored):
            n_bytes, _ = windows.measure_text(self.encoder, [chunk])
            yield scores.score(chunk[1:], found, n_bytes)
