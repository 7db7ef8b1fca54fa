#!/usr/bin/env python3
"""Fine-tunes GPT-2 on your own text. Ctrl-C saves; run again to continue."""

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import NoReturn

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), 'src'))

from command.missing_packages import explain_missing_packages

if __name__ == '__main__':
    explain_missing_packages()

from command.errors import check_utf8, run
from command.flags import (
    Parser,
    fraction,
    fraction_below_1,
    non_negative_float,
    non_negative_int,
    non_negative_int32,
    number,
    path,
    positive_float,
    positive_int,
)
from command.machine import available_memory, gpu_memory
from command.models import CHECKPOINT_DIR, SAMPLE_DIR
from corpus.flags import add_dataset_flag, add_text_flags, add_token_flags
from network.quantize import TYPES
from sampling.continuation import LARGEST, SMALLEST
from sampling.prompts import check_not_empty, given_text
from training.config import not_taken, parse_with_config
from training.dry_run import measured_time, plan
from training.job import Job
from training.next_steps import best_line, next_steps
from training.prepare import DEFAULT_MODEL, prepare
from training.settings import DEFAULT_LEARNING_RATE, DEFAULT_SAMPLE_LENGTH, DEFAULT_VAL_EVERY, DEFAULT_WEIGHT_DECAY
from workers import local
from workers.cluster import Cluster, find_cluster

EXAMPLES = ('./train.py --model_name tiny --dataset corpus.txt --run_name mine --max_steps 500',
            "./train.py --model_name 124M --dataset 'corpus/**/*.txt' --val_split 0.1 --val_every 100")


def parse_flags(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(prog=os.path.basename(__file__), description=__doc__, examples=EXAMPLES)
    add_data_flags(parser.add_argument_group('data'))
    add_model_flags(parser.add_argument_group('model'))
    add_training_flags(parser.add_argument_group('training'))
    add_optimizer_flags(parser.add_argument_group('optimizer'))
    add_machine_flags(parser.add_argument_group('memory and speed'))
    add_run_flags(parser.add_argument_group('run'))
    add_sample_flags(parser.add_argument_group('samples'))
    add_validation_flags(parser.add_argument_group('validation'))
    add_worker_flags(parser.add_argument_group('several workers'))
    return parse_with_config(parser, arguments)


def add_data_flags(group) -> None:
    add_dataset_flag(group, 'text or .npz to train on (required); with =N after a path, its tokens are drawn N times as often',
                     required=True)
    add_text_flags(group)
    add_token_flags(group)
    group.add_argument('--no_cache', action='store_true',
                       help='do not keep the encoded text in the run\'s directory: encode it into memory at each start')
    group.add_argument('--noise', metavar='P', type=fraction, default=0.0,
                       help='share of the input tokens to replace by random ones, which makes the model robust to typos')


def add_model_flags(group) -> None:
    group.add_argument('--model_name', metavar='NAME',
                       help='the model to fine-tune, a directory in --models_dir (default: that of the run if it continues, else '
                            f'{DEFAULT_MODEL})')
    group.add_argument('--models_dir', metavar='DIR', type=path, default='models', help='the directory of the models')
    group.add_argument('--seq_length', metavar='TOKENS', type=positive_int,
                       help='length of a training sequence; a shorter one takes less memory (default: the model\'s window)')


def add_training_flags(group) -> None:
    group.add_argument('--batch_size', metavar='N', type=positive_int, default=1, help='sequences in a batch')
    group.add_argument('--accumulate_gradients', metavar='N', type=positive_int, default=1,
                       help='average the gradients of N batches for each update: the effect of a batch N times as large')
    group.add_argument('--only_train_transformer_layers', action='store_true',
                       help='do not train the embeddings, which takes less memory')
    group.add_argument('--train_layers', metavar='N', type=non_negative_int, default=0,
                       help='train the last N blocks and the last normalisation alone, which takes less memory and time; 0: all')
    group.add_argument('--lora_rank', metavar='R', type=non_negative_int, default=0,
                       help='train adapters of this rank on the matrices of each block (LoRA), and leave the model as it is: far '
                            'less memory, and checkpoints of megabytes; 0: train the model itself. 8 is common, with a larger '
                            '--learning_rate, like 0.0003')
    group.add_argument('--lora_alpha', metavar='A', type=positive_float,
                       help='multiply what the adapters add by A / R (default: 2 R)')
    group.add_argument('--base_weights', choices=TYPES, default='float32',
                       help='keep the matrices that adapters are added to in memory as bfloat16, half of the bytes, or int8, a '
                            'quarter')
    group.add_argument('--dropout', metavar='P', type=fraction_below_1, default=0.0,
                       help='set a share P of the embeddings, of the attention and of what each block adds to 0 in each training '
                            'step, so that a small corpus is not learned by heart; 0: none. 0.1 is common')
    group.add_argument('--max_steps', metavar='N', type=non_negative_int, default=0,
                       help='end the run after N steps in total; 0: no limit')
    group.add_argument('--epochs', metavar='N', type=non_negative_float, default=0.0,
                       help='end the run after as many tokens as N times the corpus has; 0: no limit')
    group.add_argument('--warn_epochs', metavar='N', type=non_negative_float, default=10.0,
                       help='warn when the run has trained on more than N times the corpus; 0: never')
    group.add_argument('--seed', metavar='N', type=non_negative_int,
                       help='draw the same batches, noise and samples in every run (default: different ones); a '
                            'resumed run continues its own draws')


def add_optimizer_flags(group) -> None:
    group.add_argument('--optimizer', choices=['adam', 'adamw', 'adafactor', 'sgd'], default='adam',
                       help='adamw is adam with weight decay; adafactor keeps few numbers beside the weights, where adam keeps '
                            'two for each; sgd keeps none, and learns more slowly')
    group.add_argument('--learning_rate', metavar='RATE', type=positive_float, default=DEFAULT_LEARNING_RATE,
                       help='learning rate of each step, or its peak with a schedule or --warmup_steps; lower it if the '
                            'loss jumps')
    group.add_argument('--learning_rate_schedule', choices=['constant', 'linear', 'cosine', 'relative'],
                       default='constant',
                       help='linear and cosine lower the learning rate to 0 at --max_steps; relative, for adafactor, takes '
                            'min(0.01, 1 / sqrt(step)) of each weight\'s own size in place of --learning_rate')
    group.add_argument('--warmup_steps', metavar='N', type=non_negative_int, default=0,
                       help='raise the learning rate from 0 over the first N steps')
    group.add_argument('--clip_norm', metavar='NORM', type=non_negative_float, default=0.0,
                       help='scale a longer gradient down to this length; 0: never. 1 is common')
    group.add_argument('--weight_decay', metavar='RATE', type=non_negative_float,
                       help=f'for adamw: shrink the matrices by this times the learning rate in each step (default: '
                            f'{DEFAULT_WEIGHT_DECAY})')


def add_machine_flags(group) -> None:
    group.add_argument('--memory_saving_gradients', action=argparse.BooleanOptionalAction, default=None,
                       help='recompute activations instead of keeping them: less memory, slower steps '
                            '(default: on from 345M up)')
    group.add_argument('--precision', choices=['float32', 'tf32', 'bfloat16', 'float16'], default='float32',
                       help='number format of matrix multiplications; tf32 and bfloat16 are for GPUs that support them (compute '
                            'capability 8.0), bfloat16 also for processors with AMX (Intel Xeon since 2023), float16 is for '
                            'older GPUs too: it scales the loss, and skips steps that overflow')
    group.add_argument('--xla', action=argparse.BooleanOptionalAction, default=None,
                       help='have XLA compile what is computed number by number, such as GELU: fewer and larger operations '
                            '(default: on for a CPU without --memory_saving_gradients, else off; not measured on a GPU)')


def add_run_flags(group) -> None:
    group.add_argument('--config', metavar='FILE', type=path,
                       help='take flags from a TOML file (batch_size = 4), or from the settings.json of a run; those on the '
                            'command line override it. Relative paths in it are relative to the working directory')
    group.add_argument('--run_name', metavar='NAME', type=check_utf8, default='run1',
                       help='name of the run, which is kept in the directory NAME of --checkpoint_dir')
    group.add_argument('--checkpoint_dir', metavar='DIR', type=path, default=CHECKPOINT_DIR,
                       help='the directory of the runs')
    group.add_argument('--restore_from', metavar='latest|fresh|WHERE', type=path, default='latest',
                       help='latest: continue the run; fresh: start from the model; else start from a checkpoint: a step of '
                            'this run, its best, the name of a run, RUN/best, RUN/latest, RUN/STEP, or a path')
    group.add_argument('--overwrite', action='store_true',
                       help='start from scratch, and remove the existing run of this name when the new '
                            'one has a checkpoint')
    group.add_argument('--save_every', metavar='N', type=non_negative_int, default=1000,
                       help='save a checkpoint every N steps; 0: only at the end')
    group.add_argument('--save_secs', metavar='SECONDS', type=non_negative_float, default=0.0,
                       help='save also when the last checkpoint is this old; 0: never')
    group.add_argument('--keep', metavar='N', type=non_negative_int, default=5, help='how many checkpoints to keep; 0: all')
    group.add_argument('--log_every', metavar='N', type=positive_int, default=1,
                       help='print the loss of every N-th step; metrics.jsonl and TensorBoard get that of all steps')
    group.add_argument('--plot', action='store_true', help='draw loss.png at the end; needs matplotlib')
    group.add_argument('--dry_run', action='store_true',
                       help='do not train, but check everything and print a plan: corpus, model, steps, needed memory and what '
                            'takes less, disk; writes nothing. A published model need not be there')
    group.add_argument('--measure_steps', metavar='N', type=non_negative_int, default=0,
                       help='with --dry_run: also make N steps, without writing anything, and print how long the run takes; '
                            '0: none')
    group.add_argument('--gpu_memory', metavar='GB', type=non_negative_float,
                       help='with --dry_run: plan for a GPU of so much memory; 0: for the CPU (default: for the GPU that the '
                            'driver lists, if there is one)')


temperature = number(float, f'0, or a number from {SMALLEST:g} to {LARGEST:g}',
                     lambda value: value == 0 or SMALLEST <= value <= LARGEST)


def sample_prompt(text: str) -> str:
    return check_not_empty('--sample_prompt', given_text('--sample_prompt', text))


def add_sample_flags(group) -> None:
    group.add_argument('--sample_dir', metavar='DIR', type=path, default=SAMPLE_DIR,
                       help='where samples are written, in a directory NAME for the run')
    group.add_argument('--sample_every', metavar='N', type=non_negative_int, default=100,
                       help='generate samples every N steps; 0: never')
    group.add_argument('--sample_length', metavar='TOKENS', type=positive_int,
                       help=f'length of a sample (default: {DEFAULT_SAMPLE_LENGTH}, or less if the model\'s window is shorter)')
    group.add_argument('--sample_num', metavar='N', type=positive_int, default=1, help='how many samples each time')
    group.add_argument('--sample_prompt', metavar='TEXT', type=sample_prompt,
                       help='start each sample with this text (default: a random token of the corpus)')
    group.add_argument('--sample_temperature', metavar='T', type=temperature, default=1.0,
                       help='below 1 for safer, above 1 for stranger samples; 0 takes the most likely token each time')
    group.add_argument('--top_k', metavar='K', type=non_negative_int32, default=40,
                       help='draw from the K most likely tokens; 0: from all')
    group.add_argument('--top_p', metavar='P', type=fraction, default=0.0,
                       help='draw from the most likely tokens that together have probability P; overrides --top_k if '
                            'above 0')


def add_validation_flags(group) -> None:
    add_dataset_flag(group, 'text or .npz to validate on (default: what --val_split holds out, or the training data)',
                     '--val_dataset')
    group.add_argument('--val_split', metavar='SHARE', type=fraction, default=0.0,
                       help='share of the tokens to validate on, and not to train on: whole documents, or, if they are few or '
                       'uneven, the end of one')
    group.add_argument('--val_batch_size', metavar='N', type=positive_int, default=2, help='sequences in a batch')
    group.add_argument('--val_batch_count', metavar='N', type=positive_int, default=40,
                       help='how many batches, the same each time')
    group.add_argument('--val_every', metavar='N', type=non_negative_int,
                       help=f'validate every N steps; 0: never (default: {DEFAULT_VAL_EVERY} with --val_split, else 0)')
    group.add_argument('--keep_best', action='store_true',
                       help='save when the validation loss is the lowest so far, and keep that checkpoint besides the last')
    group.add_argument('--patience', metavar='N', type=non_negative_int, default=0,
                       help='end the run after N validations in a row without a new lowest loss; 0: never')


def add_worker_flags(group) -> None:
    group.add_argument('--local_workers', metavar='N', type=positive_int,
                       help='train with N processes on this machine, each with a GPU, or with an equal share of the cores')
    group.add_argument('--max_restarts', metavar='N', type=non_negative_int,
                       help='for --local_workers: when one dies, restart all from the last checkpoint, at most N times '
                            f'(default: {local.RESTARTS})')
    group.add_argument('--workers', metavar='HOST:PORT,...',
                       help='addresses of all workers, each started with the same flags and its own --worker_index; each '
                            'trains on --batch_size sequences. Use trusted networks only: whoever reaches the ports can take '
                            'part (default: those of TF_CONFIG)')
    group.add_argument('--worker_index', metavar='I', type=non_negative_int,
                       help='number of this process in --workers, from 0; number 0 saves, samples and reports')
    group.add_argument('--slurm', action='store_true', help='the workers are the tasks of this SLURM job step')
    group.add_argument('--reduce_precision', choices=['float32', 'bfloat16'], default='float32',
                       help='number format of gradients sent between workers; bfloat16 halves the traffic')
    group.add_argument('--no_nccl', action='store_true',
                       help='do not let NCCL sum the gradients, which it does if each worker has a GPU of its own')
    group.add_argument('--dist_timeout', metavar='SECONDS', type=positive_float, default=600.0,
                       help='give up when a worker is silent for so long, which must be more than saving and sampling take')
    group.add_argument('--dist_startup_timeout', metavar='SECONDS', type=positive_float, default=600.0,
                       help='how long to wait for all workers to start, and for worker 0 to read the weights')


def train(job: Job, cluster: Cluster, advise: bool) -> None:
    """advise: whether to print at the end which commands come next."""
    load_late(job, cluster.count > 1)
    from training import loop
    from workers.collectives import Workers
    settings = job.settings
    workers = Workers(cluster, timeout=settings.dist_timeout, startup_timeout=settings.dist_startup_timeout,
                      nccl=not settings.no_nccl)
    with workers.connected():
        if workers.count > 1:
            job.agree(workers.gather)
            print(f'{workers.count} workers are connected: a batch has {workers.count * settings.batch_size} sequences, '
                  f'{settings.batch_size} for each')
        if not already_finished(job, advise):
            loop.train(job, workers)
            print_end(job, advise)


def load_late(job: Job, several: bool) -> None:
    """Imports TensorFlow, which takes seconds that a mistake in the flags should not cost, and prints what it computes on."""
    print('Loading TensorFlow', flush=True)
    from command.device import check_xla, device, lacking, unused_gpu
    from command.tensorflow_setup import load_tensorflow
    load_tensorflow(several=several)
    precision = job.settings.precision
    print('\n'.join(filter(None, [device(precision), lacking(precision), unused_gpu()])), flush=True)
    if job.settings.xla:
        check_xla()


def planned_gpu(args: argparse.Namespace) -> int | None:
    """Bytes of the GPU that --dry_run plans for; None if it is the CPU."""
    return gpu_memory() if args.gpu_memory is None else round(args.gpu_memory * 1e9) or None


def print_time(job: Job) -> None:
    """Measures --measure_steps steps, and prints how long the run takes."""
    load_late(job, several=False)
    from training.measure import seconds_of_step
    print(measured_time(job, seconds_of_step(job, job.settings.measure_steps)), flush=True)


def already_finished(job: Job, advise: bool) -> bool:
    """Whether the run has nothing left to do, which is printed, as print_end does."""
    why = job.finished()
    if why:
        print(f'{job.settings.run_directory} has already ended after {job.state.step} steps: {why}')
        print_end(job, advise)
    return why is not None


def print_end(job: Job, advise: bool) -> None:
    """Prints which checkpoint is the best, if that is known, and with `advise` which commands come next."""
    if lines := next_steps(job.settings, job.state.step, job.finished()) if advise else best_line(job.settings):
        print(lines, flush=True)


def train_locally(args: argparse.Namespace, command: list[str], devices: list[tuple[dict, set[int]]]) -> NoReturn:
    """Trains with --local_workers processes that run `command`, and exits with their status."""
    if not args.no_cache:       # finds mistakes and encodes the corpus before the workers start
        with contextlib.redirect_stdout(io.StringIO()):     # worker 0 prints the same
            prepare(args).lock.close()
    sys.exit(local.run_workers(args, command, devices))


def main(arguments: list[str] | None = None) -> None:
    """Trains as the command line says, or as these arguments say if it is called from Python."""
    args = parse_flags(arguments)
    cluster = find_cluster(args)
    if (args.local_workers or 1) > 1:
        devices = local.assign_devices(args.local_workers)      # raises UserError for too few GPUs
        if not args.dry_run:
            train_locally(args, sys.argv if arguments is None else [os.path.abspath(__file__), *arguments], devices)
    memory = available_memory()     # before the corpus takes any
    with contextlib.nullcontext() if args.dry_run else only_worker_0_prints(cluster):
        for line in not_taken(args, args.local_workers or cluster.count):
            print(line)
        job = prepare(args, cluster)
        if args.dry_run:
            print(plan(job, memory, planned_gpu(args)), flush=True)
            if args.measure_steps:
                print_time(job)
            return
        with contextlib.closing(job):
            if cluster.count > 1 or not already_finished(job, advise=arguments is None):
                train(job, cluster, advise=arguments is None)


@contextlib.contextmanager
def only_worker_0_prints(cluster: Cluster) -> Iterator[None]:
    """Discards what any other worker prints on standard output."""
    if cluster.index == 0:
        yield
    else:
        print(f'{cluster.name(cluster.index)} of {cluster.count}: {cluster.name(0)} reports the progress', flush=True)
        with open(os.devnull, 'w', encoding='utf-8', errors='replace') as nowhere, contextlib.redirect_stdout(nowhere):
            yield


if __name__ == '__main__':
    run(main)
