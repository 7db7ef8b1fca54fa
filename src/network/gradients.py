"""Decorators for hand-written gradients and XLA compilation; shapes.

Each gradient is registered for an op and reads only that op's inputs, so it also works on the copies that
memory_saving_gradients makes. The closure of a tf.custom_gradient would read the original's tensors."""

import contextlib
import functools

import tensorflow.compat.v1 as tf

COMPILED_SIZE = 2 ** 19     # elements; for fewer, a call of compiled code costs more than it saves


def shape_of(x: tf.Tensor) -> list:
    """Dimensions of x: ints where the graph knows them, else scalar tensors."""
    sizes = x.shape.as_list()
    if None not in sizes:
        return sizes
    dynamic = tf.shape(x)
    return [dynamic[i] if size is None else size for i, size in enumerate(sizes)]


def reshape(x: tf.Tensor, sizes: list) -> tf.Tensor:
    """x in a shape from `shape_of`; a single unknown dimension becomes -1, which saves computing it."""
    if sum(isinstance(size, tf.Tensor) for size in sizes) == 1:
        sizes = [-1 if isinstance(size, tf.Tensor) else size for size in sizes]
    return tf.reshape(x, sizes)


def chunks(length, size: int) -> list:
    """(start, end) of consecutive chunks of `size`, the last maybe shorter; one chunk for a length known only later."""
    if not isinstance(length, int):
        return [(0, length)]
    return [(start, min(start + size, length)) for start in range(0, length, size)]


def gradient_by(backward):
    """Decorates a function of tensors: backward(dy, y, *inputs) returns the gradient of each input, or None."""
    def decorate(forward):
        name = f'{forward.__module__}.{forward.__name__}'

        @tf.RegisterGradient(name)
        def gradient(op, dy, *_):
            # Else TensorFlow would compute what depends on the inputs alone in the forward pass, and keep it until dy.
            with tf.control_dependencies([dy]):
                y, *inputs = [tf.identity(tensor) for tensor in op.inputs]
            return [None, *backward(dy, y, *inputs)]

        @functools.wraps(forward)
        def call(*inputs):
            # One read of a variable for both passes: nothing would order a read for the gradient alone before the update.
            inputs = [tf.convert_to_tensor(x) for x in inputs]
            y = forward(*inputs)
            # IdentityN copies nothing. The gradient is registered for it, and reads only its inputs.
            with tf.get_default_graph().gradient_override_map({'IdentityN': name}):
                return tf.identity_n([y, *inputs])[0]
        return call
    return decorate


_compiling = False
_in_program = False     # whether a function of one_pass is being traced for XLA
LANES = 32              # numbers, at most, of a row that a program adds one after the other


@contextlib.contextmanager
def compiling(wanted: bool | None = None):
    """Within it, XLA compiles the functions decorated with one_pass: faster, for 0.1 GB more memory.

    wanted: None for CPUs only, because XLA for GPUs needs tools that not every installation has (see command.device.check_xla).
    """
    global _compiling
    before, _compiling = _compiling, not tf.config.list_physical_devices('GPU') if wanted is None else wanted
    try:
        yield
    finally:
        _compiling = before


def one_pass(function):
    """Decorates a function of tensors, elementwise or along rows: compiled, it reads memory once, not once for each op.

    It is compiled for each shape, so only if the graph knows all shapes and one is large enough to gain.
    """
    @functools.wraps(function)
    def program(*inputs):
        global _in_program
        _in_program = True
        try:
            return function(*inputs)
        finally:
            _in_program = False
    compiled = tf.function(program, jit_compile=True, autograph=False)

    @functools.wraps(function)
    def call(*inputs):
        inputs = [tf.convert_to_tensor(x) for x in inputs]      # not variables: a function of those would be stateful
        sizes = [x.shape.num_elements() for x in inputs]
        worthwhile = _compiling and None not in sizes and max(sizes) >= COMPILED_SIZE
        return (compiled if worthwhile else function)(*inputs)
    return call


def row_mean(x):  # [.., n] -> [.., 1]
    """The mean over the last axis. XLA keeps the order of a sum, one number after the other: a program first adds halves of rows,
    which it does in vectors."""
    if not _in_program:
        return tf.reduce_mean(x, axis=-1, keepdims=True)
    n = size = x.shape.as_list()[-1]
    odd = []        # the last column of a size that is odd
    while size > LANES:
        odd += [x[..., size - 1:]] if size % 2 else []
        size //= 2
        x = x[..., :size] + x[..., size:2 * size]
    return sum(odd, tf.reduce_sum(x, axis=-1, keepdims=True)) / n
