"""TensorBoard's event files of a run: losses, samples as text, flags."""

import contextlib
import glob
import os
import socket
import time
from collections.abc import Iterator

import tensorflow.compat.v1 as tf
from google.protobuf.message import DecodeError
from tensorboard.plugins.hparams import api_pb2, summary, summary_v2  # not api, which imports Keras
from tensorboard.summary.v1 import text_pb

from command import atomic_files
from storage.run_directory import EVENTS, VALIDATION
from training.record import MATHEMATICS

# TensorBoard sorts its cards by tag: the losses come first. `loss` and `val_loss` are the tags of 2019.
TAGS = {'learning_rate': 'optimizer/learning_rate', 'gradient_norm': 'optimizer/gradient_norm',
        'loss_scale': 'optimizer/loss_scale', 'skipped': 'optimizer/skipped',
        'tokens_per_second': 'progress/tokens_per_second', 'epoch': 'progress/epoch'}
FLAGS = ('dataset', *MATHEMATICS, 'seed', 'max_steps', 'epochs')    # as many as can be compared in a table
FLAGS_FILE = f'{EVENTS}.0.flags'


class Events:
    """Writes what TensorBoard shows of a run, from the step after `step` on.

    The validation loss has the tag of the training loss in a subdirectory: TensorBoard shows both in one card. The flags are in
    a file of their own, which each start writes again: TensorBoard takes the first ones that it reads. Every method raises
    OSError or tf.errors.OpError if it cannot write.
    """

    def __init__(self, directory: str, step: int, flags: dict):
        self._directory, self._step = directory, step
        self._flags = {name: _flag(flags[name]) for name in FLAGS if flags.get(name) is not None}
        self._name = f'{EVENTS}.{int(time.time())}.{socket.gethostname()}.{os.getpid()}.{step}'
        self._writers = {}
        self._write_flags()
        for place in ['', VALIDATION] if flags.get('val_every') else ['']:
            self._writer(place)

    def row(self, row: dict) -> None:
        """Adds the numbers of a row of metrics.jsonl."""
        values = {name: value for name, value in row.items() if name != 'step'}
        self._scalars('', row['step'], {TAGS.get(name, name): value for name, value in values.items()})
        if 'val_loss' in values:
            self._scalars(VALIDATION, row['step'], {'loss': values['val_loss']})

    def samples(self, step: int, text: str) -> None:
        """Adds a text, which TensorBoard shows as it is: it renders Markdown, where an indented block is literal."""
        block = ''.join(f'    {line}\n' for line in text.replace('\r\n', '\n').replace('\r', '\n').split('\n'))
        self._add('', step, tf.Summary.FromString(text_pb('samples', block).SerializeToString()))

    def close(self, failed: bool = False) -> None:
        """Closes the files, and records how the run ended, unless the directory is another one now."""
        for writer in self._writers.values():
            writer.close()
        if os.path.exists(os.path.join(self._directory, self._name)):
            self._write_flags(summary.session_end_pb(api_pb2.STATUS_FAILURE if failed else api_pb2.STATUS_SUCCESS))

    def _write_flags(self, *more) -> None:
        with tf.io.TFRecordWriter(os.path.join(self._directory, FLAGS_FILE)) as writer:
            writer.write(_event(file_version='brain.Event:2'))
            for each in (summary_v2.hparams_pb(self._flags, trial_id=_flag(self._directory)), *more):
                writer.write(_event(summary=tf.Summary.FromString(each.SerializeToString())))

    def _scalars(self, place: str, step: int, values: dict[str, float]) -> None:
        self._add(place, step, tf.Summary(value=[tf.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]))

    def _add(self, place: str, step: int, content) -> None:
        writer = self._writer(place)
        writer.write(_event(step=step, summary=content))
        writer.flush()

    def _writer(self, place: str):
        """The writer of the run's own file, or of that of a subdirectory."""
        if place not in self._writers:
            directory = os.path.join(self._directory, place) if place else self._directory
            with contextlib.suppress(FileExistsError):
                os.mkdir(directory)
            writer = self._writers[place] = tf.io.TFRecordWriter(os.path.join(directory, self._name))
            writer.write(_event(file_version='brain.Event:2'))
            # Makes a TensorBoard that is running drop what it has read about later steps.
            writer.write(_event(step=self._step + 1, session_log=tf.SessionLog(status=tf.SessionLog.START)))
            writer.flush()
        return self._writers[place]


def remove_after(directory: str, step: int) -> None:
    """Removes what the event files of a run hold about later steps. Raises OSError or UserError."""
    places = [directory, os.path.join(directory, VALIDATION)]
    for path in [path for place in places for path in glob.glob(os.path.join(glob.escape(place), f'{EVENTS}.*'))]:
        records = list(_records(path))
        kept = [record for record, event in records if event.step <= step]
        if len(kept) < len(records):
            with atomic_files.replacing(path) as file:
                file.writelines(kept)


def _records(path: str) -> Iterator[tuple[bytes, tf.Event]]:
    """Yields the records of an event file, as they are in the file and parsed, up to where it is cut off or damaged.

    Format: TensorFlow's TFRecord. The length of the data in 8 bytes, its checksum in 4, the data, and its checksum in 4.
    """
    with open(path, 'rb') as file, contextlib.suppress(DecodeError):
        while len(header := file.read(12)) == 12:
            length = int.from_bytes(header[:8], 'little')
            rest = file.read(min(length, os.path.getsize(path)) + 4)
            if len(rest) < length + 4:
                return
            yield header + rest, tf.Event.FromString(rest[:length])


def _event(**fields) -> bytes:
    return tf.Event(wall_time=time.time(), **fields).SerializeToString()


def _flag(value: object) -> bool | float | str:
    """A flag as TensorBoard takes it: a truth value, a number or a text, without the lone surrogates of odd file names."""
    if isinstance(value, (bool, int, float)):
        return value
    return (' '.join(value) if isinstance(value, (list, tuple)) else str(value)).encode(errors='backslashreplace').decode()
