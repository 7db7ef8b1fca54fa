"""The weights of the sampling network: cut into shards, in float32, bfloat16 or int8.

Shapes: n_in, n_out (features that a matrix, or a shard's part of one, takes and gives), tiles, tile (rows of a matrix that are
converted together), columns."""

import math
from typing import NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf

from command.machine import has_amx
from network.hparams import HParams
from network.quantize import SCALE, quantize
from storage import saver
from storage.weights import Weights

ALIGNMENT = 64              # bytes; memory so aligned is used by TensorFlow without a copy
TILE = 2 ** 19              # bytes of a tile in float32, at most: it fits into a core's cache
FEW = 40                    # tiles: as many as the matrices of a block have, and wte not
STREAMS = 8                 # parts of a matrix that are read in turns: see Matrix._times_streams
COLUMNS = 32                # of which AMX multiplies so many as fast as fewer
LARGEST = 127 * 2 ** 16     # an upper byte of 127, and the others 0
BYTE_SIGNS = 0x808080       # the sign of each of an integer's lower three bytes
SMALLEST = 1e-30            # instead of 0, by which nothing can be divided
NO_WEIGHT = {tf.int8: -128, tf.uint16: 0xffff}      # numbers that no weight is stored as
# The types in which a matrix is stored; see as_float32.
STORED = {'float32': 'float32', 'bfloat16': 'uint16', 'int8': 'int8'}


def as_float32(w):
    """Stored numbers in float32. bfloat16 is there as uint16, the upper half of a float32: XLA is slow to convert it."""
    if w.dtype != tf.uint16:
        return tf.cast(w, tf.float32)
    return tf.bitcast(tf.bitwise.left_shift(tf.cast(w, tf.uint32), tf.constant(16, tf.uint32)), tf.float32)


def integer_products() -> bool:
    """Whether int8 matrices are multiplied as integers: XLA of TensorFlow 2.21 has fast products of them for AMX.

    Its products for other processors are not measured; they would have to be several times as fast as those of float32.
    """
    return has_amx() and tuple(map(int, tf.__version__.split('.')[:2])) >= (2, 21)


class Matrix(NamedTuple):
    """A shard's part of a matrix: w [n_out, n_in] float32, or [tiles, tile, n_in] in a smaller type; in int8 scale [n_out].

    in_program: whether products are parts of a compiled program, where what they convert does not leave the cache. integers:
    whether those with several columns are products of integers (see integer_products).
    """
    w: tf.Tensor
    n_out: int
    scale: tf.Tensor | None = None
    in_program: bool = False
    integers: bool = False

    @property
    def n_in(self) -> int:
        return self.w.shape.as_list()[-1]

    def times(self, x):  # [n_in, columns] -> [n_out, columns]
        """The product with x."""
        if self.w.dtype == tf.float32:
            return tf.matmul(self.w, x)
        with tf.control_dependencies([x]):      # else every matrix would be converted at once, and wait for its x
            if self.in_program:
                # A compiled program knows the number of columns, and has one of the two.
                several = self._times_integers if self.integers and self.w.dtype == tf.int8 else self._times_tiles
                y = tf.cond(tf.shape(x)[1] > 1, lambda: several(x), lambda: self._times_streams(x))
                # After a condition, XLA takes the number of columns for one that may change, unless it is said again.
                y = tf.reshape(y, [self.n_out, tf.shape(x)[1]])
            else:   # as ops, a loop over few tiles would take more memory than the matrix
                y = self._times_tiles(x) if self.w.shape.as_list()[0] > FEW else tf.matmul(as_float32(self.rows()), x)
        return y if self.scale is None else y * self.scale[:, None]

    def _times_streams(self, x):
        """The product with one column, for which a row of each of STREAMS parts is read in turn.

        A processor reads ahead within a page of memory, 4 KB, and waits where the next one begins. Meanwhile it can multiply
        the rows of other parts; row after row took up to 1.4 times as long.
        """
        def multiply():
            rows = tf.transpose(tf.reshape(self.w, [STREAMS, -1, self.n_in]), [1, 0, 2])
            return tf.matmul(as_float32(tf.reshape(rows, [-1, self.n_in])), x)

        y = self._apart(multiply, lambda: 1, tf.float32)
        return tf.reshape(tf.transpose(tf.reshape(y, [-1, STREAMS])), [-1, 1])[:self.n_out]

    def _apart(self, multiply, columns, dtype):
        """multiply(), [tiles * tile, columns], computed after what it needs: XLA would compute that anew for each row.

        It does not only where there is a condition, so here is one that is always true, but not as far as XLA knows.
        """
        tiles, tile, _ = self.w.shape.as_list()
        return tf.cond(tf.not_equal(self.w[0, 0, 0], NO_WEIGHT[self.w.dtype]), multiply,
                       lambda: tf.zeros([tiles * tile, columns()], dtype))

    def _times_tiles(self, x):
        # By number: map_fn would copy the tiles themselves.
        tiles, tile, _ = self.w.shape.as_list()
        parts = tf.map_fn(lambda i: tf.matmul(as_float32(_at(self.w, i)), x), tf.range(tiles),
                          fn_output_signature=x.dtype, parallel_iterations=2)
        return tf.reshape(parts, [tiles * tile, -1])[:self.n_out]

    def _times_integers(self, x):
        """The product with x in 24 bits, as precise as one in float32: those with its upper, middle and lower bytes, as integers.

        Each column has a scale of its own.
        """
        step = tf.maximum(tf.reduce_max(tf.abs(x), axis=0, keepdims=True), SMALLEST) / LARGEST
        # The bytes of q, from -128 to 127 each, with which q = 65536 upper + 256 middle + lower; the fourth is 0.
        q = tf.bitwise.bitwise_xor(tf.cast(tf.round(x / step), tf.int32) + BYTE_SIGNS, BYTE_SIGNS)

        def copies():       # asked for anew in each branch of the condition: passed to it, XLA would not know it
            return tf.maximum(COLUMNS // 4 // tf.shape(q)[1], 1)

        def multiply():
            columns = tf.reshape(tf.bitcast(tf.tile(q, [1, copies()]), tf.int8), [self.n_in, -1])
            return tf.matmul(tf.reshape(self.w, [-1, self.n_in]), columns, output_type=tf.int32)

        sums = self._apart(multiply, lambda: 4 * copies() * tf.shape(q)[1], tf.int32)
        # The first of the copies. XLA would take a slice up to the number of columns for one of unknown size.
        sums = tf.reshape(sums, [-1, copies(), tf.shape(x)[1], 4])[:self.n_out, 0]
        lower, middle, upper, _ = tf.unstack(tf.cast(sums, tf.float32), axis=2)
        return (65536 * upper + 256 * middle + lower) * step

    def rows(self):  # -> [n_out, n_in]
        """All rows, without their scale, in the type of w."""
        return self.w if self.w.shape.rank == 2 else tf.reshape(self.w, [-1, self.n_in])[:self.n_out]


def embed(wte: list[Matrix], tokens):  # [tokens] -> [tokens, n_in] float32
    """Rows of a matrix whose parts each have some, as array_split cuts it."""
    def look_up(parts):
        return tf.nn.embedding_lookup(parts, tokens, partition_strategy='div')

    rows = as_float32(_from_halves(look_up([_as_halves(part.rows()) for part in wte]), wte[0].w.dtype))
    return rows if wte[0].scale is None else rows * look_up([part.scale for part in wte])[:, None]


def _at(w, i):  # [tiles, ...], scalar -> [...]
    """w[i], by an op that both a GPU and, where there is none, a compiled program have for numbers of a byte or two."""
    return w[i] if tf.config.list_physical_devices('GPU') else tf.gather(w, i)


def _as_halves(w):  # [rows, n_in] of 1 or 2 bytes a number -> [rows, n_in / 2 or n_in] float16
    """For a GPU the same bytes as float16, of which it gathers rows; of an odd number of bytes it cannot. Else w itself."""
    size, n_in = w.dtype.size, w.shape.as_list()[-1]
    if size > 2 or size * n_in % 2 or not tf.config.list_physical_devices('GPU'):
        return w
    return tf.bitcast(w if size == 2 else tf.reshape(w, [-1, n_in // 2, 2]), tf.float16)


def _from_halves(rows, dtype):  # the inverse of _as_halves
    if rows.dtype == dtype:
        return rows
    return tf.reshape(tf.bitcast(rows, dtype), [-1, rows.shape.as_list()[-1] * 2 // dtype.size])


def is_matrix(name: str) -> bool:
    """Whether a weight is multiplied with: all but wpe, gains and biases."""
    return name.endswith('/w') or name == 'model/wte'


class ShardedWeights:
    """Variables for the weights of a model in the current graph, a part for each shard.

    values: name -> for each shard a Matrix, or a tensor if it is none; what shards do not divide is the same one for all.
    stored_as: the type of the matrices in memory, one of network.quantize.TYPES.
    """

    def __init__(self, hparams: HParams, shards: int, stored_as: str):
        self._hparams, self._shards, self._stored_as = hparams, shards, stored_as
        self._variables, self._scales, self.values = {}, {}, {}
        for name, shape in hparams.shapes().items():
            parts = split_weight(name, _nothing(shape), hparams, shards)
            in_tiles = is_matrix(name) and stored_as != 'float32'
            dtype = STORED[stored_as] if in_tiles else 'float32'
            self._variables[name] = [_Variable(name, dtype, tiled(part.shape) if in_tiles else part.shape) for part in parts]
            if dtype == 'int8':
                scales = self._split_scales(name, _nothing(shape[:1] if name == 'model/wte' else shape[-1:]))
                self._scales[name] = [_Variable(f'{name}{SCALE}', 'float32', part.shape) for part in scales]
            self.values[name] = self._read(name, [len(part) for part in parts])

    def _split_scales(self, name: str, scale: np.ndarray) -> list[np.ndarray]:
        """Cut as a bias is: an output has one scale, whichever shards its inputs are in."""
        like = name if name == 'model/wte' else f'{name.removesuffix("w")}b'
        return split_weight(like, scale, self._hparams, self._shards)

    def _read(self, name: str, sizes: list[int]) -> list:
        values = self._for_each_shard(self._variables[name])
        if not is_matrix(name):
            return values
        return [Matrix(*part) for part in zip(values, sizes, self._for_each_shard(self._scales.get(name)))]

    def _for_each_shard(self, variables: list | None) -> list:
        values = [None] if variables is None else [variable.value for variable in variables]
        return values if len(values) == self._shards else values * self._shards

    def load(self, session: tf.Session, prefix: str) -> None:
        """Reads the weights from a checkpoint, one at a time. Raises UserError if it is damaged or another model's."""
        values = {}
        weights = Weights(prefix, self._hparams.shapes())
        variables = [variable for parts in [*self._variables.values(), *self._scales.values()] for variable in parts]
        memory = LargePages(sum(variable.dtype.size * math.prod(variable.shape) + ALIGNMENT for variable in variables))
        for name in self._variables:
            values |= self._parts(memory, name, weights.read(name))
        saver.initialize(session, values)

    def _parts(self, memory: 'LargePages', name: str, array: np.ndarray) -> dict:
        """A weight's variables, and the value of each."""
        stored = {}
        if name in self._scales:
            array, scale = quantize(array, inputs=-1 if name == 'model/wte' else -2)
            stored |= zip(self._scales[name], self._split_scales(name, scale), strict=True)
        if self._stored_as == 'bfloat16' and is_matrix(name):
            array = array.astype(tf.bfloat16.as_numpy_dtype).view(np.uint16)
        stored |= zip(self._variables[name], split_weight(name, array, self._hparams, self._shards), strict=True)
        return {variable: memory.copy(part, variable.shape, variable.dtype.as_numpy_dtype) for variable, part in stored.items()}


class _Variable:
    """A tf.Variable of four ops in place of seven, as a network has hundreds. value: a tensor. Its initial value is fed."""

    def __init__(self, name: str, dtype: str, shape: tuple):
        self.dtype, self.shape = tf.as_dtype(dtype), shape
        shared_name = tf.get_default_graph().unique_name(name)      # by which the session knows it
        handle = tf.raw_ops.VarHandleOp(dtype=dtype, shape=shape, shared_name=shared_name)
        self.initializer = tf.raw_ops.AssignVariableOp(resource=handle, value=tf.placeholder(dtype, shape))
        self.value = tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype)
        self.value.set_shape(shape)


def _nothing(shape) -> np.ndarray:
    """An array to learn the shapes of its parts from, which takes no memory."""
    return np.broadcast_to(np.float32(0), shape)


def tiled(shape: tuple) -> tuple[int, int, int]:  # [n_out, n_in] -> [tiles, tile, n_in]
    """The shape of a matrix in tiles of equal size, a multiple of STREAMS of them, which may have some rows more."""
    n_out, n_in = shape
    tiles = -(-4 * n_out * n_in // (TILE * STREAMS)) * STREAMS
    return tiles, -(-n_out // tiles), n_in


def split_weight(name: str, array: np.ndarray, hparams: HParams, shards: int) -> list[np.ndarray]:
    """Each shard's part of a checkpoint's variable; of a small one, which they do not divide, only the whole."""
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
    return [array]


class LargePages:
    """Memory for arrays that TensorFlow uses without a copy.

    For large arrays numpy asks the kernel for huge pages, from which weights are read faster; TensorFlow does not.
    """

    def __init__(self, size: int):
        self._memory = np.empty(size + ALIGNMENT, np.uint8)
        self._end = -self._memory.ctypes.data % ALIGNMENT

    def copy(self, array: np.ndarray, shape: tuple, dtype: type) -> np.ndarray:
        """An array in another type, and in a shape of as many elements or more, the last of which are zero then."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        start, self._end = self._end, self._end - -size // ALIGNMENT * ALIGNMENT
        flat = self._memory[start:start + size].view(dtype)
        flat[:array.size].reshape(array.shape)[...] = array
        flat[array.size:] = 0
        return flat.reshape(shape)
