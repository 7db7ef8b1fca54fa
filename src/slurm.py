"""The workers of a SLURM job step, from what srun sets in their environment."""

import os

from cluster import Cluster, checked
from errors import UserError
from local_workers import visible_gpus
from runtime import load_tensorflow

FIRST_PORT, PORTS = 10000, 20000


def find_cluster() -> Cluster:
    """The cluster of this job step: one worker for each task. Where a node shows a task more than one GPU, it takes its own.

    Raises UserError outside of a job step.
    """
    port = FIRST_PORT + int(os.environ.get('SLURM_JOB_ID', '0')) % PORTS      # so that two jobs do not meet on one node
    load_tensorflow(devices=False, several=True)      # which GPUs there are is settled when it first looks
    import tensorflow.compat.v1 as tf
    try:
        tasks = int(os.environ['SLURM_STEP_NUM_TASKS'])
        # As if each task had a GPU: the resolver's own way to deal them out fails where there are none.
        resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
            port_base=port, gpus_per_node=tasks, gpus_per_task=1, auto_set_gpu=False)
        addresses = resolver.cluster_spec().as_dict()['worker']
        own, node = int(os.environ['SLURM_LOCALID']), os.environ['SLURMD_NODENAME']
        # Not by SLURM_PROCID: the resolver sorts the nodes by name, n10 before n9.
        index = addresses.index(f'{node}:{port + own}')
    except (KeyError, RuntimeError, ValueError) as error:
        raise UserError(f'--slurm: the environment is not that of a job step ({error}): start with srun') from None
    if 1 < len(addresses) and len(gpus := visible_gpus()) > own and len(gpus) > 1:
        os.environ['CUDA_VISIBLE_DEVICES'] = gpus[own]
    return checked(addresses, index, '--slurm', '--slurm')
