"""The network as the graphs of 2019 had it, op for op, as a peer for bench/train.py; nothing else uses it."""

import math

import tensorflow.compat.v1 as tf


def norm(x, scope):
    with tf.variable_scope(scope):
        g = tf.get_variable('g', [x.shape[-1]], initializer=tf.ones_initializer())
        b = tf.get_variable('b', [x.shape[-1]], initializer=tf.zeros_initializer())
        mean = tf.reduce_mean(x, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.square(x - mean), axis=-1, keepdims=True)
        return (x - mean) * tf.rsqrt(variance + 1e-5) * g + b


def project(x, scope, n_out):
    with tf.variable_scope(scope):
        w = tf.get_variable('w', [1, x.shape[-1], n_out], initializer=tf.random_normal_initializer(stddev=0.02))
        b = tf.get_variable('b', [n_out], initializer=tf.zeros_initializer())
        rows = tf.matmul(tf.reshape(x, [-1, x.shape[-1]]), tf.reshape(w, [-1, n_out])) + b
        return tf.reshape(rows, [*x.shape[:-1], n_out])


def softmax(x):
    exponent = tf.exp(x - tf.reduce_max(x, axis=-1, keepdims=True))
    return exponent / tf.reduce_sum(exponent, axis=-1, keepdims=True)


def attend(x, hparams):
    batch, sequence, _ = x.shape
    q, k, v = (tf.transpose(tf.reshape(part, [batch, sequence, hparams.n_head, -1]), [0, 2, 1, 3])
               for part in tf.split(project(x, 'c_attn', 3 * hparams.n_embd), 3, axis=2))
    scores = tf.matmul(q, k, transpose_b=True) * tf.rsqrt(tf.cast(hparams.head_size, tf.float32))
    visible = tf.cast(tf.range(sequence)[:, None] >= tf.range(sequence), tf.float32)[None, None]
    scores = scores * visible - 1e10 * (1 - visible)
    y = tf.transpose(tf.matmul(softmax(scores), v), [0, 2, 1, 3])
    return project(tf.reshape(y, [batch, sequence, hparams.n_embd]), 'c_proj', hparams.n_embd)


def gelu(x):
    return 0.5 * x * (1 + tf.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * tf.pow(x, 3))))


def logits_2019(hparams, tokens):  # [batch, sequence] -> [batch, sequence, n_vocab]
    normal = tf.random_normal_initializer
    wpe = tf.get_variable('wpe', [hparams.n_ctx, hparams.n_embd], initializer=normal(stddev=0.01))
    wte = tf.get_variable('wte', [hparams.n_vocab, hparams.n_embd], initializer=normal(stddev=0.02))
    batch, sequence = tokens.shape
    h = tf.gather(wte, tokens) + tf.gather(wpe, tf.tile(tf.range(sequence)[None], [batch, 1]))
    for layer in range(hparams.n_layer):
        with tf.variable_scope(f'h{layer}'):
            with tf.variable_scope('attn'):
                h = h + attend(norm(h, 'ln_1'), hparams)
            with tf.variable_scope('mlp'):
                h = h + project(gelu(project(norm(h, 'ln_2'), 'c_fc', 4 * hparams.n_embd)), 'c_proj', hparams.n_embd)
    rows = tf.reshape(norm(h, 'ln_f'), [-1, hparams.n_embd])
    return tf.reshape(tf.matmul(rows, wte, transpose_b=True), [batch, sequence, hparams.n_vocab])
