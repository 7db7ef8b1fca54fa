"""The training loop: update, observe, save, until the run is at its end or asked to stop."""

import math
import os
import time

import numpy as np
import tensorflow.compat.v1 as tf
from tqdm import tqdm

from command import whole_files
from command.errors import UserError
from command.stop_signal import StopSignal
from corpus.batches import DrawAhead, draw_batch
from storage import run_directory, saver
from training import memory, metrics, plot, record
from training.graph import TrainingGraph
from training.optimizer import learning_rate
from training.prepare import Job
from workers.collectives import Workers


def train(job: Job, workers: Workers) -> None:
    """Trains from where the run stands to its end, or until a signal, and saves. Raises UserError if memory runs out."""
    with StopSignal() as signal, Training(job, workers, signal) as training:
        print('Training...', flush=True)
        try:
            why = training.stopping()
            while not why:
                training.observe()
                training.save_if_due()
                why = training.finished() or training.stopping() or training.update()
        except tf.errors.ResourceExhaustedError:
            raise UserError(training.out_of_memory()) from None
        training.say(why)
        training.save_if_unsaved()
    if job.settings.plot and workers.leads:
        print(f'Loss curve: {plot.plot_losses(job.settings.run_directory)}', flush=True)


class Training:
    """A run in progress: its graph, with the weights restored, its state and its records.

    Every worker trains and validates; worker 0 alone restores, saves, samples and reports.
    """

    def __init__(self, job: Job, workers: Workers, signal: StopSignal):
        self._job, self._settings, self._state, self._workers, self._signal = job, job.settings, job.state, workers, signal
        batch_size = self._settings.batch_size
        self._own = slice(workers.index * batch_size, (workers.index + 1) * batch_size)     # rows of each batch
        self._stopping = None
        self._saved, self._saved_at = job.state.step, time.time()
        self._improved = False
        self._batches = DrawAhead(self._draw, {'data': job.train.rng, 'noise': job.noise})
        self._graph = TrainingGraph(job, workers)
        if workers.leads:
            self._lead()
        else:
            self._log = metrics.NoLog()
        self._graph.broadcast()

    def _lead(self) -> None:
        """What worker 0 does for all: restores the weights, and opens the run's records."""
        settings, directory = self._settings, self._settings.run_directory
        self._graph.restore()
        if settings.overwrite:
            run_directory.clear(directory)
        record.write_record(directory, self._job.record)
        with self._graph.session.graph.as_default():
            self._run = saver.RunSaver(directory, self._job.model.directory, settings.keep, settings.keep_best)
        self._log = metrics.Log(directory, self._state, settings.max_steps)

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self._batches.close()
        self._log.close()
        self._graph.session.close()

    def finished(self) -> str | None:
        """Why the run is at its end, in words; None if it is not."""
        return self._job.finished()

    def stopping(self) -> str | None:
        """What asks the run to stop, in words. With several workers, all of them know after the update that follows a signal."""
        asked = self._signal.received if self._workers.count == 1 else self._stopping
        return asked and f'{asked}: stopping'

    def say(self, text: str) -> None:
        self._log.say(text)

    def _draw(self) -> list[tuple]:
        """The batches of one update: pairs of inputs and labels."""
        return [self._draw_pair() for _ in range(self._settings.accumulate_gradients)]

    def _draw_pair(self) -> tuple[np.ndarray, np.ndarray]:
        """This worker's rows of a training batch, with --noise on its inputs but not on its labels.

        All workers draw the same batch, that of all of them together, as a single worker would.
        """
        settings, noise = self._settings, self._job.noise
        rows = self._workers.count * settings.batch_size
        inputs = labels = draw_batch(self._job.train, rows, settings.seq_length, self._own)
        if settings.noise:
            shape = (rows, settings.seq_length)
            wrong = noise.integers(self._job.model.hparams.n_vocab, size=shape)[self._own]
            inputs = np.where(noise.random(shape)[self._own] < settings.noise, wrong, labels)
        return inputs, labels

    def update(self) -> str | None:
        """Makes one update. Returns what asks the run to stop after it.

        Raises UserError, with what to try, if the loss is NaN or infinite.
        """
        settings, state = self._settings, self._state
        rate = learning_rate(state.step + 1, peak=settings.learning_rate, schedule=settings.learning_rate_schedule,
                             warmup_steps=settings.warmup_steps, max_steps=settings.max_steps)
        batches = self._batches.take()
        start = time.time()
        loss, norm, stop = self._graph.update(batches, rate, stop=self._signal.received is not None)
        seconds = time.time() - start
        if stop:
            self._stopping = self._signal.received or 'another worker was told to stop'
        state.step += 1
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise UserError(f'the loss of step {state.step} is {loss}, the norm of its gradient {norm}; {self._safe()}; try '
                            'a smaller --learning_rate, --clip_norm 1, --warmup_steps 100')
        self._report(loss, norm, rate, seconds)
        return self.stopping()

    def _report(self, loss: float, norm: float, rate: float, seconds: float) -> None:
        settings, state = self._settings, self._state
        tokens = self._workers.count * settings.accumulate_gradients * settings.batch_size * settings.seq_length
        state.tokens += tokens
        epoch = state.tokens / self._job.train.total_size
        self._log.train(state.step, loss=loss, learning_rate=rate, gradient_norm=norm, epoch=epoch,
                        tokens_per_second=tokens / max(seconds, 1e-9))
        if settings.warn_epochs and epoch > settings.warn_epochs and not state.warned:
            state.warned = True
            self._log.say(f'This is more than {settings.warn_epochs:g} times over the corpus: from here on the model may learn '
                          'it by heart (--val_split shows whether; --warn_epochs 0 turns this warning off)')

    def _safe(self) -> str:
        if not self._workers.leads:
            return 'worker 0 says what is safe'
        prefix = f'{self._settings.run_directory}/model-{self._saved}' if self._saved else self._job.checkpoint
        return f'{prefix} is safe'

    def out_of_memory(self) -> str:
        """What to print when a step does not fit: which checkpoint is safe, and what takes less memory."""
        remedies = ', '.join(flag for flag, _ in memory.remedies(memory.step_of(self._settings, self._job.model.hparams)))
        return (f'out of memory in step {self._state.step + 1} ({self._safe()}); '
                f'{f"try, in this order, each with those before it: {remedies}" if remedies else "a smaller model would fit"}')

    def observe(self) -> None:
        """Validates and samples, if this step is one to do so and has not been observed yet."""
        settings, state = self._settings, self._state
        if settings.val_every and state.step % settings.val_every == 0 and state.validated != state.step:
            self._validate()
        if not self._workers.leads:
            return
        if settings.sample_every and state.step and state.step % settings.sample_every == 0 and state.sampled != state.step:
            self._write_samples()

    def _validate(self) -> None:
        """Mean loss over the same validation batches each time, of which each worker takes some."""
        state, workers, batches = self._state, self._workers, self._job.validation
        losses = np.zeros(len(batches))
        for i in tqdm(range(workers.index, len(batches), workers.count), 'validation', leave=False,
                      disable=None if workers.leads else True):
            losses[i] = self._graph.validation_loss(batches[i])
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
        settings, texts = self._settings, []
        while len(texts) < settings.sample_num:
            texts += self._sample(min(settings.batch_size, settings.sample_num - len(texts)))
        text = ''.join(f'======== SAMPLE {i} ========\n{text}\n' for i, text in enumerate(texts, start=1))
        self._log.say(text)
        whole_files.write_text(os.path.join(settings.sample_directory, f'samples-{self._state.step}'), text)
        self._state.sampled = self._state.step

    def _sample(self, n: int) -> list[str]:
        uniform = self._job.sampling.random((n, self._settings.sample_length))
        tokens = self._graph.sample(draw_batch(self._job.contexts, n, 1), uniform)
        return [self._job.model.encoder.decode(row) for row in tokens.tolist()]

    def save_if_due(self) -> None:
        """Saves by --save_every, --save_secs and --keep_best."""
        settings, step = self._settings, self._state.step
        due = settings.save_every and step % settings.save_every == 0
        late = settings.save_secs and time.time() - self._saved_at >= settings.save_secs
        if due or late or settings.keep_best and self._improved:
            self.save_if_unsaved()
        self._improved = False

    def save_if_unsaved(self) -> None:
        """Saves, unless the last step is saved already, or another worker does it."""
        state = self._state
        if not self._workers.leads or state.step <= self._saved:
            return
        state.generators = {name: generator.bit_generator.state for name, generator in self._job.generators().items()}
        state.generators |= self._batches.states()
        self._log.say(f'Saving {self._settings.run_directory}/model-{state.step}')
        with self._workers.exit_lock:
            self._run.save(self._graph.session, state)
        self._saved, self._saved_at = state.step, time.time()
