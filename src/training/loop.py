"""The training loop: update, validate, sample, save, until the run ends."""

import math
import os
import time

import numpy as np
import tensorflow.compat.v1 as tf
from tqdm import tqdm

from command import atomic_files
from command.errors import UserError
from command.stop_signal import StopSignal
from corpus.batches import DrawAhead, draw_batch
from network import block_sizes
from storage import run_directory, saver
from storage.lock import is_locked, lock
from training import loss_scale, memory, metrics, plot, record
from training.graph import TrainingGraph
from training.job import Job
from training.optimizer import learning_rate
from training.ruin import ruin
from workers.collectives import Workers


def train(job: Job, workers: Workers) -> None:
    """Continues a run until it ends or a signal stops it, and saves it. Raises UserError if memory runs out."""
    try:
        with StopSignal() as signal, _start(job, workers, signal) as training:
            training.print('Training... (the first step takes longer than the others)')
            try:
                why = run_to_the_end(training)
            except tf.errors.ResourceExhaustedError:
                raise UserError(training.out_of_memory()) from None
            training.print(why)
            if training.unsaved():
                training.save()
            training.confirm()
    finally:
        if workers.leads and job.settings.overwrite:
            run_directory.settle(job.settings.run_directory)
    if job.settings.plot and workers.leads:
        print(f'Loss curve: {plot.plot_losses(job.settings.run_directory)}', flush=True)


def _start(job: Job, workers: Workers, signal: StopSignal) -> 'Training':
    """Builds the graph and loads the weights. Raises UserError if memory runs out."""
    try:
        return Training(job, workers, signal)
    except tf.errors.ResourceExhaustedError:
        step = memory.step_of(job.settings, job.model.hparams)
        raise UserError(f'out of memory before the first step: {memory.advice(step, block_sizes.gpu(), None)}') from None


def run_to_the_end(training: 'Training') -> str:
    """Makes updates, and between them what is due. Returns why the run ended or stopped, in words."""
    why = training.stop_request()
    while not why:
        if training.validation_is_due():
            training.validate()
        if training.samples_are_due():
            training.write_samples()
        if training.checkpoint_is_due():
            training.save()
        why = training.finished() or training.stop_request() or training.update()
    return why


class Training:
    """A run in progress: its graph, with the weights restored, its state and its records.

    Every worker updates and validates; only worker 0 restores, saves, samples and reports.
    """

    def __init__(self, job: Job, workers: Workers, signal: StopSignal):
        self._job, self._settings, self._state, self._workers, self._signal = job, job.settings, job.state, workers, signal
        batch_size = self._settings.batch_size
        self._own_rows = slice(workers.index * batch_size, (workers.index + 1) * batch_size)    # of a batch of all workers
        self._doing = 'step'
        self._agreed_stop = None        # the stop request that all workers know of
        self._saved, self._saved_at = job.state.step, time.time()
        self._due = False               # a save that waits for good weights
        self._good = self._saved        # the last saved step whose weights are known to be good
        self._batches = DrawAhead(self._draw_batches, {'data': job.train.rng, 'noise': job.noise, 'dropout': job.dropout})
        print('Building the graph', flush=True)
        self._graph = TrainingGraph(job, workers)
        if workers.leads:
            self._restore_and_open_records()
        else:
            self._log = metrics.NoLog()
        self._graph.broadcast()

    def _restore_and_open_records(self) -> None:
        settings, directory = self._settings, self._settings.run_directory
        self._graph.restore()
        with self._graph.session.graph.as_default():
            self._run = saver.RunSaver(directory, self._job.model.directory, settings.keep, settings.keep_best,
                                       self._graph.saved_variables(), self._job.adapters)
        if settings.overwrite:
            run_directory.set_aside(directory)
        record.write_record(directory, self._job.record)
        self._run.write_setting_files()
        self._log = metrics.Log(directory, self._state, settings.max_steps, self._signal.output_closed,
                                settings.log_every, self._job.record['flags'])

    def __enter__(self):
        return self

    def __exit__(self, error: type[BaseException] | None, *_) -> None:
        self._batches.close()
        self._log.close(failed=error is not None)
        self._graph.session.close()

    def print(self, text: str) -> None:
        self._log.print(text)

    def finished(self) -> str | None:
        """Why the run has ended, in words; None if it has not."""
        return self._job.finished()

    def stop_request(self) -> str | None:
        """What asked the run to stop, in words. With several workers, all stop after the same update."""
        request = self._signal.received if self._workers.count == 1 else self._agreed_stop
        return request and f'{request}: stopping'

    def update(self) -> str | None:
        """Makes one update and reports it. Returns what asks the run to stop after it.

        Raises UserError, with what to try, if the loss or the gradient is NaN or infinite, or the loss shows that the weights are
        ruined.
        """
        settings, state, self._doing = self._settings, self._state, 'step'
        rate = learning_rate(state.step + 1, peak=settings.learning_rate, schedule=settings.learning_rate_schedule,
                             warmup_steps=settings.warmup_steps, max_steps=settings.max_steps)
        batches = self._batches.take()
        start = time.time()
        loss, norm, stop = self._graph.update(batches, rate, stop=self._signal.received is not None, scale=state.loss_scale)
        seconds = time.time() - start
        if stop:
            self._agreed_stop = self._signal.received or 'another worker received a signal'
        state.step += 1
        skipped = settings.precision == 'float16' and math.isfinite(loss) and loss_scale.adjust(state, norm)
        self._check(loss, 0.0 if skipped else norm)
        self._report(loss, None if skipped else norm, rate, seconds)
        self.confirm()
        return self.stop_request()

    def _check(self, loss: float, norm: float) -> None:
        """Raises UserError if the loss or the gradient's norm shows that the run cannot continue. All workers decide alike."""
        why = ruin(loss, self._state, self._job.model.hparams.n_vocab) if math.isfinite(loss) else None
        if why is None and math.isfinite(loss) and math.isfinite(norm):
            return
        ruined = why is not None or not math.isfinite(loss)      # the weights, else only the gradient
        if ruined and self._good != self._saved:
            self.print(f'Removing {self._settings.run_directory}/model-{self._saved}, whose weights are ruined')
            self._run.discard(self._saved, self._good)
            self._saved = self._good
        why = why or f'the loss of step {self._state.step} is {loss}, the norm of its gradient {norm}'
        flags = '--clip_norm 1, --warmup_steps 100' + ', --precision float32' * (self._settings.precision == 'float16')
        raise UserError(f'{why}; {self._way_back(ruined)} a smaller --learning_rate, {flags}', in_all_workers=True)

    def _way_back(self, ruined: bool) -> str:
        """Which checkpoint is safe, and how to continue from it. ruined: whether the loss of this step shows ruined weights."""
        state = self._state
        if not (self._workers.leads and self._saved):
            return f'{self._safe()}; try'
        if ruined and self._saved >= state.step - max(state.far_off, 1):        # the run was resumed from them
            return f'model-{self._saved} has such weights already; try --restore_from with the step of an earlier checkpoint, and'
        return f'{self._safe()}; try --restore_from {self._saved} with'

    def confirm(self) -> None:
        """Removes what the last checkpoint replaces, once the loss of the step after it has shown that its weights are good.

        A step may have ruined them, and the loss of that step does not show it yet.
        """
        if self._good == self._saved or self._state.far_off:
            return
        self._good = self._saved
        with self._workers.exit_lock:
            self._run.remove_outdated(self._saved, self._state.best_step)
        if self._settings.overwrite:
            run_directory.settle(self._settings.run_directory)

    def _draw_batches(self) -> list[tuple]:
        """The batches of one update: inputs, labels, and the seed of the dropout's masks."""
        return [(*self._draw_batch(), self._draw_seed()) for _ in range(self._settings.accumulate_gradients)]

    def _draw_batch(self) -> tuple[np.ndarray, np.ndarray]:
        """This worker's rows of a training batch: inputs, of which --noise replaces a share, and labels.

        Every worker draws the batch of all workers together, so that they draw what a single worker would.
        """
        settings, noise = self._settings, self._job.noise
        rows = self._workers.count * settings.batch_size
        inputs = labels = draw_batch(self._job.train, rows, settings.seq_length, self._own_rows)
        if settings.noise:
            shape = (rows, settings.seq_length)
            random_tokens = noise.integers(self._job.model.hparams.n_vocab, size=shape)[self._own_rows]
            inputs = np.where(noise.random(shape)[self._own_rows] < settings.noise, random_tokens, labels)
        return inputs, labels

    def _draw_seed(self) -> list[int] | None:
        """The seed of a batch's dropout: a number that all workers draw alike, and one that makes their masks differ."""
        return [self._job.dropout.integers(2 ** 63), self._workers.index << 32] if self._settings.dropout else None

    def _report(self, loss: float, norm: float | None, rate: float, seconds: float) -> None:
        """norm: None if the gradient overflowed."""
        settings, state = self._settings, self._state
        tokens = self._workers.count * settings.accumulate_gradients * settings.batch_size * settings.seq_length
        state.tokens += tokens
        epoch = state.tokens / self._job.train.total_size
        scaling = {'loss_scale': state.loss_scale, 'skipped': state.skipped} if settings.precision == 'float16' else {}
        self._log.train(state.step, loss=loss, learning_rate=rate, gradient_norm=norm, epoch=epoch,
                        tokens_per_second=tokens / max(seconds, 1e-9), **scaling)
        if settings.warn_epochs and epoch > settings.warn_epochs and not state.warned:
            state.warned = True
            self.print(f'This is more than {settings.warn_epochs:g} times over the corpus: from here on the model may learn '
                       'it by heart (--val_split shows whether; --warn_epochs 0 turns this warning off)')

    def validation_is_due(self) -> bool:
        return self._every(self._settings.val_every) and self._state.validated != self._state.step

    def validate(self) -> None:
        """Computes the mean loss over the validation batches, each worker over some of them, and reports it."""
        state, workers, batches, self._doing = self._state, self._workers, self._job.validation, 'validation'
        losses = np.zeros(len(batches))
        for i in tqdm(range(workers.index, len(batches), workers.count), 'validation', leave=False, delay=1, unit='batch',
                      disable=None if workers.leads else True):
            losses[i] = self._graph.validation_loss(batches[i])
        loss = float(np.mean(workers.sum(losses)))
        state.validated = state.step
        if state.best_loss is None or loss < state.best_loss:
            state.best_loss, state.best_step, state.not_better = loss, state.step, 0
        else:
            state.not_better += 1
        patience = self._settings.patience
        self._log.validation(state.step, loss, state.best_loss, max(patience - state.not_better, 0) if patience else None)

    def samples_are_due(self) -> bool:
        """Whether this worker samples at this step and has not done so."""
        state = self._state
        return self._workers.leads and state.step > 0 and self._every(self._settings.sample_every) and (
            state.sampled != state.step)

    def write_samples(self) -> None:
        """Prints --sample_num samples, each from --sample_prompt or one random token of the corpus, and writes them to a file.

        After a signal it leaves them to the next start, which draws the same ones.
        """
        settings, texts, self._doing = self._settings, [], 'samples'
        generators = [self._job.contexts.rng.bit_generator, self._job.sampling.bit_generator]
        before = [generator.state for generator in generators]
        self.print('Generating samples...')
        while len(texts) < settings.sample_num:
            if self._signal.received:
                for generator, state in zip(generators, before):
                    generator.state = state
                return
            texts += self._sample(min(settings.batch_size, settings.sample_num - len(texts)))
        text = '\n'.join(f'======== SAMPLE {i} ========\n{text}\n' for i, text in enumerate(texts, start=1))
        self._log.samples(self._state.step, text)
        os.makedirs(settings.sample_directory, exist_ok=True)       # it may have been moved or removed
        atomic_files.write_text(os.path.join(settings.sample_directory, f'samples-{self._state.step}'), text)
        self._state.sampled = self._state.step

    def _sample(self, n: int) -> list[str]:
        uniform = self._job.sampling.random((n, self._settings.sample_length))
        tokens = self._graph.sample(self._job.sample_contexts(n), uniform)
        return [self._job.model.encoder.decode(row) for row in tokens.tolist()]

    def unsaved(self) -> bool:
        """Whether this worker saves, and the last step is not saved yet."""
        return self._workers.leads and self._state.step > self._saved

    def checkpoint_is_due(self) -> bool:
        """Whether to save now, by --save_every, --save_secs and --keep_best; not before the weights are good."""
        settings, state = self._settings, self._state
        late = settings.save_secs > 0 and time.time() - self._saved_at >= settings.save_secs
        best = settings.keep_best and state.best_step == state.step
        self._due = self.unsaved() and (self._due or self._every(settings.save_every) or late or best)
        return self._due and (best or not state.far_off)

    def save(self) -> None:
        state = self._state
        state.generators = {name: generator.bit_generator.state for name, generator in self._job.generators().items()}
        state.generators |= self._batches.states()
        self._complete_directory()
        self.print(f'Saving {self._settings.run_directory}/model-{state.step}')
        with self._workers.exit_lock:
            self._run.save(self._graph.session, state)
        self._saved, self._saved_at, self._due = state.step, time.time(), False

    def _complete_directory(self) -> None:
        """Writes again what the run's directory lacks, if it or a file of it was moved or removed since the start.

        Raises UserError if that fails, or if another process trains there now.
        """
        directory = self._settings.run_directory
        if not os.path.isdir(directory):
            self.print(f'{directory} was moved or removed: writing it again')
        if not is_locked(directory):
            self._job.lock = lock(directory)
        if not os.path.exists(os.path.join(directory, run_directory.SETTINGS)):
            record.write_record(directory, self._job.record)
        self._run.write_setting_files()
        self._log.write_again(self._state.step)

    def _every(self, steps: int) -> bool:
        """Whether what happens every so many steps, or never if 0, happens at this one."""
        return steps > 0 and self._state.step % steps == 0

    def out_of_memory(self) -> str:
        """The error for what does not fit: which checkpoint is safe, and which flags take less memory."""
        settings, step = self._settings, self._state.step
        if self._doing == 'step':
            needed = memory.step_of(settings, self._job.model.hparams)
            advice = memory.advice(needed, block_sizes.gpu(), settings.run_name if step else None)
            return f'out of memory in step {step + 1} ({self._safe()}); {advice}'
        flags = {'validation': '--val_batch_size 1, or a smaller --seq_length',
                 'samples': '--sample_num 1, or a smaller --sample_length'}[self._doing]
        return f'out of memory in the {self._doing} after step {step} ({self._safe()}); try {flags}'

    def _safe(self) -> str:
        """Which checkpoint the run can continue from, in words."""
        if not self._workers.leads:
            return 'worker 0 reports which checkpoint is safe'
        prefix = f'{self._settings.run_directory}/model-{self._saved}' if self._saved else self._job.checkpoint
        return f'{prefix} is safe'
