"""On a GPU, every graph of the commands computes there all that is large: by TensorFlow's registry, without a GPU."""

import types

import numpy as np
import pytest

from fake_cluster import FakeCluster, fake_workers
from network.hparams import HParams

HPARAMS = HParams(n_vocab=300, n_ctx=48, n_embd=48, n_head=3, n_layer=1)
FLAGS = ('--batch_size', 2, '--seq_length', 40, '--sample_length', 10)
# What may be large on the host, and what the host waits for the GPU to decide, with the reasons.
LARGE = {
    'GreaterEqual': 'which tokens of the history of a repetition penalty are none: as many as were fed, in the host\'s memory',
}
WAITS = {
    'Any': 'whether a logit ties with the k-th largest, which would need a sum over all logits: known to the GPU alone',
}


@pytest.fixture(autouse=True)
def gpu(tf, monkeypatch):
    """Whoever asks TensorFlow for GPUs finds one; masks and logits have several blocks."""
    if not tf.test.is_built_with_cuda():
        pytest.skip('this TensorFlow has no kernels for GPUs: pip install tensorflow')
    from network import block_sizes
    devices = tf.config.list_physical_devices()
    monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind=None: ['GPU:0'] if kind == 'GPU' else devices)
    monkeypatch.setattr(block_sizes, 'QUERY_BLOCK', 16)
    monkeypatch.setattr(block_sizes, 'HEAD_ROWS', 32)


def check(graph, buckets=0):
    """buckets: messages of a sum over workers, before each of which a function of Python notes the time, and the GPU waits."""
    from gpu_placement import large_on_host, python_ops, waits
    assert len(list(python_ops(graph))) == buckets
    assert [name for name in large_on_host(graph) if name.split()[0] not in LARGE] == []
    assert [name for name in waits(graph) if name.split()[0] not in WAITS] == []


def training_graph(parse, *flags, workers=None):
    from training.graph import TrainingGraph
    from training.settings import make_settings
    from workers.collectives import Workers
    model = types.SimpleNamespace(hparams=HPARAMS)
    settings = make_settings(parse(*map(str, (*FLAGS, *flags))), HPARAMS)
    return TrainingGraph(types.SimpleNamespace(settings=settings, model=model, prompt=None), workers or Workers()).session.graph


@pytest.mark.parametrize('flags', [
    '--optimizer adamw --sample_every 0', '--memory_saving_gradients --sample_every 0 --dropout 0.1',
    '--optimizer adafactor --accumulate_gradients 2 --precision float16 --sample_every 0',
    '--optimizer sgd --clip_norm 1 --precision bfloat16 --val_every 1 --top_k 0', '--top_p 0.9 --train_layers 1',
    '--lora_rank 4 --base_weights int8 --precision float16 --sample_every 0',
    '--lora_rank 4 --base_weights bfloat16 --precision tf32 --sample_temperature 0'])
def test_training(parse, flags):
    check(training_graph(parse, *flags.split()))


@pytest.mark.parametrize(('flags', 'compiled'), [([], False), (['--xla', '--memory_saving_gradients'], True)])
def test_xla_is_for_whoever_asks_for_it(parse, monkeypatch, flags, compiled):
    from graph_walk import compiled_calls
    from network import gradients
    monkeypatch.setattr(gradients, 'COMPILED_SIZE', 1)
    graph = training_graph(parse, '--sample_every', 0, '--optimizer', 'sgd', *flags)
    assert any(compiled_calls(graph)) == compiled
    check(graph)


def test_several_workers(tf, parse):
    workers = fake_workers(FakeCluster(2, 1))
    graph = training_graph(parse, '--optimizer', 'sgd', '--reduce_precision', 'bfloat16', workers=workers)
    with graph.as_default():
        for variable in tf.global_variables():
            workers._broadcast_op(variable)
    check(graph, buckets=2)        # gradients in bfloat16, and the loss


@pytest.mark.parametrize('weights', ['float32', 'bfloat16', 'int8'])
def test_generator(monkeypatch, weights):
    """Its prompts, single tokens, cache and scores."""
    import generator
    monkeypatch.setattr(generator.ShardedNetwork, 'load', lambda *_: None)
    monkeypatch.setattr(generator, 'Model', types.SimpleNamespace)      # one that is open already
    model = types.SimpleNamespace(hparams=HPARAMS, encoder=types.SimpleNamespace(n_vocab=290), checkpoint=None)
    check(generator.Generator(model, weights)._session.graph)


def test_evaluation(monkeypatch):
    from evaluation import losses
    monkeypatch.setattr(losses.saver, 'restore', lambda *_: None)
    model = types.SimpleNamespace(hparams=HPARAMS, checkpoint=None)
    check(losses.Evaluation(model, length=40, stride=20, batch_size=2)._session.graph)


def test_what_is_on_the_host_is_found(tf):
    """The tests above would pass if nothing were."""
    from gpu_placement import large_on_host, python_ops, waits

    @tf.function
    def square(x):
        return x * x

    with tf.Graph().as_default() as graph:
        ids, x = tf.placeholder(tf.int32, [30, 30]), tf.placeholder(tf.float32, [30, 30])
        tf.add(ids, 1, 'host'), tf.add(x, 1, 'gpu'), tf.sort(tf.cast(x, tf.uint8)), square(ids)
        with tf.device('/cpu:0'):
            tf.negative(x, name='pinned')
        tf.cond(tf.reduce_any(x > 0), lambda: x, lambda: x + 1)
        tf.numpy_function(lambda: None, [], [])
    found = '\n'.join(large_on_host(graph))
    assert 'host: z int32 (30, 30)' in found and 'mul: z int32' in found and 'pinned: y float32' in found
    assert 'gpu' not in found
    assert [name.split()[0] for name in waits(graph)] == ['Any']
    assert len(list(python_ops(graph))) == 1


@pytest.mark.parametrize('dtype', ['int8', 'uint16'])
@pytest.mark.parametrize('n_in', [6, 5])
def test_rows_of_few_bytes_are_the_same_where_a_gpu_gathers_them(tf, dtype, n_in):
    from sampling import sharded_weights
    w = np.random.default_rng(0).integers(np.iinfo(dtype).min, np.iinfo(dtype).max, size=(3, 4, n_in)).astype(dtype)
    with tf.Graph().as_default(), tf.Session() as session:
        matrix = sharded_weights.Matrix(tf.constant(w), 11)
        rows, tile = session.run([sharded_weights.embed([matrix], tf.constant([10, 0, 10])), sharded_weights._at(matrix.w, 1)])
        expected = session.run(sharded_weights.as_float32(tf.constant(w.reshape(12, n_in)[[10, 0, 10]])))
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_array_equal(tile, w[1])
