"""GPT-2 as a TensorFlow 1.x graph: token ids in, next-token logits out.

Radford et al. 2019, after Vaswani et al. 2017. Shapes: batch, sequence, past (tokens before these), features (n_embd),
heads, head (features of one head).
"""

import math

import tensorflow.compat.v1 as tf

from network import layers, lora_layers
from network.attention import block_masks, self_attention
from network.cache import TensorPast
from network.dropout import Dropout, drop
from network.functions_2019 import *
from network.gradients import reshape, shape_of
from network.head_loss import head_loss
from network.hparams import HParams, default_hparams, load_hparams  # noqa: F401  (a model and its sizes go together)
from network.lora import Lora


def random_variable(name, shape, stddev):
    return tf.get_variable(name, shape, initializer=tf.random_normal_initializer(stddev=stddev))


def bias(n, dtype):  # -> [n]
    return tf.cast(tf.get_variable('b', [n], initializer=tf.zeros_initializer()), dtype)


def gain_and_bias(scope, n):  # -> [n], [n], of a layer normalisation
    with tf.variable_scope(scope):
        return (tf.get_variable('g', [n], initializer=tf.ones_initializer()),
                tf.get_variable('b', [n], initializer=tf.zeros_initializer()))


def linear(x, scope, n_out, *, lora, op=layers.linear, norm=(), stddev=0.02, dtype=None):  # [.., n_in] -> [.., n_out]
    """x w + b, by op(rows of x, *norm, w, b): after a layer normalisation with norm's gain and bias, or after a GELU.

    With lora, by that op of lora_layers. The weight's leading 1 is that of the published checkpoints (a convolution of width
    one).
    """
    with tf.variable_scope(scope):
        batch, sequence, n_in = shape_of(x)
        dtype = dtype or x.dtype
        rows = tf.reshape(x, [-1, n_in])
        if lora is None:
            w = tf.cast(tf.squeeze(random_variable('w', [1, n_in, n_out], stddev), 0), dtype)
            y = op(rows, *norm, w, bias(n_out, dtype))
        else:
            w, b = lora_layers.frozen(lora, n_in, n_out), bias(n_out, dtype)
            factors = [tf.cast(factor, dtype) for factor in lora_layers.factors(lora, n_in, n_out)]
            y = lora_layers.WITH_FACTORS[op](rows, *norm, *factors, b, *w)
        return reshape(y, [batch, sequence, n_out])


def residual_stddev(hparams):
    """Each block has two projections that add to the residual stream: smaller, so that its variance does not grow."""
    return 0.02 / math.sqrt(2 * hparams.n_layer)


def attention(x, scope, *, norm, layer, past, masks, hparams, dtype, dropout, lora):  # [.., features] -> [.., features], present
    with tf.variable_scope(scope):
        batch, sequence, n_features = shape_of(x)
        qkv = linear(x, 'c_attn', 3 * n_features, op=layers.norm_linear, norm=norm, dtype=dtype, lora=lora)
        qkv = reshape(qkv, [batch, sequence, 3, hparams.n_head, hparams.head_size])
        y, present = self_attention(qkv, layer, past, masks, dropout)   # [batch, sequence, heads, head]
        y = reshape(y, [batch, sequence, n_features])
        return linear(y, 'c_proj', n_features, stddev=residual_stddev(hparams), lora=lora), present


def feed_forward(x, scope, *, norm, hparams, dtype, lora):  # [.., features] -> [.., features]
    with tf.variable_scope(scope):
        hidden = linear(x, 'c_fc', 4 * hparams.n_embd, op=layers.norm_linear, norm=norm, dtype=dtype, lora=lora)
        return linear(hidden, 'c_proj', hparams.n_embd, op=layers.gelu_linear, stddev=residual_stddev(hparams), lora=lora)


def transformer_block(x, layer, *, past, masks, hparams, dtype, dropout, lora):  # [.., features] -> [.., features], present
    """Attention and mlp each read the residual stream x through a normalisation and add to it."""
    with tf.variable_scope(f'h{layer}'):
        y, present = attention(x, 'attn', norm=gain_and_bias('ln_1', hparams.n_embd), layer=layer, past=past, masks=masks,
                               hparams=hparams, dtype=dtype, dropout=dropout, lora=lora)
        x = x + drop(tf.cast(y, x.dtype), dropout)
        y = feed_forward(x, 'mlp', norm=gain_and_bias('ln_2', hparams.n_embd), hparams=hparams, dtype=dtype, lora=lora)
        return x + drop(tf.cast(y, x.dtype), dropout), present


def embed(X, sequence, past, *, wte, wpe):  # [batch, sequence] -> [batch, sequence, features]
    positions = wpe[:sequence] if past is None else tf.gather(tf.convert_to_tensor(wpe), past.positions)
    # Gathers from a read of wte, because gathering from the variable would make all later reads copies; from a separate
    # read, because optimizer.gradients_of keeps its gradient, a few rows, apart.
    return tf.gather(tf.convert_to_tensor(wte), X) + positions


def past_shape(*, hparams: HParams, batch_size=None, sequence=None) -> list:
    """Shape of `past` and `present`: the keys and values of every block."""
    return [batch_size, hparams.n_layer, 2, hparams.n_head, sequence, hparams.head_size]


def model(hparams: HParams, X, past=None, scope='model', reuse=tf.AUTO_REUSE, dtype=tf.float32,
          dropout: Dropout | None = None, lora: Lora | None = None) -> dict:
    """Builds the network for token ids X [batch, sequence] int32.

    past: keys and values of the tokens before X, as a tensor (see past_shape) or an object (see network.cache). Past
    and X together must fit in n_ctx. dtype: of the matrix multiplications; weights, residual stream, normalisation and
    softmax are float32. Without a past, each block's output goes to the collection `checkpoints` (see
    memory_saving_gradients). dropout: of the embeddings, the attention weights and what each block adds to the residual
    stream (Radford et al. 2018); for training, so without a past. lora: factors are added to the blocks' matrices, and only
    they have gradients.

    Returns `hidden` [batch, sequence, n_embd] (after the last normalisation), `wte` [n_vocab, n_embd] as `hidden`'s
    dtype, `logits` [batch, sequence, n_vocab] and `present`, the keys and values of X alone.
    """
    if past is not None and dropout is not None:
        raise ValueError('dropout is for training, where there is no past')
    with tf.variable_scope(scope, reuse=reuse):
        wpe = random_variable('wpe', [hparams.n_ctx, hparams.n_embd], stddev=0.01)
        wte = random_variable('wte', [hparams.n_vocab, hparams.n_embd], stddev=0.02)
        batch, sequence = shape_of(X)
        if isinstance(past, tf.Tensor):
            past = TensorPast(past, sequence)
        h = drop(embed(X, sequence, past, wte=wte, wpe=wpe), dropout)
        masks = block_masks(batch, hparams.n_head, sequence) if past is None else [past.mask]
        presents = []
        for layer in range(hparams.n_layer):
            h, present = transformer_block(h, layer, past=past, masks=masks, hparams=hparams, dtype=dtype,
                                           dropout=dropout, lora=lora)
            if past is None:        # else h may lie inside a sampling loop, where no gradient can be
                tf.add_to_collection('checkpoints', h)
            presents.append(present)
        layer_norm = layers.layer_norm if lora is None else lora_layers.layer_norm
        h = tf.cast(layer_norm(h, *gain_and_bias('ln_f', hparams.n_embd)), dtype)
        wte = tf.cast(wte, dtype)
        logits = tf.matmul(tf.reshape(h, [-1, hparams.n_embd]), wte, transpose_b=True)
        return {'hidden': h, 'wte': wte, 'logits': reshape(logits, [batch, sequence, hparams.n_vocab]),
                'present': tf.stack(presents, axis=1)}


def loss(output: dict, labels, differentiable: bool = True, wte_gradient: bool = True, scale=None):
    """Mean cross-entropy, in nats per token, of predicting each token of labels [batch, sequence] from those before it.

    output: what `model` returned. differentiable: compute the gradients together with the loss (see head_loss); wte_gradient:
    that of the token embeddings too; scale: a scalar that they are multiplied by.
    """
    batch, sequence = shape_of(labels)
    # The last position has no label: it gets any label and weight 0, because an even number of rows is faster.
    targets = tf.concat([labels[:, 1:], labels[:, :1]], axis=1)
    weights = tf.cast(tf.range(sequence) < sequence - 1, tf.float32) / tf.cast(batch * (sequence - 1), tf.float32)
    rows = tf.tile(weights[None], [batch, 1])
    return head_loss(tf.reshape(output['hidden'], [-1, output['hidden'].shape.as_list()[-1]]), output['wte'],
                     tf.reshape(targets, [-1]), tf.reshape(rows, [-1]), differentiable=differentiable, wte_gradient=wte_gradient,
                     scale=scale)
