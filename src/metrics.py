"""What a run tells: one line for each step on standard output, and scalars for TensorBoard."""

import time

import tensorflow.compat.v1 as tf

DECAY = 0.99


class Average:
    """Exponentially weighted mean of the values added; not biased towards zero at the start."""

    def __init__(self):
        self._total = self._weight = 0.0

    def add(self, value: float) -> float:
        self._total = self._total * DECAY + value
        self._weight = self._weight * DECAY + 1.0
        return self._total / self._weight


class Log:
    """Prints `[step | seconds] loss=… avg=… lr=… norm=…` and writes TensorBoard scalars into the run directory."""

    def __init__(self, directory: str):
        self._start = time.time()
        self._average = Average()
        self._writer = tf.summary.FileWriter(directory)

    def train(self, step: int, *, loss: float, learning_rate: float, gradient_norm: float) -> None:
        self._line(step, f'loss={loss:.2f} avg={self._average.add(loss):.2f} lr={learning_rate:.3g} '
                         f'norm={gradient_norm:.2f}')
        self._scalars(step, loss=loss, learning_rate=learning_rate, gradient_norm=gradient_norm)

    def validation(self, step: int, loss: float) -> None:
        self._line(step, f'validation loss = {loss:.2f}')
        self._scalars(step, val_loss=loss)

    def close(self) -> None:
        self._writer.close()

    def _line(self, step: int, text: str) -> None:
        print(f'[{step} | {time.time() - self._start:.2f}] {text}', flush=True)

    def _scalars(self, step: int, **values: float) -> None:
        self._writer.add_summary(tf.Summary(value=[tf.Summary.Value(tag=tag, simple_value=value)
                                                   for tag, value in values.items()]), step)
