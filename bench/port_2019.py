"""The network as the graphs of 2019 had it, op for op: a contestant of the benchmarks. Nothing else uses it."""

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


def attend(x, hparams, past):
    batch, sequence, _ = x.shape
    q, k, v = (tf.transpose(tf.reshape(part, [batch, sequence, hparams.n_head, -1]), [0, 2, 1, 3])
               for part in tf.split(project(x, 'c_attn', 3 * hparams.n_embd), 3, axis=2))
    present = tf.stack([k, v], axis=1)
    if past is not None:
        past_k, past_v = tf.unstack(past, axis=1)
        k, v = tf.concat([past_k, k], axis=-2), tf.concat([past_v, v], axis=-2)
    scores = tf.matmul(q, k, transpose_b=True) * tf.rsqrt(tf.cast(hparams.head_size, tf.float32))
    n_key = tf.shape(k)[-2]
    visible = tf.cast(tf.range(sequence)[:, None] >= tf.range(n_key) - n_key + sequence, tf.float32)[None, None]
    scores = scores * visible - 1e10 * (1 - visible)
    y = tf.transpose(tf.matmul(softmax(scores), v), [0, 2, 1, 3])
    return project(tf.reshape(y, [batch, sequence, hparams.n_embd]), 'c_proj', hparams.n_embd), present


def gelu(x):
    return 0.5 * x * (1 + tf.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * tf.pow(x, 3))))


def logits_2019(hparams, tokens):  # [batch, sequence] -> [batch, sequence, n_vocab]
    return model_2019(hparams, tokens, None)[0]


def model_2019(hparams, tokens, past):  # [batch, sequence], keys and values -> [batch, sequence, n_vocab], those of tokens
    normal = tf.random_normal_initializer
    wpe = tf.get_variable('wpe', [hparams.n_ctx, hparams.n_embd], initializer=normal(stddev=0.01))
    wte = tf.get_variable('wte', [hparams.n_vocab, hparams.n_embd], initializer=normal(stddev=0.02))
    batch, sequence = tokens.shape
    start = 0 if past is None else tf.shape(past)[-2]
    h = tf.gather(wte, tokens) + tf.gather(wpe, tf.tile(start + tf.range(sequence)[None], [batch, 1]))
    pasts = [None] * hparams.n_layer if past is None else tf.unstack(past, axis=1)
    presents = []
    for layer in range(hparams.n_layer):
        with tf.variable_scope(f'h{layer}'):
            with tf.variable_scope('attn'):
                y, present = attend(norm(h, 'ln_1'), hparams, pasts[layer])
                h, presents = h + y, [*presents, present]
            with tf.variable_scope('mlp'):
                h = h + project(gelu(project(norm(h, 'ln_2'), 'c_fc', 4 * hparams.n_embd)), 'c_proj', hparams.n_embd)
    rows = tf.reshape(norm(h, 'ln_f'), [-1, hparams.n_embd])
    logits = tf.reshape(tf.matmul(rows, wte, transpose_b=True), [batch, sequence, hparams.n_vocab])
    return logits, tf.stack(presents, axis=1)


def sample_2019(hparams, length, context, top_k):  # [batch, 1] -> [batch, 1 + length]
    batch = context.shape[0]
    shape = [batch, hparams.n_layer, 2, hparams.n_head, None, hparams.head_size]

    def step(tokens, past=None):
        with tf.variable_scope('model', reuse=tf.AUTO_REUSE):
            logits, present = model_2019(hparams, tokens, past)
        present.set_shape(shape)
        return logits, present

    def body(past, previous, output):
        logits, present = step(previous[:, None], past)
        logits = logits[:, -1]
        smallest = tf.nn.top_k(logits, k=top_k).values[:, -1:]
        logits = tf.where(logits < smallest, tf.ones_like(logits) * -1e10, logits)
        token = tf.random.categorical(logits, 1, dtype=tf.int32)
        return tf.concat([past, present], axis=-2), token[:, 0], tf.concat([output, token], axis=1)

    _, past = step(context)     # as in 2019, where the prompt is all but its last token, and read before the loop
    invariants = [tf.TensorShape(shape), tf.TensorShape([batch]), tf.TensorShape([batch, None])]
    return tf.while_loop(lambda *_: True, body, [past[..., :0, :], context[:, -1], context], invariants,
                         maximum_iterations=length, back_prop=False)[2]
