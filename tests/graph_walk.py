"""Walks over the ops of a TensorFlow graph."""


def ancestors(*ops):
    """These ops and all that must run before them, control inputs included."""
    found, queue = set(), list(ops)
    while queue:
        op = queue.pop()
        if op not in found:
            found.add(op)
            queue += [*op.control_inputs, *(tensor.op for tensor in op.inputs)]
    return found


def ancestors_without_identities(op):
    """As ancestors, but of an IdentityN only what the outputs in use need: TensorFlow removes it before it runs the graph."""
    found, queue = set(), [op]
    while queue:
        op = queue.pop()
        if op not in found:
            found.add(op)
            queue += op.control_inputs
            for tensor in op.inputs:
                while tensor.op.type == 'IdentityN':
                    queue += tensor.op.control_inputs
                    tensor = tensor.op.inputs[tensor.value_index]
                queue.append(tensor.op)
    return found


def ops_of(graph, *types):
    """The graph's ops of these types, in the order of their creation."""
    return [op for op in graph.get_operations() if op.type in types]


def shapes_in(ops):
    """The shapes, as tuples, of the ops' outputs whose rank is known."""
    return {tuple(tensor.shape.as_list()) for op in ops for tensor in op.outputs if tensor.shape.rank is not None}


def compiled_calls(graph):
    """For each call of a function, whether XLA compiles it."""
    return [op.node_def.attr['_XlaMustCompile'].b for op in ops_of(graph, 'PartitionedCall', 'StatefulPartitionedCall')]
