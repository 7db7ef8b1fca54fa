"""Sampling text from the model: truncated distributions and the loop that draws one token after the other."""

import tensorflow.compat.v1 as tf

import model


def top_k_logits(logits, k):  # [batch, n_vocab] -> the same, -inf outside the k largest
    """Fan et al. 2018: only the k most likely tokens stay (and those that tie with the last of them); 0 keeps all."""
    def truncated():
        smallest = tf.nn.top_k(logits, k=tf.clip_by_value(k, 1, logits.shape[-1])).values[:, -1:]
        return tf.where(logits < smallest, tf.fill(tf.shape(logits), logits.dtype.min), logits)

    return tf.cond(tf.equal(k, 0), lambda: logits, truncated)


def top_p_logits(logits, p):  # [batch, n_vocab] -> the same, -inf outside the nucleus
    """Holtzman et al. 2020: only the smallest set of most likely tokens whose probability reaches p (0 < p <= 1) stays,
    and those that tie with its last one."""
    descending = tf.sort(logits, direction='DESCENDING', axis=-1)
    before = tf.cumsum(tf.nn.softmax(descending), axis=-1, exclusive=True)    # probability of all that rank higher
    # The most likely token always stays, however small p.
    size = tf.maximum(tf.reduce_sum(tf.cast(before < p, tf.int32), axis=-1, keepdims=True), 1)
    smallest = tf.gather(descending, size - 1, batch_dims=1)
    return tf.where(logits < smallest, tf.fill(tf.shape(logits), logits.dtype.min), logits)


def truncate(logits, top_k, top_p):  # [batch, n_vocab] -> the same
    """top_p where it is above 0, else top_k; 0 turns either off."""
    return tf.cond(top_p > 0, lambda: top_p_logits(logits, top_p), lambda: top_k_logits(logits, top_k))


def draw(logits, uniform):  # [batch, n_vocab], [batch] -> [batch] int32
    """The token at which the cumulative distribution passes `uniform`, a number in [0, 1) for each row.

    One uniform number a token, rather than an op that makes its own randomness, lets the caller keep the generator: rows
    do not depend on one another, and a seed means the same in every batch.
    """
    cumulative = tf.cumsum(tf.nn.softmax(logits), axis=-1)
    # Rounding must not carry the threshold up to the total, behind which there is no token.
    threshold = uniform[:, None] * cumulative[:, -1:] * (1 - 2 ** -23)
    return tf.reduce_sum(tf.cast(cumulative <= threshold, tf.int32), axis=-1)


def next_token(logits, uniform, *, temperature, top_k, top_p):  # [batch, n_vocab], [batch] -> [batch] int32
    """Draws from softmax(logits / temperature), truncated; temperature 0 takes the most likely token."""
    temperature, top_p = tf.cast(temperature, logits.dtype), tf.cast(top_p, logits.dtype)
    return tf.cond(temperature > 0,
                   lambda: draw(truncate(logits / temperature, top_k, top_p), uniform),
                   lambda: tf.argmax(logits, axis=-1, output_type=tf.int32))


def read_once():
    """A variable_scope custom getter that reads each variable one time, however often it is asked for.

    A loop body that reads a resource variable copies it in every iteration; a value read before the loop is an invariant
    of the loop and is not copied.
    """
    values = {}

    def read(getter, name, *args, **kwargs):
        if name not in values:
            values[name] = tf.identity(getter(name, *args, **kwargs))
        return values[name]

    return read


def sample_sequence(*, hparams, length, start_token=None, batch_size=None, context=None, temperature=1, top_k=0,
                    top_p=0.0, uniform=None):
    """Continues each row of `context` [batch, sequence] int32 by `length` tokens.

    start_token: stands for a context of this one token in each of batch_size rows. temperature, top_k and top_p are
    numbers or scalar tensors. uniform [batch, length]: numbers in [0, 1), one for each token to draw; drawn in the
    graph if not given. Context and length together must fit in n_ctx + 1: the last token is never read.

    Returns [batch, sequence + length] int32. Raises ValueError unless either start_token or context is given.
    """
    if (start_token is None) == (context is None):
        raise ValueError('give either start_token or context')
    if context is None:
        context = tf.fill([batch_size, 1], start_token)
    if uniform is None:
        uniform = tf.random.uniform([tf.shape(context)[0], length])
    read = read_once()

    def step(tokens, past):
        with tf.variable_scope(tf.get_variable_scope(), custom_getter=read):
            result = model.model(hparams, tokens, past=past, reuse=tf.AUTO_REUSE)
        present = result['present']
        present.set_shape(model.past_shape(hparams=hparams, batch_size=batch_size))
        return result['logits'][:, -1], present if past is None else tf.concat([past, present], axis=-2)

    def body(count, tokens, logits, past):
        token = next_token(logits, uniform[:, count], temperature=temperature, top_k=top_k, top_p=top_p)[:, None]
        tokens = tf.concat([tokens, token], axis=1)
        logits, past = step(token, past)
        return count + 1, tokens, logits, past

    with tf.name_scope('sample_sequence'):
        logits, past = step(context, None)
        invariants = [tf.TensorShape([]), tf.TensorShape([batch_size, None]),
                      tf.TensorShape([batch_size, hparams.n_vocab]),
                      tf.TensorShape(model.past_shape(hparams=hparams, batch_size=batch_size))]
        count, tokens, logits, _ = tf.while_loop(lambda count, *_: count < length - 1, body,
                                                 [0, context, logits, past], shape_invariants=invariants,
                                                 back_prop=False)
        # The last token is drawn outside of the loop: its own pass through the model would be for nothing.
        last = next_token(logits, uniform[:, count], temperature=temperature, top_k=top_k, top_p=top_p)
        return tf.concat([tokens, last[:, None]], axis=1)
