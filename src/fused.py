"""The network's larger functions with gradients written by hand: the same mathematics, fewer and smaller tensors kept.

Each gradient is registered for an op of the graph and reads only that op's inputs. So it stays right when
memory_saving_gradients copies the op, where the closure of a tf.custom_gradient would hold on to the original's tensors.

Shapes: batch, sequence, features, heads, head (features of one head), rows (batch * sequence).
"""

import contextlib
import functools
import math

import tensorflow.compat.v1 as tf

LAYER_NORM_EPSILON = 1e-5
QUERY_BLOCK = 256       # queries that attend together, to the keys up to the last of them
HEAD_ROWS = 512         # rows of logits that exist at a time in training
COMPILED_SIZE = 2 ** 19 # elements from which on a pass over memory costs more than a call of compiled code


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


def _linear_backward(dy, _, x, w, b):
    dw = tf.matmul(x, dy, transpose_a=True)
    db = tf.raw_ops.BiasAddGrad(out_backprop=dy)
    # The weight's gradient first: x is free then, before the gradient moves on to the layers below. It is handed out only
    # when w has been read for the last time: an optimizer that updates a w still in use would have to copy it.
    with tf.control_dependencies([dw, db]):
        dx = tf.matmul(dy, w, transpose_b=True)
    with tf.control_dependencies([dx]):
        return [dx, tf.identity(dw), tf.identity(db)]


@gradient_by(_linear_backward)
def linear(x, w, b):  # [rows, n_in], [n_in, n_out], [n_out] -> [rows, n_out]
    return tf.nn.bias_add(tf.matmul(x, w), b)


GELU_SCALE, GELU_CUBE = 2 * math.sqrt(2 / math.pi), 2 * math.sqrt(2 / math.pi) * 0.044715


@one_pass
def gelu(x):
    """Hendrycks & Gimpel 2016, in the tanh approximation that the published weights were trained with.

    Written as x sigmoid(2 u), which is x (1 + tanh u) / 2 in fewer steps, for u = sqrt(2 / pi) (x + 0.044715 x^3).
    """
    return x * tf.sigmoid(x * (GELU_SCALE + GELU_CUBE * (x * x)))


@one_pass
def gelu_gradient(dy, x):
    square = x * x
    gate = tf.sigmoid(x * (GELU_SCALE + GELU_CUBE * square))
    return dy * gate * (1 + (1 - gate) * x * (GELU_SCALE + 3 * GELU_CUBE * square))


def _gelu_linear_backward(dy, _, x, w, b):
    dactive, dw, db = _linear_backward(dy, None, gelu(x), w, b)
    return [gelu_gradient(dactive, x), dw, db]


@gradient_by(_gelu_linear_backward)
def gelu_linear(x, w, b):  # [rows, n_in], [n_in, n_out], [n_out] -> [rows, n_out]
    """gelu(x) w + b. Only x is kept."""
    return tf.nn.bias_add(tf.matmul(gelu(x), w), b)


def _normalize(x):
    """x with zero mean and unit variance over its features, and one over its standard deviation."""
    centred = x - tf.reduce_mean(x, axis=-1, keepdims=True)
    scale = tf.rsqrt(tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True) + LAYER_NORM_EPSILON)
    return centred * scale, scale


@one_pass
def norm(x, g, b):
    return _normalize(x)[0] * g + b


@one_pass
def norm_gradients(dy, x, g):
    rows = list(range(len(x.shape) - 1))
    normal, scale = _normalize(x)
    dnormal = dy * g
    along_mean = tf.reduce_mean(dnormal, axis=-1, keepdims=True)
    along_normal = tf.reduce_mean(dnormal * normal, axis=-1, keepdims=True)
    return [(dnormal - along_mean - normal * along_normal) * scale, tf.reduce_sum(dy * normal, axis=rows),
            tf.reduce_sum(dy, axis=rows)]


@gradient_by(lambda dy, _, x, g, b: norm_gradients(dy, x, g))
def layer_norm(x, g, b):  # [..., features], [features], [features] -> [..., features]
    """Ba et al. 2016: zero mean and unit variance over the features, then a learned gain and bias."""
    return norm(x, g, b)


def _norm_linear_backward(dy, _, x, g, b, w, bias):
    dnorm, dw, dbias = _linear_backward(dy, None, tf.cast(norm(x, g, b), w.dtype), w, bias)
    return [*norm_gradients(tf.cast(dnorm, x.dtype), x, g), dw, dbias]


@gradient_by(_norm_linear_backward)
def norm_linear(x, g, b, w, bias):  # [rows, n_in], [n_in], [n_in], [n_in, n_out], [n_out] -> [rows, n_out]
    """layer_norm(x) w + bias, in w's type. Only x is kept, which the residual stream keeps anyway."""
    return tf.nn.bias_add(tf.matmul(tf.cast(norm(x, g, b), w.dtype), w), bias)


def causal_mask(n_query, n_key):  # -> [1, 1, n_query, n_key]: 0 where a query may look, -inf on what comes after it
    """For queries that are the last of the keys."""
    position = tf.range(n_query)[:, None] + n_key - n_query
    visible = tf.range(n_key)[None, :] <= position
    return tf.where(visible, tf.zeros([n_query, n_key]), tf.fill([n_query, n_key], tf.float32.min))[None, None]


def causal_masks(length) -> list:
    """The masks of causal_attention: of each block of queries to the keys up to its last."""
    return [causal_mask(end - start, end) for start, end in _runs(length, QUERY_BLOCK)]


def attention_weights(q, k, mask):  # [batch, heads, n_query, head], [.., n_key, head] -> [batch, heads, n_query, n_key]
    """softmax of q k + mask."""
    scores = tf.cast(tf.matmul(q, k, transpose_b=True), tf.float32)
    return tf.cast(tf.nn.softmax(scores + mask), q.dtype)


def split_heads(qkv):  # [batch, sequence, 3, heads, head] -> q / sqrt(head), k, v, each [batch, heads, sequence, head]
    q, k, v = tf.unstack(tf.transpose(qkv, [2, 0, 3, 1, 4]))
    return q * (1 / math.sqrt(qkv.shape[-1])), k, v


def swap_heads(x):  # [batch, sequence, heads, head] <-> [batch, heads, sequence, head]
    return tf.transpose(x, [0, 2, 1, 3])


def _runs(length, size) -> list:
    """(start, end) of runs of `size` that make up `length`; one run, where only a session will know the length."""
    if not isinstance(length, int):
        return [(0, length)]
    return [(start, min(start + size, length)) for start in range(0, length, size)]


def _split(x, masks) -> list:
    """x [batch, heads, length, head] in the runs of queries that masks belong to."""
    return tf.split(x, [mask.shape[2] for mask in masks], axis=2) if len(masks) > 1 else [x]


def _first(x, mask):
    """As much of x [batch, heads, length, head] as the queries of a mask may see."""
    n = mask.shape[3]
    return x if n == x.shape[2] else tf.slice(x, [0, 0, 0, 0], [-1, -1, n, -1])


def _sum_prefixes(parts, masks):  # a tensor [batch, heads, n_key, head] for each mask -> their sum, as long as the longest
    pieces = [_split(part, masks[:i]) for i, part in enumerate(parts, start=1)]
    return tf.concat([tf.add_n([piece[i] for piece in pieces[i:]]) for i in range(len(masks))], axis=2)


@one_pass
def softmax_gradient(dy, y, delta):
    """delta [.., 1]: the sum of dy y over a row."""
    return y * (dy - delta)


def _attention_backward(dy, y, qkv, *masks):
    q, k, v = split_heads(qkv)
    # sum over keys of P dP, as in Dao et al. 2022, from what is at hand: the softmax's gradient is P (dP - delta).
    delta = swap_heads(tf.reduce_sum(dy * y, axis=-1, keepdims=True))
    dq, dk, dv = [], [], []
    for mask, *blocks in zip(masks, *(_split(x, masks) for x in (q, swap_heads(dy), delta))):
        with tf.control_dependencies(dq[-1:]):      # one block's weights at a time
            q_block, dy_block, delta_block = tf.identity_n(blocks)
            k_seen, v_seen = _first(k, mask), _first(v, mask)
        weights = attention_weights(q_block, k_seen, mask)
        dv.append(tf.matmul(weights, dy_block, transpose_a=True))
        dscores = softmax_gradient(tf.matmul(dy_block, v_seen, transpose_b=True), weights, delta_block)
        dk.append(tf.matmul(dscores, q_block, transpose_a=True))
        dq.append(tf.matmul(dscores, k_seen))
    dq = tf.concat(dq, axis=2) * (1 / math.sqrt(qkv.shape[-1]))
    dqkv = tf.stack([dq, _sum_prefixes(dk, masks), _sum_prefixes(dv, masks)])
    return [tf.transpose(dqkv, [1, 3, 0, 2, 4]), *[None] * len(masks)]


@gradient_by(_attention_backward)
def causal_attention(qkv, *masks):  # [batch, sequence, 3, heads, head] -> [batch, sequence, heads, head]
    """Each query's mean of the values up to its own position, weighted by softmax(q k / sqrt(head)).

    Block by block of queries, as causal_masks gives them: what lies above a block's diagonal is neither computed nor
    stored. No weights are kept for the gradient, which computes them again from q and k.
    """
    q, k, v = split_heads(qkv)
    y = []
    for q_block, mask in zip(_split(q, masks), masks):
        with tf.control_dependencies(y[-1:]):
            q_block, k_seen, v_seen = tf.identity(q_block), _first(k, mask), _first(v, mask)
        y.append(tf.matmul(attention_weights(q_block, k_seen, mask), v_seen))
    return swap_heads(tf.concat(y, axis=2))


def _head_backward(dy, _, loss, h, wte, dh, dwte):
    if tf.get_static_value(dy) != 1:        # a product with one would be a copy of wte
        dh, dwte = tf.cast(dy, dh.dtype) * dh, tf.cast(dy, dwte.dtype) * dwte
    return [None, dh, dwte, None, None]


@gradient_by(_head_backward)
def _with_gradients(loss, h, wte, dh, dwte):
    return loss


def _cross_entropy(logits, labels, weights):
    """Each row's weight * cross-entropy, and its gradient with respect to the logits, in the logits' own memory.

    logits [rows, n_vocab] float32, which nothing else may read, labels [rows] int32, weights [rows].
    """
    rows, n_vocab = shape_of(logits)
    at_label = tf.range(rows) * n_vocab + labels
    largest = tf.reduce_max(logits, axis=-1)
    chosen = tf.gather(tf.reshape(logits, [-1]), at_label)
    with tf.control_dependencies([chosen]):
        exponent = tf.exp(logits - largest[:, None])
    total = tf.reduce_sum(exponent, axis=-1)
    share = tf.reshape(exponent * (weights / total)[:, None], [-1])
    # Nothing else reads `share`, and no two rows write to the same place. A scatter would copy it.
    dlogits = tf.raw_ops.InplaceSub(x=share, i=at_label, v=weights)
    return weights * (tf.log(total) + largest - chosen), tf.reshape(dlogits, [rows, n_vocab])


def head_loss(h, wte, labels, weights, *, differentiable=True):
    """Sum over the rows of weight * cross-entropy of the label, for the logits h wte^T. In float32.

    h [rows, features], wte [n_vocab, features], labels [rows] int32, weights [rows] -> scalar. The logits never exist all
    at once, where the graph knows how many rows there are: each chunk of them gives its part of the loss and of the
    gradients, which are made along with the loss, unless it is not differentiable. Nothing is kept for later or computed
    twice.
    """
    rows = shape_of(h)[0]
    losses, dh, dwte = [], [], None
    for start, end in _runs(rows, HEAD_ROWS):
        with tf.control_dependencies([dwte, *dh] if dh else losses[-1:]):
            h_chunk = h[start:end]
        logits = tf.cast(tf.matmul(h_chunk, wte, transpose_b=True), tf.float32)
        loss, dlogits = _cross_entropy(logits, labels[start:end], weights[start:end])
        losses.append(tf.reduce_sum(loss))
        if differentiable:
            dlogits = tf.cast(dlogits, h.dtype)
            dh.append(tf.matmul(dlogits, wte))
            part = tf.matmul(dlogits, h_chunk, transpose_a=True)
            dwte = part if dwte is None else dwte + part
    loss = tf.add_n(losses)
    if not differentiable:
        return loss
    # The gradients of the layers below wait for wte's, which nobody asks for before the end, and which holds the logits.
    with tf.control_dependencies([dwte]):
        dh = tf.concat(dh, axis=0)
    return _with_gradients(loss, h, wte, dh, dwte)
