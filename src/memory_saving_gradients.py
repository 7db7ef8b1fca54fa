"""Gradients that recompute most activations instead of keeping them.

Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost", on a TensorFlow 1.x graph. The forward graph is cut
at `checkpoints`. What comes after the last one is differentiated as it is. Every other segment (the ops between a
checkpoint and those before it) is copied; the copy reads the kept checkpoints, waits for the gradient from above, and
is differentiated instead of the original, whose activations are freed during the forward pass.
"""

import collections

import tensorflow.compat.v1 as tf

_CONTROL_FLOW = {'Enter', 'Exit', 'NextIteration', 'Switch', 'Merge', 'StatelessWhile', 'StatelessIf', 'StatelessCase'}


def gradients(ys, xs, grad_ys=None, checkpoints='collection') -> list:
    """Gradients of the sum of `ys` with respect to each of `xs` (variables or tensors), as tf.gradients gives them.

    checkpoints: tensors to keep, or 'collection' for those in the graph's collection `checkpoints`; those not between
    xs and ys are ignored. The outputs of stateful ops (reads of variables, random numbers) are kept as well, so that
    both passes use the same ones.

    Raises ValueError if no checkpoint lies between xs and ys, or if a loop or a branch would have to be recomputed.
    """
    ys, xs = (list(item) if isinstance(item, (list, tuple)) else [item] for item in (ys, xs))
    graph = ys[0].graph
    if checkpoints == 'collection':
        checkpoints = graph.get_collection('checkpoints')
    order = {op: i for i, op in enumerate(graph.get_operations())}    # ops follow their inputs: a topological order
    reached = _descendants([_handle(x).op for x in xs])
    needed = _ancestors([y.op for y in ys])
    cuts = [t for t in checkpoints if t.op in reached and t.op in needed]
    if not cuts:
        raise ValueError('no checkpoint lies between xs and ys, so there is nothing to recompute from')
    # Tensors among xs need their complete gradients, so they cut the graph as checkpoints do. tf.gradients stops at ops,
    # so all outputs of an op are kept.
    cuts += [x for x in xs if isinstance(x, tf.Tensor)]
    kept = {t.ref(): t for cut in cuts for t in cut.op.outputs}
    sums = _Sums()
    sums.differentiate(ys, grad_ys, [*kept.values(), *_variables(xs)], stop=list(kept.values()))
    for tensor in sorted(kept.values(), key=lambda t: order[t.op], reverse=True):
        gradient = sums.total(tensor)
        segment = _segment(tensor, kept, reached)
        if gradient is not None and segment:
            copy, sources, stand_ins = _recompute(tensor, sorted(segment, key=order.get), after=gradient)
            sums.differentiate([copy], [gradient], stand_ins, credit=sources)
    sums.finish(kept, xs)
    return [sums.total(x) for x in xs]


class _Sums:
    """For each tensor or variable the sum of the gradients found so far."""

    def __init__(self):
        self._parts = collections.defaultdict(list)

    def total(self, target):
        parts = self._parts[target.ref()]
        if len(parts) > 1:
            parts[:] = [tf.add_n([tf.convert_to_tensor(part) for part in parts])]
        return parts[0] if parts else None

    def differentiate(self, ys, grad_ys, targets, *, stop=None, credit=None) -> None:
        """Adds the gradients of ys with respect to targets, to the sums of `credit` if given, else of targets."""
        for target, part in zip(credit or targets, tf.gradients(ys, targets, grad_ys, stop_gradients=stop)):
            if part is not None:
                self._parts[target.ref()].append(part)

    def finish(self, kept, xs) -> None:
        """Continues to the variables among xs from the values that depend on them and were not recomputed."""
        variables = _variables(xs)
        done = {*kept, *(x.ref() for x in variables)}
        waiting = [ref.deref() for ref, parts in self._parts.items() if parts and ref not in done]
        if waiting and variables:
            grad_ys = [tf.convert_to_tensor(self.total(tensor)) for tensor in waiting]
            self.differentiate(waiting, grad_ys, variables)


def _segment(tensor, kept, reached) -> set:
    """The ops to recompute: those that compute `tensor` from kept values."""
    segment, queue = set(), [tensor.op]
    while queue:
        op = queue.pop()
        if op in segment or op not in reached or op.op_def.is_stateful or not op.inputs:
            continue
        if op.type in _CONTROL_FLOW:
            raise ValueError(f'{op.name} ({op.type}) lies between two checkpoints: a loop or a branch cannot be '
                             'recomputed; move it after the last checkpoint')
        segment.add(op)
        queue.extend(source.op for source in op.inputs if source.ref() not in kept)
    return segment


def _recompute(tensor, segment, after):
    """Copies the ops of `segment` (in order), to run only after the tensor `after` is computed.

    Returns the copy of `tensor`, the tensors outside that the segment reads, and those that the copy reads instead.
    """
    inside = set(segment)
    outside = {source.ref(): source for op in segment for source in op.inputs if source.op not in inside}
    held = [source for source in outside.values() if source.op.type != 'Const']
    # One IdentityN with the control dependency delays the complete copy, and copies no buffer.
    with tf.control_dependencies([after]):
        stand_ins = tf.identity_n(held)
    read = {source.name: source for source in outside.values()} | {
        source.name: stand_in for source, stand_in in zip(held, stand_ins)}
    graph_def = tf.GraphDef(versions=tensor.graph.graph_def_versions)
    for op in segment:
        node = graph_def.node.add()
        node.CopyFrom(op.node_def)
        node.attr.pop('_class', None)      # colocation with ops that the copy does not contain
        node.input[:] = [source.name for source in op.inputs]    # without the original's control inputs
    copies = tf.import_graph_def(graph_def, name='recompute', return_elements=[op.name for op in segment],
                                 input_map=read)
    for op, copy in zip(segment, copies):
        for original, output in zip(op.outputs, copy.outputs):
            output.set_shape(original.shape)    # import_graph_def may infer less than the original knew
    return copies[segment.index(tensor.op)].outputs[tensor.value_index], held, stand_ins


def _variables(xs) -> list:
    return [x for x in xs if not isinstance(x, tf.Tensor)]


def _handle(x) -> tf.Tensor:
    return x if isinstance(x, tf.Tensor) else x.handle


def _descendants(ops) -> set:
    """The ops and all ops that depend on them."""
    return _closure(ops, lambda op: (consumer for output in op.outputs for consumer in output.consumers()))


def _ancestors(ops) -> set:
    """The ops and all ops that they depend on."""
    return _closure(ops, lambda op: (source.op for source in op.inputs))


def _closure(ops, neighbours) -> set:
    found, queue = set(), list(ops)
    while queue:
        op = queue.pop()
        if op not in found:
            found.add(op)
            queue.extend(neighbours(op))
    return found
