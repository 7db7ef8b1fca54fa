"""A plot of a run: training and validation loss over its steps."""

import os

from command.errors import UserError
from storage import run_directory
from training.metrics import Average, read_metrics

HINT = '--plot needs matplotlib: pip install matplotlib'


def check() -> None:
    """Raises UserError if matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UserError(HINT) from None


def plot_losses(directory: str) -> str:
    """Draws a run's metrics.jsonl into loss.png, next to it. Returns the path of the picture."""
    from matplotlib.figure import Figure
    rows = read_metrics(os.path.join(directory, run_directory.METRICS))
    training = [(row['step'], row['loss']) for row in rows if 'loss' in row]
    validation = [(row['step'], row['val_loss']) for row in rows if 'val_loss' in row]
    average = Average()
    figure = Figure(figsize=(8, 5), layout='constrained')
    axes = figure.subplots()
    if training:
        steps, losses = zip(*training)
        axes.plot(steps, losses, color='tab:blue', alpha=0.3, label='training, each step')
        axes.plot(steps, [average.add(loss) for loss in losses], color='tab:blue', label='training, running average')
    if validation:
        axes.plot(*zip(*validation), color='tab:orange', marker='o', markersize=3, label='validation')
    axes.set(xlabel='step', ylabel='loss (nats per token)', title=os.path.basename(os.path.normpath(directory)))
    axes.grid(alpha=0.3)
    axes.legend()
    path = os.path.join(directory, 'loss.png')
    figure.savefig(path, dpi=120)
    return path
