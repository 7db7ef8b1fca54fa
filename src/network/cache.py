"""The key/value cache: keys and values of the tokens before those that are read now, which the network attends to.

A `past` of `model.model` gives the positions of the tokens read now, their mask, and `extend`, the keys and values of a layer
with those of these tokens. PastTensor concatenates, as the tools of 2019 did; CachedPast writes into a Cache.
"""

import tensorflow.compat.v1 as tf

from network.attention import causal_mask
from network.gradients import shape_of
from network.hparams import HParams


class PastTensor:
    """Keys and values of earlier tokens as one tensor (see model.past_shape), for `sequence` more tokens."""

    def __init__(self, past, sequence):
        self._layers = tf.unstack(past, axis=1)
        start = shape_of(past)[-2]
        self.positions = tf.range(start, start + sequence)[None]
        self.mask = causal_mask(sequence, start + sequence)

    def extend(self, layer, k, v):  # [batch, heads, sequence, head] -> [batch, heads, past + sequence, head]
        past_k, past_v = tf.unstack(self._layers[layer], axis=1)
        return tf.concat([past_k, k], axis=2), tf.concat([past_v, v], axis=2)


class Cache:
    """Keys and values of a batch of texts, in memory with room for `capacity` tokens a row, which is written in place.

    memory: by (layer, shard), the keys and the values, each flat, [rows * heads * capacity, head]: a write replaces some of
    these rows. heads: how many each shard has. A row's text may be shorter than the others: a mask hides what lies behind it.
    """

    def __init__(self, memory: dict, heads: list[int], capacity):
        self.memory, self.heads, self.capacity = memory, heads, capacity

    def offsets(self, rows, positions) -> list:
        """For each shard, where in its memory the tokens of `rows` [n] at positions [n, sequence] are, [n * heads * sequence]."""
        found = []
        for heads in self.heads:
            row_heads = rows[:, None] * heads + tf.range(heads)[None]
            found.append(tf.reshape(row_heads[:, :, None] * self.capacity + positions[:, None, :], [-1]))
        return found

    def mask(self, positions):  # [rows] -> [rows, 1, 1, capacity]: 0 up to each row's position, -inf behind it
        shape = [tf.size(positions), self.capacity]
        visible = tf.range(self.capacity)[None] <= positions[:, None]
        return tf.where(visible, tf.zeros(shape), tf.fill(shape, tf.float32.min))[:, None, None]

    def write(self, layer: int, shard: int, offsets: list, k, v) -> list:
        """Writes k and v, flat as the memory is; returns all keys and values. Of several for one offset the last one stays."""
        return [tf.raw_ops.InplaceUpdate(x=memory, i=offsets[shard], v=new)
                for memory, new in zip(self.memory[layer, shard], (k, v))]


class CachedPast:
    """One more token of each row, at positions [rows], for a cache of one shard. written: the memory with these tokens."""

    def __init__(self, cache: Cache, positions):
        self._cache, self.written = cache, {}
        self._offsets = cache.offsets(tf.range(tf.size(positions)), positions[:, None])
        self.positions, self.mask = positions[:, None], cache.mask(positions)

    def extend(self, layer, k, v):  # [rows, heads, 1, head] -> [rows, heads, capacity, head]
        head_size = k.shape[-1]
        self.written[layer, 0] = self._cache.write(layer, 0, self._offsets, *(tf.reshape(x, [-1, head_size]) for x in (k, v)))
        return [tf.reshape(x, [-1, *self._cache.heads, self._cache.capacity, head_size]) for x in self.written[layer, 0]]


class ResizableCache(Cache):
    """A cache in variables, which keeps its content from one run of the session to the next.

    resized: the op that changes its size to `size`, [rows, capacity], both fed, and keeps the rows `kept`, also fed.
    """

    def __init__(self, hparams: HParams, heads: list[int]):
        head_size = hparams.head_size
        self.kept, self.size = tf.placeholder(tf.int32, [None]), tf.placeholder(tf.int32, [2])
        variables = {(layer, shard): [_local(tf.zeros([0, head_size]), [None, head_size]) for _ in ('keys', 'values')]
                     for layer in range(hparams.n_layer) for shard in range(len(heads))}
        sizes = _local([0, 0], [2])
        old_size = sizes.read_value()
        # A value read is the variable's own memory, so what is written into it in place is in the variable.
        super().__init__({key: list(map(tf.convert_to_tensor, pair)) for key, pair in variables.items()}, heads, old_size[1])
        moved = [variable.assign(self._moved(value, old_size, heads[shard]))
                 for (layer, shard), pair in variables.items() for variable, value in zip(pair, self.memory[layer, shard])]
        with tf.control_dependencies(moved):
            self.resized = tf.group(sizes.assign(self.size))
        self.initializer = tf.variables_initializer([sizes, *(variable for pair in variables.values() for variable in pair)])

    def _moved(self, flat, old_size, heads):
        rows, capacity = tf.unstack(self.size)
        head_size = flat.shape[-1]
        kept = tf.gather(tf.reshape(flat, [old_size[0], heads, old_size[1], head_size]), self.kept)[:, :, :capacity]
        grown = [[0, rows - tf.size(self.kept)], [0, 0], [0, capacity - tf.shape(kept)[2]], [0, 0]]
        return tf.reshape(tf.pad(kept, grown), [-1, head_size])


def _local(value, shape):
    return tf.Variable(value, trainable=False, shape=tf.TensorShape(shape), collections=[tf.GraphKeys.LOCAL_VARIABLES])
