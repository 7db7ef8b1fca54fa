"""A training run in a TensorFlow session: its graph, and what the loop in train.py does with it."""

import argparse
import os

import numpy as np
import tensorflow.compat.v1 as tf
from tqdm import tqdm

import checkpoint
import metrics
import model
import optimize
import sample
from errors import UserError
from job import Job, draw_batch
from runtime import session_config


class Training:
    """The graph of a run with its weights restored. As a context manager, it saves what is unsaved at the end.

    step: updates that the weights have behind them.
    """

    def __init__(self, args: argparse.Namespace, job: Job):
        self._args, self._job = args, job
        self.step = self._saved = job.step
        graph = tf.Graph()
        with graph.as_default():
            self._build()
            self._session = tf.Session(graph=graph, config=session_config())
            self._restore()
            self._run = checkpoint.Run(job.run_directory, job.model_directory)
            self._log = metrics.Log(job.run_directory)

    def _build(self) -> None:
        args, job = self._args, self._job
        tf.config.experimental.enable_tensor_float_32_execution(args.precision == 'tf32')
        self._inputs, self._labels = (tf.placeholder(tf.int32, [args.batch_size, job.seq_length]) for _ in range(2))
        loss = model.loss(self._model(self._inputs), self._labels)
        self._weights = tf.trainable_variables()
        trained = [v for v in self._weights if '/h' in v.name or not args.only_train_transformer_layers]
        self._train_step = optimize.TrainStep(
            loss, trained, optimizer=args.optimizer, accumulate=args.accumulate_gradients,
            memory_saving=job.memory_saving, clip_norm=args.clip_norm, weight_decay=job.weight_decay)
        if args.val_every:
            self._validation_batch = tf.placeholder(tf.int32, [args.val_batch_size, job.seq_length])
            self._validation_loss = model.loss(self._model(self._validation_batch), self._validation_batch,
                                               differentiable=False)
        if args.sample_every:
            self._context = tf.placeholder(tf.int32, [None, 1])
            self._uniform = tf.placeholder(tf.float32, [None, job.sample_length])
            self._samples = sample.sample_sequence(hparams=job.hparams, length=job.sample_length,
                                                   context=self._context, uniform=self._uniform, top_k=args.top_k,
                                                   top_p=args.top_p)

    def _model(self, tokens) -> dict:
        dtype = tf.bfloat16 if self._args.precision == 'bfloat16' else tf.float32
        return model.model(self._job.hparams, tokens, dtype=dtype)

    def _restore(self) -> None:
        print(f'Loading checkpoint {self._job.checkpoint}', flush=True)
        self._train_step.initialize(self._session)
        complete = checkpoint.restore(self._session, self._job.checkpoint, self._weights)
        if self.step and not complete:
            print(f'{self._job.checkpoint} holds no state of the optimizer {self._args.optimizer}: it starts afresh')

    def _feed(self, labels: np.ndarray) -> dict:
        """Feeds a training batch, with --noise on its inputs but not on its labels."""
        inputs, noise = labels, self._job.noise
        if self._args.noise:
            wrong = noise.integers(self._job.hparams.n_vocab, size=labels.shape)
            inputs = np.where(noise.random(labels.shape) < self._args.noise, wrong, labels)
        return {self._inputs: inputs, self._labels: labels}

    def update(self) -> None:
        """Draws the batches of one update and makes it. Raises UserError, with what to try, if memory runs out."""
        args = self._args
        feeds = [self._feed(draw_batch(self._job.train, args.batch_size, self._job.seq_length))
                 for _ in range(args.accumulate_gradients)]
        rate = optimize.learning_rate(self.step + 1, peak=args.learning_rate, schedule=args.learning_rate_schedule,
                                      warmup_steps=args.warmup_steps, max_steps=args.max_steps)
        try:
            loss, norm = self._train_step.run(self._session, feeds, rate)
        except tf.errors.ResourceExhaustedError:
            raise UserError(self._out_of_memory()) from None
        self.step += 1
        self._log.train(self.step, loss=loss, learning_rate=rate, gradient_norm=norm)

    def _out_of_memory(self) -> str:
        """What to say when a step does not fit: where the run is safe, and what takes less memory, the best first."""
        args = self._args
        remedies = [('a smaller --batch_size', args.batch_size > 1),
                    ('--memory_saving_gradients', not self._job.memory_saving),
                    ('--accumulate_gradients for a large batch from small ones', args.batch_size > 1),
                    ('--optimizer sgd', args.optimizer != 'sgd'),
                    ('--only_train_transformer_layers', not args.only_train_transformer_layers),
                    ('a shorter --seq_length', True)]
        safe = f'{self._job.run_directory}/model-{self._saved}' if self._saved else self._job.checkpoint
        return (f'out of memory in step {self.step + 1} ({safe} is safe); try, in this order: '
                + ', '.join(remedy for remedy, applies in remedies if applies))

    def validate(self) -> None:
        """Mean loss over the same validation batches each time."""
        losses = [self._session.run(self._validation_loss, {self._validation_batch: batch})
                  for batch in tqdm(self._job.validation, 'validation', leave=False, disable=None)]
        self._log.validation(self.step, float(np.mean(losses)))

    def write_samples(self) -> None:
        """Prints --sample_num samples, each from one random token of the training data, and writes them to a file."""
        texts = []
        while len(texts) < self._args.sample_num:
            texts += self._sample(min(self._args.batch_size, self._args.sample_num - len(texts)))
        text = ''.join(f'======== SAMPLE {i} ========\n{text}\n' for i, text in enumerate(texts, start=1))
        print(text, flush=True)
        path = os.path.join(self._job.sample_directory, f'samples-{self.step}')
        with open(path, 'w', encoding='utf-8', newline='\n') as file:
            file.write(text)

    def _sample(self, n: int) -> list[str]:
        uniform = self._job.sampling.random((n, self._job.sample_length))
        tokens = self._session.run(self._samples, {self._context: draw_batch(self._job.contexts, n, 1),
                                                   self._uniform: uniform})
        return [self._job.encoder.decode(row) for row in tokens.tolist()]

    def save(self) -> None:
        self._run.save(self._session, self.step)
        self._saved = self.step

    def __enter__(self):
        print('Training...', flush=True)
        return self

    def __exit__(self, kind, error, traceback) -> bool:
        """Saves and closes; Ctrl-C is a normal end."""
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
        if interrupted:
            print('interrupted')
        if self.step > self._saved and (kind is None or interrupted):
            self.save()
        self._log.close()
        self._session.close()
        return interrupted
