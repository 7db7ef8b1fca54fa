"""The oracle against finite differences, loops and results computed by hand."""

import math

import numpy as np
import pytest

import reference
from network.hparams import HParams

HPARAMS = HParams(n_vocab=11, n_ctx=7, n_embd=6, n_head=2, n_layer=2)
PARAMS = reference.float64(reference.random_params(HPARAMS, seed=1))
TOKENS = np.array([[3, 1, 3, 10, 0], [7, 7, 2, 5, 1]])      # repeats, both ends of the vocabulary, shorter than n_ctx
NOISY = np.array([[3, 4, 3, 10, 9], [7, 7, 6, 5, 1]])       # as with `--noise`, where TOKENS are the labels
GRADIENTS = reference.loss_and_gradients(NOISY, PARAMS, HPARAMS, labels=TOKENS)[1]


def finite_differences(name, step=1e-4):
    gradient = np.zeros_like(PARAMS[name])
    for index in np.ndindex(gradient.shape):
        nudge = np.zeros_like(gradient)
        nudge[index] = step
        above, below = (reference.loss(NOISY, PARAMS | {name: PARAMS[name] + sign * nudge}, HPARAMS, labels=TOKENS)
                        for sign in (1, -1))
        gradient[index] = (above - below) / (2 * step)
    return gradient


@pytest.mark.parametrize('name', PARAMS)
def test_every_entry_of_every_gradient_agrees_with_finite_differences(name):
    assert GRADIENTS[name].shape == PARAMS[name].shape
    assert np.abs(GRADIENTS[name]).max() > 1e-4
    np.testing.assert_allclose(GRADIENTS[name], finite_differences(name), rtol=1e-5, atol=1e-8)


def test_gradients_come_with_the_loss_and_by_default_the_tokens_are_the_labels():
    assert list(GRADIENTS) == list(PARAMS)
    noisy_loss, _ = reference.loss_and_gradients(NOISY, PARAMS, HPARAMS, labels=TOKENS)
    assert noisy_loss == reference.loss(NOISY, PARAMS, HPARAMS, labels=TOKENS)
    plain_loss, plain = reference.loss_and_gradients(TOKENS, PARAMS, HPARAMS)
    same_loss, same = reference.loss_and_gradients(TOKENS, PARAMS, HPARAMS, labels=TOKENS)
    assert plain_loss == same_loss != noisy_loss
    assert all(np.array_equal(plain[name], same[name]) for name in PARAMS)


def test_positions_never_used_get_no_gradient():
    assert not GRADIENTS['wpe'][TOKENS.shape[1] - 1:].any()     # the last position predicts nothing
    assert GRADIENTS['wpe'][:TOKENS.shape[1] - 1].all()


def test_parameters_have_the_checkpoint_names_shapes_and_type():
    params = reference.random_params(HPARAMS, seed=0)
    block = {'ln_1/g': (6,), 'ln_1/b': (6,), 'ln_2/g': (6,), 'ln_2/b': (6,),
             'attn/c_attn/w': (1, 6, 18), 'attn/c_attn/b': (18,), 'attn/c_proj/w': (1, 6, 6), 'attn/c_proj/b': (6,),
             'mlp/c_fc/w': (1, 6, 24), 'mlp/c_fc/b': (24,), 'mlp/c_proj/w': (1, 24, 6), 'mlp/c_proj/b': (6,)}
    expected = {'wpe': (7, 6), 'wte': (11, 6), 'ln_f/g': (6,), 'ln_f/b': (6,)}
    expected |= {f'h{layer}/{name}': shape for layer in (0, 1) for name, shape in block.items()}
    assert {name: value.shape for name, value in params.items()} == expected
    assert {value.dtype for value in params.values()} == {np.dtype('float32')}
    again, other = reference.random_params(HPARAMS, seed=0), reference.random_params(HPARAMS, seed=1)
    assert np.array_equal(params['wte'], again['wte']) and not np.array_equal(params['wte'], other['wte'])


def test_softmax_rows_sum_to_one_and_survive_large_numbers():
    x = np.array([[1.0, 2.0, 3.0], [1000.0, 1000.0, -1000.0], [-np.inf, 0.0, -np.inf]])
    np.testing.assert_allclose(reference.softmax(x).sum(axis=-1), 1, rtol=1e-14)
    np.testing.assert_allclose(reference.softmax(x)[1:], [[0.5, 0.5, 0], [0, 1, 0]], atol=1e-15)
    assert reference.softmax(np.log([1.0, 3.0, 6.0])) == pytest.approx([0.1, 0.3, 0.6])


def test_gelu_at_known_points():
    tanh = math.tanh(math.sqrt(2 / math.pi) * (2 + 0.044715 * 8))
    assert reference.gelu(np.array([0.0, 2.0, -2.0])) == pytest.approx([0, 1 + tanh, tanh - 1])
    exact = [x * (1 + math.erf(x / math.sqrt(2))) / 2 for x in (-3, -1, 0.5, 1, 3)]     # what it approximates
    assert reference.gelu(np.array([-3, -1, 0.5, 1, 3])) == pytest.approx(exact, abs=5e-4)


def test_layer_norm_by_hand():
    params = {'ln/g': np.array([1.0, 10.0]), 'ln/b': np.array([0.5, 0.0])}
    x = np.array([[[1.0, 1.02]]])       # mean 1.01, biased variance 0.0001, so that epsilon counts
    unit = 0.01 / math.sqrt(1e-4 + 1e-5)
    assert reference.layer_norm(x, params, 'ln')[0, 0] == pytest.approx([0.5 - unit, 10 * unit])


def test_attention_agrees_with_loops():
    """Queries, keys and values lie in that order, and within each the heads one after another."""
    x = np.random.default_rng(0).normal(size=[1, 4, 6])
    projected = x[0] @ PARAMS['h0/attn/c_attn/w'][0] + PARAMS['h0/attn/c_attn/b']
    heads = np.zeros([4, 6])
    for head in range(2):
        for position in range(4):
            features = [3 * head + feature for feature in range(3)]
            scores = [sum(projected[position, f] * projected[past, 6 + f] for f in features) / math.sqrt(3)
                      for past in range(position + 1)]
            total = sum(math.exp(score) for score in scores)
            for f in features:
                heads[position, f] = sum(math.exp(score) / total * projected[past, 12 + f]
                                         for past, score in enumerate(scores))
    expected = heads @ PARAMS['h0/attn/c_proj/w'][0] + PARAMS['h0/attn/c_proj/b']
    np.testing.assert_allclose(reference.attention(x, PARAMS, 'h0/attn', n_head=2)[0], expected, rtol=1e-12)


def test_attention_weights_are_distributions_over_the_past():
    q, k = np.random.default_rng(0).normal(size=[2, 1, 2, 5, 3])
    weights = reference.attention_weights(q, k)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-14)
    assert np.array_equal(weights > 0, np.broadcast_to(np.tri(5, dtype=bool), weights.shape))


@pytest.mark.parametrize('changed', range(5))
def test_a_token_changes_no_logits_before_its_own(changed):
    other = TOKENS.copy()
    other[0, changed] = 8
    before, after = (reference.gpt2(tokens, PARAMS, HPARAMS) for tokens in (TOKENS, other))
    assert before.shape == (2, 5, 11)
    assert np.array_equal(before[0, :changed], after[0, :changed])
    assert (before[0, changed:] != after[0, changed:]).all()
    np.testing.assert_allclose(before[1], after[1], rtol=1e-12)     # nor those of another text


def test_loss_of_equal_logits_is_the_logarithm_of_the_vocabulary_s_size():
    params = PARAMS | {'wte': np.zeros([11, 6])}
    assert reference.loss(TOKENS, params, HPARAMS) == pytest.approx(math.log(11))


def test_loss_is_the_mean_of_minus_the_log_probability_of_the_next_label():
    probabilities = reference.softmax(reference.gpt2(NOISY, PARAMS, HPARAMS))
    surprises = [-math.log(probabilities[row, position, TOKENS[row, position + 1]])
                 for row in range(2) for position in range(4)]
    assert reference.loss(NOISY, PARAMS, HPARAMS, labels=TOKENS) == pytest.approx(sum(surprises) / 8)


def test_adam_three_steps_by_hand():
    """beta1 1/2, beta2 3/4 and epsilon 1/2 make roots that are fractions: the rate is 1/2 / 1/2, then sqrt(7)/4 / 3/4."""
    params, state, settings = {'x': [1.0], 'y': [5.0]}, {}, {'beta1': 0.5, 'beta2': 0.75, 'epsilon': 0.5}
    params = reference.adam(params, {'x': [2.0]}, state, step=1, learning_rate=0.1, **settings)
    assert params['x'] == pytest.approx([1 - 0.1 * 1 / 1.5])        # m = 1, v = 1
    first = params['x'][0]
    params = reference.adam(params, {'x': [-1.0]}, state, step=2, learning_rate=0.1, **settings)
    assert state['x'] == (pytest.approx([0]), pytest.approx([1]))   # m = 1/2 - 1/2, v = 3/4 + 1/4
    assert params['x'] == pytest.approx([first])
    params = reference.adam(params, {'x': [4.0]}, state, step=3, learning_rate=0.1, **settings)
    rate = 0.1 * math.sqrt(37 / 64) / (7 / 8)                       # m = 2, v = 3/4 + 4
    assert params['x'] == pytest.approx([first - rate * 2 / (math.sqrt(4.75) + 0.5)])
    assert params['y'] == [5.0]                                     # no gradient, no change


def test_the_optimizers_leave_their_inputs_alone_and_lower_the_loss():
    before, gradients = reference.loss_and_gradients(TOKENS, PARAMS, HPARAMS)
    kept = {name: value.copy() for name, value in PARAMS.items()}
    for params in (reference.sgd(PARAMS, gradients, 0.01), reference.adam(PARAMS, gradients, {}, 1, 0.001)):
        assert reference.loss(TOKENS, params, HPARAMS) < before
    assert all(np.array_equal(PARAMS[name], kept[name]) for name in PARAMS)
    assert reference.sgd({'x': [1.0], 'y': [5.0]}, {'x': [2.0]}, 0.25) == {'x': [0.5], 'y': [5.0]}


ODDS = [0.1, 0.4, 0.2, 0.2, 0.1]


@pytest.mark.parametrize('options, expected', [
    ({}, ODDS),
    ({'top_k': 1}, [0, 1, 0, 0, 0]),
    ({'top_k': 2}, [0, 1/2, 1/4, 1/4, 0]),                      # the third is as likely as the second
    ({'top_k': 3}, [0, 1/2, 1/4, 1/4, 0]),
    ({'top_k': 4}, ODDS),
    ({'top_k': 99}, ODDS),                                      # more than there are
    ({'top_p': 0.01}, [0, 1, 0, 0, 0]),                         # at least one token
    ({'top_p': 0.39}, [0, 1, 0, 0, 0]),
    ({'top_p': 0.41}, [0, 1/2, 1/4, 1/4, 0]),
    ({'top_p': 0.79}, [0, 1/2, 1/4, 1/4, 0]),
    ({'top_p': 0.81}, ODDS),
    ({'top_p': 1.0}, ODDS),
    ({'top_p': 0.41, 'top_k': 1}, [0, 1/2, 1/4, 1/4, 0]),       # top_p overrides top_k
    ({'temperature': 0.5}, [1/26, 16/26, 4/26, 4/26, 1/26]),    # odds squared
    ({'temperature': 0.5, 'top_k': 2}, [0, 16/24, 4/24, 4/24, 0]),
    ({'temperature': 0.5, 'top_p': 0.6}, [0, 1, 0, 0, 0]),      # 16/26 > 0.6: top_p is applied after the temperature
    ({'temperature': 0}, [0, 1, 0, 0, 0]),
    ({'temperature': 0, 'top_k': 3, 'top_p': 0.9}, [0, 1, 0, 0, 0]),
])
def test_next_token_probabilities_by_hand(options, expected):
    logits = np.log(ODDS) + 3       # logits are defined up to a constant
    logits[3] = logits[2]           # equals to the last bit
    logits[4] = logits[0]
    rows = np.stack([logits, logits[::-1]])
    actual = reference.next_token_probabilities(rows, **options)
    np.testing.assert_allclose(actual, [expected, expected[::-1]], rtol=1e-12)
    np.testing.assert_allclose(reference.next_token_probabilities(logits, **options), expected, rtol=1e-12)


def test_temperature_zero_takes_the_first_of_equals():
    assert reference.next_token_probabilities([1.0, 2.0, 2.0], temperature=0).tolist() == [0, 1, 0]
