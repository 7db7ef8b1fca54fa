"""Everything about a training run that can be read and checked without TensorFlow."""

import argparse
import contextlib
import dataclasses
import os
from typing import TextIO

import numpy as np

import files
import model_dir
import plot
import run_dir
import run_state
import tensor_files
import token_cache
from cluster import ONE_WORKER, Cluster
from corpus_flags import text_format
from encoder import Encoder, load_encoder
from errors import UserError, reason
from hparams import HParams, check_vocabulary, load_hparams
from load_dataset import Sampler, hold_out
from run_state import RunState

CHECKPOINT_DIR = 'checkpoint'
SAMPLE_DIR = 'samples'
DEFAULT_SAMPLE_LENGTH = 1023
DEFAULT_WEIGHT_DECAY = 0.01
RECOMPUTE_FROM = 24 * 1024      # n_layer * n_embd of 345M: from this size on activations outweigh the weights


@dataclasses.dataclass
class Job:
    """What a run needs, read and found good."""
    hparams: HParams
    encoder: Encoder
    model_directory: str
    run_directory: str
    sample_directory: str
    checkpoint: str | None      # prefix to restore from; None with workers that get everything from worker 0
    state: RunState             # where the run stands: at its beginning, unless the checkpoint is its own
    lock: TextIO | None         # on the run directory, to be closed at the end; None where nothing is written
    settings: dict              # for settings.json
    seq_length: int
    sample_length: int
    memory_saving: bool
    weight_decay: float
    workers: int
    train: Sampler
    validation: list[np.ndarray]    # batches, the same ones each time
    noise: np.random.Generator
    contexts: Sampler               # of the token that each sample starts with
    sampling: np.random.Generator

    def generators(self) -> dict[str, np.random.Generator]:
        """Every source of random numbers in a run."""
        return {'data': self.train.rng, 'noise': self.noise, 'contexts': self.contexts.rng, 'sampling': self.sampling}


def prepare(args: argparse.Namespace, cluster: Cluster = ONE_WORKER) -> Job:
    """Reads the model's settings and the corpus, takes the run's directory. Raises UserError for what is wrong.

    A dry run writes nothing: it neither takes the directory nor makes it. It reads the corpus's tokens where the run has them,
    and else keeps them in memory. Of several workers, worker 0 takes the directory, and knows where the run stands.
    """
    check_flags(args)
    directory = model_dir.find_model(args.model_name, args.models_dir)
    hparams, encoder = load_hparams(directory), load_encoder(directory)
    check_vocabulary(hparams, encoder.n_vocab, directory)
    seq_length = within_window('seq_length', args.seq_length, hparams, hparams.n_ctx)
    sample_length = within_window('sample_length', args.sample_length, hparams, DEFAULT_SAMPLE_LENGTH,
                                  matters=args.sample_every > 0)
    if seq_length < 2:
        raise UserError('--seq_length must be 2 or more: the first token is there to predict the second')
    run_directory, sample_directory = os.path.join(CHECKPOINT_DIR, args.run_name), os.path.join(SAMPLE_DIR, args.run_name)
    lock, checkpoint, state = None, None, RunState()
    with contextlib.ExitStack() as stack:       # which gives the directory back if something turns out wrong
        if cluster.index == 0:
            lock = None if args.dry_run else take(run_directory, stack)
            checkpoint, state = starting_point(args, directory, run_directory, hparams)
            tensor_files.check_checkpoint(checkpoint, hparams.shapes())
        train, validation, corpus_key = corpus(args, encoder, directory, run_directory, seq_length, cluster)
        if args.dry_run:
            files.check_writable(run_directory)
            files.check_writable(sample_directory)
        elif cluster.index == 0:
            make_writable(sample_directory)
            run_dir.clean(run_directory)
        workers = args.local_workers or cluster.count      # the former in a dry run of all of them
        data_seed, noise_seed, context_seed, sampling_seed = np.random.SeedSequence(args.seed).spawn(4)
        job = Job(hparams, encoder, directory, run_directory, sample_directory, checkpoint, state, lock,
                  run_dir.describe(args, train, run_directory, corpus_key, workers), seq_length, sample_length,
                  recompute(args, hparams), weight_decay(args), workers, Sampler(train, seed=data_seed), validation,
                  np.random.default_rng(noise_seed), Sampler(train, seed=context_seed), np.random.default_rng(sampling_seed))
        go_on(job)
        stack.pop_all()
    return job


def take(run_directory: str, stack: contextlib.ExitStack) -> TextIO:
    """The lock on a run's directory. The stack gives it back, and removes a directory that was not there before."""
    new = not os.path.isdir(run_directory)
    lock = stack.enter_context(run_dir.lock(run_directory))
    if new:
        stack.callback(run_dir.remove, run_directory)
    return lock


def set_generators(job: Job) -> None:
    """Sets the random generators to where the run left them."""
    for name, generator in job.generators().items():
        if name in job.state.generators:
            generator.bit_generator.state = job.state.generators[name]


def go_on(job: Job) -> None:
    """Sets the random generators, and says what has changed since the run was here last."""
    set_generators(job)
    before = run_dir.read_settings(job.run_directory) if job.state.step else None
    for change in run_dir.changes(before, job.settings) if before else []:
        print(f'This run goes on with other settings: {change}')


def starting_point(args, directory: str, run_directory: str, hparams: HParams) -> tuple[str, RunState]:
    """The checkpoint to start from, and the state that goes with it if it is this run's own, else that of a beginning."""
    if os.path.isfile(os.path.join(run_directory, 'hparams.json')) and load_hparams(run_directory) != hparams:
        raise UserError(f'{run_directory} is a run of another size than {args.model_name}: give its --model_name, or '
                        'another --run_name')
    if args.restore_from == 'latest' and not args.overwrite:
        prefix, state = run_state.newest_sound(run_directory)
        if prefix:
            return prefix, state or RunState(step=model_dir.checkpoint_step(prefix))
    if args.restore_from in ('latest', 'fresh'):
        prefix = model_dir.find_checkpoint(directory)
    else:
        prefix = model_dir.find_start(args.restore_from, run_directory, CHECKPOINT_DIR)
        state = run_state.read(prefix)
        if os.path.realpath(os.path.dirname(prefix)) == os.path.realpath(run_directory):
            if args.overwrite:
                raise UserError(f'--overwrite would remove {prefix}, which --restore_from names')
            return prefix, state or RunState(step=model_dir.checkpoint_step(prefix))
    if not args.overwrite and os.path.isdir(run_directory) and run_dir.checkpoint_files(run_directory):
        raise UserError(f'--restore_from {args.restore_from} would write over the run in {run_directory}: give another '
                        '--run_name, or --overwrite')
    return prefix, RunState()


def corpus(args, encoder: Encoder, model_directory: str, run_directory: str, seq_length: int, cluster: Cluster
           ) -> tuple[list[np.ndarray], list[np.ndarray], str | None]:
    """The chunks to train on, the batches to validate on, and a key of what is trained on (see token_cache)."""
    def load(name: str) -> tuple[list[np.ndarray], str | None]:
        place = None if args.no_cache else os.path.join(run_directory, name)
        alone = not place or args.dry_run or cluster.count == 1
        with contextlib.nullcontext() if alone else run_dir.one_at_a_time(place):
            return load_chunks(args, getattr(args, name), encoder, model_directory, place)

    chunks, key = load('dataset')
    held_out = []
    if args.val_split:
        chunks, held_out = hold_out(chunks, encoder.end_of_text, args.val_split)
        print(f'held out for validation: {sum(map(len, held_out))} tokens', flush=True)
    Sampler(chunks).check(seq_length)
    validation = []
    if args.val_every:
        if args.val_dataset:
            held_out, _ = load('val_dataset')
        elif not args.val_split:
            print('Neither --val_dataset nor --val_split: validating on the training data')
        validation = validation_batches(args, held_out or chunks, seq_length)
    if (args.val_dataset or args.val_split) and not args.val_every:
        print('--val_every is 0: no validation takes place')
    return chunks, validation, key


def finished(args, state: RunState, corpus_size: int) -> str | None:
    """Why a run is at its end, in words; None if it is not. corpus_size: in tokens."""
    if args.max_steps and state.step >= args.max_steps:
        return f'--max_steps {args.max_steps} reached'
    if args.epochs and state.tokens >= args.epochs * corpus_size:
        return f'--epochs {args.epochs:g} reached'
    if args.patience and state.not_better >= args.patience:
        return (f'no better validation loss than {state.best_loss:.4f} of step {state.best_step} for --patience '
                f'{args.patience} validations')
    return None


def within_window(flag: str, given: int | None, hparams: HParams, default: int, matters: bool = True) -> int:
    """What the user gave for a flag, if the model's window holds it; else the default, shortened aloud if need be."""
    if given is not None:
        if given > hparams.n_ctx:
            raise UserError(f'--{flag} {given} is more than the model\'s window of {hparams.n_ctx} tokens')
        return given
    if default > hparams.n_ctx:
        if matters:
            print(f'The model\'s window holds {hparams.n_ctx} tokens: --{flag} is {hparams.n_ctx - 1}')
        return hparams.n_ctx - 1
    return default


def load_chunks(args, path: str, encoder: Encoder, model_directory: str, cache: str | None
                ) -> tuple[list[np.ndarray], str | None]:
    """The chunks of a corpus, and their key; cache: what the names of its files begin with."""
    print(f'Loading dataset {path}', flush=True)
    vocabulary = token_cache.checksum(os.path.join(model_directory, name) for name in ('encoder.json', 'vocab.bpe'))
    chunks, key = token_cache.load_corpus(encoder, path, args.combine, text_format(args), args.processes, place=cache,
                                          vocabulary=vocabulary, write=not args.dry_run)
    print(f'dataset has {sum(map(len, chunks))} tokens', flush=True)
    return chunks, key


def validation_batches(args, chunks: list[np.ndarray], seq_length: int) -> list[np.ndarray]:
    """--val_batch_count batches with a seed of their own, so that every run and every step validates on the same."""
    sampler = Sampler(chunks, seed=1)
    return [draw_batch(sampler, args.val_batch_size, seq_length) for _ in range(args.val_batch_count)]


def draw_batch(sampler: Sampler, batch_size: int, length: int, own: slice = slice(None)) -> np.ndarray:
    """Of a batch that is drawn, [batch, sequence], the rows `own`."""
    return np.stack([sampler.sample(length) for _ in range(batch_size)][own])


def recompute(args, hparams: HParams) -> bool:
    """Whether to save memory by recomputation: as the user says, else by the size of the model."""
    if args.memory_saving_gradients is not None:
        return args.memory_saving_gradients
    large = hparams.n_layer * hparams.n_embd >= RECOMPUTE_FROM
    if large:
        print('A model of this size: --memory_saving_gradients is on (--no-memory_saving_gradients turns it off)')
    return large


def check_flags(args) -> None:
    """Raises UserError for flags that do not go together."""
    if args.learning_rate_schedule != 'constant' and not args.max_steps:
        raise UserError(f'--learning_rate_schedule {args.learning_rate_schedule} falls until --max_steps: give that too')
    if args.max_steps and args.warmup_steps >= args.max_steps:
        raise UserError(f'--warmup_steps {args.warmup_steps} must be fewer than --max_steps {args.max_steps}')
    if args.weight_decay is not None and args.optimizer != 'adamw':
        raise UserError('--weight_decay goes with --optimizer adamw')
    if args.val_split and args.val_dataset:
        raise UserError('--val_split and --val_dataset: give one of them')
    for flag in ('keep_best', 'patience'):
        if getattr(args, flag) and not args.val_every:
            raise UserError(f'--{flag} goes by the validation loss: give --val_every too')
    if args.plot:
        plot.check()


def weight_decay(args) -> float:
    return DEFAULT_WEIGHT_DECAY if args.weight_decay is None else args.weight_decay


def make_writable(directory: str) -> None:
    try:
        os.makedirs(directory, exist_ok=True)
        probe = os.path.join(directory, f'.writable-{os.getpid()}')
        open(probe, 'w').close()
        os.remove(probe)
    except OSError as error:
        raise UserError(f'cannot write to {directory}: {reason(error)}') from None
