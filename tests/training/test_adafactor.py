"""training/adafactor.py: equal to transformers' Adafactor; little state; exact resuming is test_resume's."""

import numpy as np
import pytest

from optional import HUGGINGFACE, needs

SHAPES = [1, 6, 5], [4, 3], [7]
STEPS = 20


@pytest.fixture
def weights_and_gradients():
    """Weights, and for each step their gradients, of very different lengths from step to step: some updates are clipped."""
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=shape).astype(np.float32) for shape in SHAPES]
    return weights, [[rng.normal(size=shape).astype(np.float32) * 10 ** rng.uniform(-3, 1) for shape in SHAPES]
                     for _ in range(STEPS)]


def theirs(weights, gradients, **kwargs):
    """The weights after each step of transformers' Adafactor."""
    torch, transformers = needs('torch', HUGGINGFACE), needs('transformers.optimization', HUGGINGFACE)
    parameters = [torch.nn.Parameter(torch.tensor(weight)) for weight in weights]
    optimizer = transformers.Adafactor(parameters, **kwargs)
    for of_step in gradients:
        for parameter, gradient in zip(parameters, of_step):
            parameter.grad = torch.tensor(gradient)
        optimizer.step()
        yield [parameter.detach().numpy().copy() for parameter in parameters]


def ours(tf, session, weights, gradients, schedule):
    """The weights after each of our steps, at a peak of 0.05."""
    from training.optimizer import TrainStep, learning_rate
    variables = [tf.get_variable(f'w{i}', initializer=weight) for i, weight in enumerate(weights)]
    fed = [tf.placeholder(tf.float32, weight.shape) for weight in weights]
    loss = tf.add_n([tf.reduce_sum(variable.read_value() * gradient) for variable, gradient in zip(variables, fed)])
    step = TrainStep(loss, variables, optimizer='adafactor', scale_parameter=schedule == 'relative')
    session.run([variable.initializer for variable in variables])
    step.initialize(session)
    for i, of_step in enumerate(gradients, start=1):
        step.run(session, [dict(zip(fed, of_step))], learning_rate(i, peak=0.05, schedule=schedule))
        yield session.run(variables)


@pytest.mark.parametrize(('schedule', 'kwargs'), [
    ('constant', {'lr': 0.05, 'relative_step': False, 'scale_parameter': False}),
    ('relative', {'relative_step': True, 'scale_parameter': True}),
])
def test_twenty_steps_equal_those_of_transformers(tf, session, weights_and_gradients, schedule, kwargs):
    weights, gradients = weights_and_gradients
    steps = 0
    for expected, result in zip(theirs(weights, gradients, **kwargs), ours(tf, session, weights, gradients, schedule)):
        steps += 1
        for one, other in zip(expected, result):
            np.testing.assert_allclose(one, other, atol=1e-5, err_msg=f'step {steps}')
    assert steps == STEPS


def test_a_weight_of_two_dimensions_keeps_a_row_and_a_column(tf, session, weights_and_gradients):
    weights, gradients = weights_and_gradients
    list(ours(tf, session, weights, gradients[:1], 'constant'))
    sizes = {variable.op.name: variable.shape.as_list() for variable in tf.global_variables()}
    assert sizes == {'w0': [1, 6, 5], 'w1': [4, 3], 'w2': [7], 'adafactor_step': [],
                     'w0/Adafactor_rows': [1, 6], 'w0/Adafactor_columns': [1, 5],
                     'w1/Adafactor_rows': [4], 'w1/Adafactor_columns': [3], 'w2/Adafactor_squares': [7]}
