"""What a run trains on and validates on, read or taken from its directory."""

import contextlib
import os
from typing import NamedTuple

import numpy as np

from command import models
from command.errors import UserError
from corpus import cache
from corpus.batches import validation_batches
from corpus.chunks import Corpus
from corpus.data_sets import DataSet, find_data_sets, in_words
from corpus.flags import text_format
from corpus.hold_out import hold_out
from corpus.read_text import check_text_column
from corpus.token_files import token_dtype
from load_dataset import Sampler
from storage.lock import one_at_a_time
from storage.model_directory import Model
from training import record
from training.not_downloaded import NotDownloaded
from training.settings import Settings
from workers.cluster import Cluster


class ReadCorpus(NamedTuple):
    """What `read_corpus` returns."""
    train: Corpus
    validation: list[np.ndarray]    # batches [batch, sequence]
    key: str | None                 # of the training corpus (see corpus.cache)
    encoded_bytes: int              # of the tokens that the run's directory keeps
    validation_tokens: int          # how many tokens the batches are drawn from


def read_corpus(settings: Settings, model: Model, cluster: Cluster) -> ReadCorpus:
    """Reads what a run trains on and what it validates on, or takes them from the run's directory."""
    encoded = []
    validates = settings.val_every and settings.val_dataset
    sets = {flag: find_data_sets(getattr(settings, flag)) for flag in ('dataset', *(['val_dataset'] if validates else []))}
    check_text_column(text_format(settings), [file for each in sets.values() for data_set in each for file in data_set.files])

    def load(flag: str) -> tuple[Corpus, str | None]:
        cache_path = None if settings.no_cache else os.path.join(settings.run_directory, flag)
        shared = cache_path and cluster.count > 1 and not settings.dry_run
        with one_at_a_time(cache_path) if shared else contextlib.nullcontext(True) as alone:
            corpus, key = load_sets(settings, in_words(getattr(settings, flag)), sets[flag], model, cache_path,
                                    write=not settings.dry_run and (alone or cluster.index == 0))
        if cache_path and not all(file.endswith('.npz') for data_set in sets[flag] for file in data_set.files):
            encoded.append(sum(map(len, corpus.chunks)) * token_dtype(model.encoder.n_vocab).itemsize)
        return corpus, key

    train, key = load('dataset')
    held_out = None
    if settings.val_split:
        train, held_out = split_corpus(train, model.encoder.end_of_text, settings)
    Sampler(train.chunks).check(settings.seq_length)
    if not settings.val_every:
        if settings.val_dataset or settings.val_split:
            print('--val_every is 0: no validation takes place')
        return ReadCorpus(train, [], key, sum(encoded), 0)
    if settings.val_dataset:
        held_out, _ = load('val_dataset')
    elif not settings.val_split:
        print('Neither --val_dataset nor --val_split is given: validating on the training data')
    held_out = held_out or train
    validation = validation_batches(held_out, settings.val_batch_count, settings.val_batch_size, settings.seq_length)
    return ReadCorpus(train, validation, key, sum(encoded), sum(map(len, held_out.chunks)))


def split_corpus(corpus: Corpus, end_of_text: int, settings: Settings) -> tuple[Corpus, Corpus]:
    """The corpus without what --val_split holds out, and that; raises UserError if it has no sequence to validate on."""
    train, held_out = hold_out(corpus, end_of_text, settings.val_split)
    tokens, longest = (function(map(len, held_out.chunks)) for function in (sum, max))
    print(f'held out for validation: {tokens} tokens', flush=True)
    if settings.val_every and longest < settings.seq_length:
        raise UserError(f'--val_split {settings.val_split:g} holds out {longest} tokens, fewer than a sequence of '
                        f'{settings.seq_length}: give a larger share, a smaller --seq_length, or --val_dataset')
    return train, held_out


def load_sets(settings: Settings, name: str, sets: list[DataSet], model: Model, cache_path: str | None, *, write: bool
              ) -> tuple[Corpus, str | None]:
    """The corpus of data sets, and its key. cache_path: how the names of its cache files begin; None for no cache.

    write: whether to write the cache; an existing one is read in any case.
    """
    print(f'Loading dataset {name}', flush=True)
    estimated = isinstance(model, NotDownloaded) and model.estimates      # without a vocabulary, and so never cached
    vocabulary = '' if estimated else cache.checksum(
        os.path.join(model.directory, name) for name in models.vocabulary_files(model.directory))
    corpus, key = cache.load_corpus(model.encoder, name, sets, settings.combine, text_format(settings), settings.processes,
                                    prefix=None if estimated else cache_path, vocabulary=vocabulary, write=write)
    print(f'dataset has {"about " * estimated}{sum(map(len, corpus.chunks))} tokens', flush=True)
    if corpus.weights:
        print(f'weights of its data sets: {record.weights_in_words(record.weight_sums(corpus))}', flush=True)
    return corpus, key
