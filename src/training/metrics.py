"""What a run reports: a line per step, metrics.jsonl, TensorBoard's files."""

import contextlib
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator

from tqdm import tqdm

from command import atomic_files
from command.errors import UserError, reason
from storage import run_directory
from training import rows as branches
from training.rows import Average, read_metrics, text_of


def compact(value: float, decimals: int, width: int = 5) -> str:
    """A number with as many of these decimals as leave it `width` characters: compact(123.456, 2) -> '123.5'; else '1e+06'."""
    fitting = (text for places in range(decimals, -1, -1) if len(text := f'{value:.{places}f}') <= width)
    return next(fitting, f'{value:.0e}')


class NoLog:
    """The log of a worker other than worker 0: it ignores everything."""

    def _ignore(self, *_, **__) -> None:
        pass

    train = validation = samples = print = close = write_again = _ignore


class Log:
    """Prints `[step | seconds] loss=… avg=…`; writes metrics.jsonl and TensorBoard's files into the run directory.

    Continues from `state`: drops what was reported after its step, which no checkpoint holds or another branch of the run has
    (see training.rows). With last_step, shows a bar with the time left on a terminal. log_every: prints its first step, and those
    that this divides; the files get all steps. flags: of the run, for TensorBoard. output_closed: is called once when printing
    fails.
    """

    def __init__(self, directory: str, state, last_step: int = 0, output_closed: Callable[[], None] = lambda: None,
                 log_every: int = 1, flags: dict | None = None):
        import tensorflow.compat.v1 as tf

        from training import events
        self._tf, self._events_module, self._start, self._output_closed = tf, events, time.time(), output_closed
        self._directory, self._log_every, self._flags = directory, log_every, flags or {}
        self._average, self._first_step = Average(state.average), state.step + 1
        self._path = os.path.join(directory, run_directory.METRICS)
        with self._errors_named():
            self._continue_from(state)
        self._last_step = last_step if sys.stdout.isatty() else 0
        self._bar = None        # until the first step, before which it has nothing to show

    def _continue_from(self, state) -> None:
        """Makes metrics.jsonl and TensorBoard's files those of the run up to `state`, and opens them."""
        before = read_metrics(self._path)
        rows, common = branches.start_branch(self._directory, state)
        last = state.step if common == len(rows) else rows[common - 1]['step'] if common else -1
        if common < len(before):
            self._events_module.remove_after(self._directory, last)
        self._open(text_of(rows), last)
        for row in rows[common:]:
            self._events.row(row)
        branches.remove_outdated(self._directory, rows)

    def _open(self, rows: str, step: int) -> None:
        """Writes these rows to metrics.jsonl, and opens it and files for TensorBoard for the steps after `step`."""
        atomic_files.write_text(self._path, rows)
        self._file = open(self._path, 'a+', encoding='utf-8')    # noqa: SIM115  (open until close)
        self._events = self._events_module.Events(self._directory, step, self._flags)

    @contextlib.contextmanager
    def _errors_named(self) -> Iterator[None]:
        """Turns errors of the file system into a UserError."""
        try:
            yield
        except OSError as error:
            raise UserError(f'cannot write {self._path}: {reason(error)}') from None
        except self._tf.errors.OpError as error:
            raise UserError(f'cannot write TensorBoard\'s files in {self._directory}: {error.message}') from None

    def write_again(self, step: int) -> None:
        """Writes metrics.jsonl again, if it was moved or removed; its rows are read from the open file. Raises UserError."""
        if not os.path.exists(self._path):
            self._file.seek(0)
            rows = self._file.read()
            with contextlib.suppress(OSError, self._tf.errors.OpError):     # its file is gone too
                self._events.close()
            self._file.close()
            with self._errors_named():
                self._open(rows, step)

    def train(self, step: int, *, loss: float, learning_rate: float, gradient_norm: float | None, tokens_per_second: float,
              epoch: float, **scaling: float) -> None:
        """gradient_norm: None for a step that float16 made overflow. scaling: in float16, loss_scale and how many are skipped."""
        average = self._average.add(loss)
        if step % self._log_every == 0 or step == self._first_step:
            self._line(step, f'loss={compact(loss, 2)} avg={compact(average, 2)} tokens/s={compact(tokens_per_second, 0, 6)} '
                             f'epoch={compact(epoch, 3)} lr={learning_rate:.2g}'
                             + (f' skipped={scaling["skipped"]}' if scaling.get('skipped') else ''))
        norm = {} if gradient_norm is None else {'gradient_norm': gradient_norm}
        self._row(step, loss=loss, learning_rate=learning_rate, **norm, tokens_per_second=tokens_per_second, epoch=epoch,
                  **scaling)
        self._show_progress(step)

    def validation(self, step: int, loss: float, best: float, patience: int | None = None) -> None:
        """best: the lowest validation loss so far. patience: how many more that are no lower end the run; None if they do not."""
        perplexity = math.inf if loss > 700 else math.exp(loss)
        left = '' if patience is None else f' patience={patience}'
        self._line(step, f'validation loss = {compact(loss, 2)} perplexity={compact(perplexity, 2)} '
                         f'best={compact(best, 2)}{left}')
        self._row(step, val_loss=loss)

    def _show_progress(self, step: int) -> None:
        if self._bar is None and self._last_step:
            self._bar = tqdm(total=self._last_step, initial=step - 1, unit='step', file=sys.stdout,
                             ncols=shutil.get_terminal_size().columns - 3)     # ^C after it has room
        if self._bar is not None:
            self._bar.update()

    def print(self, text: str) -> None:
        """Prints a text, above the bar if there is one."""
        try:
            if self._bar is None:
                print(text, flush=True)
            else:
                self._bar.write(text, file=sys.stdout)
        except OSError:     # a closed pipe or terminal
            self._output_closed()

    def samples(self, step: int, text: str) -> None:
        """Prints the samples of a step, and shows them in TensorBoard."""
        self.print(text)
        with self._errors_named():
            self._events.samples(step, text)

    def close(self, failed: bool = False) -> None:
        """failed: whether an error ended the run."""
        if self._bar is not None:
            self._bar.close()
        self._file.close()
        with contextlib.suppress(OSError, self._tf.errors.OpError):     # a full disk must not hide the error that ended the run
            self._events.close(failed)

    def _line(self, step: int, text: str) -> None:
        self.print(f'[{step} | {compact(time.time() - self._start, 2, width=7)}] {text}')

    def _row(self, step: int, **values: float) -> None:
        row = {'step': step} | values
        with self._errors_named():
            self._file.write(text_of([row]))
            self._file.flush()
            self._events.row(row)
