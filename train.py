#!/usr/bin/env python3
"""Fine-tunes GPT-2 on your own text. Ctrl-C saves and ends a run; the same command goes on with it."""

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import NoReturn

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), 'src'))

from command.errors import run
from command.flags import Parser, fraction, non_negative_float, non_negative_int, positive_float, positive_int
from command.machine import available_memory
from command.models import CHECKPOINT_DIR, SAMPLE_DIR
from corpus.flags import add_text_flags, add_token_flags
from training.dry_run import plan
from training.prepare import Job, prepare
from training.settings import DEFAULT_SAMPLE_LENGTH, DEFAULT_WEIGHT_DECAY
from workers import local
from workers.cluster import Cluster, find_cluster


def parse_flags() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    add_data_flags(parser.add_argument_group('data'))
    add_model_flags(parser.add_argument_group('model'))
    add_training_flags(parser.add_argument_group('training'))
    add_optimizer_flags(parser.add_argument_group('optimizer'))
    add_machine_flags(parser.add_argument_group('memory and speed'))
    add_run_flags(parser.add_argument_group('run'))
    add_sample_flags(parser.add_argument_group('samples'))
    add_validation_flags(parser.add_argument_group('validation'))
    add_worker_flags(parser.add_argument_group('several workers'))
    return parser.parse_args()


def add_data_flags(group) -> None:
    group.add_argument('--dataset', metavar='PATH', required=True,
                       help='text or .npz to train on (required): a file, a directory, or a glob in quotes (text also as '
                            '.gz, .zst, .jsonl, .csv)')
    add_text_flags(group)
    add_token_flags(group)
    group.add_argument('--no_cache', action='store_true',
                       help='encode text at each start, into memory, instead of once into the run\'s directory')
    group.add_argument('--noise', metavar='P', type=fraction, default=0.0,
                       help='replace this share of the input tokens by random ones, to make the model robust to typos')


def add_model_flags(group) -> None:
    group.add_argument('--model_name', metavar='NAME', default='117M',
                       help='the model to start from, a directory in --models_dir')
    group.add_argument('--models_dir', metavar='DIR', default='models', help='where models live')
    group.add_argument('--seq_length', metavar='TOKENS', type=positive_int,
                       help='length of a training sequence; shorter takes less memory (default: the model\'s window)')


def add_training_flags(group) -> None:
    group.add_argument('--batch_size', metavar='N', type=positive_int, default=1, help='sequences in a batch')
    group.add_argument('--accumulate_gradients', metavar='N', type=positive_int, default=1,
                       help='average the gradients of N batches for each update: like a batch N times as large')
    group.add_argument('--only_train_transformer_layers', action='store_true',
                       help='leave the embeddings as they are; takes less memory')
    group.add_argument('--max_steps', metavar='N', type=non_negative_int, default=0,
                       help='end when the run has made N steps; 0 goes on until Ctrl-C')
    group.add_argument('--epochs', metavar='N', type=non_negative_float, default=0.0,
                       help='end when the run has seen as many tokens as N times the corpus has; 0 never')
    group.add_argument('--warn_epochs', metavar='N', type=non_negative_float, default=10.0,
                       help='say so when the run has seen more than N times the corpus; 0 never')
    group.add_argument('--seed', metavar='N', type=non_negative_int,
                       help='for the same batches, noise and samples in every run (default: other ones each time); a run '
                            'that goes on does so where it was')


def add_optimizer_flags(group) -> None:
    group.add_argument('--optimizer', choices=['adam', 'adamw', 'sgd'], default='adam',
                       help='adamw is adam with weight decay; sgd keeps no moments: less memory, slower learning')
    group.add_argument('--learning_rate', metavar='RATE', type=positive_float, default=0.00002,
                       help='of each step, or its peak where a schedule or --warmup_steps changes it; lower it where the '
                            'loss jumps')
    group.add_argument('--learning_rate_schedule', choices=['constant', 'linear', 'cosine'], default='constant',
                       help='linear and cosine fall to 0 at --max_steps')
    group.add_argument('--warmup_steps', metavar='N', type=non_negative_int, default=0,
                       help='let the learning rate rise from 0 over the first N steps')
    group.add_argument('--clip_norm', metavar='NORM', type=non_negative_float, default=0.0,
                       help='scale longer gradients down to this length; 0 never. 1 is usual')
    group.add_argument('--weight_decay', metavar='RATE', type=non_negative_float,
                       help=f'of adamw: shrink the matrices by this times the learning rate in each step (default: '
                            f'{DEFAULT_WEIGHT_DECAY})')


def add_machine_flags(group) -> None:
    group.add_argument('--memory_saving_gradients', action=argparse.BooleanOptionalAction, default=None,
                       help='recompute activations instead of keeping them: less memory, slower steps '
                            '(default: on from 345M up)')
    group.add_argument('--precision', choices=['float32', 'tf32', 'bfloat16'], default='float32',
                       help='of the matrix multiplications; the others are for GPUs that have them')


def add_run_flags(group) -> None:
    group.add_argument('--run_name', metavar='NAME', default='run1',
                       help=f'the run lives in {CHECKPOINT_DIR}/NAME, its samples in {SAMPLE_DIR}/NAME')
    group.add_argument('--restore_from', metavar='latest|fresh|WHERE', default='latest',
                       help='go on with the run, start anew from the model, or from a checkpoint: a step of this run, a '
                            'run\'s name, or a path')
    group.add_argument('--overwrite', action='store_true', help='remove the run that is there, and start anew')
    group.add_argument('--save_every', metavar='N', type=non_negative_int, default=1000,
                       help='write a checkpoint each N steps; 0 only at the end')
    group.add_argument('--save_secs', metavar='SECONDS', type=non_negative_float, default=0.0,
                       help='write one also when the last is this old; 0 never')
    group.add_argument('--keep', metavar='N', type=non_negative_int, default=5, help='checkpoints that stay; 0 for all')
    group.add_argument('--plot', action='store_true', help='write loss.png at the end; needs matplotlib')
    group.add_argument('--dry_run', action='store_true',
                       help='check and read everything, but print a plan in place of training: corpus, model, memory it will '
                            'take, and what would take less; nothing is written')


def add_sample_flags(group) -> None:
    group.add_argument('--sample_every', metavar='N', type=non_negative_int, default=100,
                       help='generate samples each N steps; 0 never')
    group.add_argument('--sample_length', metavar='TOKENS', type=positive_int,
                       help=f'length of a sample (default: {DEFAULT_SAMPLE_LENGTH}, or what the model\'s window holds)')
    group.add_argument('--sample_num', metavar='N', type=positive_int, default=1, help='samples each time')
    group.add_argument('--top_k', metavar='K', type=non_negative_int, default=40,
                       help='draw from the K most likely tokens; 0 from all')
    group.add_argument('--top_p', metavar='P', type=fraction, default=0.0,
                       help='draw from the most likely tokens that together have probability P; overrides --top_k if '
                            'above 0')


def add_validation_flags(group) -> None:
    group.add_argument('--val_dataset', metavar='PATH',
                       help='text or .npz to validate on, as for --dataset (default: what --val_split holds out, or the '
                            'training data)')
    group.add_argument('--val_split', metavar='SHARE', type=fraction, default=0.0,
                       help='hold out this share of the documents for validation, and do not train on them')
    group.add_argument('--val_batch_size', metavar='N', type=positive_int, default=2, help='sequences in a batch')
    group.add_argument('--val_batch_count', metavar='N', type=positive_int, default=40, help='batches, drawn once')
    group.add_argument('--val_every', metavar='N', type=non_negative_int, default=0,
                       help='validate each N steps; 0 never')
    group.add_argument('--keep_best', action='store_true',
                       help='save whenever the validation loss is the lowest yet, and keep that checkpoint too')
    group.add_argument('--patience', metavar='N', type=non_negative_int, default=0,
                       help='end when N validations in a row were no better than the best; 0 never')


def add_worker_flags(group) -> None:
    group.add_argument('--local_workers', metavar='N', type=positive_int,
                       help='train with N processes on this machine: one for each GPU, or with equal shares of the cores')
    group.add_argument('--max_restarts', metavar='N', type=non_negative_int,
                       help='of --local_workers: start all again from the last checkpoint when one dies, at most N times '
                            f'(default: {local.RESTARTS})')
    group.add_argument('--workers', metavar='HOST:PORT,...',
                       help='train with all of these, each started with the same flags and its own --worker_index; each '
                            'takes --batch_size sequences. Anyone who reaches the ports can take part: trusted networks only '
                            '(default: what TF_CONFIG says)')
    group.add_argument('--worker_index', metavar='I', type=non_negative_int,
                       help='which of --workers this process is, from 0; number 0 saves, samples and reports')
    group.add_argument('--slurm', action='store_true', help='the workers are the tasks of this SLURM job step')
    group.add_argument('--reduce_precision', choices=['float32', 'bfloat16'], default='float32',
                       help='of gradients on their way between workers; bfloat16 halves the traffic')
    group.add_argument('--dist_timeout', metavar='SECONDS', type=positive_float, default=600.0,
                       help='give up a worker that is silent for so long; more than saving and sampling take')
    group.add_argument('--dist_startup_timeout', metavar='SECONDS', type=positive_float, default=600.0,
                       help='wait so long for all workers to come, and for the weights that worker 0 reads')


def train(job: Job, cluster: Cluster) -> None:
    # Late: TensorFlow takes seconds to import, which a mistake in the flags should not cost.
    from command.tensorflow_setup import load_tensorflow
    load_tensorflow(several=cluster.count > 1)
    from training import loop
    from workers.collectives import Workers
    settings = job.settings
    workers = Workers(cluster, timeout=settings.dist_timeout, startup_timeout=settings.dist_startup_timeout)
    with workers.connected():
        if workers.count > 1:
            job.agree(workers.gather)
            print(f'{workers.count} workers are there: a batch has {workers.count * settings.batch_size} sequences, '
                  f'{settings.batch_size} for each')
        if not at_end(job):
            loop.train(job, workers)


def at_end(job: Job) -> bool:
    """Whether the run has nothing more to do, which is printed."""
    why = job.finished()
    if why:
        print(f'{job.settings.run_directory} is at its end after {job.state.step} steps already: {why}')
    return why is not None


def train_locally(args: argparse.Namespace, devices: list[tuple[dict, set[int]]]) -> NoReturn:
    """Trains with --local_workers processes, and ends with their status."""
    if not args.no_cache:       # finds mistakes, and encodes the corpus for all, before they start
        with contextlib.redirect_stdout(io.StringIO()):     # worker 0 prints it again
            prepare(args).lock.close()
    sys.exit(local.run_workers(args, sys.argv, devices))


def main() -> None:
    args = parse_flags()
    cluster = find_cluster(args)
    if (args.local_workers or 1) > 1:
        devices = local.assign_devices(args.local_workers)      # which raises where there are too few GPUs
        if not args.dry_run:
            train_locally(args, devices)
    memory = available_memory()     # before the corpus takes some
    with contextlib.nullcontext() if args.dry_run else quiet(cluster):
        job = prepare(args, cluster)
        if args.dry_run:
            print(plan(job, memory))
            return
        with job.lock or contextlib.nullcontext():
            if cluster.count > 1 or not at_end(job):
                train(job, cluster)


@contextlib.contextmanager
def quiet(cluster: Cluster) -> Iterator[None]:
    """Keeps standard output for what worker 0 has to say."""
    if cluster.index == 0:
        yield
    else:
        print(f'{cluster.name(cluster.index)} of {cluster.count}: {cluster.name(0)} tells how training goes', flush=True)
        with open(os.devnull, 'w', encoding='utf-8') as nowhere, contextlib.redirect_stdout(nowhere):
            yield


if __name__ == '__main__':
    run(main)
