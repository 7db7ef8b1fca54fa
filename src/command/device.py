"""What TensorFlow computes on, in one line, and an NVIDIA GPU left unused."""

import os
import sys

from command.errors import UserError
from command.machine import available_memory, available_processors, nvidia_gpus, visible_gpus
from command.tensorflow_setup import load_tensorflow, note_loading, open_session

# Compute capabilities of NVIDIA's GPUs: those of Volta (V100, T4 after it) multiply float16 in circuits of their own; those of
# Ampere (A100, RTX 30) tf32 and bfloat16 too.
VOLTA, AMPERE = (7, 0), (8, 0)
FROM_AMPERE = ('tf32', 'bfloat16')


def device(precision: str = 'float32') -> str:
    """The line that names the device, its memory, threads of the CPU, and the precision. TensorFlow must be loaded."""
    import tensorflow.compat.v1 as tf
    gpus, threads = tf.config.list_physical_devices('GPU'), f'{_threads()} threads'
    if not gpus:
        free = available_memory()
        memory = '' if free is None else f', {free / 1e9:.1f} GB of memory available'
        return f'Device: CPU, {threads}{memory}, {precision}'
    name = tf.config.experimental.get_device_details(gpus[0]).get('device_name', 'GPU')
    sizes = {size for each, size in nvidia_gpus() if each == name and size}
    memory = f', {sizes.pop() / 1e9:.1f} GB' if len(sizes) == 1 else ''
    first = f' (the first of {len(gpus)})' if len(gpus) > 1 else ''
    return f'Device: {name}{first}{memory}, {threads} of the CPU, {precision}'


def lacking(precision: str) -> str | None:
    """What to do about a GPU that has no circuits for this --precision; None if it has, or there is no GPU."""
    import tensorflow.compat.v1 as tf
    gpus = tf.config.list_physical_devices('GPU')
    details = tf.config.experimental.get_device_details(gpus[0]) if gpus else {}
    capability = details.get('compute_capability')
    if precision not in FROM_AMPERE or capability is None or capability >= AMPERE:
        return None
    advice = 'float16' if capability >= VOLTA else 'float32'
    return (f'{details.get("device_name", "The GPU")} is not made for --precision {precision}: it has compute capability '
            f'{_version(capability)}, and {precision} begins at {_version(AMPERE)}; use {advice}')


def _version(capability: tuple[int, int]) -> str:
    return '.'.join(map(str, capability))


def unused_gpu() -> str | None:
    """What to do about an NVIDIA GPU that TensorFlow does not find; None if there is none, or the user has hidden it."""
    import tensorflow.compat.v1 as tf
    hidden = 'CUDA_VISIBLE_DEVICES' in os.environ and not visible_gpus()
    if hidden or tf.config.list_physical_devices('GPU') or not (gpus := nvidia_gpus()):
        return None
    why = ('TensorFlow does not find it. It needs CUDA libraries' if tf.test.is_built_with_cuda() else
           'this TensorFlow is built for CPUs alone. On Linux, or in WSL on Windows, install the one for GPUs')
    return f"{gpus[0][0]} is not used: {why}:\n  pip install 'tensorflow[and-cuda]'"


def check_xla() -> None:
    """Raises UserError unless XLA can compile a function for the device that TensorFlow computes on, which is tried."""
    import tensorflow.compat.v1 as tf
    with tf.Graph().as_default(), open_session() as session:
        compiled = tf.function(lambda x: tf.exp(x) * x, jit_compile=True, autograph=False)
        try:
            session.run(compiled(tf.ones([8])))
        except tf.errors.OpError as error:
            why = ' '.join(error.message.split('\n')[0].split())[:200]
            raise UserError(f'--xla: XLA cannot compile for this device ({why}): leave --xla out, or install what it needs: '
                            "pip install 'tensorflow[and-cuda]'") from None


def load_and_report() -> None:
    """load_tensorflow, for scripts whose standard output others read: prints the device on standard error.

    Only on a terminal, and before it what takes so long; an unused GPU always.
    """
    terminal = note_loading()
    load_tensorflow()
    if terminal:
        print(device(), file=sys.stderr, flush=True)
    if unused := unused_gpu():
        print(unused, file=sys.stderr, flush=True)


def _threads() -> int:
    """How many threads an operation may use: as TensorFlow's own variable says, else one for each processor."""
    given = os.environ.get('TF_NUM_INTRAOP_THREADS', '')
    return int(given) if given.isdecimal() and int(given) else available_processors()
