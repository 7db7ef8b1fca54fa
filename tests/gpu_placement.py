"""Where TensorFlow would run each op of a graph if there were a GPU, by its registry of kernels. No GPU is needed for that.

An op without a kernel for GPUs runs on the host. One with a kernel may still have inputs and outputs in the host's memory:
shapes, axes, and almost all int32, whose kernels "for GPUs" are those of the CPU. What is in one memory and needed in the
other is copied, and the host waits for a copy from the GPU.
"""

import functools
from collections.abc import Iterator

import tensorflow.compat.v1 as tf
from tensorflow.python.framework import kernels

UNKNOWN = 10        # numbers along a dimension that the graph does not know
# What may lie in the host's memory: integers, as many as a batch has tokens; of others one for each position in a text.
MOST_INTEGERS, MOST_OTHERS = 400, 40
BRANCHES = ('If', 'StatelessIf', 'Case', 'StatelessCase')


@functools.cache
def _registered(op_type: str) -> list:
    """The kernels of a type of ops that a GPU takes: its own, or else those of any device."""
    found = [kernel for kernel in kernels.get_registered_kernels_for_op(op_type).kernel if not kernel.label]
    return [[kernel for kernel in found if kernel.device_type == device] for device in ('GPU', 'DEFAULT')]


def kernel(op: tf.Operation):
    """The kernel with which a GPU would run an op; None if it would run on the host."""
    if 'CPU' in op.device.upper():
        return None
    attributes = op.node_def.attr
    for of_device in _registered(op.type):
        fitting = [one for one in of_device if all(
            set(attributes[each.name].list.type or [attributes[each.name].type]) <= set(each.allowed_values.list.type)
            for each in one.constraint)]
        if fitting:
            return max(fitting, key=lambda one: one.priority)
    return None


def graphs(graph: tf.Graph) -> Iterator[tf.Graph]:
    """A graph, and those of the functions that it calls, such as the bodies of loops and the branches."""
    yield graph
    for function in graph._functions.values():
        yield from graphs(function.graph)


def on_host(op: tf.Operation) -> list[tuple[str, tf.Tensor]]:
    """The inputs and outputs of an op, each with the name of its argument, that lie in the host's memory."""
    chosen, found = kernel(op), []
    for arguments, tensors in ((op.op_def.input_arg, list(op.inputs)), (op.op_def.output_arg, list(op.outputs))):
        for argument in arguments:
            attributes = op.node_def.attr
            n = (attributes[argument.number_attr].i if argument.number_attr else
                 len(attributes[argument.type_list_attr].list.type) if argument.type_list_attr else 1)
            here, tensors = tensors[:n], tensors[n:]
            if chosen is None or argument.name in chosen.host_memory_arg:
                found += [(argument.name, tensor) for tensor in here]
    return found


def numbers(tensor: tf.Tensor) -> float:
    """How many numbers a tensor has, about, if the graph does not know all of its shape."""
    if tensor.dtype in (tf.resource, tf.variant):       # of a variable, or a list of tensors, that is elsewhere
        return 0
    if tensor.shape.rank is None:
        return float('inf')
    return functools.reduce(lambda product, size: product * (UNKNOWN if size is None else size), tensor.shape.as_list(), 1)


def large_on_host(graph: tf.Graph) -> Iterator[str]:
    """Names each op that would run on the host, or read or write there, with more numbers than a few."""
    for op in (op for each in graphs(graph) for op in each.get_operations()):
        for argument, tensor in on_host(op):
            if numbers(tensor) > (MOST_INTEGERS if tensor.dtype.is_integer else MOST_OTHERS):
                yield f'{op.type} {op.name}: {argument} {tensor.dtype.name} {tensor.shape}'


def python_ops(graph: tf.Graph) -> Iterator[str]:
    """Names each op that calls Python."""
    return (op.name for each in graphs(graph) for op in each.get_operations() if op.type in ('PyFunc', 'EagerPyFunc'))


def waits(graph: tf.Graph) -> Iterator[str]:
    """Names each op that computes on the GPU which branch the host takes, or whether a loop goes on: the host waits for it."""
    for each in graphs(graph):
        for op in each.get_operations():
            source = op.inputs[0] if op.type in BRANCHES else None
            if source is not None and source.op.type != 'Placeholder' and not any(
                    tensor is source for _, tensor in on_host(source.op)):
                yield f'{source.op.type} {source.op.name}'
