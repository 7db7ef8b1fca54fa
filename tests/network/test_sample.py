"""Draws against exact distributions; the sampling loop against the oracle."""

import numpy as np
import pytest

import reference
from conftest import load_params
from graph_walk import ops_of
from network.hparams import HParams

LOGITS = np.array([2.0, 1.5, 1.5, 0.3, -0.2, -1.0, -1.0, -4.0])
HPARAMS = HParams(n_vocab=37, n_ctx=12, n_embd=24, n_head=3, n_layer=2)
DRAWS = 20000


def chi_square(counts, probabilities):
    """Pearson's statistic over the tokens that can occur."""
    possible = probabilities > 0
    expected = counts.sum() * probabilities[possible]
    return ((counts[possible] - expected) ** 2 / expected).sum()


@pytest.mark.parametrize(('temperature', 'top_k', 'top_p'), [
    (1, 0, 0.0), (0.7, 0, 0.0), (1.8, 0, 0.0), (1, 3, 0.0), (1, 2, 0.0), (0.7, 5, 0.0), (1, 0, 0.8), (1.5, 0, 0.5),
    (1, 3, 0.95), (1, 0, 1.0), (0.7, 0, 1.0), (1, 100, 0.0), (1, 8, 0.0), (1, 0, 0.01), (1, 1, 0.0), (0.7, 2, 0.0), (0.3, 0, 0.7),
])
def test_draws_follow_the_truncated_distribution(tf, session, temperature, top_k, top_p):
    import sample
    probabilities = reference.next_token_probabilities(LOGITS, temperature, top_k, top_p)
    uniform = np.random.default_rng(0).random(DRAWS, np.float32)
    logits = tf.tile(tf.constant(LOGITS[None], tf.float32), [DRAWS, 1])
    tokens = session.run(sample.next_token(logits, uniform, temperature=temperature, top_k=top_k, top_p=top_p))
    counts = np.bincount(tokens, minlength=len(LOGITS))
    assert (counts[probabilities == 0] == 0).all()
    # The 0.999 quantile of chi-square with 7 degrees of freedom, an upper bound for the truncated ones too.
    assert chi_square(counts, probabilities) < 24.3


def test_temperature_0_is_greedy(tf, session):
    import sample
    tokens = session.run(sample.next_token(tf.constant([[0.0, 3, 1], [5, 3, 1]]), tf.constant([0.99, 0.99]), temperature=0,
                                           top_k=0, top_p=0.0))
    assert tokens.tolist() == [1, 0]


@pytest.mark.parametrize('truncation', [{'top_k': 10, 'top_p': 0.0}, {'top_k': 0, 'top_p': 0.9}], ids=str)
@pytest.mark.parametrize('uniform', [0.0, 0.5, 1 - 2 ** -24, 1.0])
def test_the_ends_of_the_unit_interval_stay_inside_the_truncation(tf, session, uniform, truncation):
    import sample
    logits = np.full([1, 50257], -1.0, np.float32)
    logits[0, 7000:7010] = 12.0
    token, = session.run(sample.next_token(tf.constant(logits), tf.constant([uniform], tf.float32), temperature=1, **truncation))
    assert 7000 <= token < 7010


def test_the_nucleus_is_complete_as_soon_as_it_has_reached_p(tf, session):
    import sample
    logits = tf.constant(LOGITS[None], tf.float32)
    likeliest = tf.nn.softmax(logits)[0, 0]
    assert (session.run(sample.top_p_logits(logits, likeliest)) > -1e9).sum() == 1


@pytest.mark.parametrize('count', [1, 2, 41, 785, 786, 787, 50257])      # 786 blocks, the last one with 17 logits and 47 paddings
@pytest.mark.parametrize('values', ['normal', 'many ties', 'nearly all banned', 'the best in the last block'])
def test_the_largest_of_many_logits_are_those_of_top_k_in_its_order(tf, session, count, values):
    import sample
    rng = np.random.default_rng(count)
    logits = rng.normal(size=[3, 50257]).astype(np.float32)
    if values == 'many ties':
        logits = np.round(2 * logits)
    if values == 'nearly all banned':
        logits[rng.uniform(size=logits.shape) > 0.0005] = -np.inf
    if values == 'the best in the last block':
        logits[:, -3:] = 9
    given = tf.placeholder(tf.float32, [None, 50257])
    (largest, indices), top = session.run([sample.largest(given, count), tf.nn.top_k(given, count)], {given: logits})
    assert (largest == top.values).all()
    assert (indices == top.indices).all()


def test_a_tie_in_one_row_changes_nothing_in_another(tf, session):
    import sample
    rows, settings = [[-1.0, 0.0, 2.0], [1.0, 0.0, 0.0]], {'temperature': 1, 'top_k': 2, 'top_p': 0.0}
    for uniform, alone in ((0.0, 1), (0.95, 2)):        # drawn in the order of the ids
        tokens = session.run([sample.next_token(tf.constant(rows[:n]), tf.fill([n], uniform), **settings) for n in (1, 2)])
        assert tokens[0].tolist() == [alone]
        assert tokens[1].tolist() == [alone, 2 if uniform else 0]


def test_tokens_that_change_places_by_rounding_are_drawn_alike(tf, session):
    """As the logits of a row do when other rows are read with it: its seed must give the same text then."""
    import sample
    more = np.nextafter(np.float32(1), np.float32(2))
    uniform = np.linspace(0, 0.999, 99, dtype=np.float32)
    tokens = session.run([sample.next_token(tf.tile([row], [99, 1]), uniform, temperature=1, top_k=3, top_p=0.0)
                          for row in ([0.5, 1, more, -3.0], [0.5, more, 1, -3.0])])
    assert set(tokens[0]) == {0, 1, 2}
    assert (tokens[0] == tokens[1]).all()


def test_probabilities_that_sum_to_less_than_1_by_rounding_still_give_a_token(tf, session):
    import sample
    logits = np.random.default_rng(0).normal(size=[16, 50257]).astype(np.float32)
    totals, tokens = session.run([tf.cumsum(tf.nn.softmax(logits), axis=-1)[:, -1],
                                  sample.draw(tf.constant(logits), tf.fill([16], np.float32(1 - 2 ** -24)))])
    assert totals.min() < 1 - 2 ** -22
    assert tokens.max() < 50257


def test_a_token_is_penalized_once_and_in_its_own_row(tf, session):
    import sample
    logits = [[2.0, -1.0, 0.5, 3.0]] * 2
    penalized = session.run(sample.penalize(tf.constant(logits), tf.constant([[0, 1, 0], [2, -1, -1]]), 2.0))
    assert penalized.tolist() == [[1, -2, 0.5, 3], [2, -1, 0.25, 3]]


def test_settings_can_be_fed(tf, session):
    import sample
    settings = {'temperature': tf.placeholder(tf.float32, []), 'top_k': tf.placeholder(tf.int32, []),
                'top_p': tf.placeholder(tf.float32, [])}
    logits, uniform = tf.constant(LOGITS[None], tf.float32), tf.constant([0.9999])
    token = sample.next_token(logits, uniform, **settings)
    cases = [(1, 0, 0), (1, 1, 0), (1, 0, 0.5), (0, 0, 0), (0, 3, 0.5), (1, 3, 0.5)]
    fed = [session.run(token, dict(zip(settings.values(), values)))[0] for values in cases]
    # The last token; the only one; the last of the nucleus {0, 1, 2}; the most likely, however truncated; the nucleus again.
    assert fed == [7, 0, 2, 0, 0, 2]
    given = [sample.next_token(logits, uniform, **dict(zip(settings, values)))[0] for values in cases]
    assert session.run(given) == fed


def test_settings_that_are_known_leave_out_what_they_rule_out(tf, session):
    """Its branches would make a third of the ops with which a run samples."""
    import sample
    for temperature, top_k, top_p, conditions in ((0, 0, 0.0, 0), (1, 0, 0.9, 0), (np.float32(0.7), np.int64(0), 0.0, 0),
                                                  (1, 40, 0.0, 1), (tf.placeholder(tf.float32, []), 0, 0.0, 1)):
        with tf.Graph().as_default() as graph:
            temperature = tf.placeholder(tf.float32, []) if tf.is_tensor(temperature) else temperature
            sample.next_token(tf.zeros([2, 9]), tf.zeros([2]), temperature=temperature, top_k=top_k, top_p=top_p)
            assert len(ops_of(graph, 'If', 'StatelessIf')) == conditions


@pytest.fixture
def params(tf, session):
    import model
    model.model(HPARAMS, tf.placeholder(tf.int32, [None, None]))
    params = reference.random_params(HPARAMS, seed=0)
    load_params(session, params)
    return params


def test_greedy_continuation_equals_the_oracle_without_cache(tf, session, params):
    import sample
    context = np.array([[3, 1, 4], [1, 5, 9]])
    tokens = session.run(sample.sample_sequence(hparams=HPARAMS, length=10, context=tf.constant(context, tf.int32), top_k=1))
    expected = context
    for _ in range(10):
        best = reference.gpt2(expected, params, HPARAMS)[:, -1].argmax(axis=-1)
        expected = np.concatenate([expected, best[:, None]], axis=1)
    assert tokens.tolist() == expected.tolist()


def test_start_token_stands_for_a_context(tf, session, params):
    import sample
    uniform = tf.constant(np.random.default_rng(0).random((3, 6), np.float32))
    by_token = sample.sample_sequence(hparams=HPARAMS, length=6, start_token=5, batch_size=3, uniform=uniform)
    by_context = sample.sample_sequence(hparams=HPARAMS, length=6, context=tf.constant([[5]] * 3), uniform=uniform)
    first, second = session.run([by_token, by_context])
    assert first.tolist() == second.tolist()
    assert first.shape == (3, 7)
    with pytest.raises(ValueError, match='either start_token or context'):
        sample.sample_sequence(hparams=HPARAMS, length=6)


def test_each_token_has_its_own_uniform_number(tf, session, params):
    import sample
    uniform = tf.constant(np.random.default_rng(0).random((20, 6), np.float32))
    complete = sample.sample_sequence(hparams=HPARAMS, length=6, context=tf.constant([[5]] * 20), uniform=uniform)
    rest = sample.sample_sequence(hparams=HPARAMS, length=4, context=complete[:, :3], uniform=uniform[:, 2:])
    first, second = session.run([complete, rest])
    assert first.tolist() == second.tolist()


def test_variables_are_read_before_the_loop(tf, session):
    """A loop that reads them itself copies them for every token."""
    import sample
    sample.sample_sequence(hparams=HPARAMS, length=6, start_token=5, batch_size=1)
    inside = [node.op for function in tf.get_default_graph().as_graph_def().library.function for node in function.node_def]
    assert 'MatMul' in inside and 'ReadVariableOp' not in inside


def test_integers_are_not_transposed(tf):
    """On many processors, TensorFlow would log what looks like an error."""
    import sample
    with tf.Graph().as_default() as graph:
        sample.sample_sequence(hparams=HPARAMS, length=6, start_token=5, batch_size=2)
        transposed = {op.inputs[0].dtype for op in ops_of(graph, 'Transpose')}
    assert transposed == {tf.float32}


def test_the_graph_s_seed_decides_where_no_numbers_are_given(tf, session, params):
    import sample
    tf.set_random_seed(5)
    tokens = sample.sample_sequence(hparams=HPARAMS, length=11, start_token=5, batch_size=1)
    with tf.Session(graph=session.graph) as other:
        load_params(other, params)
        again = other.run(tokens)
    assert session.run(tokens).tolist() == again.tolist()


def test_sampled_sequences_follow_the_oracle(tf, session, params):
    """Two tokens drawn one after the other have the exact joint distribution, through the cache."""
    import sample
    n = DRAWS
    uniform = tf.constant(np.random.default_rng(0).random((n, 2), np.float32))
    tokens = session.run(sample.sample_sequence(hparams=HPARAMS, length=2, start_token=5, batch_size=n, uniform=uniform,
                                                top_k=3))
    assert_joint(tokens[:, 1:].T, [5], params)


def assert_joint(drawn, prompt, params):
    """drawn [2, n]: pairs of tokens after the prompt, with top_k 3."""
    likely = reference.next_token_probabilities(reference.gpt2(np.array([prompt]), params, HPARAMS)[0, -1], top_k=3)
    joint = np.zeros((HPARAMS.n_vocab, HPARAMS.n_vocab))
    for token in likely.nonzero()[0]:
        logits = reference.gpt2(np.array([[*prompt, token]]), params, HPARAMS)[0, -1]
        joint[token] = likely[token] * reference.next_token_probabilities(logits, top_k=3)
    counts = np.zeros_like(joint)
    np.add.at(counts, tuple(drawn), 1)
    assert (counts[joint == 0] == 0).all()
    assert chi_square(counts, joint) < 26.1     # 0.999 quantile, 8 degrees of freedom
