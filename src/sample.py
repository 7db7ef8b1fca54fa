"""Sampling text from the model: truncated distributions and the loop that draws one token after the other."""

import tensorflow.compat.v1 as tf

import model
from network.cache import Cache, CachedPast
from network.gradients import shape_of


def top_k_logits(logits, k):  # [batch, n_vocab] -> the same, -inf outside the k largest
    """Fan et al. 2018: only the k most likely tokens stay, and those that tie with the last of them."""
    smallest = tf.nn.top_k(logits, k).values[:, -1:]
    return tf.where(logits < smallest, tf.fill(tf.shape(logits), logits.dtype.min), logits)


def top_p_logits(logits, p):  # [batch, n_vocab] -> the same, -inf outside the nucleus
    """Holtzman et al. 2020: only the smallest set of most likely tokens whose probability reaches p (0 < p <= 1) stays,
    and those that tie with its last one."""
    descending = tf.sort(logits, direction='DESCENDING', axis=-1)
    before = tf.cumsum(tf.nn.softmax(descending), axis=-1, exclusive=True)    # probability of all that rank higher
    nucleus = tf.where(before < p, descending, tf.fill(tf.shape(logits), logits.dtype.max))
    smallest = tf.reduce_min(nucleus, axis=-1, keepdims=True)
    return tf.where(logits < smallest, tf.fill(tf.shape(logits), logits.dtype.min), logits)


def draw(logits, uniform):  # [batch, n_vocab], [batch] -> [batch] int32
    """The token at which the cumulative distribution passes `uniform`, a number in [0, 1) for each row.

    One uniform number a token, rather than an op that makes its own randomness, lets the caller keep the generator: rows
    do not depend on one another, and a seed means the same in every batch.
    """
    cumulative = tf.cumsum(tf.nn.softmax(logits), axis=-1)
    # Rounding must not carry the threshold up to the total, behind which there is no token.
    threshold = uniform[:, None] * cumulative[:, -1:] * (1 - 2 ** -23)
    return tf.reduce_sum(tf.cast(cumulative <= threshold, tf.int32), axis=-1)


def log_probability(logits, tokens):  # [batch, n_vocab], [batch] -> [batch], in nats
    return tf.gather(logits, tokens, batch_dims=1) - tf.reduce_logsumexp(logits, axis=-1)


def penalize(logits, history, penalty):  # [batch, n_vocab], [batch, any] int32 -> [batch, n_vocab]
    """Keskar et al. 2019: the logits of tokens in the row's history (-1 is none) become less likely by a factor."""
    batch, n_vocab = shape_of(logits)
    rows = tf.broadcast_to(tf.range(batch)[:, None], tf.shape(history))
    places = tf.boolean_mask(tf.stack([rows, history], axis=-1), history >= 0)
    times = tf.scatter_nd(places, tf.ones(tf.shape(places)[:1]), [batch, n_vocab])
    return tf.where(times > 0, tf.where(logits > 0, logits / penalty, logits * penalty), logits)


def draw_top_k(logits, uniform, k, temperature):  # [batch, n_vocab], [batch], scalars -> [batch] int32
    """Draws as top_k_logits says, but sorts out and adds up only the k largest, unless others tie with the last of them."""
    n_vocab = shape_of(logits)[-1]
    k = tf.clip_by_value(k, 1, n_vocab)
    best = tf.nn.top_k(logits, tf.minimum(k + 1, n_vocab))
    tie = tf.equal(best.values[:, k - 1], best.values[:, -1])
    drawn = tf.gather(best.indices, draw(best.values[:, :k] / temperature, uniform), batch_dims=1)
    return tf.cond(tf.reduce_any(tie), lambda: tf.where(tie, draw(top_k_logits(logits, k) / temperature, uniform), drawn),
                   lambda: drawn)


def next_token(logits, uniform, *, temperature, top_k, top_p):  # [batch, n_vocab], [batch] -> [batch] int32
    """Draws from softmax(logits / temperature), truncated: by top_p where it is above 0, else by top_k where it is.

    temperature 0 takes the most likely token.
    """
    temperature, top_p = tf.cast(temperature, logits.dtype), tf.cast(top_p, logits.dtype)
    return tf.case([(tf.equal(temperature, 0), lambda: tf.argmax(logits, axis=-1, output_type=tf.int32)),
                    (top_p > 0, lambda: draw(top_p_logits(logits / temperature, top_p), uniform)),
                    (tf.equal(top_k, 0), lambda: draw(logits / temperature, uniform))],
                   default=lambda: draw_top_k(logits, uniform, top_k, temperature))


def read_context(hparams, tokens, lengths, capacity):
    """Reads texts [rows, sequence], padded on the right to one length, of `lengths` [rows].

    Returns logits [rows, n_vocab] behind the last token of each, and the memory of a Cache with room for `capacity` tokens.
    """
    output = model.model(hparams, tokens)
    last = tf.gather(output['hidden'], lengths - 1, batch_dims=1)
    room = [[0, 0], [0, 0], [0, capacity - shape_of(tokens)[1]], [0, 0]]
    memory = {(layer, 0): [tf.reshape(tf.pad(x, room), [-1, hparams.head_size]) for x in tf.unstack(present, axis=1)]
              for layer, present in enumerate(tf.unstack(output['present'], axis=1))}
    return tf.matmul(last, output['wte'], transpose_b=True), memory


def read_token(hparams, tokens, cache: Cache, positions):
    """Reads one more token of each row, [rows], which stands at positions [rows], into the cache.

    Returns logits [rows, n_vocab] behind it, and the cache's memory with it.
    """
    past = CachedPast(cache, positions)
    return model.model(hparams, tokens[:, None], past=past)['logits'][:, 0], past.written


def read_once():
    """A variable_scope custom getter that reads each variable one time, however often it is asked for.

    A loop body that reads a resource variable copies it in every iteration; a value read before the loop is an invariant
    of the loop and is not copied.
    """
    values = {}

    def read(getter, name, *args, **kwargs):
        if name not in values:
            values[name] = tf.convert_to_tensor(getter(name, *args, **kwargs))
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
    settings = {'temperature': temperature, 'top_k': top_k, 'top_p': top_p}
    read = read_once()

    def body(count, tokens, logits, memory):
        token = next_token(logits, uniform[:, count], **settings)
        with tf.variable_scope(tf.get_variable_scope(), custom_getter=read):
            cache = Cache(memory, [hparams.n_head], capacity)
            logits, memory = read_token(hparams, token, cache, tf.fill([batch], start + count))
        return count + 1, tokens.write(count, token), logits, memory

    with tf.name_scope('sample_sequence'):
        batch, start = shape_of(context)
        capacity = start + length - 1
        with tf.variable_scope(tf.get_variable_scope(), custom_getter=read):
            logits, memory = read_context(hparams, context, tf.fill([batch], start), capacity)
        tokens = tf.TensorArray(tf.int32, length)
        count, tokens, logits, _ = tf.while_loop(lambda count, *_: count < length - 1, body, [0, tokens, logits, memory],
                                                 back_prop=False)
        # The last token is drawn outside of the loop: its own pass through the model would be for nothing.
        tokens = tokens.write(count, next_token(logits, uniform[:, count], **settings))
        # Not transposed: of integers, TensorFlow's log calls that an error on many processors.
        return tf.concat([context, tf.stack(tf.unstack(tokens.stack(), length), axis=1)], axis=1)
