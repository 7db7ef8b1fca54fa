"""GPT-2 as a TensorFlow 1.x graph: token ids in, next-token logits out (Radford et al. 2019; Vaswani et al. 2017).

Shapes: batch, sequence, past (tokens seen before), features (n_embd), heads, head (features of one head).
"""

import math

import tensorflow.compat.v1 as tf

from hparams import HParams, default_hparams, load_hparams  # noqa: F401  (a model and its sizes go together)

LAYER_NORM_EPSILON = 1e-5


def shape_of(x: tf.Tensor) -> list:
    """Dimensions of x: ints where the graph knows them, scalar tensors where only the run will."""
    dynamic = tf.shape(x)
    return [dynamic[i] if size is None else size for i, size in enumerate(x.shape.as_list())]


def gelu(x):
    """Hendrycks & Gimpel 2016, in the tanh approximation that the published weights were trained with."""
    return 0.5 * x * (1 + tf.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def layer_norm(x, scope):  # [..., features] -> [..., features]
    """Ba et al. 2016: zero mean and unit variance over the features, then a learned gain and bias."""
    with tf.variable_scope(scope):
        n_features = x.shape[-1]
        g = tf.get_variable('g', [n_features], initializer=tf.ones_initializer())
        b = tf.get_variable('b', [n_features], initializer=tf.zeros_initializer())
        mean = tf.reduce_mean(x, axis=-1, keepdims=True)
        centred = x - mean
        variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
        return centred * tf.rsqrt(variance + LAYER_NORM_EPSILON) * g + b


def linear(x, scope, n_out, *, stddev=0.02):  # [batch, sequence, n_in] -> [batch, sequence, n_out]
    """x w + b. The weight's leading 1 is the published checkpoints' (a convolution of width one)."""
    with tf.variable_scope(scope):
        batch, sequence, n_in = shape_of(x)
        w = tf.get_variable('w', [1, n_in, n_out], initializer=tf.random_normal_initializer(stddev=stddev))
        b = tf.get_variable('b', [n_out], initializer=tf.zeros_initializer())
        y = tf.matmul(tf.reshape(x, [-1, n_in]), tf.squeeze(w, 0)) + b
        return tf.reshape(y, [batch, sequence, n_out])


def split_heads(x, n_head):  # [batch, sequence, features] -> [batch, heads, sequence, head]
    batch, sequence, features = shape_of(x)
    return tf.transpose(tf.reshape(x, [batch, sequence, n_head, features // n_head]), [0, 2, 1, 3])


def merge_heads(x):  # [batch, heads, sequence, head] -> [batch, sequence, features]
    batch, heads, sequence, head = shape_of(x)
    return tf.reshape(tf.transpose(x, [0, 2, 1, 3]), [batch, sequence, heads * head])


def causal_mask(n_query, n_key, dtype):  # -> [n_query, n_key]: 0 where a query may look, -inf on what comes after it
    position = tf.range(n_query)[:, None] + n_key - n_query
    visible = tf.range(n_key)[None, :] <= position
    return tf.where(visible, tf.zeros([n_query, n_key], dtype), tf.fill([n_query, n_key], dtype.min))


def attend(q, k, v):  # [batch, heads, sequence, head], twice [batch, heads, past + sequence, head] -> the shape of q
    """Each query's mean of the values up to its own position, weighted by softmax(q k / sqrt(head))."""
    scores = tf.matmul(q * (1 / math.sqrt(q.shape[-1])), k, transpose_b=True)
    mask = causal_mask(shape_of(q)[2], shape_of(k)[2], q.dtype)
    return tf.matmul(tf.nn.softmax(scores + mask), v)


def attention(x, scope, *, past, hparams):  # [batch, sequence, features] -> the same, and [batch, 2, heads, ., head]
    n_features = hparams.n_embd
    with tf.variable_scope(scope):
        q, k, v = (split_heads(part, hparams.n_head)
                   for part in tf.split(linear(x, 'c_attn', 3 * n_features), 3, axis=-1))
        present = tf.stack([k, v], axis=1)
        if past is not None:
            past_k, past_v = tf.unstack(past, axis=1)
            k = tf.concat([past_k, k], axis=2)
            v = tf.concat([past_v, v], axis=2)
        y = merge_heads(attend(q, k, v))
        return linear(y, 'c_proj', n_features, stddev=residual_stddev(hparams)), present


def mlp(x, scope, *, hparams):  # [batch, sequence, features] -> [batch, sequence, features]
    with tf.variable_scope(scope):
        y = gelu(linear(x, 'c_fc', 4 * hparams.n_embd))
        return linear(y, 'c_proj', hparams.n_embd, stddev=residual_stddev(hparams))


def residual_stddev(hparams):
    """Two projections of each block add to the residual stream; scaled down so that its variance does not grow."""
    return 0.02 / math.sqrt(2 * hparams.n_layer)


def block(x, scope, *, past, hparams):  # [batch, sequence, features] -> the same, and the block's keys and values
    with tf.variable_scope(scope):
        y, present = attention(layer_norm(x, 'ln_1'), 'attn', past=past, hparams=hparams)
        x = x + y
        return x + mlp(layer_norm(x, 'ln_2'), 'mlp', hparams=hparams), present


def past_shape(*, hparams: HParams, batch_size=None, sequence=None) -> list:
    """Shape of `past` and `present`: keys and values of every block, as `model` takes and gives them."""
    return [batch_size, hparams.n_layer, 2, hparams.n_head, sequence, hparams.head_size]


def model(hparams: HParams, X, past=None, scope='model', reuse=tf.AUTO_REUSE) -> dict:
    """Builds the network for token ids X [batch, sequence] int32.

    `past` (see past_shape) holds the keys and values of tokens before X; past and X together must fit in n_ctx.
    Each block's output goes to the collection `checkpoints`, from which memory_saving_gradients recomputes.

    Returns `hidden` [batch, sequence, n_embd] (after the last normalisation), `logits` [batch, sequence, n_vocab] and
    `present`, the keys and values of X alone.
    """
    with tf.variable_scope(scope, reuse=reuse):
        wpe = tf.get_variable('wpe', [hparams.n_ctx, hparams.n_embd],
                              initializer=tf.random_normal_initializer(stddev=0.01))
        wte = tf.get_variable('wte', [hparams.n_vocab, hparams.n_embd],
                              initializer=tf.random_normal_initializer(stddev=0.02))
        batch, sequence = shape_of(X)
        start = 0 if past is None else shape_of(past)[-2]
        h = tf.gather(wte, X) + wpe[start:start + sequence]
        presents = []
        for layer, layer_past in enumerate([None] * hparams.n_layer if past is None else tf.unstack(past, axis=1)):
            h, present = block(h, f'h{layer}', past=layer_past, hparams=hparams)
            tf.add_to_collection('checkpoints', h)
            presents.append(present)
        h = layer_norm(h, 'ln_f')
        logits = tf.reshape(tf.matmul(tf.reshape(h, [-1, hparams.n_embd]), wte, transpose_b=True),
                            [batch, sequence, hparams.n_vocab])
        return {'hidden': h, 'logits': logits, 'present': tf.stack(presents, axis=1)}


def loss(logits, labels):  # [batch, sequence, n_vocab], [batch, sequence] -> scalar
    """Mean cross-entropy, in nats per token, of predicting each token of `labels` from the logits before it."""
    # The last position has no label. Weighting it by zero is cheaper than slicing it off the logits, whose gradient
    # would be one more tensor of their size.
    batch, sequence = shape_of(labels)
    targets = tf.concat([labels[:, 1:], labels[:, :1]], axis=1)
    weights = tf.cast(tf.range(sequence) < sequence - 1, logits.dtype)
    per_token = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=targets, logits=logits)
    return tf.reduce_sum(per_token * weights) / tf.cast(batch * (sequence - 1), logits.dtype)
