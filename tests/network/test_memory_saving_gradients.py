"""The same gradients as tf.gradients, whatever the graph; and the forward activations really are recomputed."""

import numpy as np
import pytest

from conftest import load_params
from graph_walk import ancestors
from network.hparams import HParams
from reference import random_params

HPARAMS = HParams(n_vocab=37, n_ctx=12, n_embd=24, n_head=3, n_layer=4)
TOKENS = np.random.default_rng(1).integers(HPARAMS.n_vocab, size=(2, HPARAMS.n_ctx))


def both(tf, session, ys, xs, feed=None, **kwargs):
    """Plain and memory-saving gradients, evaluated."""
    from memory_saving_gradients import gradients
    plain = tf.gradients(ys, xs, kwargs.get('grad_ys'))
    saving = gradients(ys, xs, **kwargs)
    assert [g is None for g in plain] == [g is None for g in saving]
    pairs = [(tf.convert_to_tensor(p), tf.convert_to_tensor(s)) for p, s in zip(plain, saving) if p is not None]
    return session.run(pairs, feed)


def assert_equal(pairs):
    for plain, saving in pairs:
        np.testing.assert_allclose(saving, plain, rtol=1e-6, atol=1e-6 * np.abs(plain).max())


@pytest.fixture
def tokens(tf, session):
    return tf.placeholder(tf.int32, [None, None])


@pytest.fixture
def loss(tf, session, tokens):
    import model
    loss = model.loss(model.model(HPARAMS, tokens), tokens)
    load_params(session, random_params(HPARAMS, seed=0))
    return loss


@pytest.mark.parametrize('only_blocks', [False, True])
def test_gradients_of_gpt2(tf, session, tokens, loss, only_blocks):
    variables = [v for v in tf.trainable_variables() if '/h' in v.name or not only_blocks]
    assert_equal(both(tf, session, loss, variables, {tokens: TOKENS}))


def test_a_list_of_checkpoints_replaces_the_collection(tf, session, tokens, loss):
    some = tf.get_collection('checkpoints')[1:2]
    assert_equal(both(tf, session, loss, tf.trainable_variables(), {tokens: TOKENS}, checkpoints=some))


def test_every_block_is_recomputed_but_not_the_head(tf, session, tokens, loss):
    from memory_saving_gradients import gradients
    gradients(loss, tf.trainable_variables())
    names = [op.name for op in tf.get_default_graph().get_operations() if op.name.startswith('recompute')]
    for layer in range(HPARAMS.n_layer):
        gelus = [name for name in names if f'h{layer}/mlp/' in name and name.endswith('Tanh')]
        assert len(gelus) == 1, (layer, gelus)
    assert not [name for name in names if 'ln_f' in name]


def test_recomputation_waits_for_the_gradient_from_above(tf, session):
    """A copy that ran before would keep its activations as long as the original would."""
    from memory_saving_gradients import gradients
    x = tf.get_variable('x', [4], initializer=tf.ones_initializer())
    middle = tf.tanh(x.read_value() * 2)
    gradients(tf.reduce_sum(tf.exp(middle)), [x], checkpoints=[middle])
    [copy] = [op for op in tf.get_default_graph().get_operations() if op.name == 'recompute/Tanh']
    assert any('gradients' in op.name and 'Exp' in op.name for op in ancestors(copy))


def test_the_control_inputs_of_the_original_do_not_run_it_again(tf, session):
    from memory_saving_gradients import gradients
    x = tf.get_variable('x', [4], initializer=tf.ones_initializer()).read_value()
    with tf.control_dependencies([tf.no_op('before')]):
        middle = tf.tanh(x)
    assert [op.name for op in middle.op.control_inputs] == ['before']
    gradients(tf.reduce_sum(tf.exp(middle)), [x], checkpoints=[middle])
    copy = tf.get_default_graph().get_operation_by_name('recompute/Tanh')
    assert 'before' not in [op.name for op in copy.control_inputs]


def test_skip_connections_over_several_checkpoints(tf, session):
    x = tf.get_variable('x', [5], initializer=tf.random_normal_initializer(seed=1))
    a = tf.sin(x.read_value() * 3)
    b = tf.exp(a) * x.read_value()
    c = tf.tanh(b + a) * b
    session.run(tf.global_variables_initializer())
    assert_equal(both(tf, session, tf.reduce_sum(c * a + x.read_value()), [x], checkpoints=[a, b]))


def test_random_draws_are_not_redrawn(tf, session):
    x = tf.get_variable('x', [1000], initializer=tf.ones_initializer())
    dropped = x * tf.cast(tf.random.uniform([1000]) < 0.5, tf.float32)      # not seeded: different in each run
    middle = tf.square(dropped * 3)
    session.run(tf.global_variables_initializer())
    assert_equal(both(tf, session, tf.reduce_sum(tf.square(middle)), [x], checkpoints=[middle]))


@pytest.mark.parametrize('both_kept', [True, False])
def test_tensors_among_xs_grad_ys_and_what_is_not_reached(tf, session, both_kept):
    x = tf.placeholder(tf.float32, [3])
    unused = tf.get_variable('unused', [2], initializer=tf.zeros_initializer())
    a = tf.sin(x * 2)
    b = tf.exp(a)
    c = tf.tanh(b * a)
    session.run(tf.global_variables_initializer())
    pairs = both(tf, session, [c, b], [x, a, unused, b], {x: [0.1, 0.5, 2.0]},
                 grad_ys=[tf.constant([1.0, 2.0, 3.0]), tf.constant([4.0, 5.0, 6.0])], checkpoints=[a, b] if both_kept else [b])
    assert_equal(pairs)


def test_gathered_rows(tf, session):
    table = tf.get_variable('table', [6, 3], initializer=tf.random_normal_initializer(seed=1))
    h = tf.tanh(tf.gather(table, [0, 2, 2, 5]) * 2)
    again = tf.tanh(tf.gather(table, [1, 2, 3, 3]) + h)
    session.run(tf.global_variables_initializer())
    assert_equal(both(tf, session, tf.reduce_sum(tf.matmul(again, table.read_value(), transpose_b=True)), [table],
                      checkpoints=[h, again]))


def test_gradients_registered_for_an_op_work_on_its_copy(tf, session):
    @tf.custom_gradient
    def cube(x):
        return x * x * x, lambda dy: dy * 3 * x * x

    x = tf.get_variable('x', [5], initializer=tf.random_normal_initializer(seed=1))
    middle = cube(tf.sin(x.read_value()))
    session.run(tf.global_variables_initializer())
    assert_equal(both(tf, session, tf.reduce_sum(tf.square(middle)), [x], checkpoints=[middle]))


@pytest.mark.parametrize('among_xs', [False, True])
def test_a_checkpoint_that_is_one_of_two_outputs_of_an_op(tf, session, among_xs):
    x = tf.get_variable('x', [6], initializer=tf.random_normal_initializer(seed=1))
    first, second = tf.split(tf.sin(x * 3), 2)
    y = tf.reduce_sum(tf.square(second) * tf.exp(first))
    session.run(tf.global_variables_initializer())
    for checkpoint in (first, second):
        assert_equal(both(tf, session, y, [x, second] if among_xs else [x], checkpoints=[checkpoint]))


def copies(ops):
    """Name -> op, of what was recomputed."""
    return {op.name.removeprefix('recompute/'): op for op in ops if op.name.startswith('recompute/')}


def test_what_the_copy_takes_over_from_the_original(tf, session):
    """Shapes, constants (from which TensorFlow infers more) and what does not depend on xs, but not the colocation of ops."""
    from memory_saving_gradients import gradients
    x = tf.get_variable('x', [4], initializer=tf.ones_initializer())
    sizes, scale = tf.placeholder(tf.int32, [2]), tf.exp(tf.placeholder(tf.float32, []))
    square = tf.reshape(tf.sin(x), sizes)
    square.set_shape([2, 2])
    with tf.colocate_with(scale.op):
        middle = tf.tanh(tf.reshape(square * scale, [4], name='flat'))
    gradients(tf.reduce_sum(tf.exp(middle)), [x], checkpoints=[middle])
    found = copies(tf.get_default_graph().get_operations())
    assert list(found) == ['Sin', 'Reshape', 'mul', 'flat', 'Tanh']     # in the order of the originals
    assert found['Reshape'].outputs[0].shape.as_list() == [2, 2]
    assert found['flat'].inputs[1].op.type == 'Const'


@pytest.mark.parametrize('checkpoint', ['not needed for ys', 'without x', 'behind ys'])
def test_no_checkpoint_on_the_way_is_an_error(tf, session, checkpoint):
    from memory_saving_gradients import gradients
    x = tf.get_variable('x', [2], initializer=tf.zeros_initializer())
    constant = tf.constant(2.0)
    y = tf.reduce_sum(tf.square(x) * constant)
    tensor = {'not needed for ys': tf.constant(1.0), 'without x': constant, 'behind ys': y + 1}[checkpoint]
    with pytest.raises(ValueError, match='no checkpoint lies between'):
        gradients(y, [x], checkpoints=[tensor])
