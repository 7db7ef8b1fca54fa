"""settings.json: a run's flags, corpus, versions, and what changed since."""

import dataclasses
import hashlib
import importlib.metadata
import itertools
import json
import os
import platform

import numpy as np

from command import atomic_files
from corpus.chunks import Chunk, Corpus
from corpus.data_sets import in_words, one_or_list
from corpus.token_files import PIECE
from storage.run_directory import SETTINGS
from training.settings import Settings

# Flags that change what a run computes. The others decide when it stops, saves or reports.
MATHEMATICS = ('model_name', 'combine', 'encoding', 'encoding_errors', 'text_column', 'document_per_line',
               'skip_bad_records', 'noise',
               'seq_length', 'batch_size', 'accumulate_gradients', 'only_train_transformer_layers', 'train_layers', 'lora_rank',
               'lora_alpha', 'base_weights', 'dropout', 'optimizer', 'learning_rate', 'learning_rate_schedule', 'warmup_steps',
               'clip_norm', 'weight_decay', 'precision', 'val_split')


def describe(settings: Settings, corpus: Corpus, key: str | None, validation_tokens: int = 0) -> dict:
    """The content of settings.json for a run on this corpus, which validates on as many tokens, or never if that is 0.

    key: of the corpus (see corpus.cache). If the run's last record has the same key, the checksum of the tokens is taken
    from there; else it is computed, which reads them all.
    """
    split = f'{settings.val_split} of the tokens' if settings.val_split else settings.val_split
    key = key and hashlib.sha256(f'{key} {split}'.encode()).hexdigest()
    before = (read_record(settings.run_directory) or {}).get('corpus', {})
    checksum = before['sha256'] if key and before.get('key') == key and 'sha256' in before else _checksum(corpus.chunks)
    versions = {'python': platform.python_version()}
    for package in ('tensorflow', 'tensorflow-cpu', 'numpy'):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    flags = dataclasses.asdict(settings)
    for flag in ('dataset', 'val_dataset'):
        flags[flag] = flags[flag] and one_or_list(flags[flag])
    weights = {'weights': weight_sums(corpus)} if corpus.weights else {}
    return {'workers': flags.pop('worker_count'), 'flags': flags, 'versions': versions,
            'corpus': {'name': flags['dataset'], 'tokens': sum(map(len, corpus.chunks)), 'chunks': len(corpus.chunks),
                       'sha256': checksum, 'key': key, **weights},
            'validation': _validation(flags, validation_tokens)}


def _validation(flags: dict, tokens: int) -> dict | None:
    """What a run validates on: a data set of its own, or a share of the corpus that it does not train on; else the corpus."""
    return {'name': flags['val_dataset'], 'split': flags['val_split'], 'tokens': tokens} if tokens else None


def weight_sums(corpus: Corpus) -> list[list[float]]:
    """The weights of a corpus, each with the tokens of the chunks in a row that have it; [] without weights."""
    if corpus.weights is None:
        return []
    runs = itertools.groupby(zip(corpus.weights, map(len, corpus.chunks)), lambda pair: pair[0])
    return [[weight, sum(size for _, size in run)] for weight, run in runs]


def _checksum(chunks: list[Chunk]) -> str:
    """The SHA-256 of tokens as int32, whatever their dtype on disk."""
    digest = hashlib.sha256()
    for chunk in chunks:
        for start in range(0, len(chunk), PIECE):
            digest.update(chunk[start:start + PIECE].astype(np.int32))
        digest.update(b'|')
    return digest.hexdigest()


def read_record(directory: str) -> dict | None:
    """The content of a run's settings.json; None if it is missing, damaged, or lacks the flags or the corpus."""
    try:
        with open(os.path.join(directory, SETTINGS), encoding='utf-8') as file:
            record = json.load(file)
        return record if {'flags', 'corpus'} <= record.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def changes(before: dict, now: dict) -> list[str]:
    """The differences between two records that change what a run computes: '--batch_size: 2 before, 4 now'."""
    compared = [(f'--{flag}', before['flags'][flag], now['flags'][flag]) for flag in MATHEMATICS if flag in before['flags']
                # Earlier versions recorded None for a default that depends on the model.
                and not (before['flags'][flag] is None and flag in ('seq_length', 'weight_decay'))]
    if now['flags']['learning_rate_schedule'] != 'constant':
        compared.append(('--max_steps, where the learning rate ends', before['flags'].get('max_steps'),
                         now['flags']['max_steps']))
    compared.append(('the number of workers, each with --batch_size sequences', before.get('workers', 1), now['workers']))
    changed = [f'{name}: {old} before, {new} now' for name, old, new in compared if old != new]
    if before['corpus'].get('sha256') != now['corpus']['sha256']:
        old, new = (f'{_name(corpus)} of {corpus.get("tokens")} tokens' for corpus in (before['corpus'], now['corpus']))
        changed.append(f'the corpus: {old} before, {new} now')
    if before['corpus'].get('weights') != now['corpus'].get('weights'):
        old, new = (weights_in_words(corpus.get('weights', [])) for corpus in (before['corpus'], now['corpus']))
        changed.append(f'the weights of the data sets: {old} before, {new} now')
    return changed


def weights_in_words(sums: list[list[float]]) -> str:
    """The weights of weight_sums: '2 for 500 tokens, 1 for 90 tokens', or 'none'."""
    return ', '.join(f'{weight:g} for {tokens} tokens' for weight, tokens in sums) or 'none'


def _name(corpus: dict) -> str:
    name = corpus.get('name')
    return in_words(name) if isinstance(name, list) else str(name)


def write_record(directory: str, record: dict) -> None:
    atomic_files.write_text(os.path.join(directory, SETTINGS), json.dumps(record, indent=1) + '\n')
