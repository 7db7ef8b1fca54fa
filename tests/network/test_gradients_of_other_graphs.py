"""memory_saving_gradients on graphs unlike GPT-2's: the same as tf.gradients, with every kind of variable and control flow."""

import contextlib

import numpy as np
import pytest

CASES = {}


def case(function):
    """Registers a graph: from tf, returns ys, xs, checkpoints and maybe grad_ys."""
    CASES[function.__name__] = function
    return function


def variable(tf, name, *shape):
    return tf.get_variable(name, shape, tf.float64, initializer=tf.random_normal_initializer(seed=len(name), dtype=tf.float64))


def layer(tf, x, name):
    """tanh(x w), [rows, 3] -> [rows, 3]."""
    return tf.tanh(tf.matmul(x, variable(tf, name, 3, 3)))


@case
def embedding_as_checkpoint_tied_to_the_output(tf):
    table = variable(tf, 'table', 7, 3)
    embedded = tf.gather(table, [0, 2, 2, 5])
    hidden = layer(tf, embedded, 'w')
    return tf.reduce_sum(tf.exp(tf.matmul(hidden, table, transpose_b=True))), tf.trainable_variables(), [embedded, hidden]


@case
def embedding_lookup_as_the_only_checkpoint(tf):
    table = variable(tf, 'table', 7, 3)
    embedded = tf.nn.embedding_lookup(table, [[1, 1], [3, 6]])
    return tf.reduce_sum(tf.square(layer(tf, tf.reshape(embedded, [4, 3]), 'w'))), tf.trainable_variables(), [embedded]


@case
def untied_embedding(tf):
    table = variable(tf, 'table', 7, 3)
    hidden = layer(tf, tf.gather(table, [0, 2, 2]), 'w')
    again = layer(tf, hidden + tf.gather(table, [1, 2, 3]), 'w2')
    return tf.reduce_sum(tf.square(again)), tf.trainable_variables(), [hidden, again]


@case
def read_of_a_variable_as_checkpoint(tf):
    w = variable(tf, 'w', 3)
    read = w.read_value()
    return tf.reduce_sum(tf.exp(tf.sin(read)) + w), [w, read], [read]


@case
def same_variable_and_same_tensor_twice(tf):
    w, x = variable(tf, 'w', 3), tf.placeholder_with_default(np.array([0.5, 1.5, -1.0]), [3])
    middle = tf.sin(w * x)
    return tf.reduce_sum(tf.exp(middle) * w), [w, x, w, x, middle, middle], [middle]


@case
def one_x_and_one_checkpoint_without_lists(tf):
    w = variable(tf, 'w', 3)
    middle = tf.sin(w * 2)
    return tf.exp(middle), w, middle


@case
def tensors_and_variables_mixed(tf):
    x = tf.placeholder_with_default(np.arange(6).reshape(2, 3) / 3, [2, 3])
    first = layer(tf, x, 'a')
    second = layer(tf, first, 'b')
    third = layer(tf, second, 'c') * first
    return tf.reduce_sum(third), [second, *tf.trainable_variables(), x, first], [first, third]


@case
def two_checkpoints_and_several_ys(tf):
    w = variable(tf, 'w', 3)
    a = tf.sin(w * 2)
    b = tf.exp(w - 1)
    return [a * b, tf.cos(a), b, w], [w, a], [a, b], [np.array([1.0, 2, 3]), None, np.array([4.0, 5, 6]), None]


@case
def dropout(tf):
    hidden = tf.nn.dropout(layer(tf, tf.ones([50, 3], tf.float64), 'a'), rate=0.5)
    hidden = tf.nn.dropout(layer(tf, hidden, 'b'), rate=0.5)
    return tf.reduce_sum(tf.square(hidden)), tf.trainable_variables(), [hidden]


@case
def dropout_within_a_branch(tf):
    x = tf.placeholder_with_default(np.ones([50, 3]), [50, 3])
    first = layer(tf, x, 'a')
    made = tf.cond(tf.reduce_sum(first) < 1e9, lambda: tf.nn.dropout(first, rate=0.5), lambda: first * 2)
    last = layer(tf, tf.sin(made), 'b')
    return tf.reduce_sum(tf.square(last)), [x, *tf.trainable_variables(), first], [first, last]


@case
def branch_on_a_variable(tf):
    w = variable(tf, 'w', 3)
    middle = tf.tanh(tf.cond(w[0] > 0, lambda: w * 2, lambda: tf.exp(w)))
    return tf.reduce_sum(middle * w), [w], [middle]


@case
def one_of_several_branches(tf):
    w = variable(tf, 'w', 3)
    first = tf.sin(w)
    made = tf.switch_case(tf.constant(1), [lambda: first * 2, lambda: first * w])
    last = tf.exp(made)
    return tf.reduce_sum(last), [first, w], [first, last]


@case
def loop(tf):
    x = tf.placeholder_with_default(np.array([0.5, 1.5, -1.0]), [3])
    w = variable(tf, 'w', 3)
    first = tf.sin(x * w)
    _, made = tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, tf.sin(y * w) + first), [0, first * 2])
    last = tf.exp(tf.cos(made))
    return tf.reduce_sum(last + made), [x, w], [first, last]


@case
def loop_with_random_numbers(tf):
    x = tf.placeholder_with_default(np.array([0.5, 1.5, -1.0]), [3])
    first = tf.sin(x)
    _, made = tf.while_loop(lambda i, _: i < 3,
                            lambda i, y: (i + 1, tf.sin(y * tf.random.uniform([3], dtype=tf.float64))), [0, first])
    last = tf.exp(made)
    return tf.reduce_sum(last), [x, first], [first, last]


@case
def map_as_checkpoint(tf):
    w = variable(tf, 'w', 4, 3)
    first = tf.sin(w)
    mapped = tf.map_fn(lambda row: row * tf.reduce_sum(row), first)
    return tf.reduce_sum(tf.exp(mapped) * w), [w, first], [first, mapped]


@case
def map_within_a_segment(tf):
    w = variable(tf, 'w', 4, 3)
    first = tf.sin(w)
    last = tf.exp(tf.map_fn(lambda row: row * tf.reduce_sum(row), first * 2))
    return tf.reduce_sum(last * first), [w], [first, last]


@case
def loop_with_an_array(tf):
    w = variable(tf, 'w', 3)
    array = tf.TensorArray(tf.float64, 4)
    _, array = tf.while_loop(lambda i, _: i < 4, lambda i, a: (i + 1, a.write(i, tf.sin(w * tf.cast(i, tf.float64)))), [0, array])
    last = tf.tanh(array.stack())
    return tf.reduce_sum(tf.square(last)), [w], [last]


@case
def scan(tf):
    w = variable(tf, 'w', 4, 3)
    scanned = tf.scan(lambda total, row: tf.tanh(total + row), tf.sin(w))
    last = tf.exp(scanned)
    return tf.reduce_sum(last * scanned), [w], [last]


@case
def python_function_as_checkpoint(tf):
    w = variable(tf, 'w', 3)
    first = tf.sin(w)
    made = tf.py_function(lambda x: x * x * x, [first * 2], tf.float64)
    return tf.reduce_sum(tf.exp(made) + first), [w, first], [first, made]


@case
def python_functions_used_twice(tf):
    w = variable(tf, 'w', 3)
    first = tf.sin(w)
    one, two = tf.py_function(lambda x: (x * x, x * x * x), [first], [tf.float64, tf.float64])
    three = tf.py_function(tf.exp, [one * two], tf.float64)
    last = tf.cos(three) * two
    return tf.reduce_sum(last + one + three), [w], [first, last]


@case
def stateful_function(tf):
    w = variable(tf, 'w', 3)

    @tf.function
    def noisy(x):
        return x * x * tf.random.uniform([3], seed=1, dtype=tf.float64)

    first = tf.sin(w)
    last = noisy(tf.exp(noisy(first * 2)))
    return tf.reduce_sum(last * first), [w, first], [first, last]


@case
def stateless_function(tf):
    w = variable(tf, 'w', 3)
    square = tf.function(lambda x: x * tf.sin(x))
    first = square(tf.sin(w))
    last = tf.exp(square(first * 2))
    return tf.reduce_sum(square(last) * first), [w, last], [first, last]


@case
def gradient_of_its_own_with_a_variable(tf):
    w, x = variable(tf, 'w', 3), tf.placeholder_with_default(np.array([0.5, 1.5, -1.0]), [3])

    @tf.custom_gradient
    def halved(x):
        return x * x, lambda dy: dy * x

    last = tf.sin(halved(tf.sin(x * w)))
    return tf.reduce_sum(tf.exp(last)), [w, x], [last]


@case
def random_draws_and_what_does_not_depend_on_xs(tf):
    w, other = variable(tf, 'w', 1000), variable(tf, 'other', 1000)
    middle = tf.square(w * tf.random.normal([1000], dtype=tf.float64) + tf.random.uniform(tf.shape(w), dtype=tf.float64) * other)
    unused = variable(tf, 'unused', 2)
    return tf.reduce_sum(tf.square(middle)), [w, unused], [middle]


@case
def several_outputs_of_one_op(tf):
    w = variable(tf, 'w', 6)
    first, second = tf.split(tf.sin(w * 3), 2)
    third, fourth = tf.split(tf.exp(tf.concat([first * second, second], 0)), 2)
    return tf.reduce_sum(third * fourth), [w, second], [third, second]


@contextlib.contextmanager
def behaviour(tf, old):
    """Within it, TensorFlow makes variables and control flow as in 2019."""
    switches = (tf.disable_resource_variables, tf.disable_control_flow_v2), (tf.enable_resource_variables,
                                                                            tf.enable_control_flow_v2)
    for switch in switches[0] if old else ():
        switch()
    try:
        yield
    finally:
        for switch in switches[1]:
            switch()


@pytest.mark.parametrize('old', [False, True], ids=['today', '2019'])
@pytest.mark.parametrize('name', CASES)
def test_gradients_equal_tensorflow_s(tf, session, name, old):
    from memory_saving_gradients import gradients
    with behaviour(tf, old):
        ys, xs, checkpoints, *grad_ys = CASES[name](tf)
        initialize = tf.global_variables_initializer()
        pairs = list(zip(gradients(ys, xs, *grad_ys, checkpoints=checkpoints), tf.gradients(ys, xs, *grad_ys), strict=True))
        assert all((found is None) == (expected is None) for found, expected in pairs)
        tensors = [[tf.convert_to_tensor(gradient) for gradient in pair] for pair in pairs if pair[0] is not None]
        python = any(op.type == 'EagerPyFunc' for op in session.graph.get_operations())
    session.run(initialize)
    if python:      # whose gradient is there once for each run
        values = zip(*(session.run(list(side)) for side in zip(*tensors)))
    else:           # with the same random numbers
        values = session.run(tensors)
    for found, expected in values:
        assert np.any(expected)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


def test_no_call_of_a_function_among_xs_that_depends_on_another(tf, session):
    from memory_saving_gradients import gradients
    w = variable(tf, 'w', 3)
    called = tf.function(tf.sin)(tf.exp(w))
    last = tf.exp(called)
    with pytest.raises(ValueError, match=r'PartitionedCall \(PartitionedCall\) calls a tf.function'):
        gradients(last, [w, called], checkpoints=[last])
    assert len(gradients(last * 2, [called], checkpoints=[last])) == 1


@pytest.mark.parametrize('among_xs', [False, True])
def test_nothing_inside_a_loop_or_a_branch_can_be_a_checkpoint(tf, session, among_xs):
    from memory_saving_gradients import gradients
    inside = []
    with behaviour(tf, old=True):
        x = variable(tf, 'x', 3)
        middle = tf.sin(x)
        made = tf.while_loop(lambda y: y[0] < 9, lambda y: [inside.append(tf.exp(y, name='inside')) or inside[-1]], [middle])
    with pytest.raises(ValueError, match=r'while/inside \(Exp\) lies inside a loop or a branch'):
        gradients(made, [x, *inside] if among_xs else [x], checkpoints=[middle] if among_xs else inside)


@pytest.mark.parametrize('mode', ['speed', 'memory', 'colection'])
def test_another_mode_is_an_error_that_says_what_there_is(tf, session, mode):
    from memory_saving_gradients import gradients
    x = variable(tf, 'x', 3)
    with pytest.raises(ValueError, match=f"no checkpoints='{mode}': give 'collection' .* or a list of tensors"):
        gradients(tf.exp(tf.sin(x)), [x], checkpoints=mode)
