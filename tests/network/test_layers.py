"""Each layer and its gradient against the oracle, as ops and compiled."""

import contextlib

import numpy as np
import pytest

import reference
from graph_walk import ancestors, compiled_calls, ops_of

RNG = np.random.default_rng(0)
X, DY = RNG.normal(size=[7, 5]), RNG.normal(size=[7, 4])      # [rows, n_in], [rows, n_out]
PARAMS = {'linear/w': RNG.normal(size=[1, 5, 4]), 'linear/b': RNG.normal(size=4), 'norm/g': RNG.normal(1, 1, 5),
          'norm/b': RNG.normal(size=5)}


@pytest.fixture(params=[False, True], ids=['ops', 'compiled'])
def compiled(request, tf, monkeypatch):
    from network import gradients
    monkeypatch.setattr(gradients, 'COMPILED_SIZE', 1)
    with gradients.compiling() if request.param else contextlib.nullcontext():
        yield request.param


def run(tf, session, layer, names, dy):
    """layer(X, *PARAMS of these names), and its gradients by X and by each of them."""
    values = [X, *(PARAMS[name][0] if name == 'linear/w' else PARAMS[name] for name in names)]
    inputs = [tf.constant(value, tf.float32) for value in values]
    y = layer(*inputs)
    return session.run([y, *tf.gradients(y, inputs, tf.constant(dy, tf.float32))])


def check(actual, y, dx, gradients, names):
    for value, expected in zip(actual, [y, dx, *(gradients[name] for name in names)], strict=True):
        np.testing.assert_allclose(value, expected.reshape(value.shape), atol=1e-4)


def test_linear(tf, session):
    from network import layers
    names = ['linear/w', 'linear/b']
    actual = run(tf, session, layers.linear, names, DY)
    check(actual, reference.linear(X[None], PARAMS, 'linear'),
          *reference.linear_backward(DY[None], X[None], PARAMS, 'linear'), names)


def test_gelu_and_linear(tf, session, compiled):
    from network import layers
    names, active = ['linear/w', 'linear/b'], reference.gelu(X[None])
    actual = run(tf, session, layers.gelu_linear, names, DY)
    dactive, gradients = reference.linear_backward(DY[None], active, PARAMS, 'linear')
    check(actual, reference.linear(active, PARAMS, 'linear'), reference.gelu_backward(dactive, X[None]), gradients, names)
    calls = compiled_calls(session.graph)
    assert all(calls) and bool(calls) == compiled


def test_layer_norm(tf, session, compiled):
    from network import layers
    names = ['norm/g', 'norm/b']
    dy = np.tile(DY, 2)[:, :5]
    check(run(tf, session, layers.layer_norm, names, dy), reference.layer_norm(X[None], PARAMS, 'norm'),
          *reference.layer_norm_backward(dy[None], X[None], PARAMS, 'norm'), names)


def test_layer_norm_and_linear(tf, session, compiled):
    from network import layers
    names, normal = ['norm/g', 'norm/b', 'linear/w', 'linear/b'], reference.layer_norm(X[None], PARAMS, 'norm')
    dnormal, gradients = reference.linear_backward(DY[None], normal, PARAMS, 'linear')
    dx, norm_gradients = reference.layer_norm_backward(dnormal, X[None], PARAMS, 'norm')
    check(run(tf, session, layers.norm_linear, names, DY), reference.linear(normal, PARAMS, 'linear'), dx,
          gradients | norm_gradients, names)


def test_layer_norm_has_the_epsilon_of_the_oracle(tf, session):
    from network import layers
    x, params = np.array([[1.0, 1.02]], np.float32), {'ln/g': np.float32([1, 10]), 'ln/b': np.float32([0.5, 0])}
    actual = session.run(layers.normalize_rows(x, *params.values()))
    np.testing.assert_allclose(actual, reference.layer_norm(x, params, 'ln'), rtol=1e-3)


def test_the_gradient_of_a_weight_comes_first_and_is_returned_after_the_last_read_of_the_weight(tf, session):
    """First: x can be freed. After the last read: an optimizer can update the weight without a copy."""
    from network import layers
    x, w, b = (tf.constant(value, tf.float32) for value in (X, PARAMS['linear/w'][0], PARAMS['linear/b']))
    dx, dw, db = tf.gradients(layers.linear(x, w, b), [x, w, b])
    _, product_dw, product_dx = ops_of(session.graph, 'MatMul')
    assert dx.op is product_dx and product_dw in ancestors(product_dx)
    assert {product_dw, product_dx} <= ancestors(dw.op) and product_dx in ancestors(db.op)


def test_gelu_of_large_numbers_does_not_overflow_in_float16(tf, session, compiled):
    from network import layers
    x = np.array([-4000, -300, -9, -1, 0, 1, 9, 300, 60_000], np.float16)
    y, dx = session.run([layers.gelu(tf.constant(x)), layers.gelu_gradient(tf.constant(np.ones_like(x)), tf.constant(x))])
    np.testing.assert_allclose(y, reference.gelu(np.float64(x)), rtol=1e-2, atol=1e-3)
    np.testing.assert_allclose(dx, reference.gelu_backward(1, np.float64(x)), rtol=1e-2, atol=1e-3)
