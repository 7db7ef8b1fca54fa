"""Everything about a training run that can be read and checked without TensorFlow."""

import argparse
import dataclasses
import os

import numpy as np

import model_dir
from encoder import Encoder, load_encoder
from errors import UserError, reason
from hparams import HParams, load_hparams
from load_dataset import Sampler, load_dataset

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
    checkpoint: str             # prefix to restore from
    step: int                   # updates that this checkpoint has behind it
    seq_length: int
    sample_length: int
    memory_saving: bool
    weight_decay: float
    train: Sampler
    validation: list[np.ndarray]    # batches, the same ones each time
    noise: np.random.Generator
    contexts: Sampler               # of the token that each sample starts with
    sampling: np.random.Generator


def prepare(args: argparse.Namespace) -> Job:
    """Reads the model's settings and the corpus, makes the run's directories. Raises UserError for what is wrong."""
    check_schedule(args)
    decay = weight_decay(args)
    directory = model_dir.find_model(args.model_name, args.models_dir)
    hparams, encoder = load_hparams(directory), load_encoder(directory)
    if encoder.n_vocab > hparams.n_vocab:
        raise UserError(f'{directory}: encoder.json has {encoder.n_vocab} tokens, but n_vocab in hparams.json is '
                        f'{hparams.n_vocab}')
    run_directory = os.path.join(CHECKPOINT_DIR, args.run_name)
    checkpoint, step = starting_point(args, directory, run_directory, hparams)
    seq_length = within_window('seq_length', args.seq_length, hparams, hparams.n_ctx)
    sample_length = within_window('sample_length', args.sample_length, hparams, DEFAULT_SAMPLE_LENGTH,
                                  matters=args.sample_every > 0)
    if seq_length < 2:
        raise UserError('--seq_length must be 2 or more: the first token is there to predict the second')
    data_seed, noise_seed, context_seed, sampling_seed = np.random.SeedSequence(args.seed).spawn(4)
    chunks = load_chunks(args, args.dataset, encoder)
    train = Sampler(chunks, seed=data_seed)
    train.check(seq_length)
    validation = validation_batches(args, encoder, chunks, seq_length) if args.val_every else []
    if args.val_dataset and not args.val_every:
        print('--val_every is 0: --val_dataset is not used')
    sample_directory = os.path.join(SAMPLE_DIR, args.run_name)
    make_writable(run_directory)
    make_writable(sample_directory)
    return Job(hparams, encoder, directory, run_directory, sample_directory, checkpoint, step, seq_length,
               sample_length, recompute(args, hparams), decay, train, validation, np.random.default_rng(noise_seed),
               Sampler(chunks, seed=context_seed), np.random.default_rng(sampling_seed))


def starting_point(args, directory: str, run_directory: str, hparams: HParams) -> tuple[str, int]:
    """The checkpoint to start from and the number of its step in this run; 0 unless it is this run's own."""
    if os.path.isfile(os.path.join(run_directory, 'hparams.json')) and load_hparams(run_directory) != hparams:
        raise UserError(f'{run_directory} is a run of another size than {args.model_name}: give its --model_name, or '
                        'another --run_name')
    newest = model_dir.latest_checkpoint(run_directory)
    if args.restore_from == 'latest' and newest:
        return newest, model_dir.checkpoint_step(newest)
    if args.restore_from == 'fresh' and newest:
        raise UserError(f'--restore_from fresh would write over the run in {run_directory}: give another --run_name, '
                        'or remove that directory')
    if args.restore_from in ('latest', 'fresh'):
        return model_dir.find_checkpoint(directory), 0
    prefix = model_dir.find_checkpoint(args.restore_from)
    own = os.path.realpath(os.path.dirname(prefix)) == os.path.realpath(run_directory)
    return prefix, model_dir.checkpoint_step(prefix) if own else 0


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


def load_chunks(args, path: str, encoder: Encoder) -> list[np.ndarray]:
    print(f'Loading dataset {path}', flush=True)
    chunks = load_dataset(encoder, path, args.combine, encoding=args.encoding)
    print(f'dataset has {sum(map(len, chunks))} tokens', flush=True)
    return chunks


def validation_batches(args, encoder: Encoder, chunks: list[np.ndarray], seq_length: int) -> list[np.ndarray]:
    """--val_batch_count batches with a seed of their own, so that every run and every step validates on the same."""
    if args.val_dataset:
        chunks = load_chunks(args, args.val_dataset, encoder)
    else:
        print('No --val_dataset: validating on the training data')
    sampler = Sampler(chunks, seed=1)
    return [draw_batch(sampler, args.val_batch_size, seq_length) for _ in range(args.val_batch_count)]


def draw_batch(sampler: Sampler, batch_size: int, length: int) -> np.ndarray:  # -> [batch, sequence]
    return np.stack([sampler.sample(length) for _ in range(batch_size)])


def recompute(args, hparams: HParams) -> bool:
    """Whether to save memory by recomputation: as the user says, else by the size of the model."""
    if args.memory_saving_gradients is not None:
        return args.memory_saving_gradients
    large = hparams.n_layer * hparams.n_embd >= RECOMPUTE_FROM
    if large:
        print('A model of this size: --memory_saving_gradients is on (--no-memory_saving_gradients turns it off)')
    return large


def check_schedule(args) -> None:
    """Raises UserError for a learning rate that has no end to fall towards, or never reaches its peak."""
    if args.learning_rate_schedule != 'constant' and not args.max_steps:
        raise UserError(f'--learning_rate_schedule {args.learning_rate_schedule} falls until --max_steps: give that too')
    if args.max_steps and args.warmup_steps >= args.max_steps:
        raise UserError(f'--warmup_steps {args.warmup_steps} must be fewer than --max_steps {args.max_steps}')


def weight_decay(args) -> float:
    if args.weight_decay is not None and args.optimizer != 'adamw':
        raise UserError('--weight_decay goes with --optimizer adamw')
    return DEFAULT_WEIGHT_DECAY if args.weight_decay is None else args.weight_decay


def make_writable(directory: str) -> None:
    try:
        os.makedirs(directory, exist_ok=True)
        probe = os.path.join(directory, f'.writable-{os.getpid()}')
        open(probe, 'w').close()
        os.remove(probe)
    except OSError as error:
        raise UserError(f'cannot write to {directory}: {reason(error)}') from None
