"""The directory of a run: who may write to it, what is left over in it, what its settings were."""

import contextlib
import fcntl
import glob
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator
from typing import TextIO

import numpy as np

import files
import model_dir
from errors import UserError, reason
from token_files import PIECE, release

GLANCE = 0.1            # seconds after which nobody who only looked at a lock still has it
SETTINGS = 'settings.json'
METRICS = 'metrics.jsonl'
# Flags that change what a run computes. The others decide when it stops, saves or shows something.
MATHEMATICS = ('model_name', 'combine', 'encoding', 'encoding_errors', 'text_column', 'document_per_line', 'noise',
               'seq_length', 'batch_size', 'accumulate_gradients', 'only_train_transformer_layers', 'optimizer',
               'learning_rate', 'learning_rate_schedule', 'warmup_steps', 'clip_norm', 'weight_decay', 'precision',
               'val_split')


def lock(directory: str) -> TextIO:
    """Takes a run directory for this process: an open file, which gives it back when it is closed or the process dies.

    Makes the directory. Raises UserError if it cannot be written to, or another process has it.
    """
    path = os.path.join(directory, 'lock')
    try:
        os.makedirs(directory, exist_ok=True)
        file = open(path, 'a+', encoding='utf-8')   # noqa: SIM115  (open as long as the run)
    except OSError as error:
        raise UserError(f'cannot write to {directory}: {reason(error)}') from None
    if not _locked(file, fcntl.LOCK_EX):
        time.sleep(GLANCE)
        if not _locked(file, fcntl.LOCK_EX):
            with file:
                owner = _owner(file)
            raise UserError(f'another process (number {owner}) trains in {directory}: give another --run_name, or wait for it '
                            'to end')
    file.truncate(0)
    file.write(f'{os.getpid()}\n')
    file.flush()
    return file


def trainer(directory: str) -> str | None:
    """The number of the process that trains in a run directory now, as `lock` noted it; None without one.

    Nothing is taken or written: that the lock could be shared is tried, for less than GLANCE.
    """
    try:
        file = open(os.path.join(directory, 'lock'), encoding='utf-8')      # noqa: SIM115  (closed below)
    except OSError:
        return None         # nobody ever trained there, or it is not for us to know
    with file:
        return None if _locked(file, fcntl.LOCK_SH) else _owner(file)


def _locked(file: TextIO, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _owner(file: TextIO) -> str:
    file.seek(0)
    return file.read().strip() or 'unknown'


@contextlib.contextmanager
def one_at_a_time(path: str) -> Iterator[None]:
    """Waits until no other process is in here with the same path. Raises UserError if its directory cannot be written to."""
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        file = open(f'{path}.lock', 'a', encoding='utf-8')      # noqa: SIM115
    except OSError as error:
        raise UserError(f'cannot write to {os.path.dirname(path)}: {reason(error)}') from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def clean(directory: str) -> None:
    """Removes what an interrupted save left: unfinished files, and parts of a checkpoint that was never whole."""
    for pattern in ('*.part', '*.tempstate*', 'model-*_temp'):
        for path in glob.glob(os.path.join(glob.escape(directory), pattern)):
            shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)
    for path in checkpoint_files(directory):
        prefix = _prefix(path)
        whole = os.path.exists(f'{prefix}.index') and os.path.exists(f'{prefix}.data-00000-of-00001')
        if not whole and not os.path.exists(f'{prefix}.json'):
            os.remove(path)


def checkpoint_files(directory: str) -> list[str]:
    """All files of the checkpoints model-STEP of a run."""
    return [path for path in glob.glob(os.path.join(glob.escape(directory), 'model-*'))
            if re.fullmatch(r'model-\d+\..+', os.path.basename(path))]


def _prefix(path: str) -> str:
    return re.match(r'(.*model-\d+)\.', path)[1]


def remove_checkpoint(prefix: str) -> None:
    """Removes the files of one checkpoint, in an order that leaves something to be cleaned, or removed, if it is cut short.

    The state first: without it the rest is a checkpoint of its own still. Then the index: without both it is a leftover.
    """
    for path in sorted(glob.glob(f'{glob.escape(prefix)}.*'),
                       key=lambda path: (not path.endswith('.json'), not path.endswith('.index'))):
        os.remove(path)


def outdated(directory: str, keep: int, spared: set[int]) -> list[str]:
    """Prefixes of checkpoints to remove, so that `keep` stay: those last written and the newest, whose step is spared.

    Other spared steps do not count. keep 0 keeps all.
    """
    prefixes = [path.removesuffix('.index') for path in checkpoint_files(directory) if path.endswith('.index')]
    prefixes = [prefix for prefix in prefixes if model_dir.checkpoint_step(prefix) not in spared]
    # Not by step: after a return to an earlier checkpoint, the higher numbers belong to what was given up.
    prefixes.sort(key=lambda prefix: (os.stat(f'{prefix}.index').st_mtime_ns, model_dir.checkpoint_step(prefix)))
    return prefixes[:max(len(prefixes) - (keep - 1), 0)] if keep else []


def clear(directory: str) -> None:
    """Removes a run's checkpoints and records, for --overwrite."""
    for name in ('checkpoint', 'counter', SETTINGS, METRICS, 'loss.png'):
        if os.path.exists(path := os.path.join(directory, name)):
            os.remove(path)
    for path in [*checkpoint_files(directory), *glob.glob(os.path.join(glob.escape(directory), 'events.out.tfevents*'))]:
        os.remove(path)


def remove(directory: str) -> None:
    """Removes a run directory, and directories above it that are empty then."""
    shutil.rmtree(directory, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.removedirs(os.path.dirname(directory))


def describe(args, chunks: list[np.ndarray], directory: str, key: str | None, workers: int = 1) -> dict:
    """The settings of a run as settings.json holds them: flags, corpus, versions.

    key: tells whether the corpus is the one that the run in `directory` had before, whose checksum is taken then; else,
    or without one, the tokens are read.
    """
    key = key and hashlib.sha256(f'{key} {args.val_split}'.encode()).hexdigest()
    before = (read_settings(directory) or {}).get('corpus', {})
    checksum = before['sha256'] if key and before.get('key') == key and 'sha256' in before else _checksum(chunks)
    versions = {'python': platform.python_version()}
    for package in ('tensorflow', 'tensorflow-cpu', 'numpy'):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {'flags': vars(args), 'versions': versions, 'workers': workers,
            'corpus': {'name': args.dataset, 'tokens': sum(map(len, chunks)), 'chunks': len(chunks),
                       'sha256': checksum, 'key': key}}


def _checksum(chunks: list[np.ndarray]) -> str:
    """A checksum of tokens, the same however many bytes each takes."""
    digest, touched = hashlib.sha256(), 0
    for chunk in chunks:
        for start in range(0, len(chunk), PIECE):
            piece = chunk[start:start + PIECE]
            digest.update(piece.astype(np.int32))
            touched += piece.nbytes
            if touched >= PIECE:
                release([chunk])
                touched = 0
        digest.update(b'|')
    return digest.hexdigest()


def read_settings(directory: str) -> dict | None:
    """The settings that a run was last started with; None if there are none, or none that can be read."""
    try:
        with open(os.path.join(directory, SETTINGS), encoding='utf-8') as file:
            settings = json.load(file)
        return settings if {'flags', 'corpus'} <= settings.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def changes(before: dict, now: dict) -> list[str]:
    """What of a run's settings changes its mathematics: 'flag --batch_size: 2 before, 4 now'."""
    told = []
    for flag in MATHEMATICS:
        old, new = before['flags'].get(flag), now['flags'][flag]
        if old != new and flag in before['flags']:
            told.append(f'--{flag}: {old} before, {new} now')
    old, new = before['flags'].get('max_steps'), now['flags']['max_steps']
    if old != new and now['flags']['learning_rate_schedule'] != 'constant':
        told.append(f'--max_steps, where the learning rate ends: {old} before, {new} now')
    old, new = before.get('workers', 1), now['workers']
    if old != new:
        told.append(f'the number of workers, each with --batch_size sequences: {old} before, {new} now')
    if before['corpus'].get('sha256') != now['corpus']['sha256']:
        told.append(f'the corpus: {before["corpus"].get("name")} of {before["corpus"].get("tokens")} tokens before, '
                    f'{now["corpus"]["name"]} of {now["corpus"]["tokens"]} now')
    return told


def write_settings(directory: str, settings: dict) -> None:
    files.write_text(os.path.join(directory, SETTINGS), json.dumps(settings, indent=1) + '\n')
