"""Saving and restoring the weights: TensorFlow's checkpoints, and the files that make a run a model directory."""

import contextlib
import os
import shutil

import tensorflow.compat.v1 as tf

import model_dir
from errors import UserError


def restore(session: tf.Session, prefix: str, weights: list) -> bool:
    """Restores every variable of the graph from the checkpoint `prefix`, or `weights` alone if it holds no more.

    Shapes are compared first. Returns whether all were restored, the optimizer's state included. Raises UserError that
    names the variable if the checkpoint belongs to another model, or the file if it is damaged.
    """
    with _named_in_errors(prefix):
        stored = checked_shapes(prefix, weights)
        everything = tf.global_variables()
        complete = all(stored.get(v.op.name) == v.shape.as_list() for v in everything)
        tf.train.Saver(everything if complete else weights).restore(session, prefix)
    return complete


@contextlib.contextmanager
def _named_in_errors(prefix: str):
    """Turns what TensorFlow raises for a damaged checkpoint into a UserError that names it."""
    try:
        yield
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise UserError(f'cannot read the checkpoint {prefix}: {str(error).splitlines()[0]}') from None


def checked_shapes(prefix: str, weights: list) -> dict:
    """Name -> shape of all that a checkpoint holds. Raises UserError unless it holds these weights, in these shapes."""
    stored = tf.train.load_checkpoint(prefix).get_variable_to_shape_map()
    for variable in weights:
        name, shape = variable.op.name, variable.shape.as_list()
        if name not in stored:
            raise UserError(f'{prefix} is a checkpoint of another model: it holds no {name}')
        if stored[name] != shape:
            raise UserError(f'{prefix} is a checkpoint of another model: {name} is {stored[name]} there, {shape} here')
    blocks = {name.split('/')[1] for name in stored if name.startswith('model/h')}
    if extra := blocks - {variable.op.name.split('/')[1] for variable in weights}:
        raise UserError(f'{prefix} is a checkpoint of a larger model: it holds model/{min(extra)} too')
    return stored


class Run:
    """The directory of a training run: numbered checkpoints, the step counter, and a model directory's other files."""

    def __init__(self, directory: str, from_model_dir: str, keep: int = 5):
        self.directory = directory
        self._saver = tf.train.Saver(tf.global_variables(), max_to_keep=keep)
        for name in model_dir.SETTING_FILES:
            if not os.path.exists(os.path.join(directory, name)):
                shutil.copyfile(os.path.join(from_model_dir, name), os.path.join(directory, name))

    def save(self, session: tf.Session, step: int) -> None:
        prefix = os.path.join(self.directory, 'model')
        print(f'Saving {prefix}-{step}', flush=True)
        self._saver.save(session, prefix, global_step=step)
        with open(os.path.join(self.directory, 'counter'), 'w', encoding='utf-8') as file:
            file.write(f'{step}\n')


def save_model(session: tf.Session, directory: str, from_checkpoint: str | None = None) -> None:
    """Writes the graph's variables as a model directory's `model.ckpt`, after restoring them if a prefix is given."""
    saver = tf.train.Saver()
    if from_checkpoint:
        with _named_in_errors(from_checkpoint):
            checked_shapes(from_checkpoint, tf.trainable_variables())
            saver.restore(session, from_checkpoint)
    saver.save(session, os.path.join(directory, 'model.ckpt'), strip_default_attrs=True)
