"""Ctrl-C while TensorFlow is running or being imported, its messages, and its settings."""

import ast
import concurrent.futures
import os
import signal
import subprocess
import sys
import types

import numpy as np
import pytest

import layout
from command import tensorflow_setup
from command.stop_signal import StopSignal
from command.tensorflow_setup import _stderr_held_back, ctrl_c_held_back


def test_ctrl_c_takes_effect_at_the_end():
    done = False
    with pytest.raises(KeyboardInterrupt), ctrl_c_held_back():
        signal.raise_signal(signal.SIGINT)
        done = True
    assert done
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_an_error_in_the_block_is_raised():
    with pytest.raises(ValueError, match='within'), ctrl_c_held_back():
        raise ValueError('within')
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_another_handler_is_kept():
    with StopSignal() as stop, ctrl_c_held_back():
        signal.raise_signal(signal.SIGINT)
        assert stop.received == 'SIGINT'


def test_other_threads_do_not_receive_ctrl_c():
    def run():
        with ctrl_c_held_back():
            return 'ran'
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert pool.submit(run).result() == 'ran'


@pytest.mark.parametrize(('error', 'printed'), [(ImportError, 'message\n'), (KeyboardInterrupt, '')])
def test_messages_are_printed_after_an_error_but_not_after_ctrl_c(capfd, error, printed):
    with pytest.raises(error), _stderr_held_back():
        os.write(2, b'message\n')
        raise error
    assert capfd.readouterr().err == printed


def test_messages_are_dropped_without_an_error(capfd):
    with _stderr_held_back():
        os.write(2, b'message\n')
    os.write(2, b'after\n')
    assert capfd.readouterr().err == 'after\n'


@pytest.mark.parametrize(('gpus', 'cores', 'shards'), [([], 4, 4), ([], 64, 8), ([], 1, 1), (['GPU:0'], 64, 1)])
def test_shards_and_threads(tf, monkeypatch, gpus, cores, shards):
    monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind: gpus if kind == 'GPU' else [])
    monkeypatch.setattr(tensorflow_setup, 'available_processors', lambda: cores)
    assert tensorflow_setup.shards_for(12) == shards
    assert tensorflow_setup.shards_for(2) == min(shards, 2)
    config = tensorflow_setup.session_config(shards)
    assert tensorflow_setup.session_config() == tensorflow_setup.session_config(1)
    assert config.gpu_options.allow_growth
    assert config.inter_op_parallelism_threads == (0 if gpus else shards)       # 0: as TensorFlow chooses
    assert config.intra_op_parallelism_threads == (cores // shards if shards > 1 else 0)
    assert config.graph_options.rewrite_options.disable_meta_optimizer == (not gpus)


@pytest.mark.parametrize(('several', 'given', 'level'), [(False, None, '2'), (True, None, '3'), (True, '0', '0')])
def test_environment_variables_of_the_user_are_kept(tf, monkeypatch, several, given, level):
    for name in tensorflow_setup.DEFAULT_ENVIRONMENT:
        monkeypatch.setenv(name, 'x')       # so that they are restored afterwards
        monkeypatch.delenv(name)
    if given:
        monkeypatch.setenv('TF_CPP_MIN_LOG_LEVEL', given)
    tensorflow_setup.load_tensorflow(**{'several': True} if several else {})
    assert os.environ['TF_CPP_MIN_LOG_LEVEL'] == level
    assert os.environ['TF_ENABLE_ONEDNN_OPTS'] == '1'


def test_gpus_are_looked_for_unless_it_is_too_early(tf, monkeypatch):
    looked = []
    monkeypatch.setattr(tf.config, 'list_physical_devices', lambda: looked.append(True))
    tensorflow_setup.load_tensorflow(devices=False)
    assert not looked
    tensorflow_setup.load_tensorflow()
    assert looked


@pytest.mark.parametrize(('gpus', 'count'), [([], {'GPU': 0}), (['GPU:0'], {})])
def test_a_gpu_that_tensorflow_cannot_use_is_left_alone(tf, monkeypatch, gpus, count):
    """With a driver and no CUDA libraries, TensorFlow finds none; 2.21 raises RuntimeError for a session that may have one."""
    monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind: gpus)
    opened = []
    monkeypatch.setattr(tf, 'Session', lambda target, graph, config: opened.append((target, config)))
    tensorflow_setup.open_session()
    tensorflow_setup.open_session(None, tensorflow_setup.session_config(2), 'grpc://a:1')
    from workers import collectives
    collectives.Workers().session(None)
    assert [(target, config.device_count) for target, config in opened] == [('', count), ('grpc://a:1', count), ('', count)]


def test_a_callable_converts_values_and_raises_tensorflows_errors(tf, session, monkeypatch):
    numbers, index = tf.placeholder(tf.float32, [None]), tf.placeholder(tf.int32, [])
    run = tensorflow_setup.make_callable(session, [2 * numbers, tf.gather(numbers, index)], [numbers, index])
    monkeypatch.setattr(session, 'run', None)       # which takes up to a millisecond for its feeds
    doubled, chosen = run([1, 2.5], np.int64(1))
    assert (doubled.dtype, doubled.tolist(), chosen) == (np.float32, [2, 5], 2.5)
    with pytest.raises(tf.errors.InvalidArgumentError, match='not in'):
        run([1], 5)
    with pytest.raises(ValueError, match='argument 2 is longer'):
        run([1])


def test_every_session_is_opened_here():
    """So that no command is left out of what the test above checks."""
    calls = {}
    for path in [*layout.modules().values(), *(f'{layout.ROOT}/{name}.py' for name in layout.SCRIPTS)]:
        for node in ast.walk(layout.parse(path)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                calls.setdefault(node.func.attr, set()).add(os.path.relpath(path, layout.ROOT))
    here = {'src/command/tensorflow_setup.py'}
    assert calls['Session'] == here | {'download_model.py'}         # a Session of requests
    assert calls['ConfigProto'] == here
    assert not {'InteractiveSession', 'MonitoredSession', 'MonitoredTrainingSession'} & calls.keys()
    assert calls['Server'] == {'src/workers/collectives.py'}        # which gives it its sessions' config


def test_float32_is_not_rounded(tf):
    tf.config.experimental.enable_tensor_float_32_execution(True)
    tensorflow_setup.load_tensorflow()
    assert not tf.config.experimental.tensor_float_32_execution_enabled()


def test_keras_is_imported_only_by_those_who_use_it():
    code = """if True:
        import sys
        from command.tensorflow_setup import load_tensorflow
        load_tensorflow()
        import training.events      # needs a part of TensorBoard that does not import it either
        assert not [name for name in sys.modules if name.partition('.')[0] == 'keras']
        import tensorflow as tf
        assert tf.keras.optimizers.Adam.__module__ == 'keras.src.optimizers.adam'
        """
    src = os.path.join(layout.ROOT, 'src')
    subprocess.run([sys.executable, '-c', code], env=os.environ | {'PYTHONPATH': src}, check=True)


def test_an_imported_keras_stays(monkeypatch):
    monkeypatch.setitem(sys.modules, 'keras.src.optimizers', keras := types.ModuleType('keras'))
    with tensorflow_setup._without_keras():
        assert sys.modules['keras.src.optimizers'] is keras
    assert sys.modules['keras.src.optimizers'] is keras
