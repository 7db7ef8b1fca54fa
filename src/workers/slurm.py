"""The workers of a SLURM job step, from its environment variables."""

import os

from command.errors import UserError
from command.machine import visible_gpus
from command.tensorflow_setup import load_tensorflow

FIRST_PORT, PORTS = 10000, 20000
NEEDED = ('SLURM_STEP_NUM_TASKS', 'SLURM_STEP_NODELIST', 'SLURM_STEP_TASKS_PER_NODE', 'SLURM_PROCID', 'SLURM_LOCALID',
          'SLURMD_NODENAME')


def workers_of_step() -> tuple[list[str], int]:
    """The addresses of this job step's tasks, each with its own port, and the index of this task in the list.

    If a node shows its tasks several GPUs, each task takes one of them. Raises UserError outside of a job step.
    """
    if missing := [name for name in NEEDED if name not in os.environ]:
        raise UserError(f'--slurm: not in a job step, {missing[0]} is not set: start with srun')
    load_tensorflow(devices=False, several=True)
    import tensorflow.compat.v1 as tf
    try:
        port = FIRST_PORT + int(os.environ.get('SLURM_JOB_ID', '0')) % PORTS    # different for two jobs on a node
        tasks = int(os.environ['SLURM_STEP_NUM_TASKS'])
        # As if each task had a GPU: the resolver's own assignment fails where there are none.
        resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
            port_base=port, gpus_per_node=tasks, gpus_per_task=1, auto_set_gpu=False)
        addresses = resolver.cluster_spec().as_dict()['worker']
        local_id = int(os.environ['SLURM_LOCALID'])
        # Not by SLURM_PROCID: the resolver sorts the nodes by name, n10 before n9.
        index = addresses.index(f'{os.environ["SLURMD_NODENAME"]}:{port + local_id}')
    except (RuntimeError, ValueError) as error:
        raise UserError(f'--slurm: the environment is not that of a job step ({error}): start with srun') from None
    gpus = visible_gpus()
    if len(gpus) > local_id:
        os.environ['CUDA_VISIBLE_DEVICES'] = gpus[local_id]
    return addresses, index
