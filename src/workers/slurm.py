"""The workers of a SLURM job step, from what srun sets in their environment."""

import os

from command.errors import UserError
from command.machine import visible_gpus
from command.tensorflow_setup import load_tensorflow

FIRST_PORT, PORTS = 10000, 20000
NEEDED = ('SLURM_STEP_NUM_TASKS', 'SLURM_STEP_NODELIST', 'SLURM_STEP_TASKS_PER_NODE', 'SLURM_PROCID', 'SLURM_LOCALID',
          'SLURMD_NODENAME')


def workers_of_step() -> tuple[list[str], int]:
    """The addresses of this job step's tasks, and the place of this one in the list; each listens at a port of its own.

    Where a node shows a task more than one GPU, it takes one for itself. Raises UserError outside of a job step.
    """
    if missing := [name for name in NEEDED if name not in os.environ]:
        raise UserError(f'--slurm: this is no job step, {missing[0]} is not set: start with srun')
    load_tensorflow(devices=False, several=True)
    import tensorflow.compat.v1 as tf
    try:
        port = FIRST_PORT + int(os.environ.get('SLURM_JOB_ID', '0')) % PORTS    # so that two jobs do not meet on one node
        tasks = int(os.environ['SLURM_STEP_NUM_TASKS'])
        # As if each task had a GPU: the resolver's own way to deal them out fails where there are none.
        resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
            port_base=port, gpus_per_node=tasks, gpus_per_task=1, auto_set_gpu=False)
        addresses = resolver.cluster_spec().as_dict()['worker']
        local = int(os.environ['SLURM_LOCALID'])
        # Not by SLURM_PROCID: the resolver sorts the nodes by name, n10 before n9.
        index = addresses.index(f'{os.environ["SLURMD_NODENAME"]}:{port + local}')
    except (RuntimeError, ValueError) as error:
        raise UserError(f'--slurm: the environment is not that of a job step ({error}): start with srun') from None
    gpus = visible_gpus()
    if len(gpus) > local:
        os.environ['CUDA_VISIBLE_DEVICES'] = gpus[local]
    return addresses, index
