"""A training run in a TensorFlow session: its graph, and what the loop in train.py does with it."""

import argparse
import contextlib
import math
import os
import time

import numpy as np
import tensorflow.compat.v1 as tf
from tqdm import tqdm

import checkpoint
import files
import fused
import metrics
import model
import optimize
import plot
import run_dir
import sample
from distributed import Workers
from draw_ahead import DrawAhead
from errors import UserError
from job import Job, draw_batch, finished
from stop_signal import StopSignal


class Training:
    """The graph of a run with its weights restored. As a context manager, it saves what is unsaved at a normal end.

    Every worker trains and validates; worker 0 alone restores, saves, samples and reports.
    """

    def __init__(self, args: argparse.Namespace, job: Job, workers: Workers):
        self._args, self._job, self._state, self._workers = args, job, job.state, workers
        self._own = slice(workers.index * args.batch_size, (workers.index + 1) * args.batch_size)   # rows of each batch
        self._stopping = None
        self._saved, self._saved_at = job.state.step, time.time()
        self._improved = False
        self._feeds = DrawAhead(self._draw, {'data': job.train.rng, 'noise': job.noise})
        graph = tf.Graph()
        with graph.as_default():
            self._build()
            self._session = workers.session(graph)
            if workers.leads:
                self._lead()
            else:
                self._log = metrics.NoLog()
            workers.broadcast(self._session, tf.global_variables())

    def _lead(self) -> None:
        """Does what worker 0 has the others do without: restores the weights, and opens the run's records."""
        args, job = self._args, self._job
        self._restore()
        if args.overwrite:
            run_dir.clear(job.run_directory)
        run_dir.write_settings(job.run_directory, job.settings)
        self._run = checkpoint.Run(job.run_directory, job.model_directory, args.keep, args.keep_best)
        self._log = metrics.Log(job.run_directory, job.state, args.max_steps)

    def _build(self) -> None:
        args, job = self._args, self._job
        tf.config.experimental.enable_tensor_float_32_execution(args.precision == 'tf32')
        self._inputs, self._labels = (tf.placeholder(tf.int32, [args.batch_size, job.seq_length]) for _ in range(2))
        with contextlib.nullcontext() if job.memory_saving else fused.compiling():
            loss = model.loss(self._model(self._inputs), self._labels)
            self._weights = tf.trainable_variables()
            trained = [v for v in self._weights if '/h' in v.name or not args.only_train_transformer_layers]
            self._train_step = optimize.TrainStep(
                loss, trained, optimizer=args.optimizer, accumulate=args.accumulate_gradients,
                memory_saving=job.memory_saving, clip_norm=args.clip_norm, weight_decay=job.weight_decay,
                workers=self._workers, reduce_dtype=tf.as_dtype(args.reduce_precision))
        if args.val_every:
            self._validation_batch = tf.placeholder(tf.int32, [args.val_batch_size, job.seq_length])
            self._validation_loss = model.loss(self._model(self._validation_batch), self._validation_batch,
                                               differentiable=False)
        if args.sample_every and self._workers.leads:
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
        if not complete and os.path.dirname(self._job.checkpoint) != self._job.model_directory:
            print(f'{self._job.checkpoint} holds no state of the optimizer {self._args.optimizer}: it starts afresh')

    def _feed(self) -> dict:
        """This worker's rows of a training batch, with --noise on its inputs but not on its labels.

        All workers draw the same batch of all of them, as one worker would that had it for itself.
        """
        rows, noise = self._workers.count * self._args.batch_size, self._job.noise
        inputs = labels = draw_batch(self._job.train, rows, self._job.seq_length, self._own)
        if self._args.noise:
            shape = (rows, self._job.seq_length)
            wrong = noise.integers(self._job.hparams.n_vocab, size=shape)[self._own]
            inputs = np.where(noise.random(shape)[self._own] < self._args.noise, wrong, labels)
        return {self._inputs: inputs, self._labels: labels}

    def _draw(self) -> list[dict]:
        """The feeds of one update."""
        return [self._feed() for _ in range(self._args.accumulate_gradients)]

    def stopping(self, signal: StopSignal) -> str | None:
        """What has the run stop, in words. With several workers, all of them know after the update that follows a signal."""
        return signal.received if self._workers.count == 1 else self._stopping

    def update(self, signal: StopSignal) -> None:
        """Makes one update.

        Raises UserError, with what to try, if the loss is no number any more.
        """
        args, job, state = self._args, self._job, self._state
        rate = optimize.learning_rate(state.step + 1, peak=args.learning_rate, schedule=args.learning_rate_schedule,
                                      warmup_steps=args.warmup_steps, max_steps=args.max_steps)
        feeds = self._feeds.take()
        start = time.time()
        loss, norm, stop = self._train_step.run(self._session, feeds, rate, stop=signal.received is not None)
        if stop:
            self._stopping = signal.received or 'another worker was told to stop'
        state.step += 1
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise UserError(f'the loss of step {state.step} is {loss}, the norm of its gradient {norm}; {self._safe()}; try '
                            'a smaller --learning_rate, --clip_norm 1, --warmup_steps 100')
        tokens = self._workers.count * args.accumulate_gradients * args.batch_size * job.seq_length
        state.tokens += tokens
        epoch = state.tokens / job.train.total_size
        self._log.train(state.step, loss=loss, learning_rate=rate, gradient_norm=norm, epoch=epoch,
                        tokens_per_second=tokens / max(time.time() - start, 1e-9))
        if args.warn_epochs and epoch > args.warn_epochs and not state.warned:
            state.warned = True
            self._log.say(f'This is more than {args.warn_epochs:g} times over the corpus: from here on the model may learn '
                          'it by heart (--val_split shows whether; --warn_epochs 0 turns this warning off)')

    def _safe(self) -> str:
        if not self._workers.leads:
            return 'worker 0 says what is safe'
        prefix = f'{self._job.run_directory}/model-{self._saved}' if self._saved else self._job.checkpoint
        return f'{prefix} is safe'

    def _out_of_memory(self) -> str:
        """What to say when a step does not fit: where the run is safe, and what takes less memory, the best first."""
        args = self._args
        remedies = [('a smaller --batch_size', args.batch_size > 1),
                    ('--memory_saving_gradients', not self._job.memory_saving),
                    ('--accumulate_gradients for a large batch from small ones', args.batch_size > 1),
                    ('--optimizer sgd', args.optimizer != 'sgd'),
                    ('--only_train_transformer_layers', not args.only_train_transformer_layers),
                    ('a shorter --seq_length', True)]
        return (f'out of memory in step {self._state.step + 1} ({self._safe()}); try, in this order: '
                + ', '.join(remedy for remedy, applies in remedies if applies))

    def observe(self) -> None:
        """Validates and samples, if this step is one to do so and has not been observed yet."""
        args, state = self._args, self._state
        if args.val_every and state.step % args.val_every == 0 and state.validated != state.step:
            self._validate()
        if not self._workers.leads:
            return
        if args.sample_every and state.step and state.step % args.sample_every == 0 and state.sampled != state.step:
            self._write_samples()

    def _validate(self) -> None:
        """Mean loss over the same validation batches each time, of which each worker takes some."""
        state, workers, batches = self._state, self._workers, self._job.validation
        losses = np.zeros(len(batches))
        for i in tqdm(range(workers.index, len(batches), workers.count), 'validation', leave=False,
                      disable=None if workers.leads else True):
            losses[i] = self._session.run(self._validation_loss, {self._validation_batch: batches[i]})
        loss = float(np.mean(workers.sum(losses)))
        state.validated = state.step
        self._log.validation(state.step, loss)
        if state.best_loss is None or loss < state.best_loss:
            state.best_loss, state.best_step, state.not_better = loss, state.step, 0
            self._improved = True
        else:
            state.not_better += 1

    def _write_samples(self) -> None:
        """Prints --sample_num samples, each from one random token of the training data, and writes them to a file."""
        texts = []
        while len(texts) < self._args.sample_num:
            texts += self._sample(min(self._args.batch_size, self._args.sample_num - len(texts)))
        text = ''.join(f'======== SAMPLE {i} ========\n{text}\n' for i, text in enumerate(texts, start=1))
        self._log.say(text)
        files.write_text(os.path.join(self._job.sample_directory, f'samples-{self._state.step}'), text)
        self._state.sampled = self._state.step

    def _sample(self, n: int) -> list[str]:
        uniform = self._job.sampling.random((n, self._job.sample_length))
        tokens = self._session.run(self._samples, {self._context: draw_batch(self._job.contexts, n, 1),
                                                   self._uniform: uniform})
        return [self._job.encoder.decode(row) for row in tokens.tolist()]

    def save_if_due(self) -> None:
        args, step = self._args, self._state.step
        due = args.save_every and step % args.save_every == 0
        late = args.save_secs and time.time() - self._saved_at >= args.save_secs
        if self._workers.leads and step > self._saved and (due or late or args.keep_best and self._improved):
            self.save()
        self._improved = False

    def save(self) -> None:
        state = self._state
        state.generators = {name: generator.bit_generator.state for name, generator in self._job.generators().items()}
        state.generators |= self._feeds.states()
        self._log.say(f'Saving {self._job.run_directory}/model-{state.step}')
        with self._workers.undisturbed:
            self._run.save(self._session, state)
        self._saved, self._saved_at = state.step, time.time()

    def finished(self) -> str | None:
        """Why the run is at its end, in words; None if it is not."""
        return finished(self._args, self._state, self._job.train.total_size)

    def say(self, text: str) -> None:
        self._log.say(text)

    def __enter__(self):
        print('Training...', flush=True)
        return self

    def __exit__(self, kind, error, traceback) -> None:
        """Raises UserError, with what to try, if it was memory that ran out."""
        try:
            if kind is None and self._workers.leads and self._state.step > self._saved:
                self.save()
        finally:
            self._feeds.close()
            self._log.close()
            self._session.close()
        if isinstance(error, tf.errors.ResourceExhaustedError):
            raise UserError(self._out_of_memory()) from None
        if kind is None and self._args.plot and self._workers.leads:
            print(f'Loss curve: {plot.plot_losses(self._job.run_directory)}', flush=True)
