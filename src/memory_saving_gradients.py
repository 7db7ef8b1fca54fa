"""Gradients that recompute most activations instead of keeping them.

Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost", on a TensorFlow 1.x graph. The forward graph is cut
at `checkpoints`. What comes after the last one is differentiated as it is. Every other segment (the ops between a
checkpoint and those before it) is copied; the copy reads the kept checkpoints, waits for the gradient from above, and
is differentiated instead of the original, whose activations are freed during the forward pass.

Some ops cannot be repeated: random numbers, reads of variables, Python functions, loops, branches. Their outputs are
kept. The ops between them and the kept values before them are differentiated as they are.
"""

import collections

import tensorflow.compat.v1 as tf

_CONTROL_FLOW = {'Exit', 'RefExit', 'Merge', 'RefMerge', 'StatelessWhile', 'StatelessIf', 'StatelessCase'}


def gradients(ys, xs, grad_ys=None, checkpoints='collection') -> list:
    """Gradients of the sum of `ys` with respect to each of `xs` (variables or tensors), as tf.gradients gives them.

    checkpoints: tensors to keep, or 'collection' for those in the graph's collection `checkpoints`; those not between
    xs and ys are ignored.

    Raises ValueError if no checkpoint lies between xs and ys, or if the graph cannot be cut at one or at
    one of xs: inside a loop or a branch, or at a call of a tf.function.
    """
    ys, xs = [tf.convert_to_tensor(y) for y in _as_list(ys)], [_source(x) for x in _as_list(xs)]
    operations = ys[0].graph.get_operations()       # ops follow their inputs: a topological order
    reached, needed = _descendants([x.op for x in xs]), _ancestors([y.op for y in ys])
    between = reached & needed
    chosen = [tensor for tensor in _chosen(ys[0].graph, checkpoints) if tensor.op in between]
    if not chosen:
        raise ValueError('no checkpoint lies between xs and ys, so there is nothing to recompute from')
    for tensor in [*chosen, *xs]:
        _check_outside(tensor.op)
    # tf.gradients cannot stop at a call, whose output every segment keeps anyway. Tensors among xs need their complete
    # gradients, so they cut the graph as checkpoints do. So does a Python function: its gradient is there only once.
    cuts = [*(tensor for tensor in chosen if not _is_call(tensor.op)), *(_check_stop(x, reached) for x in xs),
            *(op.outputs[0] for op in operations if op in between and op.type == 'EagerPyFunc' and not _context(op))]
    return _Backward(operations, reached, cuts).run(ys, grad_ys, xs)


def _chosen(graph, checkpoints) -> list:
    if not isinstance(checkpoints, str):
        return _as_list(checkpoints)
    if checkpoints != 'collection':
        raise ValueError(f"there is no checkpoints={checkpoints!r}: give 'collection' (the tensors in the graph's collection "
                         "`checkpoints`) or a list of tensors")
    return graph.get_collection('checkpoints')


class _Backward:
    """The backward pass over a graph that is cut at the tensors `cuts`.

    operations: of the graph, in topological order; reached: those that depend on xs.
    """

    def __init__(self, operations: list, reached: set, cuts: list):
        self._order = {op: i for i, op in enumerate(operations)}
        self._reached = reached
        # tf.gradients stops at ops, so all outputs of an op are kept.
        self._kept = {output.ref(): output for tensor in cuts for output in tensor.op.outputs}
        self._after_kept = _descendants([tensor.op for tensor in self._kept.values() if tensor.op.inputs])
        self._parts = collections.defaultdict(list)     # for each tensor the gradients found so far, to be added

    def run(self, ys, grad_ys, xs) -> list:
        """Gradients of ys with respect to xs."""
        kept = list(self._kept.values())
        self._differentiate(ys, grad_ys, kept, stop=kept)
        last = []       # those that depend on kept values without inputs alone, mostly reads of variables: all together
        for op in reversed(self._order):
            found = [tensor for tensor in op.outputs if self._total(tensor) is not None]
            if not found or not any(source.op in self._reached for source in op.inputs):
                continue
            if _repeatable(op):
                self._recompute(op, found)
            elif any(source.op in self._after_kept for source in op.inputs):
                self._continue(found, [tensor for tensor in kept if tensor.op is not op])
            else:
                last += found
        if last:
            self._continue(last, [tensor for tensor in kept if not tensor.op.inputs])
        return [self._total(x) for x in xs]

    def _total(self, tensor):
        """The gradient of a tensor; None if it has none."""
        parts = self._parts.get(tensor.ref(), [])
        if len(parts) > 1:
            parts[:] = [_add(parts)]
        return parts[0] if parts else None

    def _differentiate(self, ys, grad_ys, targets, *, stop, credit=None) -> None:
        """Adds the gradients of ys with respect to targets, to the sums of `credit` if given, else of targets."""
        for target, part in zip(credit or targets, tf.gradients(ys, targets, grad_ys, stop_gradients=stop)):
            if part is not None:
                self._parts[target.ref()].append(part)

    def _continue(self, tensors, kept) -> None:
        """From tensors, whose gradients are complete, to kept values before them, without recomputation."""
        self._differentiate(tensors, [self._total(tensor) for tensor in tensors], kept, stop=kept)

    def _recompute(self, op, found) -> None:
        """From outputs of an op, whose gradients are complete, to the values that its segment reads."""
        segment = self._segment(op)
        totals = [self._total(tensor) for tensor in found]
        copy, sources, stand_ins = _copy(sorted(segment, key=self._order.get), after=totals)
        self._differentiate([copy[tensor.ref()] for tensor in found], totals, stand_ins, stop=None, credit=sources)

    def _segment(self, op) -> set:
        """The ops to recompute: those that compute the outputs of `op` from kept values."""
        segment, queue = set(), [op]
        while queue:
            op = queue.pop()
            if op not in segment and op in self._reached and op.inputs and _repeatable(op):
                segment.add(op)
                queue.extend(source.op for source in op.inputs if source.ref() not in self._kept)
        return segment


def _repeatable(op) -> bool:
    """Whether a copy of an op with the same inputs gives the same result, and has the same gradient.

    A call of a tf.function does not: its gradient belongs to the Python object of the original op.
    """
    return not (op.op_def.is_stateful or op.type in _CONTROL_FLOW or _is_call(op) or any(map(_is_reference, op.inputs)))


def _is_call(op) -> bool:
    return op.type in ('PartitionedCall', 'StatefulPartitionedCall') or op.graph._is_function(op.type)


def _is_reference(tensor) -> bool:
    """Whether a tensor stands for a variable, a list or the like, whose content is elsewhere."""
    return tensor.dtype in (tf.resource, tf.variant) or tensor.dtype != tensor.dtype.base_dtype


def _context(op):
    """The loop or branch inside which an op lies; None if it is a function of its own, or there is none."""
    context = op._get_control_flow_context()
    return context.outer_context if context is not None and op.type in ('Exit', 'RefExit') else context


def _check_outside(op) -> None:
    """Raises ValueError for an op inside a loop or a branch, where the graph cannot be cut."""
    if _context(op) is not None:
        raise ValueError(f'{op.name} ({op.type}) lies inside a loop or a branch: checkpoints and xs must be outside')


def _check_stop(x, reached: set):
    """Returns x. Raises ValueError for a tensor among xs at which tf.gradients does not stop, even if asked to."""
    if _is_call(x.op) and any(source.op in reached for source in x.op.inputs):
        raise ValueError(f'{x.op.name} ({x.op.type}) calls a tf.function, and depends on others of xs: give tf.identity of its '
                         'output, which ys must depend on')
    return x


def _copy(segment, after):
    """Copies the ops of `segment` (in order), to run only after the gradients `after` are computed.

    Returns the copies of all outputs (by the original's ref), the tensors outside that the segment reads, and those that the
    copy reads instead.
    """
    inside = set(segment)
    outside = {source.ref(): source for op in segment for source in op.inputs if source.op not in inside}
    held = [source for source in outside.values() if source.op.type != 'Const']
    # One IdentityN with the control dependency delays the complete copy, and copies no buffer.
    with tf.control_dependencies(after):
        stand_ins = tf.identity_n(held)
    read = {source.name: source for source in outside.values()} | {
        source.name: stand_in for source, stand_in in zip(held, stand_ins)}
    graph_def = tf.GraphDef(versions=segment[0].graph.graph_def_versions)
    for op in segment:
        node = graph_def.node.add()
        node.CopyFrom(op.node_def)
        node.attr.pop('_class', None)      # colocation with ops that the copy does not contain
        node.input[:] = [source.name for source in op.inputs]    # without the original's control inputs
    copies = tf.import_graph_def(graph_def, name='recompute', return_elements=[op.name for op in segment],
                                 input_map=read)
    outputs = {}
    for op, copy in zip(segment, copies):
        for original, output in zip(op.outputs, copy.outputs):
            output.set_shape(original.shape)    # import_graph_def may infer less than the original knew
            outputs[original.ref()] = output
    return outputs, held, stand_ins


def _add(parts):
    """The sum of gradients: of dense ones a tensor, of IndexedSlices alone IndexedSlices."""
    if all(isinstance(part, tf.IndexedSlices) for part in parts):
        return tf.IndexedSlices(tf.concat([part.values for part in parts], 0), tf.concat([part.indices for part in parts], 0),
                                parts[0].dense_shape)
    return tf.add_n([tf.convert_to_tensor(part) for part in parts])


def _as_list(item) -> list:
    return list(item) if isinstance(item, (list, tuple)) else [item]


def _source(x) -> tf.Tensor:
    """A tensor as it is; of a variable the tensor that its readers read."""
    return x if isinstance(x, tf.Tensor) else x.op.outputs[0]


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
