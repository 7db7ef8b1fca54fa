"""Batches of prompts: each row as if sampled alone, and as the oracle, which has no cache, computes it."""

import concurrent.futures
import itertools
import signal
import threading

import numpy as np
import pytest

import reference
from checkpoint_files import read_checkpoint
from command.errors import UserError
from graph_walk import ancestors
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


def texts_alone(generator, seed, **settings):
    """What each of PROMPTS becomes in a batch of its own, with the random numbers that it has among all of them."""
    from sampling.continuation import SamplingSettings
    texts = [generator.continuation(prompt, SamplingSettings(**settings), [seed, i, 0]) for i, prompt in enumerate(PROMPTS)]
    return [text.text for text in generator.finish(texts, 1)]


def test_greedy_equals_the_oracle_past_several_windows(generator, oracle, capacity):
    rows = ids_of(generator, PROMPTS[:3], 3, temperature=0, length=100, stop_at_eot=False)
    n_ctx = generator.hparams.n_ctx
    assert n_ctx == 32
    for prompt, ids in zip(PROMPTS, rows):
        assert ids == greedy(oracle, generator.encoder.encode(prompt), 100, n_ctx), prompt


@pytest.mark.parametrize('settings', [{'top_k': 40}, {'temperature': 1.5}, {'top_p': 0.9, 'repetition_penalty': 1.3},
                                      {'stop': ('e', 'o'), 'truncate': True}], ids=str)
def test_rows_equal_those_sampled_alone(generator, capacity, settings):
    settings = {'length': 50, **settings}       # the window slides twice
    alone = texts_alone(generator, 3, **settings)
    assert len(set(alone)) == len(PROMPTS)
    for batch_size in (2, 5, 8):
        assert generator.generate(PROMPTS, batch_size=batch_size, seed=3, **settings) == alone
    assert generator.generate(PROMPTS, seed=4, **settings) != alone


def test_weights_in_fewer_bytes(generator, model_directory):
    """Seeds and batches mean the same; the texts are those of other, rounded weights."""
    from generator import Generator
    as_float32 = texts_alone(generator, 3, length=50, top_k=40)
    for weights in ('int8', 'bfloat16'):
        smaller = Generator(str(model_directory), weights=weights)
        alone = texts_alone(smaller, 3, length=50, top_k=40)
        assert smaller.generate(PROMPTS, batch_size=8, seed=3, length=50, top_k=40) == alone != as_float32
    with pytest.raises(UserError, match=r"^weights must be float32, bfloat16 or int8, not 'int4'$"):
        Generator(str(model_directory), weights='int4')


def test_the_next_text_takes_the_row_of_a_complete_one(generator):
    from sampling.continuation import SamplingSettings
    texts = [generator.continuation('the', SamplingSettings(length=n), [0, n]) for n in (9, 1, 1, 5, 2)]
    started = [texts.index(text) for text in generator.steps(texts, 2) if len(text.ids) == 1 and texts[0].stop_reason is None]
    assert started == [0, 1, 2, 3, 4]     # all others in the second row, while the first grows
    assert [len(text.ids) for text in texts] == [9, 1, 1, 5, 2]
    assert [text.stop_reason for text in texts] == ['length'] * 5


def test_rows_are_given_up_once_half_of_them_are_free(generator):
    from sampling.continuation import SamplingSettings
    texts = [generator.continuation('the', SamplingSettings(length=n, stop_at_eot=False), [0, n]) for n in (1, 2, 3, 6)]
    in_cache = [generator._cache_rows for _ in generator.steps(texts, 4)]
    assert in_cache == 4 * [4] + 3 * [4] + 2 * [2] + 3 * [1]


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
        return np.where(seen, np.where(logits > 0, logits / 2, logits * 2), logits)
    rows = ids_of(generator, PROMPTS, 5, temperature=0, length=60, repetition_penalty=2, stop_at_eot=False)
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
    ended = []

    def interrupted(run):
        def interrupted_run(*args):
            if len(ended) == number - 1:
                signal.raise_signal(signal.SIGINT)
            ended.append(run(*args))
            return ended[-1]
        return interrupted_run

    [expected] = generator.generate(['the'], length=5, seed=1)      # which makes a callable for tokens
    monkeypatch.setattr(generator._session, 'run', interrupted(generator._session.run))
    monkeypatch.setattr(generator, '_decode_calls', {key: interrupted(run) for key, run in generator._decode_calls.items()})
    with pytest.raises(KeyboardInterrupt):
        generator.generate(['the'], length=5, seed=1)
    assert len(ended) == number
    assert generator.generate(['the'], length=5, seed=1) == [expected]


def test_the_session_is_created_before_the_network(tf, model_directory, monkeypatch):
    """Else the compiled programs get all threads for each op and divide their matmuls: a seventh of the speed was lost."""
    import generator
    made = []

    class Made(Exception):
        pass

    def network(*_, **__):
        made.append('network')
        raise Made      # the rest takes long

    session = generator.open_session
    monkeypatch.setattr(generator, 'open_session', lambda *args: made.append('session') or session(*args))
    monkeypatch.setattr(generator, 'ShardedNetwork', network)
    with pytest.raises(Made):
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


def test_threads_share_a_generator(generator):
    """As they finish texts, and as they stream, in turns."""
    def complete(seed):
        return generator.generate(PROMPTS[seed:seed + 2], seed=seed, length=20)

    def streamed(seed):
        return list(generator.stream('the fox', seed=seed, length=20))

    work = [(do, seed) for seed in range(3) for do in (complete, streamed)]
    alone = [do(seed) for do, seed in work]
    with concurrent.futures.ThreadPoolExecutor(len(work)) as pool:
        for _ in range(3):
            assert [call.result() for call in [pool.submit(do, seed) for do, seed in work]] == alone


def test_a_text_in_one_thread_and_an_abandoned_stream_in_another(generator):
    abandoned = generator.stream('the fox', length=40, stop_at_eot=False)
    next(abandoned)
    texts = []
    thread = threading.Thread(target=lambda: texts.extend(generator.generate('the', length=3)), daemon=True)
    thread.start()
    thread.join(60)     # it would wait for ever if the stream still held the cache
    assert len(texts) == 1
    abandoned.close()


def test_streams_in_turns_in_one_thread(generator):
    def streams():
        return [generator.stream('the fox', seed=seed, length=30, stop_at_eot=False) for seed in range(2)]
    alone = [''.join(stream) for stream in streams()]
    pieces = list(itertools.zip_longest(*streams(), fillvalue=''))
    assert [''.join(column) for column in zip(*pieces)] == alone


def test_the_end_of_text_token_in_a_prompt(generator):
    from sampling.continuation import SamplingSettings
    end = generator.encoder.end_of_text
    text = generator.continuation('the<|endoftext|>', SamplingSettings(), [1])
    assert text.tokens == [*generator.encoder.encode('the'), end]
    assert generator.continuation('<|endoftext|>', SamplingSettings(), [1]).tokens == [end]
    assert generator.generate('', seed=1, length=30) == generator.generate('<|endoftext|>', seed=1, length=30)


def test_several_texts_for_each_prompt(generator):
    settings = {'length': 6, 'seed': 4, 'stop_at_eot': False}
    texts = generator.generate(['the', 'dog'], n=3, **settings)
    assert len(set(texts)) == 6
    assert [generator.generate(['the', 'dog'], n=n, batch_size=2, **settings) for n in (1, 2)] == [
        [texts[0], texts[3]], [texts[0], texts[1], texts[3], texts[4]]]
    assert generator.generate('the', n=3, **settings) == texts[:3]
    assert ''.join(generator.stream('the', **settings)) == texts[0]


def test_a_wrong_keyword_is_named(generator):
    for call in (generator.generate, generator.stream):
        with pytest.raises(TypeError, match=r"has no argument 'temprature': did you mean temperature\?"):
            call('the', temprature=1)


def test_a_string_is_one_prompt(generator):
    assert generator.generate('the fox', seed=1, length=5) == generator.generate(['the fox'], seed=1, length=5)


@pytest.mark.parametrize(('arguments', 'words'), [
    ({'batch_size': 0}, 'batch_size must be a whole number, 1 or more, not 0'),
    ({'batch_size': 2 ** 31}, 'batch_size must be at most 2147483647'),
    ({'n': 0}, 'n must be a whole number, 1 or more, not 0'),
    ({'seed': -1}, 'seed must be a whole number, 0 or more, not -1'),
    ({'seed': 'x'}, "seed must be a whole number, 0 or more, not 'x'"),
    ({'prompts': ['the', 5]}, 'the prompt must be a string, not 5'),
    ({'prompts': None}, 'prompts must be strings, not None'),
    ({'prompts': b'the'}, "the prompt must be a string, not b'the'"),
    ({'top_k': 2 ** 31}, 'top_k must be at most 2147483647'),
    ({'length': 0}, 'length must be a whole number, 1 or more, not 0')])
def test_invalid_arguments(generator, arguments, words):
    from command.errors import UserError
    with pytest.raises(UserError, match=words):
        generator.generate(**{'prompts': ['the'], 'length': 2} | arguments)


def test_huge_and_tiny_numbers(generator):
    from sampling.continuation import LARGEST, MOST, SMALLEST
    best = generator.generate(PROMPTS, temperature=0, length=3)
    settings = {'repetition_penalty': LARGEST, 'length': 3, 'seed': 2 ** 200, 'batch_size': MOST}
    assert generator.generate(PROMPTS, temperature=SMALLEST, top_k=MOST, length=3, batch_size=np.int64(3)) == best
    assert generator.generate(PROMPTS, temperature=SMALLEST, **settings) == generator.generate(
        PROMPTS, temperature=0, **settings)
    assert len(generator.generate(PROMPTS, temperature=LARGEST, top_p=SMALLEST, length=3)) == len(PROMPTS)


def test_banned_words_are_not_written(generator):
    settings = {'temperature': 0.3, 'length': 60, 'stop_at_eot': False}
    words = written_words(generator, (1, 2, 3), **settings)
    banned = [generator.encoder.encode(form) for word in words for form in (word, f' {word}')]

    def count(rows):
        return sum(row[i:i + len(ids)] == ids for row in rows for ids in banned for i in range(len(row)))

    assert count(ids_of(generator, PROMPTS, 3, **settings)) >= len(words)
    assert count(ids_of(generator, PROMPTS, 3, banned_words=words, **settings)) == 0


def test_a_batch_with_bans_equals_its_texts_alone(generator):
    settings = {'no_repeat_ngram': 2, 'banned_words': ['the', 'o'], 'length': 50}
    texts = generator.generate(PROMPTS, batch_size=3, seed=5, **settings)
    assert texts == texts_alone(generator, 5, **settings)
    assert texts != generator.generate(PROMPTS, seed=5, **settings | {'no_repeat_ngram': 0})


def test_if_every_token_is_banned_none_is(generator):
    from sampling.continuation import SamplingSettings
    size = generator.encoder.n_vocab
    text = generator.continuation('', SamplingSettings(no_repeat_ngram=1, length=size + 5, stop_at_eot=False), [1])
    [_] = generator.finish([text], 1)
    assert sorted(text.tokens[:size]) == list(range(size)) and len(text.ids) == size + 5
    assert text.banned_tokens() == set() and set(text.ids[-5:]) != {0}      # 0 is drawn from logits that are all -inf


def written_words(generator, sizes, **settings):
    """For each size, a text of so many tokens that is written without bans."""
    encode, decode = generator.encoder.encode, generator.encoder.decode
    rows = ids_of(generator, PROMPTS, 5, **settings)
    found = [[decode(ids[i:i + n]) for ids in rows for i in range(len(ids)) if encode(decode(ids[i:i + n])) == ids[i:i + n]]
             for n in sizes]
    return tuple(texts[len(texts) // 2] for texts in found)


@pytest.mark.parametrize('n', [1, 2, 3, None])
def test_bans_equal_those_of_transformers(generator, oracle, n):
    """n: of no_repeat_ngram; None: banned words."""
    torch, transformers = pytest.importorskip('torch'), pytest.importorskip('transformers')
    settings = {'temperature': 0, 'length': 60, 'stop_at_eot': False}
    if n:
        bans, process = {'no_repeat_ngram': n}, transformers.NoRepeatNGramLogitsProcessor(n)
    else:
        words = written_words(generator, (1, 2, 3), **settings)
        sequences = [generator.encoder.encode(form) for word in words for form in (word, f' {word}')]
        bans, process = {'banned_words': words}, transformers.NoBadWordsLogitsProcessor(sequences, eos_token_id=None)

    def allowed(logits, tokens):
        return process(torch.tensor([tokens]), torch.tensor(logits[None], dtype=torch.float32))[0].numpy()

    rows = ids_of(generator, PROMPTS[:3], 3, **settings, **bans)
    assert rows != ids_of(generator, PROMPTS[:3], 3, **settings)
    for prompt, ids in zip(PROMPTS, rows):
        assert ids == greedy(oracle, generator.encoder.encode(prompt), 60, 32, allowed), prompt


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


MIXED = [{'temperature': 0}, {'top_k': 5}, {'temperature': 1.4}, {'top_p': 0.8, 'repetition_penalty': 1.3}, {'top_k': 5}]


def mixed_texts(generator, logprobs=(None,) * 5):
    from sampling.continuation import SamplingSettings
    return [generator.continuation(prompt, SamplingSettings(length=40, stop_at_eot=False, **settings), [3, i], count)
            for i, (prompt, settings, count) in enumerate(zip(PROMPTS, MIXED, logprobs, strict=True))]


def test_rows_with_different_settings_equal_those_sampled_alone(generator, capacity):
    alone = [text.ids for text in generator.finish(mixed_texts(generator), 1)]
    assert len(set(map(tuple, alone))) == 5
    for batch_size, logprobs in ((2, (None,) * 5), (5, (3, None, 0, 5, None))):
        texts = mixed_texts(generator, logprobs)
        assert [text.ids for text in generator.finish(texts, batch_size)] == alone
        assert [len(text.alternatives) for text in texts] == [0 if count is None else 40 for count in logprobs]


def test_texts_join_and_leave_between_steps_and_no_other_is_read_again(generator, capacity, monkeypatch):
    from sampling.continuation import SamplingSettings
    from sampling.rows import Rows
    alone = [text.ids for text in generator.finish(mixed_texts(generator), 1)]
    read, run = [], generator._session.run

    def noted(fetches, feed_dict):
        if generator._lengths in feed_dict:
            read.append(feed_dict[generator._lengths])
        return run(fetches, feed_dict)
    monkeypatch.setattr(generator._session, 'run', noted)
    rows, texts = Rows(8), mixed_texts(generator)
    left = generator.continuation('dog', SamplingSettings(length=99), [1, 0])
    rows.join(left)
    for text in texts:
        generator.step(rows)
        rows.join(text)
    generator.step(rows)
    assert read == [[len(text.tokens) - len(text.ids)] for text in [left, *texts]]
    rows.leave(left)
    while rows:
        for text in generator.step(rows):
            if text.stop_reason:
                rows.leave(text)
    assert [text.ids for text in texts] == alone and len(left.ids) < 8


def test_the_cache_shrinks_when_all_texts_are_short_again(generator, monkeypatch):
    import generator as module
    from sampling.continuation import SamplingSettings
    monkeypatch.setattr(module, 'CAPACITY_STEP', 4)
    expected = generator.generate(['the', 'dog'], length=12, seed=1, stop_at_eot=False)
    texts = [generator.continuation(prompt, SamplingSettings(length=length, stop_at_eot=False), [1, i, 0])
             for i, (prompt, length) in enumerate((('the', 12), ('dog', 12)))]
    long = generator.continuation('the quick brown fox', SamplingSettings(length=20, stop_at_eot=False), [2, 0])
    capacities = [generator._capacity for _ in generator.steps([long, *texts], 1)]
    assert max(capacities) >= 16 and capacities[len(long.ids)] == 4
    assert [text.text for text in texts] == expected


@pytest.mark.parametrize(('rows', 'expected'), [(7, [8, 16]), (8, [4, 8, 12])])
def test_with_many_rows_the_cache_grows_in_smaller_steps(generator, monkeypatch, rows, expected):
    import generator as module
    from sampling.continuation import SamplingSettings
    monkeypatch.setattr(module, 'CAPACITY_STEP', 8)

    def write(batch_size):
        texts = [generator.continuation('the', SamplingSettings(length=10, stop_at_eot=False), [1, i]) for i in range(rows)]
        return sorted({generator._capacity for _ in generator.steps(texts, batch_size)}), [text.ids for text in texts]
    (capacities, together), (_, alone) = write(rows), write(1)
    assert capacities == expected and together == alone


def test_alternatives_are_the_oracle_s(generator, oracle):
    texts = generator.generate(PROMPTS, length=6, seed=1, temperature=0.7, repetition_penalty=2, logprobs=4)
    for prompt, text in zip(PROMPTS, texts, strict=True):
        tokens = generator.encoder.encode(prompt)
        for token, log_probability, alternatives in zip(text.ids, text.log_probabilities, text.alternatives, strict=True):
            expected = reference.log_softmax(oracle(tokens))
            best = np.argsort(-expected, kind='stable')[:4]
            assert [id for id, _ in alternatives] == best.tolist()
            np.testing.assert_allclose([value for _, value in alternatives], expected[best], atol=1e-4)
            assert log_probability == pytest.approx(expected[token], abs=1e-4)
            tokens.append(token)
    assert [text.text for text in texts] == generator.generate(PROMPTS, length=6, seed=1, temperature=0.7, repetition_penalty=2)


def test_the_offsets_of_tokens_in_their_text(generator):
    [text] = generator.generate('é☃', length=60, seed=2, temperature=3, logprobs=0, stop_at_eot=False)
    assert text.alternatives == [[]] * 60
    decode = generator.encoder.decode
    for i, offset in enumerate(text.offsets):
        assert decode(text.ids[:i]).startswith(text.text[:offset])
    assert len(set(text.offsets)) < 60 and '\ufffd' in text.text      # bytes that are not characters


def test_alternatives_of_scores_are_the_oracle_s(generator, oracle):
    [plain], [score] = (generator.score('the quick fox', logprobs=count) for count in (None, 3))
    assert plain.alternatives is None
    np.testing.assert_allclose(score.log_probabilities, plain.log_probabilities, atol=1e-6)
    chunk = [generator.encoder.end_of_text, *score.tokens.tolist()]
    for i, alternatives in enumerate(score.alternatives, start=1):
        expected = reference.log_softmax(oracle(chunk[:i]))
        best = np.argsort(-expected, kind='stable')[:3]
        assert [id for id, _ in alternatives] == best.tolist()
        np.testing.assert_allclose([value for _, value in alternatives], expected[best], atol=1e-4)
    assert len(score.alternatives) == len(score.tokens)
    assert [len(each.alternatives) for each in generator.score(['', 'the fox'], logprobs=0)] == [
        0, len(generator.encoder.encode('the fox'))]


@pytest.mark.parametrize(('presence', 'frequency'), [(1.5, 0), (0, 0.8), (-2, 0.5)])
def test_penalties_of_what_was_drawn_are_the_oracle_s(generator, oracle, presence, frequency):
    settings = {'temperature': 0, 'length': 50, 'stop_at_eot': False}
    rows = ids_of(generator, PROMPTS[:3], 3, **settings, presence_penalty=presence, frequency_penalty=frequency)
    for prompt, ids in zip(PROMPTS, rows):
        start = generator.encoder.encode(prompt)
        n = len(start)

        def penalized(logits, tokens, n=n):
            counts = np.bincount(tokens[n:], minlength=len(logits))
            return logits - presence * (counts > 0) - frequency * counts
        assert ids == greedy(oracle, start, 50, 32, penalized), prompt
    assert rows != ids_of(generator, PROMPTS[:3], 3, **settings)


def test_a_prompt_of_token_ids(generator):
    from sampling.continuation import SamplingSettings
    ids = generator.encoder.encode('the fox')
    texts = [generator.continuation(prompt, SamplingSettings(length=9), [1, 0, 0]) for prompt in ('the fox', ids)]
    assert len({text.text for text in generator.finish(texts, 2)}) == 1
    assert generator.generate([ids], length=9, seed=1) == [texts[0].text]
    with pytest.raises(UserError, match='the prompt has 33 tokens, the model.s window holds 32'):
        generator.generate([[1] * 33])
    with pytest.raises(UserError, match='each token of the prompt must be at most'):
        generator.generate([[generator.encoder.n_vocab]])
    with pytest.raises(UserError, match='the prompt has no tokens'):
        generator.generate([[]])
    with pytest.raises(TypeError, match='no argument .logprobs.'):
        generator.stream('the', logprobs=1)
    with pytest.raises(UserError, match='logprobs must be a whole number, 0 or more, not -1'):
        generator.generate('the', logprobs=-1)


@pytest.mark.parametrize(('batch_size', 'advice'), [(2, 'a smaller batch_size or length'), (1, 'a smaller length')])
def test_too_little_memory_for_texts_is_one_line_and_the_next_texts_are_right(generator, tf, monkeypatch, batch_size, advice):
    """Memory runs out where the cache grows, when a part of it has grown already."""
    from command.errors import UserError

    def write():
        return generator.generate(['the', 'dog', 'fox'], seed=1, length=4, batch_size=3)
    expected = write()
    run, resize = generator._session.run, generator._cache.resize

    def fail(fetches, *arguments):
        if fetches is resize:
            assigns = (op for op in ancestors(resize) if op.type == 'AssignVariableOp')
            run(next(op for op in assigns if op.inputs[1].shape.rank == 2), *arguments)
            raise tf.errors.ResourceExhaustedError(None, None, 'OOM')
        return run(fetches, *arguments)
    monkeypatch.setattr(generator._session, 'run', fail)
    with pytest.raises(UserError, match=f'out of memory with batch_size {batch_size} and texts of up to 1 tokens: give {advice}, '
                                        'or weights of fewer bytes'):
        generator.generate(['a', 'a'], length=4, batch_size=batch_size)
    monkeypatch.undo()
    assert write() == expected


@pytest.mark.parametrize(('weights', 'advice'), [
    ('float32', 'bfloat16 or int8, or a smaller model'), ('int8', 'a smaller model')])
def test_too_little_memory_for_weights_is_one_line(tf, model_directory, monkeypatch, weights, advice):
    import generator
    from command.errors import UserError

    def fail(*_):
        raise tf.errors.ResourceExhaustedError(None, None, 'OOM')
    monkeypatch.setattr(generator.ShardedNetwork, 'load', fail)
    with pytest.raises(UserError, match=f'^out of memory for the weights of .*/model.ckpt in {weights}: use {advice}$'):
        generator.Generator(str(model_directory), weights)
