"""Hand-written gradients, compiled functions, and shapes known only in part."""

import numpy as np
import pytest

from graph_walk import ancestors, compiled_calls, ops_of


def test_a_gradient_is_computed_from_the_output_s_gradient_the_output_and_the_inputs(tf, session):
    from network.gradients import gradient_by

    @gradient_by(lambda dy, y, a, b: [dy * y, None])
    def double(a, b):
        return 2 * a

    a, b = tf.constant(3.0), tf.constant(5.0)
    y = double(a, b)
    gradients = tf.gradients(7 * y, [a, b])
    assert session.run([y, gradients[0]]) == [6, 42]
    assert gradients[1] is None
    assert double.__name__ == 'double'


def test_a_gradient_starts_only_when_the_output_s_gradient_is_there(tf, session):
    """What it could compute from the inputs alone would otherwise be computed, and kept, in the forward pass."""
    from network.gradients import gradient_by

    @gradient_by(lambda dy, _, x: [dy * tf.exp(x)])
    def identity(x):
        return tf.identity(x)

    x = tf.constant(1.0)
    tf.gradients(tf.sin(identity(x)), x)
    [exp], [dy] = ops_of(session.graph, 'Exp'), ops_of(session.graph, 'Cos')
    assert dy in ancestors(exp)


def test_no_gradient_of_the_network_computes_anything_before_its_turn(tf, session):
    import model
    from network.hparams import HParams
    tokens = tf.placeholder(tf.int32, [2, 13])
    loss = model.loss(model.model(HParams(n_vocab=37, n_ctx=16, n_embd=24, n_head=3, n_layer=2), tokens), tokens)
    tf.gradients(loss, tf.trainable_variables())
    reads = [op for op in ops_of(session.graph, 'Identity')
             if op.name.startswith('gradients/') and 'IdentityN_grad' in op.name]
    assert len(reads) > 50
    for op in reads:
        assert op.control_inputs or op.inputs[0].op.name.startswith('gradients/'), op.name


@pytest.fixture
def triple(tf, monkeypatch):
    from network import gradients
    monkeypatch.setattr(gradients, 'COMPILED_SIZE', 4)
    return gradients.one_pass(lambda x, y: 3 * x + y)


@pytest.mark.parametrize(('size', 'compiled'), [(4, True), (3, False), (None, False)])
def test_only_large_tensors_of_known_shape_are_compiled(tf, session, triple, size, compiled):
    from network.gradients import compiling
    x = tf.placeholder(tf.float32, [size])
    triple(x, x)
    with compiling():
        y = triple(x, tf.constant(1.0))
    assert compiled_calls(session.graph) == [True] * compiled       # and none outside of `compiling`
    value = [1.0] * (size or 2)
    assert session.run(y, {x: value}).tolist() == [4.0] * len(value)


@pytest.mark.parametrize(('gpus', 'wanted', 'compiled'), [
    ([], None, True), ([], False, False), (['GPU:0'], None, False), (['GPU:0'], True, True), (['GPU:0'], False, False)])
def test_what_is_compiled_by_device_and_wish(tf, session, triple, monkeypatch, gpus, wanted, compiled):
    from network.gradients import compiling
    monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind: gpus)
    with compiling(wanted):
        triple(tf.ones([4]), tf.ones([4]))
    assert compiled_calls(session.graph) == [True] * compiled


def test_compiling_ends_with_its_block_and_never_begins_where_there_is_a_gpu(tf, session, triple, monkeypatch):
    from network.gradients import compiling
    with pytest.raises(ZeroDivisionError), compiling():
        raise ZeroDivisionError
    triple(tf.ones([4]), tf.ones([4]))
    monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind: [f'a {kind}'])
    with compiling():
        triple(tf.ones([4]), tf.ones([4]))
    assert compiled_calls(session.graph) == []


@pytest.mark.parametrize('compiled', [False, True])
@pytest.mark.parametrize('n', [1, 5, 32, 33, 64, 67, 1000])
def test_the_mean_of_a_row_counts_each_number_once(tf, session, monkeypatch, n, compiled):
    from network import gradients
    monkeypatch.setattr(gradients, 'COMPILED_SIZE', 1)
    powers = np.float32([np.arange(n) % 7 ** 3, np.arange(n)[::-1] ** 2])
    with gradients.compiling(compiled):
        mean = gradients.one_pass(gradients.row_mean)(powers)
    assert compiled_calls(session.graph) == [True] * compiled
    np.testing.assert_allclose(session.run(mean), powers.mean(axis=-1, keepdims=True, dtype=np.float64), rtol=1e-6)
    assert session.run(gradients.row_mean(powers)).shape == (2, 1)      # a program has no effect on what comes after it
    assert len(ops_of(session.graph, 'Mean')) == 2 - compiled


def test_chunks(tf):
    from network.gradients import chunks
    assert chunks(13, 5) == [(0, 5), (5, 10), (10, 13)]
    assert chunks(10, 5) == [(0, 5), (5, 10)]
    assert chunks(3, 5) == [(0, 3)]
    length = tf.constant(7)
    assert chunks(length, 5) == [(0, length)]


def test_shapes_known_in_part(tf, session):
    from network.gradients import reshape, shape_of
    assert shape_of(tf.zeros([2, 3])) == [2, 3]
    x = tf.placeholder(tf.float32, [None, 3, None])
    sizes = shape_of(x)
    assert sizes[1] == 3 and session.run([sizes[0], sizes[2]], {x: [[[1.0, 2.0]] * 3] * 4}) == [4, 2]
    one_unknown = reshape(x, [sizes[0], 6])
    assert ops_of(session.graph, 'Pack') == []      # -1 stands for it
    two_unknown = reshape(x, [sizes[2], sizes[0], 3])
    values = session.run([one_unknown, two_unknown], {x: [[[1.0, 2.0]] * 3] * 4})
    assert [value.shape for value in values] == [(4, 6), (2, 4, 3)]
