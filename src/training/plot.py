"""A plot of a run: training and validation loss over its steps."""

import itertools
import os
from collections.abc import Sequence

from command.errors import UserError
from storage import run_directory
from training.rows import read_metrics

HINT = '--plot needs matplotlib: pip install matplotlib'


def check() -> None:
    """Raises UserError if matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UserError(HINT) from None


def smooth(values: Sequence[float]) -> list[float]:
    """The mean of the values around each: as many before it as after it, so that a falling curve is not shown too late.

    That is a fortieth of all on either side, fewer near the first one, and none after the last.
    """
    sums = [0.0, *itertools.accumulate(values)]
    smoothed = []
    for i in range(len(values)):
        reach = min(i, len(values) // 40)
        end = min(i + reach + 1, len(values))
        smoothed.append((sums[end] - sums[i - reach]) / (end - i + reach))
    return smoothed


def plot_losses(directory: str) -> str:
    """Draws a run's metrics.jsonl into loss.png, next to it. Returns the path of the picture."""
    from matplotlib.figure import Figure
    rows = read_metrics(os.path.join(directory, run_directory.METRICS))
    training = [(row['step'], row['loss']) for row in rows if 'loss' in row]
    validation = [(row['step'], row['val_loss']) for row in rows if 'val_loss' in row]
    figure = Figure(figsize=(8, 5), layout='constrained')
    axes = figure.subplots()
    if training:
        steps, losses = zip(*training)
        axes.plot(steps, losses, color='tab:blue', alpha=0.3, label='training, each step')
        axes.plot(steps, smooth(losses), color='tab:blue', label='training, average of the steps around')
    if validation:
        axes.plot(*zip(*validation), color='tab:orange', marker='o', markersize=3, label='validation')
    axes.set(xlabel='step', ylabel='loss (nats per token)', title=os.path.basename(os.path.normpath(directory)))
    axes.grid(alpha=0.3)
    axes.legend()
    path = os.path.join(directory, 'loss.png')
    figure.savefig(path, dpi=120)
    return path
