"""Batches of prompts: each row as if sampled alone, and as the oracle, which has no cache, computes it."""

import signal

import numpy as np
import pytest

import reference
from checkpoint_files import read_checkpoint
from network.hparams import load_hparams
from vocabulary.spelling import END_OF_TEXT

PROMPTS = ['the', 'the quick brown fox jumps', 'dog', 'over the lazy dog; the', 'a']


@pytest.fixture(scope='module')
def generator(tf, model_directory):
    from generator import Generator
    return Generator(str(model_directory))


@pytest.fixture(scope='module')
def oracle(tf, model_directory):
    """A function from the tokens in the window to the logits of the next token."""
    hparams = load_hparams(str(model_directory))
    params = read_checkpoint(model_directory, 'model/')
    return lambda window: reference.gpt2(np.array([window]), params, hparams)[0, -1]


@pytest.fixture(params=[256, 5], ids=['full capacity', 'growing capacity'])
def capacity(request, tf, monkeypatch):
    import generator
    monkeypatch.setattr(generator, 'CAPACITY_STEP', request.param)


def greedy(oracle, tokens, n, n_ctx, likely=lambda logits, tokens: logits):
    """n greedy tokens after these; a full window is cut to its last half."""
    tokens, window = list(tokens), 0
    for _ in range(n):
        if len(tokens) - window > n_ctx:
            window = len(tokens) - n_ctx // 2
        tokens.append(int(likely(oracle(tokens[window:]), tokens).argmax()))
    return tokens[-n:]


def ids_of(generator, prompts, batch_size, **settings):
    from sampling.continuation import SamplingSettings
    seed = settings.pop('seed', 3)
    texts = [generator.continuation(prompt, SamplingSettings(**settings), [seed, i]) for i, prompt in enumerate(prompts)]
    return [text.ids for text in generator.finish(texts, batch_size)]


def test_greedy_equals_the_oracle_past_several_windows(generator, oracle, capacity):
    rows = ids_of(generator, PROMPTS[:3], 3, temperature=0, length=200, stop_at_eot=False)
    n_ctx = generator.hparams.n_ctx
    assert n_ctx == 32
    for prompt, ids in zip(PROMPTS, rows):
        assert ids == greedy(oracle, generator.encoder.encode(prompt), 200, n_ctx), prompt


@pytest.mark.parametrize('settings', [{'top_k': 40}, {'temperature': 1.5}, {'top_p': 0.9, 'repetition_penalty': 1.3},
                                      {'stop': ('e', 'o'), 'truncate': True}], ids=str)
def test_rows_equal_those_sampled_alone(generator, capacity, settings):
    alone = [generator.generate([''] * i + [prompt], batch_size=1, length=70, seed=3, **settings)[i]
             for i, prompt in enumerate(PROMPTS)]
    assert len(set(alone)) == len(PROMPTS)
    for batch_size in (2, 5, 8):
        assert generator.generate(PROMPTS, batch_size=batch_size, length=70, seed=3, **settings) == alone
    assert generator.generate(PROMPTS, length=70, seed=4, **settings) != alone


def test_the_next_text_takes_the_row_of_a_complete_one(generator):
    from sampling.continuation import SamplingSettings
    texts = [generator.continuation('the', SamplingSettings(length=n), [0, n]) for n in (9, 1, 1, 5, 2)]
    started = [texts.index(text) for text in generator.steps(texts, 2) if len(text.ids) == 1 and texts[0].stop_reason is None]
    assert started == [0, 1, 2, 3, 4]     # all others in the second row, while the first grows
    assert [len(text.ids) for text in texts] == [9, 1, 1, 5, 2]
    assert [text.stop_reason for text in texts] == ['length'] * 5


def test_finish_keeps_the_order(generator):
    from sampling.continuation import SamplingSettings
    texts = [generator.continuation('the', SamplingSettings(length=n), [0, n]) for n in (9, 1, 3)]
    assert list(generator.finish(texts, 3)) == texts


def test_a_stream_is_the_text_even_if_another_call_comes_between(generator):
    [expected] = generator.generate(['the fox'], length=50, seed=5, stop_at_eot=False)
    pieces = []
    for piece in generator.stream('the fox', length=50, seed=5, stop_at_eot=False):
        pieces.append(piece)
        if len(pieces) % 7 == 0:
            generator.generate(PROMPTS, length=3)
    assert ''.join(pieces) == expected
    assert len(pieces) > 10


def test_the_repetition_penalty_is_the_oracle_s(generator, oracle):
    def penalized(logits, tokens):
        seen = np.isin(np.arange(len(logits)), tokens)
        return np.where(seen, np.where(logits > 0, logits / 1.7, logits * 1.7), logits)
    rows = ids_of(generator, PROMPTS, 5, temperature=0, length=60, repetition_penalty=1.7, stop_at_eot=False)
    for prompt, ids in zip(PROMPTS, rows):
        assert ids == greedy(oracle, generator.encoder.encode(prompt), 60, 32, penalized)
    assert rows != ids_of(generator, PROMPTS, 5, temperature=0, length=60, stop_at_eot=False)


def test_the_log_probability_is_the_model_s_own(generator, oracle):
    from sampling.continuation import SamplingSettings
    texts = [generator.continuation(prompt, SamplingSettings(length=6, top_k=3, temperature=0.5), [1, i])
             for i, prompt in enumerate(PROMPTS)]
    for text in generator.finish(texts, 3):
        expected = 0
        for i, token in enumerate(text.ids):
            logits = oracle(text.tokens[:len(text.tokens) - len(text.ids) + i])
            expected += logits[token] - np.log(np.exp(logits).sum())
        assert text.log_probability == pytest.approx(expected, abs=1e-4)


def test_no_setting_changes_the_graph(generator, tf):
    graph = generator._session.graph
    before = len(graph.get_operations())
    generator.generate(PROMPTS, length=40, temperature=0.7, top_k=5)
    generator.generate(PROMPTS[:2], length=3, top_p=0.5, repetition_penalty=1.2)
    assert len(graph.get_operations()) == before
    assert graph.finalized


@pytest.mark.parametrize('number', [1, 2, 3], ids=['cache size', 'prompt', 'token'])
def test_ctrl_c_waits_for_the_end_of_a_run(generator, monkeypatch, number):
    run, ended = generator._session.run, []

    def interrupted(*args, **kwargs):
        if len(ended) == number - 1:
            signal.raise_signal(signal.SIGINT)
        ended.append(run(*args, **kwargs))
        return ended[-1]

    [expected] = generator.generate(['the'], length=5, seed=1)
    monkeypatch.setattr(generator._session, 'run', interrupted)
    monkeypatch.setattr(generator, '_decode_call', None)        # the one that is there has the real run
    with pytest.raises(KeyboardInterrupt):
        generator.generate(['the'], length=5, seed=1)
    assert len(ended) == number
    assert generator.generate(['the'], length=5, seed=1) == [expected]


def test_the_session_is_created_before_the_network(tf, model_directory, monkeypatch):
    """Else the compiled programs get all threads for each op and divide their matmuls: a seventh of the speed was lost."""
    import generator
    made = []
    session, network = tf.Session, generator.ShardedNetwork
    monkeypatch.setattr(generator.tf, 'Session', lambda **kwargs: made.append('session') or session(**kwargs))
    monkeypatch.setattr(generator, 'ShardedNetwork', lambda *args: made.append('network') or network(*args))
    generator.Generator(str(model_directory))
    assert made == ['session', 'network']


def test_ids_beyond_the_vocabulary_are_never_drawn(tf, model_directory):
    """In a model whose n_vocab was rounded up."""
    from generator import Generator
    from storage.model_directory import open_model
    opened = open_model(str(model_directory))
    encoder = opened.encoder
    encoder.n_vocab -= 30
    texts = ids_of(Generator(opened), PROMPTS, 5, length=60, temperature=5, stop_at_eot=False)
    assert max(map(max, texts)) < encoder.n_vocab


def test_a_prompt_longer_than_the_window_is_refused(generator):
    from command.errors import UserError
    with pytest.raises(UserError, match=r"the prompt has \d+ tokens, the model's window holds 32"):
        generator.generate(['z' * 40])


TEXTS = [*PROMPTS, '', 'the quick brown fox jumps over the lazy dog; ' * 6, 'x', f'fox{END_OF_TEXT}dog', 'é☃ z' * 9]


def oracle_scores(tokens, oracle, encoder, n_ctx):
    """The log-probability of each token, the first one after an end-of-text token, by windows that slide by half of n_ctx."""
    chunk, found = [encoder.end_of_text, *tokens], []
    for i in range(1, len(chunk)):
        end = min(n_ctx + -(-max(i - n_ctx, 0) // (n_ctx // 2)) * (n_ctx // 2), len(chunk) - 1)
        found.append(reference.log_softmax(oracle(chunk[max(end - n_ctx, 0):i]))[chunk[i]])
    return np.array(found)


def test_scores_equal_the_oracle_s(generator, oracle):
    encoder = generator.encoder
    scores = generator.score(TEXTS)
    assert max(len(score.tokens) for score in scores) > 2 * generator.hparams.n_ctx
    assert min(len(score.tokens) for score in scores) == 0
    for text, score in zip(TEXTS, scores):
        assert score.tokens.tolist() == encoder.encode_with_special(text)
        expected = oracle_scores(score.tokens.tolist(), oracle, encoder, generator.hparams.n_ctx)
        np.testing.assert_allclose(score.log_probabilities, expected, atol=1e-4)
        n_bytes = len(text.replace(END_OF_TEXT, '').encode())
        assert score.n_bytes == n_bytes
        if text:
            assert score.loss == pytest.approx(-expected.mean(), abs=1e-4)
            assert score.perplexity == pytest.approx(np.exp(-expected.mean()), rel=1e-4)
            assert score.bits_per_byte == pytest.approx(-expected.sum() / np.log(2) / n_bytes, rel=1e-4)
        else:
            assert (score.loss, score.perplexity, score.bits_per_byte) == (None, None, None)


def test_neither_batch_size_nor_order_changes_a_score(generator):
    alone = [generator.score([text], batch_size=1)[0].log_probabilities for text in TEXTS]
    for batch_size in (1, 2, 8, 50):
        for order in (slice(None), slice(None, None, -1)):
            scores = generator.score(TEXTS[order], batch_size=batch_size)
            for score, expected in zip(scores, alone[order], strict=True):
                np.testing.assert_allclose(score.log_probabilities, expected, atol=1e-5)


def test_a_string_is_one_text_and_an_iterator_is_read(generator):
    [score] = generator.score('the fox')
    assert score.tokens.tolist() == generator.encoder.encode('the fox')
    assert [len(score.tokens) for score in generator.score(iter(['the fox', '']))] == [len(score.tokens), 0]
    assert generator.score([]) == []


def test_a_score_is_what_generate_gives_as_log_probability(generator):
    from sampling.continuation import SamplingSettings
    [text] = generator.finish([generator.continuation('', SamplingSettings(length=20, stop_at_eot=False), [1, 0])], 1)
    [score] = generator.scores([np.array(text.tokens)], length=32, stride=16, batch_size=1)
    assert score.log_probabilities.sum() == pytest.approx(text.log_probability, abs=1e-4)


def test_scores_leave_a_stream_alone(generator):
    expected = generator.generate(['the fox'], length=40, seed=5, stop_at_eot=False)
    pieces = []
    for piece in generator.stream('the fox', length=40, seed=5, stop_at_eot=False):
        pieces.append(piece)
        if len(pieces) % 9 == 1:
            generator.score(TEXTS)
    assert [''.join(pieces)] == expected


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'texts': ['a', b'b']}, "a text to score must be a string, not b'b'"),
    ({'texts': [None]}, 'a text to score must be a string, not None'),
    ({'texts': ['a'], 'batch_size': 0}, 'batch_size must be a whole number, 1 or more, not 0')])
def test_what_cannot_be_scored_is_refused(generator, arguments, message):
    from command.errors import UserError
    with pytest.raises(UserError, match=message):
        generator.score(**arguments)


def test_too_little_memory_for_scores_is_one_line(generator, tf, monkeypatch):
    from command.errors import UserError

    def run(*_):
        raise tf.errors.ResourceExhaustedError(None, None, 'OOM')
    monkeypatch.setattr(generator._session, 'run', run)
    with pytest.raises(UserError, match='out of memory with batch_size 3 and windows of 32 tokens'):
        generator.score('x', batch_size=3)
