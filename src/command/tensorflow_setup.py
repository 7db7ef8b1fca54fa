"""Importing TensorFlow late, without its messages, and its fast settings."""

import contextlib
import os
import signal
import sys
import tempfile
import threading
import types

from command.machine import available_processors

DEFAULT_ENVIRONMENT = {
    'TF_CPP_MIN_LOG_LEVEL': '2',        # errors only
    # Off by default on processors without AVX512-VNNI or AMX, although its matmuls are faster on those too.
    'TF_ENABLE_ONEDNN_OPTS': '1',
}

MAX_SHARDS = 8


def load_tensorflow(devices: bool = True, several: bool = False) -> None:
    """Imports TensorFlow for graphs and sessions. Call it when everything else about a command has been checked.

    devices: whether to look for GPUs now; CUDA_VISIBLE_DEVICES has no effect afterwards. several: for one of several
    workers, also hides the runtime's many messages about a lost worker.

    Environment variables that the user has set are kept. Start-up messages, some of which no setting disables, are
    printed only if the import fails.
    """
    if several:
        os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')      # nothing
    for name, value in DEFAULT_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with _stderr_held_back(), _without_keras():
        import tensorflow.compat.v1 as tf
        if devices:
            tf.config.list_physical_devices()
    tf.logging.set_verbosity(tf.logging.ERROR)
    tf.config.experimental.enable_tensor_float_32_execution(False)      # GPUs would round float32 to it by default
    tf.disable_eager_execution()


def note_loading() -> bool:
    """Prints what takes the next seconds, if standard error is a terminal. Returns whether it is."""
    terminal = sys.stderr is not None and sys.stderr.isatty()
    if terminal:
        print('Loading TensorFlow', file=sys.stderr, flush=True)
    return terminal


@contextlib.contextmanager
def _stderr_held_back():
    """Captures file descriptor 2, also from C++, and prints it only if an exception other than Ctrl-C is raised."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as captured:
        stderr = os.dup(2)
        os.dup2(captured.fileno(), 2)
        try:
            yield
        except Exception:
            captured.seek(0)
            os.write(stderr, captured.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


@contextlib.contextmanager
def _without_keras():
    """Makes TensorFlow's import skip Keras, most of its modules, which no graph here needs. tf.keras works afterwards.

    TensorFlow imports this one module of Keras by its name, and with it all of Keras and what that looks for.
    """
    name = 'keras.src.optimizers'
    if name in sys.modules:
        yield
        return
    sys.modules[name] = types.ModuleType(name)
    try:
        yield
    finally:
        del sys.modules[name]


@contextlib.contextmanager
def ctrl_c_held_back():
    """Delays Ctrl-C until the end of the block, where it raises KeyboardInterrupt. Use it around session.run.

    TensorFlow's C++ code calls Python to read feeds and does not check for exceptions: 2.16 crashed when Ctrl-C raised
    one. Does nothing outside the main thread, which alone receives Ctrl-C, or if SIGINT has another handler than
    Python's.
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
    """How many parts to split layers into that compute few tokens: one per core, at most MAX_SHARDS; 1 with a GPU."""
    import tensorflow.compat.v1 as tf
    return 1 if tf.config.list_physical_devices('GPU') else min(available_processors(), n_head, MAX_SHARDS)


def open_session(graph=None, config=None, target: str = ''):
    """A session for a graph, or the current one. All sessions are opened here, so that each has such a config.

    config: of session_config, which it is by default. target: of a server; '' for this process.
    """
    import tensorflow.compat.v1 as tf
    return tf.Session(target, graph=graph, config=session_config() if config is None else config)


def make_callable(session, fetches: list, feeds: list):
    """A function of a value for each feed that returns a list of the fetched arrays.

    Session.make_callable with a feed_list calls Session.run, which prepares feeds and fetches in Python: up to a millisecond.
    """
    import numpy as np
    from tensorflow.core.protobuf.config_pb2 import CallableOptions
    run = session._make_callable_from_options(CallableOptions(feed=[tensor.name for tensor in feeds],
                                                              fetch=[tensor.name for tensor in fetches]))
    dtypes = [tensor.dtype.as_numpy_dtype for tensor in feeds]
    return lambda *values: run(*(np.asarray(value, dtype) for value, dtype in zip(values, dtypes, strict=True)))


def session_config(shards: int = 1):
    """A ConfigProto that allocates GPU memory on demand, and on CPUs runs one op at a time per shard.

    On CPUs, two large ops at a time compete for caches and memory bandwidth, and keep more tensors alive. Graph
    rewriting is off: it makes steps no faster, and the first one seconds later. Shards divide the cores; the first
    session or program of a process sets how many an op may use.
    """
    import tensorflow.compat.v1 as tf
    config = tf.ConfigProto()
    config.gpu_options.allow_growth = True
    if not tf.config.list_physical_devices('GPU'):
        config.device_count['GPU'] = 0      # or a driver without CUDA libraries ends TensorFlow 2.21's sessions in an error
        config.inter_op_parallelism_threads = shards
        if shards > 1:
            config.intra_op_parallelism_threads = max(available_processors() // shards, 1)
        config.graph_options.rewrite_options.disable_meta_optimizer = True
    return config
