"""Saves and restores weights with TensorFlow."""

import contextlib
import os
from collections.abc import Iterable, Sequence

import numpy as np
import tensorflow.compat.v1 as tf
from tqdm import tqdm

from command import atomic_files, models
from command.errors import UserError, reason
from command.read_files import read_bytes
from network.quantize import SCALE, quantize
from storage import adapters, checkpoints, run_state
from storage.run_directory import ADAPTER
from storage.run_state import RunState
from storage.weights import Weights

# Attributes of ops that TensorFlow 1.15 does not know, and refuses to import.
NEW_ATTRIBUTES = {'VarHandleOp': 'debug_name', 'AssignVariableOp': 'validate_shape'}
TOGETHER = 2 ** 26     # bytes of values that variables are set to together
READS = 3       # a Saver holds all it reads in memory until it has read the last tensor, so several each read a part


def restore(session: tf.Session, prefix: str, weights: list, variables: list | None = None) -> bool:
    """Restores all variables (None: of the graph) from the checkpoint `prefix`, or only `weights` if it lacks others.

    Returns whether all were restored, the optimizer's state included. From a checkpoint of adapters it restores complete weights,
    merged with their base, one at a time; or, if `weights` are adapters, these. Raises UserError that names the variable if the
    checkpoint belongs to another model, or the file if it is damaged.
    """
    with session.graph.as_default():
        stored = Weights(prefix, shapes_of(weights))
        if stored.merges(weights[0].op.name):
            load(session, ((weight, stored.read(weight.op.name)) for weight in weights))
            return False
        with named_in_errors(prefix):
            everything = tf.global_variables() if variables is None else variables
            complete = all(stored.shapes.get(v.op.name) == v.shape.as_list() for v in everything)
            variables = everything if complete else weights
            # All before the first runs: a session that runs a graph which has grown takes in the complete graph again.
            for part in [tf.train.Saver(variables[start::READS]) for start in range(min(READS, len(variables)))]:
                part.restore(session, prefix)
    return complete


def restore_smaller(session: tf.Session, prefix: str, variables: list) -> None:
    """Restores weights, those into which they are quantized included, from a checkpoint of float32 ones, one at a time.

    variables: some in float32, some in another type, those in int8 with their scales (see network.quantize). Raises UserError as
    restore does.
    """
    by_name = {variable.op.name: variable for variable in variables}
    scales = {name: by_name.pop(f'{name}{SCALE}') for name, variable in [*by_name.items()] if variable.dtype == tf.int8}
    stored = Weights(prefix, shapes_of(by_name.values()))

    def values():
        for name, variable in tqdm(by_name.items(), unit='weight', delay=1, leave=False, disable=None):
            value = stored.read(name)
            if name in scales:
                value, scale = quantize(value, inputs=-2)
                yield scales[name], scale
            yield variable, value.astype(variable.dtype.as_numpy_dtype, copy=False)

    load(session, values())


def load(session: tf.Session, values: Iterable[tuple[tf.Variable, np.ndarray]]) -> None:
    """Sets variables to values, some at a time: TensorFlow keeps a copy of the graph for each set of ops that it is asked for."""
    feeds, size = {}, 0
    for variable, value in values:
        feeds[variable], size = value, size + value.nbytes
        if size >= TOGETHER:
            initialize(session, feeds)
            feeds, size = {}, 0
    initialize(session, feeds)


def initialize(session: tf.Session, values: dict) -> None:
    """Sets variables to values, all at once."""
    session.run([variable.initializer for variable in values],
                {variable.initializer.inputs[1]: value for variable, value in values.items()})


@contextlib.contextmanager
def named_in_errors(prefix: str):
    """Turns TensorFlow's errors about a damaged checkpoint into a UserError that names it."""
    try:
        yield
    except (tf.errors.OpError, ValueError, RuntimeError, IndexError) as error:     # IndexError: a file that is too short
        raise UserError(f'cannot read the checkpoint {prefix}: {_cause(error)}') from None


def _cause(error: Exception) -> str:
    """The system's text of an OSError; of TensorFlow's message the line above the node in which it happened."""
    if isinstance(error, OSError):
        return reason(error)
    lines = str(getattr(error, 'message', error)).splitlines()
    node = next((i for i, line in enumerate(lines) if line.startswith('\t [[{{node')), 1)
    return lines[node - 1]


def shapes_of(variables: list) -> dict[str, list[int]]:
    """Name -> shape of variables."""
    return {variable.op.name: variable.shape.as_list() for variable in variables}


def meta_graph(saver: tf.train.Saver) -> bytes:
    """The content of a .meta file: the current graph, in a form that TensorFlow 1.15 can import too."""
    meta = saver.export_meta_graph(strip_default_attrs=True)
    for nodes in [meta.graph_def.node, *(function.node_def for function in meta.graph_def.library.function)]:
        for node in nodes:
            node.attr.pop(NEW_ATTRIBUTES.get(node.op, ''), None)
    return meta.SerializeToString()


class RunSaver:
    """Writes a training run's numbered checkpoints, and the files that make its directory a model directory too.

    keep: how many checkpoints stay, the last written; 0 for all. keep_best: that of the best validation stays in addition.
    variables: those that a checkpoint holds; None: all. of: what these are added to, if they are adapters.
    """

    def __init__(self, directory: str, from_model_dir: str, keep: int = 5, keep_best: bool = False,
                 variables: list | None = None, of: adapters.Adapters | None = None):
        self.directory, self._keep, self._keep_best = directory, keep, keep_best
        self._saver = tf.train.Saver(tf.global_variables() if variables is None else variables, max_to_keep=0)
        self._adapters = of and of.text(directory).encode()
        self._meta_graph = meta_graph(self._saver)
        self._setting_files = {name: read_bytes(os.path.join(from_model_dir, name))
                               for name in ('hparams.json', *models.vocabulary_files(from_model_dir))}

    def write_setting_files(self) -> None:
        """Writes the model's sizes and vocabulary into the directory, where they are missing, and what its adapters are for.

        Raises UserError or OSError.
        """
        for name, content in self._setting_files.items():
            if not os.path.exists(path := os.path.join(self.directory, name)):
                with atomic_files.replacing(path) as file:
                    file.write(content)
        # A start that ended before its first checkpoint may have left one that names another base.
        if self._adapters:
            with atomic_files.replacing(os.path.join(self.directory, ADAPTER)) as file:
                file.write(self._adapters)

    def save(self, session: tf.Session, state: RunState) -> None:
        """Writes a checkpoint completely to disk, then names it in `checkpoint`. `remove_outdated` removes older ones.

        Raises UserError if that fails. The earlier checkpoint then stays the newest, and this one is removed unless it is
        complete.
        """
        prefix = os.path.join(self.directory, f'model-{state.step}')
        try:
            self._saver.save(session, prefix, write_state=False, write_meta_graph=False)
            with open(f'{prefix}.meta', 'wb') as file:
                file.write(self._meta_graph)
            for suffix in run_state.SUFFIXES:
                atomic_files.sync(prefix + suffix)
            run_state.write(prefix, state)
        except (OSError, UserError, tf.errors.OpError) as error:
            with contextlib.suppress(OSError):
                checkpoints.clean(self.directory)
                if checkpoints.latest_checkpoint(self.directory) != prefix:
                    checkpoints.remove_checkpoint(prefix)
            kept = checkpoints.latest_checkpoint(self.directory)
            raise UserError(f'cannot save {prefix}: {_cause(error)}; '
                            f'{f"{kept} is unchanged" if kept else "there is no earlier checkpoint"}') from None
        atomic_files.sync_directory(self.directory)
        try:
            self._name_newest(state.step)
        except (OSError, UserError) as error:
            raise UserError(f'{prefix} is complete, but the earlier checkpoints cannot be replaced: {_cause(error)}; '
                            f'--restore_from {state.step} continues from it') from None

    def remove_outdated(self, step: int, best_step: int) -> None:
        """Removes checkpoints that are too many now that there is that of `step`, the newest. Raises UserError."""
        outdated = checkpoints.outdated(self.directory, self._keep, {step} | ({best_step} if self._keep_best else set()))
        if outdated:
            self._remove(outdated, newest=step)

    def discard(self, step: int, newest: int) -> None:
        """Removes the checkpoint of `step`, and names that of step `newest` instead; 0 if there is none. Raises UserError."""
        self._remove([os.path.join(self.directory, f'model-{step}')], newest)

    def _remove(self, prefixes: list[str], newest: int) -> None:
        """Removes checkpoints, which the file `checkpoint` names no more by then."""
        try:
            self._name_newest(newest, prefixes)
            for prefix in prefixes:
                checkpoints.remove_checkpoint(prefix)
        except OSError as error:
            raise UserError(f'cannot remove checkpoints in {self.directory}: {reason(error)}') from None

    def _name_newest(self, step: int, removed: Sequence[str] = ()) -> None:
        """Names a checkpoint in `checkpoint` and `counter`, and lists those that stay. Step 0, for none, removes both files."""
        kept = [os.path.basename(path) for path in checkpoints.list_checkpoints(self.directory) if path not in removed]
        paths = [os.path.join(self.directory, name) for name in ('checkpoint', 'counter')]
        if not step:
            for path in paths:
                os.remove(path)
            return
        lines = [f'model_checkpoint_path: "model-{step}"', *(f'all_model_checkpoint_paths: "{name}"' for name in kept)]
        for path, text in zip(paths, ('\n'.join(lines), f'{step}')):
            atomic_files.write_text(path, f'{text}\n')


def save_model(session: tf.Session, directory: str, from_checkpoint: str | None = None) -> None:
    """Writes the graph's variables as a model directory's `model.ckpt`, after restoring them if a checkpoint is given.

    Raises UserError that names the directory if it cannot be written.
    """
    saver = tf.train.Saver(save_relative_paths=True)        # in `checkpoint`: the directory may be renamed
    if from_checkpoint:
        restore(session, from_checkpoint, tf.trainable_variables())
    try:
        prefix = saver.save(session, os.path.join(directory, 'model.ckpt'), write_meta_graph=False)
        with open(f'{prefix}.meta', 'wb') as file:
            file.write(meta_graph(saver))
    except OSError as error:
        raise UserError(f'cannot write {directory}: {reason(error)}') from None
    except tf.errors.OpError as error:
        raise UserError(f'cannot write {directory}: {_cause(error).rpartition("; ")[2]}') from None     # without the file's name
