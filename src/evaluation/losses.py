"""The loss of a model on a corpus, by sliding windows."""

import itertools
import math

import tensorflow.compat.v1 as tf
from tqdm import tqdm

import model
from command.errors import UserError
from command.tensorflow_setup import ctrl_c_held_back, open_session
from corpus import windows
from corpus.chunks import Chunk
from network import block_sizes
from network.head_loss import head_loss
from sampling.scores import diverged
from storage import saver
from storage.model_directory import Model


class Evaluation:
    """A graph that scores windows of `length` tokens, `stride` apart (see corpus.windows), with the weights of a model.

    Scores batch_size windows at a time, and keeps at most block_sizes.head_rows of logits. Raises UserError if the
    checkpoint is damaged, or belongs to another model.
    """

    def __init__(self, opened: Model, *, length: int, stride: int, batch_size: int):
        self._length, self._stride, self._batch_size = length, stride, batch_size
        with tf.Graph().as_default() as graph:
            self._batch = windows.Batch(*(tf.placeholder(dtype, [None, length])
                                          for dtype in (tf.int32, tf.int32, tf.float32)))
            output = model.model(opened.hparams, self._batch.inputs)
            self._losses = {width: self._summed_loss(output, width) for width in {length, stride}}
            self._session = open_session(graph)
            saver.restore(self._session, opened.checkpoint, tf.trainable_variables())
        graph.finalize()

    def _summed_loss(self, output: dict, width: int) -> tf.Tensor:
        """Sum of weight * cross-entropy over the last `width` predictions of each window, in nats; float64."""
        rows = block_sizes.head_rows(block_sizes.gpu(), output['wte'].shape.as_list()[0])
        step = max(rows // self._batch_size, 1)     # positions of each window at a time
        losses = []
        for start in range(self._length - width, self._length, step):
            positions = slice(start, min(start + step, self._length))
            with tf.control_dependencies(losses[-1:]):
                hidden = tf.reshape(output['hidden'][:, positions], [-1, output['hidden'].shape.as_list()[-1]])
            loss = head_loss(hidden, output['wte'], tf.reshape(self._batch.labels[:, positions], [-1]),
                             tf.reshape(self._batch.weights[:, positions], [-1]), differentiable=False)
            losses.append(tf.cast(loss, tf.float64))
        return tf.add_n(losses)

    def total_loss(self, chunks: list[Chunk]) -> float:
        """Sum of the losses of all scored tokens of a corpus: minus the logarithm of their probability, in nats.

        Shows a bar if standard error is a terminal. Raises UserError if memory runs out, or the loss is NaN or infinite.
        """
        length, stride = self._length, self._stride
        kinds = [(length, windows.first_windows(chunks, length)), (stride, windows.later_windows(chunks, length, stride))]
        batches = itertools.chain.from_iterable(
            zip(itertools.repeat(width), windows.batches(some, length, self._batch_size)) for width, some in kinds)
        total = 0.0
        with tqdm(total=windows.scored_tokens(chunks), unit='token', unit_scale=True, leave=False, disable=None) as bar:
            for width, batch in batches:
                try:
                    with ctrl_c_held_back():
                        total += float(self._session.run(self._losses[width], dict(zip(self._batch, batch))))
                except tf.errors.ResourceExhaustedError:
                    raise UserError(f'out of memory with --batch_size {self._batch_size} and --seq_length {length}: give a '
                                    'smaller --batch_size, then a smaller --seq_length') from None
                bar.update(int(batch.weights.sum()))
        if not math.isfinite(total):
            raise diverged(total)
        return total
