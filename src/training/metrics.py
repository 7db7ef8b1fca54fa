"""What a run reports: a line per step, metrics.jsonl, TensorBoard scalars."""

import contextlib
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable

from tqdm import tqdm

from command import atomic_files
from command.errors import UserError, reason
from storage import run_directory

DECAY = 0.99


class Average:
    """Exponentially weighted mean of the values added, without a bias towards zero at the start.

    state: [total, weight] to continue from, changed in place.
    """

    def __init__(self, state: list | None = None):
        self._state = [0.0, 0.0] if state is None else state

    def add(self, value: float) -> float:
        total, weight = self._state
        self._state[:] = [total * DECAY + value, weight * DECAY + 1.0]
        return self._state[0] / self._state[1]


def read_metrics(path: str) -> list[dict]:
    """The rows of a metrics.jsonl, without lines that were cut off; none if there is no file."""
    rows = []
    if os.path.exists(path):
        with open(path, encoding='utf-8', errors='replace') as file:
            for line in file:
                try:
                    row = json.loads(line)
                except ValueError:
                    continue
                if isinstance(row, dict) and 'step' in row:
                    rows.append(row)
    return rows


def compact(value: float, decimals: int, width: int = 5) -> str:
    """A number with as many of these decimals as leave it `width` characters: compact(123.456, 2) -> '123.5'; else '1e+06'."""
    fitting = (text for places in range(decimals, -1, -1) if len(text := f'{value:.{places}f}') <= width)
    return next(fitting, f'{value:.0e}')


class NoLog:
    """The log of a worker other than worker 0: it ignores everything."""

    def _ignore(self, *_, **__) -> None:
        pass

    train = validation = print = close = write_again = _ignore


class Log:
    """Prints `[step | seconds] loss=… avg=…`; writes metrics.jsonl and TensorBoard's scalars into the run directory.

    Continues from `state`: drops rows of later steps, which no checkpoint holds. With last_step, shows a bar with the time
    left on a terminal. log_every: prints its first step, and those that this divides; the files get all steps.
    output_closed: is called once when printing fails.
    """

    def __init__(self, directory: str, state, last_step: int = 0, output_closed: Callable[[], None] = lambda: None,
                 log_every: int = 1):
        import tensorflow.compat.v1 as tf
        self._tf, self._start, self._output_closed, self._log_every = tf, time.time(), output_closed, log_every
        self._average, self._first_step = Average(state.average), state.step + 1
        self._path = os.path.join(directory, run_directory.METRICS)
        rows = [row for row in read_metrics(self._path)
                if row['step'] <= (state.validated if 'val_loss' in row else state.step)]
        self._open(''.join(json.dumps(row) + '\n' for row in rows), state.step)
        self._last_step = last_step if sys.stdout.isatty() else 0
        self._bar = None        # until the first step, before which it has nothing to show

    def _open(self, rows: str, step: int) -> None:
        """Writes these rows to metrics.jsonl, and opens it and a file for TensorBoard for the steps after `step`."""
        try:
            atomic_files.write_text(self._path, rows)
            self._file = open(self._path, 'a+', encoding='utf-8')    # noqa: SIM115  (open until close)
            self._writer = self._tf.summary.FileWriter(os.path.dirname(self._path))
            # Makes TensorBoard drop what an earlier process wrote about later steps.
            self._writer.add_session_log(self._tf.SessionLog(status=self._tf.SessionLog.START), global_step=step + 1)
        except OSError as error:
            raise UserError(f'cannot write {self._path}: {reason(error)}') from None

    def write_again(self, step: int) -> None:
        """Writes metrics.jsonl again, if it was moved or removed; its rows are read from the open file. Raises UserError."""
        if not os.path.exists(self._path):
            self._file.seek(0)
            rows = self._file.read()
            with contextlib.suppress(OSError, self._tf.errors.OpError):     # its file is gone too
                self._writer.close()
            self._file.close()
            self._open(rows, step)

    def train(self, step: int, *, loss: float, learning_rate: float, gradient_norm: float, tokens_per_second: float,
              epoch: float) -> None:
        average = self._average.add(loss)
        if step % self._log_every == 0 or step == self._first_step:
            self._line(step, f'loss={compact(loss, 2)} avg={compact(average, 2)} tokens/s={compact(tokens_per_second, 0, 6)} '
                             f'epoch={compact(epoch, 3)} lr={learning_rate:.2g}')
        self._row(step, loss=loss, learning_rate=learning_rate, gradient_norm=gradient_norm,
                  tokens_per_second=tokens_per_second, epoch=epoch)
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

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._file.close()
        self._writer.close()

    def _line(self, step: int, text: str) -> None:
        self.print(f'[{step} | {compact(time.time() - self._start, 2, width=7)}] {text}')

    def _row(self, step: int, **values: float) -> None:
        try:
            self._file.write(json.dumps({'step': step} | values) + '\n')
            self._file.flush()
            summary = self._tf.Summary(value=[self._tf.Summary.Value(tag=tag, simple_value=value)
                                              for tag, value in values.items()])
            self._writer.add_summary(summary, step)
        except OSError as error:
            raise UserError(f'cannot write {self._path}: {reason(error)}') from None
