"""The one way in which tests read and write checkpoints, as {name: array}."""

import numpy as np

from storage import bundle


def read_checkpoint(path, scope=''):
    """TensorFlow's reading of a checkpoint, given by prefix or directory: the variables in `scope`, named without it."""
    import tensorflow.compat.v1 as tf
    reader = tf.train.load_checkpoint(str(path))
    return {name.removeprefix(scope): reader.get_tensor(name) for name in reader.get_variable_to_shape_map()
            if name.startswith(scope)}


def write_checkpoint(prefix, arrays, scope=''):
    """Writes arrays as float32 without TensorFlow; `scope` is put before their names."""
    arrays = {scope + name: np.asarray(array) for name, array in sorted(arrays.items())}
    with open(f'{prefix}.data-00000-of-00001', 'wb') as data, open(f'{prefix}.index', 'wb') as index:
        bundle.write_bundle(data, index, {name: list(array.shape) for name, array in arrays.items()}, arrays.values())


def zeros(shapes):
    """Arrays of zeros by name, from shapes by name."""
    return {name: np.zeros(shape) for name, shape in shapes.items()}


def write_index(path, n_tensors, keys_per_block, compression=0):
    """An index of scalars w0000, w0001, ... in two data files and several blocks, as TensorFlow writes thousands of tensors."""
    entries = [(b'', bundle._message({1: 2}))]
    entries += [(b'w%04d' % i, bundle._message({1: bundle.FLOAT32, 3: i % 2, 4: 4 * i, 5: 4})) for i in range(n_tensors)]
    content = b''

    def add(block):
        nonlocal content
        handle = bundle._varint(len(content)) + bundle._varint(len(block))
        block += bytes([compression])
        content += block + bundle._checksum(block)
        return handle

    blocks = [entries[start:start + keys_per_block] for start in range(0, len(entries), keys_per_block)]
    handles = [(block[-1][0], add(bundle._block(block))) for block in blocks]
    footer = add(bundle._block([])) + add(bundle._block(handles))
    path.write_bytes(content + footer.ljust(40, b'\0') + bundle.TABLE_MAGIC)
