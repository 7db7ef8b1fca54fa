"""How long a training step takes, measured by making a few."""

import dataclasses
import statistics
import time

import tensorflow.compat.v1 as tf

from command.errors import UserError
from command.tensorflow_setup import ctrl_c_held_back
from corpus.batches import draw_batch
from training.graph import TrainingGraph
from training.job import Job
from workers.collectives import Workers


def seconds_of_step(job: Job, steps: int) -> float:
    """The median time of some steps with a run's own settings, in seconds, after one that is not counted. Nothing is kept.

    They start from the run's checkpoint, or from random weights if its model is not here. Raises UserError if memory runs out.
    """
    settings = dataclasses.replace(job.settings, val_every=0, sample_every=0)
    seconds = []
    try:
        graph = TrainingGraph(dataclasses.replace(job, settings=settings), Workers())
        with ctrl_c_held_back():
            if job.checkpoint:
                graph.restore()
            else:
                graph.initialize()
        for _ in range(1 + steps):
            rows = [draw_batch(job.train, settings.batch_size, settings.seq_length) for _ in range(settings.accumulate_gradients)]
            batches = [(row, row, [0, 0]) for row in rows]      # the dropout's masks may be any
            start = time.perf_counter()
            with ctrl_c_held_back():
                graph.update(batches, settings.learning_rate, stop=False, scale=job.state.loss_scale)
            seconds.append(time.perf_counter() - start)
        graph.session.close()
    except tf.errors.ResourceExhaustedError:
        raise UserError('--measure_steps: out of memory; the plan names flags that take less') from None
    return statistics.median(seconds[1:])
