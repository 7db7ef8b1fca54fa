"""The settings of a run: its flags, checked, with all defaults resolved."""

import argparse
import dataclasses
import re

from command.errors import UserError
from command.models import run_path
from network.hparams import HParams
from network.lora import Lora, is_factor
from training import plot

DEFAULT_SAMPLE_LENGTH = 1023
DEFAULT_LEARNING_RATE = 0.00002             # for fine-tuning
LEARNING_RATE_FROM_SCRATCH = 0.0005         # to start with; see docs/from-scratch.md
LEARNING_RATE_OF_ADAPTERS = 0.0003          # to start with
DEFAULT_WEIGHT_DECAY = 0.01
DEFAULT_VAL_EVERY = 100         # with --val_split; without it 0, as in 2019
RECOMPUTE_FROM = 24 * 1024      # n_layer * n_embd of 345M: from this size on activations outweigh the weights


@dataclasses.dataclass(frozen=True)
class Settings:
    """One field for each flag of train.py, under the flag's name, and the number of workers."""
    # data
    dataset: list[str]
    encoding: str
    encoding_errors: str
    text_column: str | None
    document_per_line: bool
    skip_bad_records: bool
    combine: int
    processes: int
    no_cache: bool
    noise: float
    # model
    model_name: str
    models_dir: str
    seq_length: int
    # training
    batch_size: int
    accumulate_gradients: int
    only_train_transformer_layers: bool
    train_layers: int
    lora_rank: int
    lora_alpha: float | None    # None without --lora_rank
    base_weights: str
    dropout: float
    max_steps: int
    epochs: float
    warn_epochs: float
    seed: int | None
    # optimizer
    optimizer: str
    learning_rate: float
    learning_rate_schedule: str
    warmup_steps: int
    clip_norm: float
    weight_decay: float
    # memory and speed
    memory_saving_gradients: bool
    precision: str
    xla: bool | None        # None: by the device and memory_saving_gradients
    # run
    config: str | None
    run_name: str
    checkpoint_dir: str
    restore_from: str
    overwrite: bool
    save_every: int
    save_secs: float
    keep: int
    log_every: int
    plot: bool
    dry_run: bool
    measure_steps: int
    gpu_memory: float | None
    # samples
    sample_dir: str
    sample_every: int
    sample_length: int
    sample_num: int
    sample_prompt: str | None
    sample_temperature: float
    top_k: int
    top_p: float
    # validation
    val_dataset: list[str] | None
    val_split: float
    val_batch_size: int
    val_batch_count: int
    val_every: int
    keep_best: bool
    patience: int
    # several workers
    local_workers: int | None
    max_restarts: int | None
    workers: str | None
    worker_index: int | None
    slurm: bool
    reduce_precision: str
    no_nccl: bool
    dist_timeout: float
    dist_startup_timeout: float
    worker_count: int       # not a flag, but the number of workers that the flags ask for

    @property
    def run_directory(self) -> str:
        return run_path(self.checkpoint_dir, self.run_name)

    @property
    def lora(self) -> Lora | None:
        return Lora(self.lora_rank, self.lora_alpha, self.base_weights) if self.lora_rank else None

    @property
    def sample_directory(self) -> str:
        return run_path(self.sample_dir, self.run_name)


def is_trained(weight: str, settings, n_layer: int) -> bool:
    """Whether a weight, by its name ('model/h0/ln_1/g'), is trained.

    settings: Settings, or what else has only_train_transformer_layers, train_layers and lora_rank; n_layer: of the model.
    """
    if settings.lora_rank:
        return is_factor(weight)
    block = re.search('/h([0-9]+)/', weight)
    if settings.train_layers:
        return '/ln_f/' in weight or block is not None and int(block[1]) >= n_layer - settings.train_layers
    return block is not None or not settings.only_train_transformer_layers


def make_settings(args: argparse.Namespace, hparams: HParams, worker_count: int = 1, prompt_length: int = 1) -> Settings:
    """Resolves the flags of train.py for a model of this size; prints each default that depends on it.

    prompt_length: tokens that a sample begins with. Raises UserError for a length, a number of blocks, or a rank that does not
    fit the model.
    """
    for flag in ('seq_length', 'sample_length'):
        if (getattr(args, flag) or 0) > hparams.n_ctx:
            raise UserError(f'--{flag} {getattr(args, flag)} is more than the model\'s window of {hparams.n_ctx} tokens')
    if args.measure_steps and worker_count > 1:
        raise UserError(f'--measure_steps measures a single worker, and this run has {worker_count}: leave it out')
    seq_length = args.seq_length or hparams.n_ctx
    if seq_length < 2:
        raise UserError('--seq_length must be 2 or more: the first token has none before it to be predicted from')
    if args.train_layers > hparams.n_layer:
        raise UserError(f'--train_layers {args.train_layers}: the model has {hparams.n_layer} blocks')
    if args.lora_rank > hparams.n_embd:
        raise UserError(f'--lora_rank {args.lora_rank} is more than the side of a matrix, {hparams.n_embd} in this model')
    return Settings(**vars(args) | {
        'seq_length': seq_length,
        'lora_alpha': (args.lora_alpha or 2.0 * args.lora_rank) if args.lora_rank else None,
        'sample_length': _sample_length(args, hparams, prompt_length),
        'weight_decay': DEFAULT_WEIGHT_DECAY if args.weight_decay is None else args.weight_decay,
        'val_every': _val_every(args),
        'memory_saving_gradients': _recompute(args.memory_saving_gradients, hparams)}, worker_count=worker_count)


def _sample_length(args: argparse.Namespace, hparams: HParams, prompt_length: int) -> int:
    """The value of --sample_length: with the prompt it must fit into the window and one token more, which is never read."""
    window, most = hparams.n_ctx, hparams.n_ctx + 1 - prompt_length
    if (args.sample_length or 0) > most:
        raise UserError(f'--sample_prompt has {prompt_length} tokens, too many for the model\'s window of {window} with '
                        f'--sample_length {args.sample_length}: give a shorter one, or --sample_length {most}')
    if args.sample_length or most >= DEFAULT_SAMPLE_LENGTH:
        return args.sample_length or DEFAULT_SAMPLE_LENGTH
    length = max(window - prompt_length, 1)
    if args.sample_every:
        prompt = f', --sample_prompt has {prompt_length}' if args.sample_prompt else ''
        print(f'The model\'s window holds {window} tokens{prompt}: --sample_length is {length}')
    return length


def _val_every(args: argparse.Namespace) -> int:
    """The value of --val_every: what --val_split holds out is validated on also if no interval is given, at the end at least."""
    if args.val_every is not None or not args.val_split:
        return args.val_every or 0
    steps = min(DEFAULT_VAL_EVERY, args.max_steps or DEFAULT_VAL_EVERY)
    print(f'--val_split is given without --val_every: validating every {steps} steps')
    return steps


def _recompute(given: bool | None, hparams: HParams) -> bool:
    """The value of --memory_saving_gradients, which by default depends on the model's size."""
    if given is not None:
        return given
    large = hparams.n_layer * hparams.n_embd >= RECOMPUTE_FROM
    if large:
        print('For a model of this size, --memory_saving_gradients is on (--no-memory_saving_gradients turns it off)')
    return large


def check_flags(args: argparse.Namespace) -> None:
    """Raises UserError for flags that contradict each other, whatever the model."""
    if args.learning_rate_schedule == 'relative':
        if args.optimizer != 'adafactor':
            raise UserError('--learning_rate_schedule relative works only with --optimizer adafactor')
    elif args.learning_rate_schedule != 'constant' and not args.max_steps:
        raise UserError(f'--learning_rate_schedule {args.learning_rate_schedule} ends at --max_steps: give that too')
    if args.max_steps and args.warmup_steps >= args.max_steps:
        raise UserError(f'--warmup_steps {args.warmup_steps} must be less than --max_steps {args.max_steps}')
    if args.weight_decay is not None and args.optimizer != 'adamw':
        raise UserError('--weight_decay works only with --optimizer adamw')
    if args.train_layers and args.only_train_transformer_layers:
        raise UserError('--train_layers and --only_train_transformer_layers: give only one of them')
    for flag in ('train_layers', 'only_train_transformer_layers'):
        if args.lora_rank and getattr(args, flag):
            raise UserError(f'--lora_rank and --{flag}: give only one of them')
    if args.lora_alpha and not args.lora_rank:
        raise UserError('--lora_alpha works only with --lora_rank')
    if args.base_weights != 'float32' and not args.lora_rank:
        raise UserError(f'--base_weights {args.base_weights} works only with --lora_rank: weights that are trained are float32')
    if args.val_split and args.val_dataset:
        raise UserError('--val_split and --val_dataset: give only one of them')
    for flag in ('keep_best', 'patience'):
        if getattr(args, flag) and not args.val_every and (args.val_every == 0 or not args.val_split):
            raise UserError(f'--{flag} compares validation losses: give --val_every too')
    for flag in ('measure_steps', 'gpu_memory'):
        if getattr(args, flag) and not args.dry_run:
            raise UserError(f'--{flag} works only with --dry_run')
    if args.plot:
        plot.check()
