"""All that a run reads and checks before TensorFlow is imported: a Job."""

import argparse
import contextlib
import os

import numpy as np

from command import atomic_files, models
from command.errors import UserError, reason
from load_dataset import Sampler
from network.hparams import HParams, load_hparams
from sampling.continuation import prompt_tokens
from sampling.prompts import ENDS_IN_SPACE
from storage import adapters, checkpoints, run_directory
from storage.adapters import Adapters, check_files
from storage.check import is_untrained
from storage.find_checkpoint import find_checkpoint, find_start
from storage.model_directory import Model, open_model
from storage.run_state import RunState
from training import memory, record
from training.job import Job
from training.not_downloaded import NotDownloaded, not_downloaded
from training.read_corpus import read_corpus
from training.settings import (
    DEFAULT_LEARNING_RATE,
    LEARNING_RATE_FROM_SCRATCH,
    LEARNING_RATE_OF_ADAPTERS,
    Settings,
    check_flags,
    make_settings,
)
from workers.cluster import ONE_WORKER, Cluster

DEFAULT_MODEL = '117M'


def prepare(args: argparse.Namespace, cluster: Cluster = ONE_WORKER) -> Job:
    """Reads the model's sizes and the corpus, and locks the run's directory. Raises UserError for any mistake.

    A dry run writes nothing: it takes no lock, and keeps tokens in memory unless the run has them cached. With several
    workers, only worker 0 takes the lock and chooses the checkpoint.
    """
    check_flags(args)
    directory = models.run_path(args.checkpoint_dir, args.run_name)
    held, checkpoint, state, base = None, None, RunState(), None
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
            base = check_start(settings, checkpoint, model.hparams) if checkpoint else None
        corpus = read_corpus(settings, model, cluster)
        train = corpus.train
        if settings.dry_run:
            atomic_files.check_writable(settings.run_directory)
            atomic_files.check_writable(settings.sample_directory)
        elif cluster.index == 0:
            make_writable(settings.sample_directory, undo)
            checkpoints.clean(settings.run_directory)
        (data_seed, noise_seed, context_seed, sampling_seed, dropout_seed,
         initial_seed) = np.random.SeedSequence(settings.seed).spawn(6)
        job = Job(settings=settings, model=model, checkpoint=checkpoint, state=state, lock=held,
                  record=record.describe(settings, train, corpus.key, corpus.validation_tokens),
                  train=Sampler(train.chunks, data_seed, train.weights), validation=corpus.validation,
                  noise=np.random.default_rng(noise_seed), dropout=np.random.default_rng(dropout_seed),
                  contexts=Sampler(train.chunks, context_seed, train.weights), sampling=np.random.default_rng(sampling_seed),
                  initial=np.random.default_rng(initial_seed), adapters=base, prompt=prompt, encoded_bytes=corpus.encoded_bytes)
        job.set_generators()
        print_changes(job)
        undo.pop_all()
    return job


def check_start(settings: Settings, checkpoint: str, hparams: HParams) -> Adapters | None:
    """Checks the checkpoint that a run starts from. Returns what the adapters are added to, if it trains such.

    Raises UserError for a damaged checkpoint, or one of this run that --lora_rank does not fit.
    """
    before = adapters.read(checkpoint)
    is_own = os.path.realpath(os.path.dirname(checkpoint)) == os.path.realpath(settings.run_directory)
    if is_own:
        check_same_adapters(settings, before)
    adapters.check_weights(checkpoint, hparams)
    warn_of_low_rate(settings, checkpoint, hparams, new=before is None)
    if settings.lora is None or is_own:
        return before if is_own else None
    if checkpoints.checkpoint_step(checkpoint):
        print(f'The adapters of this run need {checkpoint}, which its own run may remove (--keep): create_model.py --from_run '
              'makes a model of it that stays', flush=True)
    return adapters.on(checkpoint, settings.lora)


def check_same_adapters(settings: Settings, before: Adapters | None) -> None:
    """Raises UserError unless a run continues to train what it trained before."""
    was, now = (f'--lora_rank {lora.rank} --lora_alpha {lora.alpha:g}' if lora else 'no adapters'
                for lora in (before and before.lora, settings.lora))
    if was != now:
        raise UserError(f'{settings.run_directory} is a run with {was}, not with {now}: continue it as it is, or give another '
                        f'--run_name, with --restore_from {settings.run_name}')


def warn_of_low_rate(settings: Settings, checkpoint: str, hparams: HParams, new: bool) -> None:
    """Prints a warning if adapters, or new, random weights, are to be trained with the learning rate for fine-tuning.

    new: whether the weights may be random ones.
    """
    if settings.learning_rate > DEFAULT_LEARNING_RATE or settings.learning_rate_schedule == 'relative':
        return
    if settings.lora:
        print(f'Adapters (--lora_rank) learn slowly with --learning_rate {settings.learning_rate:g}: try '
              f'--learning_rate {LEARNING_RATE_OF_ADAPTERS:g}', flush=True)
    elif new and is_untrained(checkpoint, hparams.shapes()):
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


def make_writable(directory: str, undo: contextlib.ExitStack) -> None:
    """Makes a directory, which `undo` removes. Raises UserError if files cannot be written there."""
    try:
        run_directory.make(directory, undo)
        probe = os.path.join(directory, f'.writable-{os.getpid()}')
        open(probe, 'w').close()
        os.remove(probe)
    except OSError as error:
        raise UserError(f'cannot write to {directory}: {reason(error)}') from None
