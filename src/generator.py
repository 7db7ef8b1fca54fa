"""A model directory in, text out."""

from collections.abc import Iterator

import numpy as np
import tensorflow.compat.v1 as tf

import checkpoint
import model
import model_dir
import sample
from encoder import Encoder, load_encoder
from runtime import session_config


class Generator:
    """Samples from the model in a model or run directory. The graph is built once; every setting is fed.

    hparams and encoder are read from the directory too unless they are given. Raises UserError for a directory without a
    complete model.
    """

    def __init__(self, directory: str, hparams: model.HParams | None = None, encoder: Encoder | None = None):
        self.hparams = hparams or model.load_hparams(directory)
        self.encoder = encoder or load_encoder(directory)
        prefix = model_dir.find_checkpoint(directory)
        graph = tf.Graph()
        with graph.as_default():
            self._build()
            self._session = tf.Session(graph=graph, config=session_config())
            checkpoint.restore(self._session, prefix, tf.trainable_variables())
            self._session.run(tf.local_variables_initializer())

    def _build(self) -> None:
        self._tokens = tf.placeholder(tf.int32, [None, None])
        self._uniform = tf.placeholder(tf.float32, [None])
        self._settings = {'temperature': tf.placeholder(tf.float32, []), 'top_k': tf.placeholder(tf.int32, []),
                          'top_p': tf.placeholder(tf.float32, [])}
        shape = model.past_shape(hparams=self.hparams)
        past = tf.Variable(tf.zeros([size or 0 for size in shape]), trainable=False, shape=tf.TensorShape(shape),
                           collections=[tf.GraphKeys.LOCAL_VARIABLES])
        self._first = self._next(past, None)
        self._following = self._next(past, past.read_value())

    def _next(self, past, seen):
        """The next token of each row, once `past` holds the keys and values of the tokens `seen` and those fed."""
        result = model.model(self.hparams, self._tokens, past=seen)
        present = result['present']
        kept = past.assign(present if seen is None else tf.concat([seen, present], axis=-2))
        with tf.control_dependencies([kept]):
            return sample.next_token(result['logits'][:, -1], self._uniform, **self._settings)

    def stream(self, context: np.ndarray, length: int, rngs: list[np.random.Generator], *, temperature: float = 1,
               top_k: int = 0, top_p: float = 0.0) -> Iterator[np.ndarray]:
        """Continues each row of `context` [batch, sequence] by `length` tokens; yields the tokens [batch] of each step.

        rngs: one generator for each row, which gives one number for each token, so that a row's text does not depend on
        its batch. Context and length together must fit in n_ctx + 1.
        """
        settings = {self._settings['temperature']: temperature, self._settings['top_k']: top_k,
                    self._settings['top_p']: top_p}
        tokens, fetch = context, self._first
        for _ in range(length):
            uniform = [rng.random() for rng in rngs]
            token = self._session.run(fetch, {self._tokens: tokens, self._uniform: uniform, **settings})
            yield token
            tokens, fetch = token[:, None], self._following

    def generate(self, context: list[int], length: int, seeds: list, **settings) -> list[list[int]]:
        """Continues the token ids `context` once for each seed, all in one batch. Returns the new ids alone."""
        rows = np.tile(np.asarray(context, np.int32), (len(seeds), 1))
        rngs = [np.random.default_rng(seed) for seed in seeds]
        return np.stack(list(self.stream(rows, length, rngs, **settings)), axis=1).tolist()
