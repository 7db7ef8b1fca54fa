"""GPT-2 as a TensorFlow 1.x graph: token ids in, next-token logits out (Radford et al. 2019; Vaswani et al. 2017).

Shapes: batch, sequence, past (tokens seen before), features (n_embd), heads, head (features of one head).
"""

import math

import tensorflow.compat.v1 as tf

from network import layers
from network.attention import causal_masks, self_attention
from network.cache import PastTensor
from network.gradients import reshape, shape_of
from network.head_loss import head_loss
from network.hparams import HParams, default_hparams, load_hparams  # noqa: F401  (a model and its sizes go together)


def gain_and_bias(scope, n):  # -> [n], [n], of a layer normalisation
    with tf.variable_scope(scope):
        return (tf.get_variable('g', [n], initializer=tf.ones_initializer()),
                tf.get_variable('b', [n], initializer=tf.zeros_initializer()))


def linear(x, scope, n_out, *, function=layers.linear, before=(), stddev=0.02, dtype=None):
    """x w + b, [batch, sequence, n_in] -> [batch, sequence, n_out], by function(rows of x, *before, w, b).

    The weight's leading 1 is the published checkpoints' (a convolution of width one).
    """
    with tf.variable_scope(scope):
        batch, sequence, n_in = shape_of(x)
        dtype = dtype or x.dtype
        w = tf.get_variable('w', [1, n_in, n_out], initializer=tf.random_normal_initializer(stddev=stddev))
        b = tf.get_variable('b', [n_out], initializer=tf.zeros_initializer())
        y = function(tf.reshape(x, [-1, n_in]), *before, tf.cast(tf.squeeze(w, 0), dtype), tf.cast(b, dtype))
        return reshape(y, [batch, sequence, n_out])


def attention(x, scope, *, norm, layer, past, masks, hparams, dtype):  # [batch, sequence, features] -> the same, keys and values
    with tf.variable_scope(scope):
        batch, sequence, n_features = shape_of(x)
        qkv = linear(x, 'c_attn', 3 * n_features, function=layers.norm_linear, before=norm, dtype=dtype)
        y, present = self_attention(reshape(qkv, [batch, sequence, 3, hparams.n_head, hparams.head_size]), layer, past,
                                    masks)
        y = reshape(y, [batch, sequence, n_features])
        return linear(y, 'c_proj', n_features, stddev=residual_stddev(hparams)), present


def mlp(x, scope, *, norm, hparams, dtype):  # [batch, sequence, features] -> [batch, sequence, features]
    with tf.variable_scope(scope):
        y = linear(x, 'c_fc', 4 * hparams.n_embd, function=layers.norm_linear, before=norm, dtype=dtype)
        return linear(y, 'c_proj', hparams.n_embd, function=layers.gelu_linear, stddev=residual_stddev(hparams))


def residual_stddev(hparams):
    """Two projections of each block add to the residual stream; scaled down so that its variance does not grow."""
    return 0.02 / math.sqrt(2 * hparams.n_layer)


def block(x, layer, *, past, masks, hparams, dtype):  # [batch, sequence, features] -> the same, and keys and values
    """Two sublayers, each of which reads the residual stream x through a normalisation, and adds to it."""
    with tf.variable_scope(f'h{layer}'):
        y, present = attention(x, 'attn', norm=gain_and_bias('ln_1', x.shape[-1]), layer=layer, past=past, masks=masks,
                               hparams=hparams, dtype=dtype)
        x = x + tf.cast(y, x.dtype)
        y = mlp(x, 'mlp', norm=gain_and_bias('ln_2', x.shape[-1]), hparams=hparams, dtype=dtype)
        return x + tf.cast(y, x.dtype), present


def past_shape(*, hparams: HParams, batch_size=None, sequence=None) -> list:
    """Shape of `past` and `present`: keys and values of every block, as `model` takes and gives them."""
    return [batch_size, hparams.n_layer, 2, hparams.n_head, sequence, hparams.head_size]


def model(hparams: HParams, X, past=None, scope='model', reuse=tf.AUTO_REUSE, dtype=tf.float32) -> dict:
    """Builds the network for token ids X [batch, sequence] int32.

    `past` holds the keys and values of tokens before X: a tensor (see past_shape), or something that gives the positions
    of X, its mask and, by `extend`, the keys and values (see network.cache). Past and X together must fit in n_ctx.
    Each block's output goes to the collection `checkpoints`, from which memory_saving_gradients recomputes.
    dtype: of the matrix multiplications; the weights, the residual stream, normalisation and softmax are float32.

    Returns `hidden` [batch, sequence, n_embd] (after the last normalisation), `wte` [n_vocab, n_embd] as `hidden`'s dtype,
    `logits` [batch, sequence, n_vocab] and `present`, the keys and values of X alone.
    """
    with tf.variable_scope(scope, reuse=reuse):
        wpe = tf.get_variable('wpe', [hparams.n_ctx, hparams.n_embd],
                              initializer=tf.random_normal_initializer(stddev=0.01))
        wte = tf.get_variable('wte', [hparams.n_vocab, hparams.n_embd],
                              initializer=tf.random_normal_initializer(stddev=0.02))
        batch, sequence = shape_of(X)
        if isinstance(past, tf.Tensor):
            past = PastTensor(past, sequence)
        positions = wpe[:sequence] if past is None else tf.gather(tf.convert_to_tensor(wpe), past.positions)
        # A value, and one of its own: gathering from the variable itself would make each later read of it a copy, and
        # what arrives at this read are the gradients of a few rows, which optimize.gradients_of can then keep apart.
        h = tf.gather(tf.convert_to_tensor(wte), X) + positions
        masks = causal_masks(sequence) if past is None else [past.mask]
        presents = []
        for layer in range(hparams.n_layer):
            h, present = block(h, layer, past=past, masks=masks, hparams=hparams, dtype=dtype)
            tf.add_to_collection('checkpoints', h)
            presents.append(present)
        h = tf.cast(layers.layer_norm(h, *gain_and_bias('ln_f', hparams.n_embd)), dtype)
        wte = tf.cast(wte, dtype)
        logits = reshape(tf.matmul(tf.reshape(h, [-1, hparams.n_embd]), wte, transpose_b=True),
                               [batch, sequence, hparams.n_vocab])
        return {'hidden': h, 'wte': wte, 'logits': logits, 'present': tf.stack(presents, axis=1)}


def loss(output: dict, labels, differentiable: bool = True):
    """Mean cross-entropy, in nats per token, of predicting each token of labels [batch, sequence] from those before it.

    output: what `model` returned. With differentiable, the gradients are made along with the loss (see fused.head_loss).
    """
    batch, sequence = shape_of(labels)
    # The last position has no label. A weight of zero for it keeps the rows as even as the hardware likes them.
    targets = tf.concat([labels[:, 1:], labels[:, :1]], axis=1)
    weights = tf.cast(tf.range(sequence) < sequence - 1, tf.float32) / tf.cast(batch * (sequence - 1), tf.float32)
    rows = tf.tile(weights[None], [batch, 1])
    return head_loss(tf.reshape(output['hidden'], [-1, output['hidden'].shape[-1]]), output['wte'],
                           tf.reshape(targets, [-1]), tf.reshape(rows, [-1]), differentiable=differentiable)
