"""What the workers of a run must have in common, compared before they begin, and what worker 0 tells the others. No TensorFlow."""

import argparse
import dataclasses
import hashlib
import json
from collections.abc import Callable

import run_dir
from errors import UserError
from job import Job, set_generators
from run_state import RunState

# Beside those that change what a run computes: flags by which every worker decides for itself what comes next.
ALIKE = (*(flag for flag in run_dir.MATHEMATICS if flag != 'model_name'), 'max_steps', 'epochs', 'patience', 'val_every',
         'val_batch_size', 'val_batch_count', 'reduce_precision')


def agree(gather: Callable[[str], list[str]], args: argparse.Namespace, job: Job) -> None:
    """Compares what all workers were given, and sets a job's state and random generators to those of worker 0.

    gather: a text of this worker -> those of all. Raises UserError that names what differs, and the worker: with all of them.
    """
    generators = {name: generator.bit_generator.state for name, generator in job.generators().items()}
    state = dataclasses.replace(job.state, generators=generators)
    told = list(map(json.loads, gather(json.dumps([_common(args, job), dataclasses.asdict(state)]))))
    for index, (common, _) in enumerate(told):
        for name, first in told[0][0].items():
            if common[name] != first:
                raise UserError(f'{name} is {common[name]} with worker {index} and {first} with worker 0: give all workers '
                                'the same')
    job.state = RunState(**told[0][1])
    set_generators(job)


def _common(args: argparse.Namespace, job: Job) -> dict:
    validation = hashlib.sha256(b''.join(batch.tobytes() for batch in job.validation)).hexdigest()
    corpus = job.settings['corpus']
    return {f'--{flag}': getattr(args, flag) for flag in ALIKE} | {
        '--seq_length': job.seq_length, '--weight_decay': job.weight_decay, '--memory_saving_gradients': job.memory_saving,
        'the model': vars(job.hparams), 'the corpus': f'{corpus["tokens"]} tokens ({corpus["sha256"][:8]})',
        'the validation data': validation[:8], 'the version of TensorFlow': job.settings['versions'].get('tensorflow')}
