"""The network cut into shards, for prompts and single tokens.

The mathematics of model.py, arranged for few tokens, where reading the weights from memory limits the speed.
Activations are columns, [features, columns], and weights are [n_out, n_in], so that each row is contiguous and read
once for all columns. Each core has a shard: some heads of every attention, some features of every mlp and some rows of
wte. It adds its part to the residual stream (Shoeybi et al. 2019, "Megatron-LM", within one machine). So the cores wait
for each other only twice in a block, not in each matmul. On CPUs, XLA compiles what a shard does in between.

Shapes: rows (of a batch), sequence, columns (rows * sequence), features (n_embd), heads (of a shard), head (features of
a head), hidden (features of an mlp in a shard), tokens (rows of wte in a shard).
"""

import functools
import math

import numpy as np
import tensorflow.compat.v1 as tf

import sample
from network import block_sizes, layers
from network.attention import attend, causal_mask
from network.cache import ResizableCache
from network.gradients import shape_of
from network.hparams import HParams
from storage import saver

COMPILED_SIZE = 2 ** 20     # weights of a block; for smaller blocks, compiling takes longer than it saves
ALIGNMENT = 64              # bytes; memory so aligned is used by TensorFlow without a copy


def project(w, b, x):  # [n_out, n_in], [n_out], [n_in, columns] -> [n_out, columns]
    return tf.matmul(w, x) + b[:, None]


def normalize_columns(x, g, b):
    """Layer normalisation of each column (Ba et al. 2016)."""
    centred = x - tf.reduce_mean(x, axis=0, keepdims=True)
    variance = tf.reduce_mean(tf.square(centred), axis=0, keepdims=True)
    return centred * tf.rsqrt(variance + layers.LAYER_NORM_EPSILON) * g[:, None] + b[:, None]


def add_parts(x, bias, parts):  # [features, columns], [features], of each shard [features, columns]
    """The residual stream after a sublayer, whose last projection has this bias."""
    return sum(parts, x) + bias[:, None]


def shard_attention(q, keys, values, mask, w):
    """A shard's part of an attention: [features, columns].

    q [rows, heads, n_query, head], keys and values [rows * heads * n_key, head], w [features, heads * head].
    """
    rows, heads, _, head_size = shape_of(q)
    keys, values = (tf.reshape(x, [rows, heads, -1, head_size]) for x in (keys, values))
    y = attend(q, keys, values, mask)
    return tf.matmul(w, tf.reshape(tf.transpose(y, [1, 3, 0, 2]), [w.shape.as_list()[1], -1]))


def shard_mlp(x, bias, g, b, w_fc, b_fc, w_proj, *parts):  # w_fc [hidden, features], w_proj [features, hidden]
    """The residual stream after an attention, and a shard's part of the mlp."""
    x = add_parts(x, bias, parts)
    return x, tf.matmul(w_proj, layers.gelu(project(w_fc, b_fc, normalize_columns(x, g, b))))


def shard_logits(x, bias, g, b, wte, *parts):  # -> [tokens, columns]
    return tf.matmul(wte, normalize_columns(add_parts(x, bias, parts), g, b))


class _Programs:
    """What a shard computes between two exchanges. columns: [rows, sequence], one of them -1. make: see program."""

    def __init__(self, head_size: int, columns: list, make=lambda function: function):
        self._head_size, self._columns = head_size, columns
        self.qkv, self.attention = make(self._qkv), make(shard_attention)
        self.mlp, self.logits = make(shard_mlp), make(shard_logits)

    def _qkv(self, x, bias, g, b, w, b_qkv, *parts):  # w [3 * heads * head, features]
        """The residual stream before a block, and q / sqrt(head) [rows, heads, sequence, head], k, v.

        k and v are as in the cache, [rows * heads * sequence, head].
        """
        x = add_parts(x, bias, parts)
        heads = w.shape.as_list()[0] // 3 // self._head_size
        qkv = tf.reshape(project(w, b_qkv, normalize_columns(x, g, b)), [3, heads, self._head_size, *self._columns])
        q, k, v = tf.unstack(tf.transpose(qkv, [0, 3, 1, 4, 2]))
        return x, q * (1 / math.sqrt(self._head_size)), *(tf.reshape(new, [-1, self._head_size]) for new in (k, v))


class ShardedNetwork:
    """The network in the current graph, with its own variables and cache.

    compiled: whether by XLA; None decides by the network's size, and never compiles for a GPU.
    """

    def __init__(self, hparams: HParams, shards: int, compiled: bool | None = None):
        if compiled is None:
            compiled = 12 * hparams.n_embd ** 2 >= COMPILED_SIZE and not tf.config.list_physical_devices('GPU')
        self._hparams, self._compiled, self._shards = hparams, compiled, shards
        self._variables = {name: self._make(name, shape) for name, shape in hparams.shapes().items()}
        self._values = {name: [tf.convert_to_tensor(part) for part in parts] for name, parts in self._variables.items()}
        self.cache = ResizableCache(hparams, [len(part) for part in np.array_split(range(hparams.n_head), shards)])

    def _make(self, name: str, shape: list) -> list:
        """A variable for each shard's part. Its initial value is fed."""
        parts = _split_weight(name, np.broadcast_to(np.float32(0), shape), self._hparams, self._shards)
        return [tf.Variable(tf.placeholder(tf.float32, part.shape), name=name) for part in parts]

    def load(self, session: tf.Session, prefix: str) -> None:
        """Reads the weights from a checkpoint. Raises UserError if it is damaged or another model's."""
        weights = saver.Weights(prefix, self._hparams.shapes())
        memory = _LargePages(sum(4 * math.prod(variable.shape) + ALIGNMENT
                                 for variables in self._variables.values() for variable in variables))
        for name, variables in self._variables.items():
            parts = _split_weight(name, weights.get_tensor(name), self._hparams, self._shards)
            for variable, part in zip(variables, parts):
                session.run(variable.initializer, {variable.initializer.inputs[1]: memory.copy(part)})
        session.run(self.cache.initializer)

    def program(self, function):
        """The function, compiled once for each shape if this network is compiled."""
        return tf.function(function, jit_compile=True, autograph=False) if self._compiled else function

    def prefill(self, tokens, lengths, rows):
        """Reads prompts [n, sequence] of `lengths` [n], padded on the right, into `rows` [n] of the cache.

        Returns logits [n, n_vocab] after the last token of each, the op that writes the cache, and a function
        score(columns, labels): see _log_probabilities.
        """
        n, sequence = shape_of(tokens)
        mask, offsets, written = causal_mask(sequence, sequence), self.cache.offsets(rows, tf.range(sequence)[None]), []

        def extend(layer, shard, k, v):
            written.extend(tensor.op for tensor in self.cache.write(layer, shard, offsets, k, v))
            return k, v, mask

        programs = _Programs(self._hparams.head_size, [n, -1])
        stream = self._stream(tf.reshape(tokens, [-1]), tf.tile(tf.range(sequence), [n]), programs, extend)
        last = tf.range(n) * sequence + lengths - 1
        logits = self._logits(programs, *(tf.gather(x, last, axis=1) for x in stream))
        return logits, tf.group(*written), functools.partial(self._log_probabilities, programs, stream)

    def decode(self, tokens, positions):
        """Reads one more token of each row, [rows], at positions [rows]. Returns logits [rows, n_vocab] after it."""
        mask = self.cache.mask(positions)
        offsets = self.cache.offsets(tf.range(tf.size(tokens)), positions[:, None])

        def extend(layer, shard, k, v):
            return *self.cache.write(layer, shard, offsets, k, v), mask

        programs = _Programs(self._hparams.head_size, [-1, 1], self.program)
        return self._logits(programs, *self._stream(tokens, positions, programs, extend))

    def _log_probabilities(self, programs, stream, columns, labels):  # [m] int32, [m] int32 -> [m] float32
        """In nats, of each label after the token of its column, an index in the flattened tokens that were read.

        For all n_vocab tokens, as in training. Only block_sizes.HEAD_ROWS rows of logits exist at a time.
        """
        size, step = tf.size(columns), block_sizes.HEAD_ROWS
        parts = tf.TensorArray(tf.float32, (size + step - 1) // step, infer_shape=False, element_shape=[None])

        def body(number, parts):
            some = slice(number * step, (number + 1) * step)
            logits = self._logits(programs, *(tf.gather(x, columns[some], axis=1) for x in stream))
            return number + 1, parts.write(number, sample.log_probability(logits, labels[some]))

        _, parts = tf.while_loop(lambda number, _: number * step < size, body, [0, parts], parallel_iterations=1,
                                 back_prop=False)
        return parts.concat()

    def _stream(self, tokens, positions, programs, extend) -> list:
        """The residual stream before the last mlp is added, and the shards' parts of that mlp: all [features, columns].

        extend(layer, shard, k, v): all keys and values to attend to, and their mask.
        """
        wte, (wpe, *_) = self._values['model/wte'], self._values['model/wpe']
        # 'div' is how array_split cuts wte.
        embedding = tf.nn.embedding_lookup(wte, tokens, partition_strategy='div')
        x, parts = tf.transpose(embedding), [tf.transpose(tf.gather(wpe, positions))]
        biases = [tf.zeros([self._hparams.n_embd])] * self._shards
        shards = range(self._shards)
        for layer in range(self._hparams.n_layer):
            qkv = [programs.qkv(x, biases[shard], *self._block(
                layer, shard, 'ln_1/g', 'ln_1/b', 'attn/c_attn/w', 'attn/c_attn/b'), *parts) for shard in shards]
            x = qkv[0][0]
            parts = [programs.attention(q, *extend(layer, shard, k, v), *self._block(layer, shard, 'attn/c_proj/w'))
                     for shard, (_, q, k, v) in enumerate(qkv)]
            pairs = [programs.mlp(x, *self._block(
                layer, shard, 'attn/c_proj/b', 'ln_2/g', 'ln_2/b', 'mlp/c_fc/w', 'mlp/c_fc/b', 'mlp/c_proj/w'), *parts)
                for shard in shards]
            x, parts = pairs[0][0], [part for _, part in pairs]
            biases = self._values[f'model/h{layer}/mlp/c_proj/b']
        return [x, *parts]

    def _block(self, layer: int, shard: int, *names: str) -> list:
        return [self._values[f'model/h{layer}/{name}'][shard] for name in names]

    def _logits(self, programs, x, *parts):  # [features, rows], of each shard [features, rows] -> [rows, n_vocab]
        names = (f'model/h{self._hparams.n_layer - 1}/mlp/c_proj/b', 'model/ln_f/g', 'model/ln_f/b', 'model/wte')
        by_shard = [programs.logits(x, *weights, *parts) for weights in zip(*(self._values[name] for name in names))]
        # The transpose is outside of the programs: inside, XLA would fuse it with the matmul and read the weights more
        # slowly.
        return tf.transpose(tf.concat(by_shard, axis=0))


def _split_weight(name: str, array: np.ndarray, hparams: HParams, shards: int) -> list[np.ndarray]:
    """Each shard's part of a checkpoint's variable; small ones are repeated, except wpe, which only one shard has."""
    name = name.split('/', 2)[-1] if name.startswith('model/h') else name
    if array.ndim == 3:
        array = array[0].T
    if name.startswith('attn/c_attn'):      # [3 * features, ...], of which a shard has some heads
        by_head = array.reshape(3, hparams.n_head, hparams.head_size, *array.shape[1:])
        return [part.reshape(-1, *array.shape[1:]) for part in np.array_split(by_head, shards, axis=1)]
    if name == 'attn/c_proj/w':             # [features, features]: the columns of these heads
        by_head = array.reshape(len(array), hparams.n_head, hparams.head_size)
        return [part.reshape(len(array), -1) for part in np.array_split(by_head, shards, axis=1)]
    if name == 'mlp/c_proj/w':              # [features, 4 * features]
        return np.array_split(array, shards, axis=1)
    if name.startswith('mlp/c_fc') or name == 'model/wte':
        return np.array_split(array, shards)
    return [array] * (1 if name == 'model/wpe' else shards)


class _LargePages:
    """Memory for arrays that TensorFlow uses without a copy.

    For large arrays numpy asks the kernel for huge pages, from which weights are read faster; TensorFlow does not.
    """

    def __init__(self, size: int):
        self._memory = np.empty(size + ALIGNMENT, np.uint8)
        self._end = -self._memory.ctypes.data % ALIGNMENT

    def copy(self, array: np.ndarray) -> np.ndarray:
        start, self._end = self._end, self._end - -array.nbytes // ALIGNMENT * ALIGNMENT
        result = self._memory[start:start + array.nbytes].view(array.dtype).reshape(array.shape)
        result[...] = array
        return result
