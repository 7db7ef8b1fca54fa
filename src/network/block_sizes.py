"""Rows of attention and of logits computed at a time, by device.

On a CPU, blocks that fit into its caches are fastest, and take the least memory. On a GPU each op costs some microseconds to
launch, whatever its size: there the blocks are the largest of which the memory is sure to have room. Not measured on a GPU.
"""

import functools

from command.machine import gpu_memory

QUERY_BLOCK = 256       # queries that attend together, to the keys up to the last of them; on a GPU at least
HEAD_ROWS = 512         # rows of logits that exist at the same time; on a GPU at least
GPU_QUERY_BLOCK, GPU_HEAD_ROWS = 1024, 4096     # on a GPU at most
# Rows of attention weights, over all sequences and heads, that keep a GPU busy. Larger blocks compute more above the diagonal.
BUSY_ROWS = 24 * 1024
SHARE = 1 / 16          # of a GPU's memory that the arrays of one block may take
ARRAYS, FLOAT = 3, 4    # arrays of a block at a time, bytes of a number


def query_block(gpu: int | None, batch, heads: int, length) -> int:
    """How many queries attend together.

    gpu: bytes of memory of the GPU; None for a CPU, or if it is not known. batch, length: no int if the graph does not know them.
    """
    if gpu is None or not (isinstance(batch, int) and isinstance(length, int)):
        return QUERY_BLOCK
    rows = min(BUSY_ROWS, _rows(gpu, length))
    return _doubled(QUERY_BLOCK, rows // (batch * heads), GPU_QUERY_BLOCK)


def head_rows(gpu: int | None, n_vocab: int) -> int:
    """How many rows of logits exist at the same time. gpu: as for query_block."""
    return HEAD_ROWS if gpu is None else _doubled(HEAD_ROWS, _rows(gpu, n_vocab), GPU_HEAD_ROWS)


def _rows(gpu: int, width: int) -> int:
    """Rows of so many numbers for which a GPU has room."""
    return int(SHARE * gpu / (ARRAYS * FLOAT * width))


def _doubled(size: int, limit: int, most: int) -> int:
    """The size, doubled as often as neither limit is exceeded."""
    while 2 * size <= min(limit, most):
        size *= 2
    return size


def gpu() -> int | None:
    """Bytes of memory of the GPU that TensorFlow uses; None on a CPU, or if the driver does not report it."""
    import tensorflow.compat.v1 as tf
    return _memory() if tf.config.list_physical_devices('GPU') else None


_memory = functools.cache(gpu_memory)      # the driver takes up to a second to answer
