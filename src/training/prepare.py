"""All that a run reads and checks before TensorFlow is imported: a Job."""

import argparse
import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Callable
from typing import NamedTuple, TextIO

import numpy as np

from command import atomic_files, models
from command.errors import UserError, reason
from corpus import cache
from corpus.batches import draw_batch, validation_batches
from corpus.chunks import Corpus
from corpus.data_sets import DataSet, find_data_sets, in_words
from corpus.flags import text_format
from corpus.hold_out import hold_out
from corpus.read_text import check_text_column
from corpus.token_files import token_dtype
from load_dataset import Sampler
from network.hparams import HParams, load_hparams
from sampling.continuation import prompt_tokens
from sampling.prompts import ENDS_IN_SPACE
from storage import checkpoints, run_directory
from storage.check import check_checkpoint, is_untrained
from storage.find_checkpoint import find_checkpoint, find_start
from storage.lock import one_at_a_time
from storage.model_directory import Model, check_files, open_model
from storage.run_state import RunState
from training import memory, record
from training.not_downloaded import NotDownloaded, not_downloaded
from training.settings import (
    DEFAULT_LEARNING_RATE,
    LEARNING_RATE_FROM_SCRATCH,
    Settings,
    check_flags,
    make_settings,
)
from workers.agreement import agree
from workers.cluster import ONE_WORKER, Cluster

DEFAULT_MODEL = '117M'
# Flags that all workers must share: those that change what a run computes, or by which each decides what to do next.
ALIKE = (*(flag for flag in record.MATHEMATICS if flag != 'model_name'), 'memory_saving_gradients', 'max_steps', 'epochs',
         'patience', 'val_every', 'val_batch_size', 'val_batch_count', 'reduce_precision')


@dataclasses.dataclass
class Job:
    """A training run that is ready to start."""
    settings: Settings
    model: Model                # that the run fine-tunes: its sizes and encoder
    checkpoint: str | None      # prefix to restore from; None for workers that get their weights from worker 0
    state: RunState             # of the checkpoint if it is one of this run, else that of a new run
    lock: TextIO | None         # on the run directory, to be closed at the end; None if this process writes nothing
    record: dict                # the content of settings.json
    train: Sampler
    validation: list[np.ndarray]    # batches [batch, sequence], the same ones each time
    noise: np.random.Generator
    dropout: np.random.Generator    # of the seeds of masks
    contexts: Sampler               # draws the token that each sample starts with
    sampling: np.random.Generator
    prompt: list[int] | None = None     # the tokens of --sample_prompt, with which each sample starts instead
    encoded_bytes: int = 0              # of the tokens that the run's directory keeps

    def generators(self) -> dict[str, np.random.Generator]:
        """The random generators of a run, by the names under which its state has them."""
        return {'data': self.train.rng, 'noise': self.noise, 'dropout': self.dropout, 'contexts': self.contexts.rng,
                'sampling': self.sampling}

    def set_generators(self) -> None:
        """Restores the random generators from the state."""
        for name, generator in self.generators().items():
            if name in self.state.generators:
                generator.bit_generator.state = self.state.generators[name]

    def sample_contexts(self, n: int) -> np.ndarray:
        """What the next n samples start with, [n, tokens]: --sample_prompt, or a random token of the corpus."""
        return draw_batch(self.contexts, n, 1) if self.prompt is None else np.tile(self.prompt, (n, 1))

    def close(self) -> None:
        """Releases the lock."""
        if self.lock:
            self.lock.close()

    def finished(self) -> str | None:
        """Why the run has ended, in words; None if it has not."""
        settings, state = self.settings, self.state
        if settings.max_steps and state.step >= settings.max_steps:
            return f'--max_steps {settings.max_steps} reached'
        if settings.epochs and state.tokens >= settings.epochs * self.train.total_size:
            return f'--epochs {settings.epochs:g} reached'
        if settings.patience and state.not_better >= settings.patience:
            return (f'--patience {settings.patience} reached: no validation loss below {state.best_loss:.4f} since step '
                    f'{state.best_step}')
        return None

    def agree(self, gather: Callable[[str], list[str]]) -> None:
        """Checks that all workers do the same work, and takes the state and random generators of worker 0.

        gather: this worker's text -> the texts of all workers. Raises UserError that names what differs.
        """
        validation = hashlib.sha256(b''.join(batch.tobytes() for batch in self.validation)).hexdigest()
        corpus = self.record['corpus']
        common = {f'--{flag}': getattr(self.settings, flag) for flag in ALIKE} | {
            'the model': vars(self.model.hparams), 'the corpus': f'{corpus["tokens"]} tokens ({corpus["sha256"][:8]})',
            'the weights of the data sets': record.weights_in_words(corpus.get('weights', [])),
            'the validation data': validation[:8],
            'the version of TensorFlow': self.record['versions'].get('tensorflow')}
        generators = {name: generator.bit_generator.state for name, generator in self.generators().items()}
        state = dataclasses.replace(self.state, generators=generators)
        self.state = RunState(**agree(gather, common, dataclasses.asdict(state)))
        self.set_generators()


def prepare(args: argparse.Namespace, cluster: Cluster = ONE_WORKER) -> Job:
    """Reads the model's sizes and the corpus, and locks the run's directory. Raises UserError for any mistake.

    A dry run writes nothing: it takes no lock, and keeps tokens in memory unless the run has them cached. With several
    workers, only worker 0 takes the lock and chooses the checkpoint.
    """
    check_flags(args)
    directory = models.run_path(args.checkpoint_dir, args.run_name)
    held, checkpoint, state = None, None, RunState()
    with contextlib.ExitStack() as undo:        # gives the directory back if anything below fails
        if cluster.index == 0 and not args.dry_run:
            held = run_directory.take(directory, undo)
            run_directory.settle(directory)
            for name in ('dataset', 'val_dataset'):
                for suffix in ('.npz', '.json'):
                    run_directory.remove_if_new(os.path.join(directory, name + suffix), undo)
        model_name, model = choose_model(args, directory)
        prompt = sample_prompt(args, model)
        settings = make_settings(argparse.Namespace(**vars(args) | {'model_name': model_name}), model.hparams,
                                 args.local_workers or cluster.count, len(prompt or [0]))
        memory.check(settings, model.hparams)
        if cluster.index == 0:
            checkpoint, state = starting_point(settings, model)
            if checkpoint:
                check_checkpoint(checkpoint, model.hparams.shapes())
                warn_of_low_rate(settings, checkpoint, model.hparams)
        corpus = read_corpus(settings, model, cluster)
        train = corpus.train
        if settings.dry_run:
            atomic_files.check_writable(settings.run_directory)
            atomic_files.check_writable(settings.sample_directory)
        elif cluster.index == 0:
            make_writable(settings.sample_directory, undo)
            checkpoints.clean(settings.run_directory)
        data_seed, noise_seed, context_seed, sampling_seed, dropout_seed = np.random.SeedSequence(settings.seed).spawn(5)
        job = Job(settings=settings, model=model, checkpoint=checkpoint, state=state, lock=held,
                  record=record.describe(settings, train, corpus.key, corpus.validation_tokens),
                  train=Sampler(train.chunks, data_seed, train.weights), validation=corpus.validation,
                  noise=np.random.default_rng(noise_seed), dropout=np.random.default_rng(dropout_seed),
                  contexts=Sampler(train.chunks, context_seed, train.weights), sampling=np.random.default_rng(sampling_seed),
                  prompt=prompt, encoded_bytes=corpus.encoded_bytes)
        job.set_generators()
        print_changes(job)
        undo.pop_all()
    return job


def warn_of_low_rate(settings: Settings, checkpoint: str, hparams: HParams) -> None:
    """Prints a warning if new, random weights are to be trained with the learning rate for fine-tuning."""
    if settings.learning_rate <= DEFAULT_LEARNING_RATE and is_untrained(checkpoint, hparams.shapes()):
        adam = ' --optimizer adam' if settings.optimizer == 'sgd' else ''
        print(f'{checkpoint} has new weights, which --learning_rate {settings.learning_rate:g}, a rate for fine-tuning, changes '
              f'slowly: for a model from scratch, begin with --learning_rate {LEARNING_RATE_FROM_SCRATCH:g}{adam}', flush=True)


def choose_model(args: argparse.Namespace, directory: str) -> tuple[str, Model]:
    """The name of the model that a run is made from, and the opened model: for a run that continues, its own directory.

    That holds sizes and vocabulary, so --model_name need not be there any more. Raises UserError if it is there, but of
    another size.
    """
    continues = (not args.overwrite and args.restore_from != 'fresh' and os.path.isdir(directory)
                 and checkpoints.checkpoint_files(directory)
                 and all(os.path.isfile(os.path.join(directory, name)) for name in models.SETTING_FILES))
    if not continues:
        name = args.model_name or DEFAULT_MODEL
        if args.dry_run and (missing := not_downloaded(name, args.models_dir)):
            return name, missing
        return name, open_model(models.find_model(name, args.models_dir), weights=False)
    flags = (record.read_record(directory) or {'flags': {}})['flags']
    name = args.model_name or flags.get('model_name') or DEFAULT_MODEL
    try:
        base = models.directory_of(models.find_model(name, args.models_dir))
    except UserError:
        print(f'no model {name!r} in {args.models_dir}: {directory} continues with its own sizes and vocabulary', flush=True)
    else:
        if args.model_name:
            check_size(directory, args.model_name, load_hparams(base))
    return name, open_model(directory, weights=False)


def sample_prompt(args: argparse.Namespace, model: Model) -> list[int] | None:
    """The tokens of --sample_prompt; None without it. Raises UserError if they are more than the model's window holds."""
    if args.sample_prompt is None:
        return None
    if args.sample_prompt.endswith(' '):
        print(f'note: --sample_prompt {ENDS_IN_SPACE}')
    return prompt_tokens(args.sample_prompt, model.encoder, model.hparams.n_ctx, '--sample_prompt')


def print_changes(job: Job) -> None:
    """Prints how the settings of a resumed run differ from those of its last start."""
    before = record.read_record(job.settings.run_directory) if job.state.step else None
    for change in record.changes(before, job.record) if before else []:
        print(f'This run continues with other settings: {change}')


def starting_point(settings: Settings, model: Model) -> tuple[str | None, RunState]:
    """The prefix of the checkpoint to start from, and its state if it is one of this run, else a new run's state.

    No prefix if the model is not downloaded.
    """
    directory = settings.run_directory
    check_size(directory, settings.model_name, model.hparams)
    if settings.restore_from == 'latest' and not settings.overwrite:
        prefix, state = checkpoints.newest_sound(directory)
        if prefix:
            return prefix, state or state_without_file(prefix)
    if settings.restore_from in ('latest', 'fresh'):
        prefix = (None if isinstance(model, NotDownloaded) else
                  find_checkpoint(models.find_model(settings.model_name, settings.models_dir)))
    else:
        prefix = find_start(settings.restore_from, directory, settings.checkpoint_dir)
        if os.path.realpath(os.path.dirname(prefix)) == os.path.realpath(directory):
            if settings.overwrite:
                raise UserError(f'--overwrite would remove {prefix}, which --restore_from names')
            return prefix, checkpoints.read_state(prefix) or state_without_file(prefix)
        check_files(prefix)
    if not settings.overwrite and os.path.isdir(directory) and checkpoints.checkpoint_files(directory):
        raise UserError(f'--restore_from {settings.restore_from} would overwrite the run in {directory}: give another '
                        '--run_name, or --overwrite')
    return prefix, RunState()


def state_without_file(prefix: str) -> RunState:
    """The state of a run whose checkpoint has none of its own, which is printed: its step is all that is known."""
    print(f'continuing with the weights of {prefix} alone: the order of the data, the running average, the best validation loss '
          'and the tokens that --epochs counts start from scratch', flush=True)
    step = checkpoints.checkpoint_step(prefix)
    return RunState(step=step, validated=step, sampled=step)    # so that the run keeps its earlier metrics


def check_size(directory: str, model_name: str, hparams: HParams) -> None:
    """Raises UserError if a run's directory holds a model of another size."""
    if os.path.isfile(os.path.join(directory, 'hparams.json')) and load_hparams(directory) != hparams:
        raise UserError(f'{directory} is a run of a model of another size than {model_name}: give the --model_name of that run, '
                        'or another --run_name')


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


def make_writable(directory: str, undo: contextlib.ExitStack) -> None:
    """Makes a directory, which `undo` removes. Raises UserError if files cannot be written there."""
    try:
        run_directory.make(directory, undo)
        probe = os.path.join(directory, f'.writable-{os.getpid()}')
        open(probe, 'w').close()
        os.remove(probe)
    except OSError as error:
        raise UserError(f'cannot write to {directory}: {reason(error)}') from None
