"""Importing TensorFlow: late, quietly, and with the settings that are fast here."""

import contextlib
import os
import signal
import sys
import tempfile
import threading

from command.machine import available_processors

DEFAULT_ENVIRONMENT = {
    'TF_CPP_MIN_LOG_LEVEL': '2',        # errors only
    # Off by default on processors without AVX512-VNNI or AMX, although its matmuls are faster on those too.
    'TF_ENABLE_ONEDNN_OPTS': '1',
}

MOST_SHARDS = 8


def load_tensorflow(devices: bool = True, several: bool = False) -> None:
    """Imports TensorFlow for graphs and sessions, and lets it look for GPUs: once all else about a command is good.

    Which GPUs it may see is settled when it first looks; devices=False puts that off. several: that this is one of several
    workers, where the runtime has much to say, and nothing of use, when one is lost.

    What the user has set in the environment stays. The libraries' start-up chatter, part of which no setting turns off,
    is held back, and shown only if the import fails.
    """
    if several:
        os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')      # nothing
    for name, value in DEFAULT_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with _stderr_held_back():
        import tensorflow.compat.v1 as tf
        if devices:
            tf.config.list_physical_devices()
    tf.logging.set_verbosity(tf.logging.ERROR)
    tf.disable_eager_execution()


@contextlib.contextmanager
def _stderr_held_back():
    """Holds back what is written to file descriptor 2, C++ libraries included; an error lets it through, Ctrl-C does not."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as chatter:
        real = os.dup(2)
        os.dup2(chatter.fileno(), 2)
        try:
            yield
        except Exception:
            chatter.seek(0)
            os.write(real, chatter.read())
            raise
        finally:
            os.dup2(real, 2)
            os.close(real)


@contextlib.contextmanager
def ctrl_c_held_back():
    """Ctrl-C within it becomes a KeyboardInterrupt at its end; around each run of a session that it may reach.

    Where TensorFlow takes feeds apart, its C++ code calls Python and does not look whether that raised: 2.16 was seen to crash
    so. A handler of one's own for SIGINT stays, and in other threads than the main one there is no Ctrl-C.
    """
    default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not default or threading.current_thread() is not threading.main_thread():
        yield
        return
    received = []
    signal.signal(signal.SIGINT, lambda *_: received.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if received:
        raise KeyboardInterrupt


def shards_for(n_head: int) -> int:
    """How many ways to cut a network that is run for few tokens: one for each core, MOST_SHARDS at most; 1 with a GPU."""
    import tensorflow.compat.v1 as tf
    return 1 if tf.config.list_physical_devices('GPU') else min(available_processors(), n_head, MOST_SHARDS)


def session_config(shards: int = 1):
    """A ConfigProto that takes GPU memory as it is needed, and on CPUs runs one op at a time for each shard, on all cores.

    Two large ops side by side share caches and memory bandwidth, and keep more tensors alive than one after the other.
    Nor does rewriting the graph pay there: the steps are as fast without, the first one seconds sooner. With shards, each
    has its share of the cores; how many an op may use is settled by the first session of a process, or its first program.
    """
    import tensorflow.compat.v1 as tf
    config = tf.ConfigProto()
    config.gpu_options.allow_growth = True
    if not tf.config.list_physical_devices('GPU'):
        config.inter_op_parallelism_threads = shards
        if shards > 1:
            config.intra_op_parallelism_threads = max(available_processors() // shards, 1)
        config.graph_options.rewrite_options.disable_meta_optimizer = True
    return config
