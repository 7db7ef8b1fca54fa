"""Functions with gradients written by hand, and functions compiled by XLA: what the network's layers are built with.

Each gradient is registered for an op of the graph and reads only that op's inputs. So it stays right when
memory_saving_gradients copies the op, where the closure of a tf.custom_gradient would hold on to the original's tensors."""

import contextlib
import functools

import tensorflow.compat.v1 as tf

COMPILED_SIZE = 2 ** 19     # elements from which on a pass over memory costs more than a call of compiled code


def shape_of(x: tf.Tensor) -> list:
    """Dimensions of x: ints where the graph knows them, scalar tensors where only the run will."""
    sizes = x.shape.as_list()
    if None not in sizes:
        return sizes
    dynamic = tf.shape(x)
    return [dynamic[i] if size is None else size for i, size in enumerate(sizes)]


def reshape(x: tf.Tensor, sizes: list) -> tf.Tensor:
    """x in a shape from `shape_of`: a single dimension that only the run will know need not be computed."""
    if sum(isinstance(size, tf.Tensor) for size in sizes) == 1:
        sizes = [-1 if isinstance(size, tf.Tensor) else size for size in sizes]
    return tf.reshape(x, sizes)


def runs(length, size: int) -> list:
    """(start, end) of runs of `size` that make up `length`; a single run if only the session will know the length."""
    if not isinstance(length, int):
        return [(0, length)]
    return [(start, min(start + size, length)) for start in range(0, length, size)]


def gradient_by(backward):
    """Decorates a function of tensors, whose output's gradient `backward(dy, y, *inputs)` carries on to each input."""
    def decorate(forward):
        name = f'{__name__}.{forward.__name__}'

        @tf.RegisterGradient(name)
        def gradient(op, dy, *_):
            # Without this, what the gradient needs of the inputs alone would be computed in the forward pass already, and
            # wait in memory for dy.
            with tf.control_dependencies([dy]):
                y, *inputs = [tf.identity(tensor) for tensor in op.inputs]
            return [None, *backward(dy, y, *inputs)]

        @functools.wraps(forward)
        def call(*inputs):
            y = forward(*inputs)
            # IdentityN only hands its inputs on. Here it is what a gradient can be attached to, and keeps the inputs
            # that the gradient reads within its reach.
            with tf.get_default_graph().gradient_override_map({'IdentityN': name}):
                return tf.identity_n([y, *inputs])[0]
        return call
    return decorate


_compiling = False


@contextlib.contextmanager
def compiling():
    """Within it, what is decorated with one_pass is compiled by XLA: faster, for 0.1 GB of memory more.

    On CPUs only: not every GPU's installation has what XLA needs there. That stays ops.
    """
    global _compiling
    before, _compiling = _compiling, not tf.config.list_physical_devices('GPU')
    try:
        yield
    finally:
        _compiling = before


def one_pass(function):
    """Decorates a function of tensors, elementwise or along rows: compiled, it goes over memory once, not once for each op.

    It is compiled anew for each shape, so only where the graph knows all shapes, and one of them is large enough to gain.
    """
    compiled = tf.function(function, jit_compile=True, autograph=False)

    @functools.wraps(function)
    def call(*inputs):
        inputs = [tf.convert_to_tensor(x) for x in inputs]      # not variables: a function of those would be stateful
        sizes = [x.shape.num_elements() for x in inputs]
        worthwhile = _compiling and None not in sizes and max(sizes) >= COMPILED_SIZE
        return (compiled if worthwhile else function)(*inputs)
    return call
