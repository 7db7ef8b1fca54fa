"""Clients that others wrote: the openai package, EleutherAI's lm-eval, and requests that schemathesis makes of the schema."""

import json
import math

import numpy as np
import pytest

from conftest import TEXT
from optional import HUGGINGFACE, SERVE, needs
from served_model import NAME

pytest_plugins = ['served_model']
needs('starlette', SERVE)
TEXTS = ['the quick brown fox jumps over the lazy dog; the dog sleeps, and the fox goes on. ' * 3, 'the fox', 'x', 'é☃ dog']


@pytest.fixture
def openai(running):
    return needs('openai').OpenAI(base_url=f'{running.url}/v1', api_key='none', max_retries=0)


def test_the_openai_client(openai, running):
    expected = running.generator.generate(['the', 'dog'], n=2, seed=5, length=9, truncate=True, logprobs=3)
    answer = openai.completions.create(model=NAME, prompt=['the', 'dog'], n=2, seed=5, max_tokens=9, logprobs=3)
    assert [choice.text for choice in answer.choices] == [text.text for text in expected]
    for choice, text in zip(answer.choices, expected, strict=True):
        assert choice.logprobs.token_logprobs == pytest.approx(text.log_probabilities, abs=1e-4)
        assert [list(each.values())[:3] for each in choice.logprobs.top_logprobs] == [
            pytest.approx([value for _, value in pairs], abs=1e-4) for pairs in text.alternatives]
    assert answer.usage.completion_tokens == sum(len(text.ids) for text in expected)
    assert [model.id for model in openai.models.list()] == [NAME]
    assert openai.models.retrieve(NAME).id == NAME


def test_the_openai_client_streams(openai):
    settings = {'model': NAME, 'prompt': 'the', 'seed': 5, 'max_tokens': 20, 'temperature': 1.5, 'stop': ['zz'],
                'extra_body': {'top_k': 50, 'return_token_ids': True}}
    whole = openai.completions.create(**settings)
    parts = list(openai.completions.create(**settings, stream=True, stream_options={'include_usage': True}))
    assert ''.join(part.choices[0].text for part in parts[:-1]) == whole.choices[0].text
    assert parts[-1].usage == whole.usage and parts[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert sum(len(part.choices[0].token_ids) for part in parts[:-1]) == whole.usage.completion_tokens


def test_the_openai_client_understands_errors(openai):
    module = needs('openai')
    with pytest.raises(module.BadRequestError, match='temperature must be a number from 0 to 2') as raised:
        openai.completions.create(model=NAME, prompt='a', temperature=5)
    assert (raised.value.param, raised.value.type) == ('temperature', 'invalid_request_error')
    with pytest.raises(module.NotFoundError, match='only'):
        openai.completions.create(model='other', prompt='a')


@pytest.fixture
def lm_eval(running, tmp_path, monkeypatch, settings_directory):
    """lm_eval({task: (its settings, documents)}) -> for each task what it computed of each document, and its figures."""
    for name in ('HF_HUB_OFFLINE', 'HF_DATASETS_OFFLINE'):
        monkeypatch.setenv(name, '1')
    monkeypatch.setenv('HF_HOME', str(tmp_path / 'cache'))
    monkeypatch.setenv('NO_PROXY', '127.0.0.1')
    for name in ('transformers', 'tenacity', 'aiohttp'):        # lm-eval[api]
        needs(name, HUGGINGFACE)
    module = needs('lm_eval', HUGGINGFACE)
    from storage.huggingface_tokenizer import write_tokenizer
    n_ctx = running.generator.hparams.n_ctx
    (tmp_path / 'tokenizer').mkdir()
    write_tokenizer(str(tmp_path / 'tokenizer'), str(settings_directory), n_ctx, running.generator.encoder)

    def run(tasks):
        configs = []
        for name, (settings, documents) in tasks.items():
            (tmp_path / f'{name}.json').write_text(''.join(json.dumps(document) + '\n' for document in documents))
            configs.append({'task': name, 'dataset_path': 'json', 'test_split': 'test',
                            'dataset_kwargs': {'data_files': {'test': str(tmp_path / f'{name}.json')}}, **settings})
        results = module.simple_evaluate(
            'local-completions', {'model': NAME, 'base_url': f'{running.url}/v1/completions', 'max_length': n_ctx,
                                  'tokenizer': str(tmp_path / 'tokenizer'), 'num_concurrent': 2, 'max_retries': 1},
            tasks=configs, bootstrap_iters=0)
        samples = {name: sorted(results['samples'][name], key=lambda sample: sample['doc_id']) for name in tasks}
        return {name: ([sample['filtered_resps'][0] for sample in samples[name]], results['results'][name]) for name in tasks}
    return run


def greedy_token(generator):
    """A context, and the most likely token after it, such that both together are encoded as their tokens."""
    encode, decode = generator.encoder.encode, generator.encoder.decode
    for context in TEXT.split():
        [[token, *_]] = [text.ids for text in generator.generate(context, temperature=0, length=1, logprobs=0)]
        if encode(context + decode([token])) == [*encode(context), token]:
            return context, decode([token])
    raise AssertionError('no such context')


def test_lm_eval_computes_what_evaluate_does(lm_eval, running):
    """Its windows are those of evaluate.py --seq_length L --stride L, with two tokens less than max_length."""
    generator = running.generator
    length = generator.hparams.n_ctx - 2
    chunks = [np.array([generator.encoder.end_of_text, *generator.encoder.encode(text)]) for text in TEXTS]
    expected = [score.log_probabilities.sum() for score in generator.scores(chunks, length=length, stride=length, batch_size=1)]
    assert max(map(len, chunks)) > 2 * length
    pairs = [('the quick', ' brown fox'), ('the', ' z'), greedy_token(generator)]
    found = lm_eval({
        'rolling': ({'output_type': 'loglikelihood_rolling', 'doc_to_text': '', 'doc_to_target': '{{text}}',
                     'metric_list': [{'metric': 'byte_perplexity'}]}, [{'text': text} for text in TEXTS]),
        'pairs': ({'output_type': 'loglikelihood', 'doc_to_text': '{{context}}', 'doc_to_target': '{{target}}',
                   'target_delimiter': '', 'metric_list': [{'metric': 'acc'}]},
                  [{'context': context, 'target': target} for context, target in pairs])})
    values, figures = found['rolling']
    assert values == [pytest.approx(value, abs=1e-4 * len(chunk)) for value, chunk in zip(expected, chunks)]
    n_bytes = sum(len(text.encode()) for text in TEXTS)
    assert figures['byte_perplexity,none'] == pytest.approx(math.exp(-sum(expected) / n_bytes), rel=1e-4)
    for (context, target), (value, is_greedy) in zip(pairs, found['pairs'][0], strict=True):
        tokens, n = np.array(generator.encoder.encode(context + target)), len(generator.encoder.encode(context))
        [score] = generator.scores([tokens], length=32, stride=32, batch_size=1)
        assert value == pytest.approx(score.log_probabilities[n - 1:].sum(), abs=1e-4)
        assert is_greedy == ((context, target) == pairs[-1])


@pytest.mark.parametrize('mode', ['POSITIVE', 'NEGATIVE'])
def test_no_request_that_schemathesis_makes_is_a_fault(running, mode, monkeypatch):
    monkeypatch.setenv('NO_PROXY', '127.0.0.1')
    schemathesis, hypothesis = needs('schemathesis'), needs('hypothesis')
    schema = schemathesis.openapi.from_url(f'{running.url}/openapi.json')
    operation = schema['/v1/completions']['POST']
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )
    statuses = []

    @hypothesis.settings(max_examples=40, deadline=None, database=None, derandomize=True,
                         suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(operation.as_strategy(generation_mode=schemathesis.GenerationMode[mode]))
    def check(case):
        response = case.call_and_validate(timeout=60, checks=[not_a_server_error, status_code_conformance,
                                                              content_type_conformance, response_schema_conformance])
        statuses.append(response.status_code)
    check()
    assert len(statuses) > 20 and set(statuses) & {200 if mode == 'POSITIVE' else 400}
