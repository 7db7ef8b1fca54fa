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
from network.hparams import LAYER_NORM_EPSILON, HParams
from sampling.sharded_weights import Matrix, ShardedWeights, embed, integer_products

COMPILED_SIZE = 2 ** 20     # weights of a block; for smaller blocks, compiling takes longer than it saves


def project(w: Matrix, b, x):  # [n_out, n_in], [n_out], [n_in, columns] -> [n_out, columns]
    return w.times(x) + b[:, None]


def normalize_columns(x, g, b):
    """Layer normalisation of each column (Ba et al. 2016)."""
    centred = x - tf.reduce_mean(x, axis=0, keepdims=True)
    variance = tf.reduce_mean(tf.square(centred), axis=0, keepdims=True)
    return centred * tf.rsqrt(variance + LAYER_NORM_EPSILON) * g[:, None] + b[:, None]


def add_parts(x, bias, parts):  # [features, columns], [features], of each shard [features, columns]
    """The residual stream after a sublayer, whose last projection has this bias."""
    return sum(parts, x) + bias[:, None]


def shard_attention(q, keys, values, mask, w: Matrix):
    """A shard's part of an attention: [features, columns].

    q [rows, heads, n_query, head], keys and values [rows * heads * n_key, head], w [features, heads * head].
    """
    return project_heads(w, attend(q, *by_row(q, keys, values), mask))


def by_row(q, *flat) -> list:  # of each [rows * heads * n_key, head] -> [rows, heads, n_key, head]
    rows, heads, _, head_size = shape_of(q)
    return [tf.reshape(x, [rows, heads, -1, head_size]) for x in flat]


def project_heads(w: Matrix, y):  # [features, heads * head], [rows, heads, n_query, head] -> [features, columns]
    return w.times(tf.reshape(tf.transpose(y, [1, 3, 0, 2]), [w.n_in, -1]))


def attend_to_past(q, k, v, keys, values, mask):
    """What `attend` gives one query whose own key and value are not among the others yet: [rows, heads, 1, head].

    q, k, v [rows, heads, 1, head], keys and values [rows, heads, n_key, head], mask [rows, 1, 1, n_key].
    """
    scores = tf.matmul(q, keys, transpose_b=True) + mask
    weights = tf.nn.softmax(tf.concat([scores, tf.reduce_sum(q * k, axis=-1, keepdims=True)], axis=-1))
    return tf.matmul(weights[..., :-1], values) + weights[..., -1:] * v


def shard_mlp(x, bias, g, b, w_fc, b_fc, w_proj, *parts):  # w_fc [hidden, features], w_proj [features, hidden]
    """The residual stream after an attention, and a shard's part of the mlp."""
    x = add_parts(x, bias, parts)
    return x, w_proj.times(layers.gelu(project(w_fc, b_fc, normalize_columns(x, g, b))))


def shard_logits(x, bias, g, b, wte, *parts):  # -> [tokens, columns]
    return wte.times(normalize_columns(add_parts(x, bias, parts), g, b))


class _Programs:
    """What a shard computes between two exchanges. columns: [rows, sequence], one of them -1. make: makes a function one."""

    def __init__(self, head_size: int, columns: list, make):
        self._head_size, self._columns = head_size, columns
        self.qkv, self.attention, self.qkv_attention = make(self._qkv), make(shard_attention), make(self._qkv_attention)
        self.mlp, self.logits = make(shard_mlp), make(shard_logits)

    def _qkv(self, x, bias, g, b, w, b_qkv, *parts):  # w [3 * heads * head, features]
        """The residual stream before a block, and q / sqrt(head) [rows, heads, sequence, head], k, v.

        k and v are as in the cache, [rows * heads * sequence, head].
        """
        x = add_parts(x, bias, parts)
        heads = w.n_out // 3 // self._head_size
        qkv = tf.reshape(project(w, b_qkv, normalize_columns(x, g, b)), [3, heads, self._head_size, *self._columns])
        q, k, v = tf.unstack(tf.transpose(qkv, [0, 3, 1, 4, 2]))
        return x, q * (1 / math.sqrt(self._head_size)), *(tf.reshape(new, [-1, self._head_size]) for new in (k, v))

    def _qkv_attention(self, x, bias, g, b, w, b_qkv, w_proj, keys, values, mask, *parts):
        """_qkv and, for one new token of each row, the attention: the residual stream, [features, columns], k, v."""
        x, q, k, v = self._qkv(x, bias, g, b, w, b_qkv, *parts)
        return x, project_heads(w_proj, attend_to_past(q, *by_row(q, k, v, keys, values), mask)), k, v


class ShardedNetwork:
    """The network in the current graph, with its own variables and cache.

    compiled: whether by XLA; None decides by the network's size, and never compiles for a GPU. stored_as: the type of the
    matrices in memory (see ShardedWeights).
    """

    def __init__(self, hparams: HParams, shards: int, compiled: bool | None = None, stored_as: str = 'float32'):
        if compiled is None:
            compiled = 12 * hparams.n_embd ** 2 >= COMPILED_SIZE and not tf.config.list_physical_devices('GPU')
        self._hparams, self._compiled, self._shards, self._integers = hparams, compiled, shards, integer_products()
        self._weights = ShardedWeights(hparams, shards, stored_as)
        self._values = self._weights.values
        self.cache = ResizableCache(hparams, [len(part) for part in np.array_split(range(hparams.n_head), shards)])

    def load(self, session: tf.Session, prefix: str) -> None:
        """Reads the weights from a checkpoint. Raises UserError if it is damaged or another model's."""
        self._weights.load(session, prefix)
        session.run(self.cache.initializer)

    def program(self, function):
        """The function, compiled once for each shape if this network is compiled."""
        if not self._compiled:
            return function

        def program(*arguments):
            return function(*(each._replace(in_program=True, integers=self._integers) if isinstance(each, Matrix) else each
                              for each in arguments))
        return tf.function(program, jit_compile=True, autograph=False)

    def _built_once(self, function):
        """The function, whose ops are in the graph once, not again for each call; unless this network is compiled, itself."""
        return tf.function(function, autograph=False) if self._compiled else function

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

        programs = _Programs(self._hparams.head_size, [n, -1], self._built_once)
        stream = self._stream(tf.reshape(tokens, [-1]), tf.tile(tf.range(sequence), [n]), programs,
                              functools.partial(self._attention, programs, extend))
        last = tf.range(n) * sequence + lengths - 1
        logits = self._logits(programs, *(tf.gather(x, last, axis=1) for x in stream))
        return logits, tf.group(*written), functools.partial(self._log_probabilities, programs, stream)

    def decode(self, tokens, positions):
        """Reads one more token of each row, [rows], at positions [rows]. Returns logits [rows, n_vocab] after it."""
        programs, written = _Programs(self._hparams.head_size, [-1, 1], self.program), []
        offsets = self.cache.offsets(tf.range(tf.size(tokens)), positions[:, None])
        if self._compiled:
            attention = functools.partial(self._attention_to_past, programs, self.cache.mask(positions - 1), offsets, written)
        else:
            mask = self.cache.mask(positions)

            def extend(layer, shard, k, v):
                return *self.cache.write(layer, shard, offsets, k, v), mask
            attention = functools.partial(self._attention, programs, extend)
        logits = self._logits(programs, *self._stream(tokens, positions, programs, attention))
        with tf.control_dependencies(written):
            return tf.identity(logits)

    def _log_probabilities(self, programs, stream, columns, labels, count=None, n_vocab=None):
        """In nats, of each label [m] int32 after the token of its column [m] int32, an index in the flattened tokens: [m].

        For all n_vocab tokens, as in training. With a count, a list of these and the most likely of the first n_vocab tokens
        (see sample.most_likely). Only block_sizes.head_rows of logits exist at a time.
        """
        size, step = tf.size(columns), block_sizes.head_rows(block_sizes.gpu(), self._hparams.n_vocab)
        kinds = [(tf.float32, [None])] + ([] if count is None else [(tf.int32, [None, None]), (tf.float32, [None, None])])
        parts = [tf.TensorArray(dtype, (size + step - 1) // step, infer_shape=False, element_shape=shape)
                 for dtype, shape in kinds]

        def body(number, parts):
            some = slice(number * step, (number + 1) * step)
            logits = self._logits(programs, *(tf.gather(x, columns[some], axis=1) for x in stream))
            values = [sample.log_probability(logits, labels[some])]
            if count is not None:
                values += sample.most_likely(logits, count, n_vocab)
            return number + 1, [part.write(number, value) for part, value in zip(parts, values)]

        _, parts = tf.while_loop(lambda number, _: number * step < size, body, [0, parts], parallel_iterations=1,
                                 back_prop=False)
        return [part.concat() for part in parts]

    def _stream(self, tokens, positions, programs, attention) -> list:
        """The residual stream before the last mlp is added, and the shards' parts of that mlp: all [features, columns].

        attention(layer, x, biases, parts): the stream before a layer's attention, and the shards' parts of that.
        """
        wte, (wpe, *_) = self._values['model/wte'], self._values['model/wpe']
        x, parts = tf.transpose(embed(wte, tokens)), [tf.transpose(tf.gather(wpe, positions))]
        parts += [tf.zeros_like(x)] * (self._shards - 1)        # so that all blocks are one program
        biases = [tf.zeros([self._hparams.n_embd])] * self._shards
        for layer in range(self._hparams.n_layer):
            x, parts = attention(layer, x, biases, parts)
            pairs = [programs.mlp(x, *self._block(
                layer, shard, 'attn/c_proj/b', 'ln_2/g', 'ln_2/b', 'mlp/c_fc/w', 'mlp/c_fc/b', 'mlp/c_proj/w'), *parts)
                for shard in range(self._shards)]
            x, parts = pairs[0][0], [part for _, part in pairs]
            biases = self._values[f'model/h{layer}/mlp/c_proj/b']
        return [x, *parts]

    def _attention(self, programs, extend, layer, x, biases, parts):
        """extend(layer, shard, k, v): all keys and values to attend to, and their mask."""
        qkv = [programs.qkv(x, bias, *self._block(
            layer, shard, 'ln_1/g', 'ln_1/b', 'attn/c_attn/w', 'attn/c_attn/b'), *parts) for shard, bias in enumerate(biases)]
        return qkv[0][0], [programs.attention(q, *extend(layer, shard, k, v), *self._block(layer, shard, 'attn/c_proj/w'))
                           for shard, (_, q, k, v) in enumerate(qkv)]

    def _attention_to_past(self, programs, mask, offsets, written, layer, x, biases, parts):
        """The same for one new token of each row, in one program: its key and value are written after it has attended.

        mask: of the earlier tokens. Appends the ops that write to `written`.
        """
        attended = [programs.qkv_attention(
            x, bias, *self._block(layer, shard, 'ln_1/g', 'ln_1/b', 'attn/c_attn/w', 'attn/c_attn/b', 'attn/c_proj/w'),
            *self.cache.memory[layer, shard], mask, *parts) for shard, bias in enumerate(biases)]
        for shard, (_, _, k, v) in enumerate(attended):
            written.extend(tensor.op for tensor in self.cache.write(layer, shard, offsets, k, v))
        return attended[0][0], [part for _, part, *_ in attended]

    def _block(self, layer: int, shard: int, *names: str) -> list:
        return [self._values[f'model/h{layer}/{name}'][shard] for name in names]

    def _logits(self, programs, x, *parts):  # [features, rows], of each shard [features, rows] -> [rows, n_vocab]
        names = (f'model/h{self._hparams.n_layer - 1}/mlp/c_proj/b', 'model/ln_f/g', 'model/ln_f/b', 'model/wte')
        by_shard = [programs.logits(x, *weights, *parts) for weights in zip(*(self._values[name] for name in names))]
        # The transposes are outside of the programs: inside, XLA would fuse them with the matmul and read the weights more
        # slowly.
        return tf.concat([tf.transpose(logits) for logits in by_shard], axis=1)
