"""Sampling: truncated distributions, and the loop that draws tokens."""

import math

import tensorflow.compat.v1 as tf

import model
from network.cache import Cache, CachedPast
from network.gradients import shape_of

BLOCK = 64              # logits of which only the largest is compared with those of other blocks
MANY_LOGITS = 2 ** 13   # fewer are compared one by one; 50,257 by blocks took half of the time


def largest(logits, k):  # [batch, n_vocab], scalar -> [batch, k], [batch, k] int32
    """The same values and indices as tf.nn.top_k, of many logits and a small k in half of its time.

    The k largest logits are in the k blocks whose largest logits are the largest. Of equal ones the first come first, as in
    tf.nn.top_k, if the blocks stay in order.
    """
    n_vocab = logits.shape.as_list()[-1]
    if n_vocab is None or n_vocab < MANY_LOGITS:
        return tf.nn.top_k(logits, k)
    blocks = -(-n_vocab // BLOCK)
    # -inf like a banned token, but after all of them.
    padded = tf.pad(logits, [[0, 0], [0, blocks * BLOCK - n_vocab]], constant_values=-math.inf)
    padded = tf.reshape(padded, [-1, blocks, BLOCK])
    chosen = tf.nn.top_k(tf.reduce_max(padded, axis=-1), tf.minimum(k, blocks)).indices
    # In float32, which is exact up to 2^24: not every TensorFlow sorts int32 on a GPU.
    chosen = tf.cast(tf.sort(tf.cast(chosen, tf.float32), axis=-1), tf.int32)
    candidates = tf.gather(padded, chosen, batch_dims=1)
    values, indices = tf.nn.top_k(tf.reshape(candidates, [tf.shape(logits)[0], -1]), k)
    return values, tf.gather(chosen, indices // BLOCK, batch_dims=1) * BLOCK + indices % BLOCK


def top_k_logits(logits, k):  # [batch, n_vocab] -> the same, -inf outside the k largest
    """Fan et al. 2018: only the k most likely tokens stay, and tokens that tie with the last of them; all for k = 0."""
    smallest = tf.nn.top_k(logits, tf.where(tf.equal(k, 0), shape_of(logits)[-1], k)).values[:, -1:]
    return tf.where(logits < smallest, tf.fill(tf.shape(logits), logits.dtype.min), logits)


def top_p_logits(logits, p):  # [batch, n_vocab] -> the same, -inf outside the nucleus
    """Holtzman et al. 2020: only the smallest set of most likely tokens whose probability reaches p (0 < p <= 1) stays,
    and tokens that tie with its last one."""
    descending = tf.sort(logits, direction='DESCENDING', axis=-1)
    before = tf.cumsum(tf.nn.softmax(descending), axis=-1, exclusive=True)    # probability of all more likely tokens
    nucleus = tf.where(before < p, descending, tf.fill(tf.shape(logits), logits.dtype.max))
    smallest = tf.reduce_min(nucleus, axis=-1, keepdims=True)
    return tf.where(logits < smallest, tf.fill(tf.shape(logits), logits.dtype.min), logits)


def draw(logits, uniform):  # [batch, n_vocab], [batch] -> [batch] int32
    """Inverse transform sampling: the first token whose cumulative probability is above `uniform`, in [0, 1).

    With its random numbers from the caller, a row does not depend on the others: a seed gives the same in every batch.
    """
    cumulative = tf.cumsum(tf.nn.softmax(logits), axis=-1)
    # Rounding must not raise the threshold to the total, after which there is no token.
    threshold = uniform[:, None] * cumulative[:, -1:] * (1 - 2 ** -23)
    # In float32, which is exact up to 2^24: a GPU sums int32 on the host.
    return tf.cast(tf.reduce_sum(tf.cast(cumulative <= threshold, tf.float32), axis=-1), tf.int32)


def log_probability(logits, tokens):  # [batch, n_vocab], [batch] -> [batch], in nats
    return tf.gather(logits, tokens, batch_dims=1) - tf.reduce_logsumexp(logits, axis=-1)


def penalize(logits, history, penalty):  # [batch, n_vocab], [batch, any] int32 -> [batch, n_vocab]
    """Keskar et al. 2019: tokens in the row's history become less likely. -1 in history is no token."""
    batch, n_vocab = shape_of(logits)
    rows = tf.broadcast_to(tf.range(batch)[:, None], tf.shape(history))
    indices = tf.boolean_mask(tf.stack([rows, history], axis=-1), history >= 0)
    counts = tf.scatter_nd(indices, tf.ones(tf.shape(indices)[:1]), [batch, n_vocab])
    return tf.where(counts > 0, tf.where(logits > 0, logits / penalty, logits * penalty), logits)


def change(logits, pairs, amounts):  # [batch, n_vocab], [any, 2] int32, [any] -> [batch, n_vocab]
    """Adds an amount to the logit of each pair (row, token); -inf bans the token."""
    return tf.tensor_scatter_nd_add(logits, pairs, amounts)


def most_likely(logits, count, tokens=None):  # [batch, n_vocab], scalar -> [batch, count] int32, [batch, count]
    """The most likely tokens, of the first `tokens` ids if given, the first one most so, and their log-probabilities in nats."""
    values, indices = largest(logits[:, :tokens], count)
    return [indices, values - tf.reduce_logsumexp(logits, axis=-1, keepdims=True)]


def draw_top_k(logits, uniform, k, temperature):  # [batch, n_vocab], [batch], scalars -> [batch] int32
    """draw(top_k_logits(logits, k) / temperature), but sums only k logits unless another ties with the last of them."""
    n_vocab = shape_of(logits)[-1]
    k = tf.clip_by_value(k, 1, n_vocab)
    values, indices = largest(logits, tf.minimum(k + 1, n_vocab))
    tie = tf.equal(values[:, k - 1], values[:, -1])
    # By id, as `draw` goes through all tokens. By value, two that are as likely but for rounding would change places, and a seed
    # would not give the same in every batch. In float32: see `largest`.
    by_id = tf.argsort(tf.cast(indices[:, :k], tf.float32), axis=-1)
    values, indices = tf.gather(values, by_id, batch_dims=1), tf.gather(indices, by_id, batch_dims=1)
    drawn = tf.gather(indices, draw(values / temperature, uniform), batch_dims=1)
    return tf.cond(tf.reduce_any(tie),
                   lambda: tf.where(tie, draw(top_k_logits(logits, k) / temperature, uniform), drawn),
                   lambda: drawn)


def next_token(logits, uniform, *, temperature, top_k, top_p):  # [batch, n_vocab], [batch] -> [batch] int32
    """Draws from softmax(logits / temperature), truncated by top_p if above 0, else by top_k if above 0.

    temperature 0 takes the most likely token.
    """
    with tf.device('/cpu:0'):       # which chooses the branch, and would wait for a GPU
        greedy, nucleus, everything = _is_zero(temperature), top_p > 0, _is_zero(top_k)
    temperature, top_p = tf.cast(temperature, logits.dtype), tf.cast(top_p, logits.dtype)
    return _first_true([(greedy, lambda: tf.argmax(logits, axis=-1, output_type=tf.int32)),
                        (nucleus, lambda: draw(top_p_logits(logits / temperature, top_p), uniform)),
                        (everything, lambda: draw(logits / temperature, uniform)),
                        (True, lambda: draw_top_k(logits, uniform, top_k, temperature))])


def _is_zero(setting):
    """A boolean tensor for a tensor, a bool for a number."""
    return tf.equal(setting, 0) if tf.is_tensor(setting) else setting == 0


def _first_true(choices: list):
    """tf.case of (condition, function), the last for True, without those that a known condition rules out: they take long to
    build."""
    known = [condition if tf.is_tensor(condition) else bool(condition) for condition, _ in choices]
    last = known.index(True)
    possible = [choice for choice, condition in zip(choices[:last], known) if condition is not False]
    return tf.case(possible, default=choices[last][1]) if possible else choices[last][1]()


def read_context(hparams, tokens, lengths, capacity, lora=None):
    """Reads texts [rows, sequence] of `lengths` [rows], padded on the right.

    Returns logits [rows, n_vocab] after the last token of each, and the memory of a Cache for `capacity` tokens.
    """
    output = model.model(hparams, tokens, lora=lora)
    last = tf.gather(output['hidden'], lengths - 1, batch_dims=1)
    padding = [[0, 0], [0, 0], [0, capacity - shape_of(tokens)[1]], [0, 0]]
    memory = {(layer, 0): [tf.reshape(tf.pad(x, padding), [-1, hparams.head_size]) for x in tf.unstack(present, axis=1)]
              for layer, present in enumerate(tf.unstack(output['present'], axis=1))}
    return tf.matmul(last, output['wte'], transpose_b=True), memory


def read_token(hparams, tokens, cache: Cache, positions, lora=None):
    """Reads one more token of each row, [rows], at positions [rows].

    Returns logits [rows, n_vocab] after it, and the cache's memory with its keys and values.
    """
    past = CachedPast(cache, positions)
    return model.model(hparams, tokens[:, None], past=past, lora=lora)['logits'][:, 0], past.written


def read_once():
    """A custom getter for variable_scope that reads each variable only once.

    A loop body that reads a resource variable copies it in every iteration, but not a value that was read before the
    loop.
    """
    values = {}

    def read(getter, name, *args, **kwargs):
        if name not in values:
            values[name] = tf.convert_to_tensor(getter(name, *args, **kwargs))
        return values[name]

    return read


def sample_sequence(*, hparams, length, start_token=None, batch_size=None, context=None, temperature=1, top_k=0,
                    top_p=0.0, uniform=None, lora=None):
    """Continues each row of `context` [batch, sequence] int32 by `length` tokens.

    start_token: instead of a context, this token in each of batch_size rows. temperature, top_k and top_p are numbers
    or scalar tensors. uniform [batch, length]: numbers in [0, 1), one for each token; random if not given. lora: the
    adapters that the network has. Context and length together must fit in n_ctx + 1: the last token is never read.

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
            logits, memory = read_token(hparams, token, cache, tf.fill([batch], start + count), lora)
        return count + 1, tokens.write(count, token), logits, memory

    with tf.name_scope('sample_sequence'):
        batch, start = shape_of(context)
        capacity = start + length - 1
        with tf.variable_scope(tf.get_variable_scope(), custom_getter=read):
            logits, memory = read_context(hparams, context, tf.fill([batch], start), capacity, lora)
        tokens = tf.TensorArray(tf.int32, length)
        count, tokens, logits, _ = tf.while_loop(lambda count, *_: count < length - 1, body,
                                                 [0, tokens, logits, memory], back_prop=False)
        # The last token is drawn outside the loop, because the model need not read it.
        tokens = tokens.write(count, next_token(logits, uniform[:, count], **settings))
        # Not a transpose: on many processors, TensorFlow logs an error about those of integers.
        return tf.concat([context, tf.stack(tf.unstack(tokens.stack(), length), axis=1)], axis=1)
