"""The key/value cache: keys and values of earlier tokens.

A `past` of `model.model` has the new tokens' positions and mask, and `extend`, which returns a layer's old and new keys
and values. TensorPast concatenates them, as the tools of 2019 did; CachedPast writes the new ones into a Cache.
"""

import itertools

import tensorflow.compat.v1 as tf

from network.attention import causal_mask, positions_from
from network.gradients import shape_of
from network.hparams import HParams


class TensorPast:
    """Earlier keys and values as one tensor (see model.past_shape), for `sequence` new tokens."""

    def __init__(self, past, sequence):
        self._layers = tf.unstack(past, axis=1)
        start = shape_of(past)[-2]
        self.positions = tf.range(start, start + sequence)[None]
        self.mask = causal_mask(sequence, start + sequence)

    def extend(self, layer, k, v):  # [batch, heads, sequence, head] -> [batch, heads, past + sequence, head]
        past_k, past_v = tf.unstack(self._layers[layer], axis=1)
        return tf.concat([past_k, k], axis=2), tf.concat([past_v, v], axis=2)


class Cache:
    """Keys and values of a batch, in memory for `capacity` tokens a row, updated in place.

    memory: (layer, shard) -> keys, values, each [rows * heads * capacity, head]. heads: how many each shard has. Rows
    may differ in length: a mask hides what is after a row's last token.
    """

    def __init__(self, memory: dict, heads: list[int], capacity):
        self.memory, self.heads, self.capacity = memory, heads, capacity

    def offsets(self, rows, positions) -> list:
        """For each shard the memory rows, [n * heads * sequence], of `rows` [n] at positions [n or 1, sequence]."""
        offsets = []
        for heads in self.heads:
            row_heads = rows[:, None] * heads + tf.range(heads)[None]
            offsets.append(tf.reshape(row_heads[:, :, None] * self.capacity + positions[:, None, :], [-1]))
        return offsets

    def mask(self, positions):  # [rows] -> [rows, 1, 1, capacity]: 0 up to each row's position, -inf after it
        shape = [tf.size(positions), self.capacity]
        visible = positions_from(0, self.capacity)[None] <= tf.cast(positions, tf.float32)[:, None]
        return tf.where(visible, tf.zeros(shape), tf.fill(shape, tf.float32.min))[:, None, None]

    def write(self, layer: int, shard: int, offsets: list, k, v) -> list:
        """Writes k and v, [len(offsets), head]; returns all keys and values. Of duplicate offsets the last wins."""
        return [tf.raw_ops.InplaceUpdate(x=memory, i=offsets[shard], v=new)
                for memory, new in zip(self.memory[layer, shard], (k, v))]


class CachedPast:
    """A cache of one shard, for one new token of each row, at positions [rows]. written: its memory afterwards."""

    def __init__(self, cache: Cache, positions):
        self._cache, self.written = cache, {}
        self._offsets = cache.offsets(tf.range(tf.size(positions)), positions[:, None])
        self.positions, self.mask = positions[:, None], cache.mask(positions)

    def extend(self, layer, k, v):  # [rows, heads, 1, head] -> [rows, heads, capacity, head]
        cache, head_size = self._cache, k.shape.as_list()[-1]
        flat = [tf.reshape(x, [-1, head_size]) for x in (k, v)]
        self.written[layer, 0] = cache.write(layer, 0, self._offsets, *flat)
        return [tf.reshape(x, [-1, *cache.heads, cache.capacity, head_size]) for x in self.written[layer, 0]]


class ResizableCache(Cache):
    """A cache in variables, which keep its content between runs of the session.

    resize: the op that makes its size new_size [rows, capacity], and its rows kept_rows the first ones; both are fed.
    """

    def __init__(self, hparams: HParams, heads: list[int]):
        head_size = hparams.head_size
        self.kept_rows, self.new_size = tf.placeholder(tf.int32, [None]), tf.placeholder(tf.int32, [2])
        variables = {(layer, shard): [_local(tf.zeros([0, head_size]), [None, head_size]) for _ in ('keys', 'values')]
                     for layer in range(hparams.n_layer) for shard in range(len(heads))}
        size = _local([0, 0], [2])
        old_size = size.read_value()
        # Reading a variable returns its own memory, so an in-place write to the value changes the variable.
        memory = {key: list(map(tf.convert_to_tensor, pair)) for key, pair in variables.items()}
        super().__init__(memory, heads, old_size[1])
        resized = self._resizer(old_size, head_size)
        assigned = [variable.assign(resized(value, shard)) for (layer, shard), pair in variables.items()
                    for variable, value in zip(pair, memory[layer, shard])]
        with tf.control_dependencies(assigned):
            self.resize = tf.group(size.assign(self.new_size))
        self.initializer = tf.variables_initializer([size, *itertools.chain(*variables.values())])

    def _resizer(self, old_size, head_size):
        """A function (memory [old rows * heads * capacity, head], shard) -> memory [rows * heads * capacity, head].

        What it needs is computed here, once for all of the memory, as each op costs time when the graph is built.
        """
        (old_rows, old_capacity), (rows, capacity) = tf.unstack(old_size), tf.unstack(self.new_size)
        shapes = [tf.stack([old_rows, heads, old_capacity, head_size]) for heads in self.heads]
        kept_capacity = tf.minimum(old_capacity, capacity)
        begin, size, flat = tf.zeros([4], tf.int32), tf.stack([-1, -1, kept_capacity, -1]), tf.constant([-1, head_size])
        padding = tf.convert_to_tensor([[0, rows - tf.size(self.kept_rows)], [0, 0], [0, capacity - kept_capacity], [0, 0]])

        def resized(memory, shard):
            kept = tf.gather(tf.reshape(memory, shapes[shard]), self.kept_rows)
            return tf.reshape(tf.pad(tf.slice(kept, begin, size), padding), flat)
        return resized


def _local(value, shape):
    return tf.Variable(value, trainable=False, shape=tf.TensorShape(shape), collections=[tf.GraphKeys.LOCAL_VARIABLES])
