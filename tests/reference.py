"""GPT-2 in plain numpy and float64: the oracle with which the tests compare the TensorFlow graph.

Every layer is a pair: `layer(x, params, name) -> y`, and `layer_backward(dy, x, params, name) -> dx, gradients`, where
dy is the gradient of the loss with respect to y. `params` holds arrays under the checkpoint's variable names without
`model/`, `gradients` has the same names; the layer `h0/ln_1` has `h0/ln_1/g` and `h0/ln_1/b`. A backward pass starts from its
layer's input and computes again whatever else it needs: slow, but simple.
"""

import numpy as np

EPSILON = 1e-5


def float64(arrays):
    return {name: np.asarray(array, np.float64) for name, array in arrays.items()}


def log_softmax(x):
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def softmax(x):
    return np.exp(log_softmax(x))


def softmax_backward(dy, y):  # the one backward pass that starts from the output
    return y * (dy - (dy * y).sum(axis=-1, keepdims=True))


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def gelu_backward(dy, x):
    tanh = np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))
    dtanh = (1 - tanh**2) * np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x**2)
    return dy * 0.5 * (1 + tanh + x * dtanh)


def standardize(x):
    deviation = np.sqrt(x.var(axis=-1, keepdims=True) + EPSILON)
    return (x - x.mean(axis=-1, keepdims=True)) / deviation, deviation


def layer_norm(x, params, name):  # [batch, sequence, features] -> [batch, sequence, features]
    return standardize(x)[0] * params[f'{name}/g'] + params[f'{name}/b']


def layer_norm_backward(dy, x, params, name):
    z, deviation = standardize(x)
    dz = dy * params[f'{name}/g']
    dx = (dz - dz.mean(axis=-1, keepdims=True) - z * (dz * z).mean(axis=-1, keepdims=True)) / deviation
    return dx, {f'{name}/g': (dy * z).sum(axis=(0, 1)), f'{name}/b': dy.sum(axis=(0, 1))}


def linear(x, params, name):  # [batch, sequence, n_in] -> [batch, sequence, n_out]
    return x @ params[f'{name}/w'][0] + params[f'{name}/b']


def linear_backward(dy, x, params, name):
    dw = np.einsum('bsi,bso->io', x, dy)[np.newaxis]
    return dy @ params[f'{name}/w'][0].T, {f'{name}/w': dw, f'{name}/b': dy.sum(axis=(0, 1))}


def mlp(x, params, name):  # [batch, sequence, features] -> [batch, sequence, features]
    return linear(gelu(linear(x, params, f'{name}/c_fc')), params, f'{name}/c_proj')


def mlp_backward(dy, x, params, name):
    hidden = linear(x, params, f'{name}/c_fc')  # [batch, sequence, 4*features]
    dactive, c_proj = linear_backward(dy, gelu(hidden), params, f'{name}/c_proj')
    dx, c_fc = linear_backward(gelu_backward(dactive, hidden), x, params, f'{name}/c_fc')
    return dx, c_fc | c_proj


def split_heads(x, n_head):  # [batch, sequence, features] -> [batch, heads, sequence, head]
    return x.reshape(*x.shape[:2], n_head, x.shape[2] // n_head).swapaxes(1, 2)


def merge_heads(x):  # [batch, heads, sequence, head] -> [batch, sequence, features]
    return np.concatenate(x.swapaxes(0, 1), axis=-1)


def attention_weights(q, k):  # 2 x [batch, heads, sequence, head] -> [batch, heads, sequence, sequence]
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    return softmax(np.where(np.tri(q.shape[-2], dtype=bool), scores, -np.inf))


def attend_backward(dy, q, k, v):  # of attention_weights(q, k) @ v
    weights = attention_weights(q, k)
    dscores = softmax_backward(dy @ v.swapaxes(-1, -2), weights) / np.sqrt(q.shape[-1])
    return dscores @ k, dscores.swapaxes(-1, -2) @ q, weights.swapaxes(-1, -2) @ dy


def attention(x, params, name, n_head):  # [batch, sequence, features] -> [batch, sequence, features]
    q, k, v = (split_heads(part, n_head) for part in np.split(linear(x, params, f'{name}/c_attn'), 3, axis=-1))
    return linear(merge_heads(attention_weights(q, k) @ v), params, f'{name}/c_proj')


def attention_backward(dy, x, params, name, n_head):
    q, k, v = (split_heads(part, n_head) for part in np.split(linear(x, params, f'{name}/c_attn'), 3, axis=-1))
    attended = merge_heads(attention_weights(q, k) @ v)
    dattended, c_proj = linear_backward(dy, attended, params, f'{name}/c_proj')
    dqkv = attend_backward(split_heads(dattended, n_head), q, k, v)
    dprojected = np.concatenate([merge_heads(part) for part in dqkv], axis=-1)  # [batch, sequence, 3*features]
    dx, c_attn = linear_backward(dprojected, x, params, f'{name}/c_attn')
    return dx, c_attn | c_proj


def block(x, params, name, n_head):  # [batch, sequence, features] -> [batch, sequence, features]
    x = x + attention(layer_norm(x, params, f'{name}/ln_1'), params, f'{name}/attn', n_head)
    return x + mlp(layer_norm(x, params, f'{name}/ln_2'), params, f'{name}/mlp')


def block_backward(dy, x, params, name, n_head):
    normed = layer_norm(x, params, f'{name}/ln_1')
    middle = x + attention(normed, params, f'{name}/attn', n_head)
    dnormed, in_mlp = mlp_backward(dy, layer_norm(middle, params, f'{name}/ln_2'), params, f'{name}/mlp')
    dbranch, in_ln_2 = layer_norm_backward(dnormed, middle, params, f'{name}/ln_2')
    dmiddle = dy + dbranch
    dnormed, in_attn = attention_backward(dmiddle, normed, params, f'{name}/attn', n_head)
    dbranch, in_ln_1 = layer_norm_backward(dnormed, x, params, f'{name}/ln_1')
    return dmiddle + dbranch, in_ln_1 | in_attn | in_ln_2 | in_mlp


def residual_stream(tokens, params, hparams):  # [batch, sequence] -> (n_layer + 1) x [batch, sequence, features]
    """The inputs of h0, h1, ..., and the output of the last block."""
    stream = [params['wte'][tokens] + params['wpe'][:tokens.shape[1]]]
    for layer in range(hparams.n_layer):
        stream.append(block(stream[-1], params, f'h{layer}', hparams.n_head))
    return stream


def gpt2(tokens, params, hparams):  # [batch, sequence] -> [batch, sequence, n_vocab]
    """Logits of the token that follows each position (Radford et al. 2019)."""
    params = float64(params)
    return layer_norm(residual_stream(np.asarray(tokens), params, hparams)[-1], params, 'ln_f') @ params['wte'].T


def loss(tokens, params, hparams, labels=None):
    """Mean cross-entropy in nats of labels[:, 1:], by default the tokens' own, given tokens[:, :-1]; sequence >= 2."""
    log_probabilities = log_softmax(gpt2(tokens, params, hparams)[:, :-1])
    targets = np.asarray(tokens if labels is None else labels)[:, 1:, np.newaxis]
    return float(-np.take_along_axis(log_probabilities, targets, axis=-1).mean())


def loss_backward(logits, labels):  # [batch, sequence, n_vocab], [batch, sequence] -> [batch, sequence, n_vocab]
    dlogits = np.zeros_like(logits)  # the last position has no label
    dlogits[:, :-1] = (softmax(logits[:, :-1]) - np.eye(logits.shape[-1])[labels[:, 1:]]) / labels[:, 1:].size
    return dlogits


def loss_and_gradients(tokens, params, hparams, labels=None):
    """`loss`, and its gradient with respect to every parameter, as a dict with the names and shapes of `params`."""
    params, tokens = float64(params), np.asarray(tokens)
    stream = residual_stream(tokens, params, hparams)
    final = layer_norm(stream[-1], params, 'ln_f')
    dlogits = loss_backward(final @ params['wte'].T, tokens if labels is None else np.asarray(labels))
    dx, gradients = layer_norm_backward(dlogits @ params['wte'], stream[-1], params, 'ln_f')
    for layer in reversed(range(hparams.n_layer)):
        dx, in_block = block_backward(dx, stream[layer], params, f'h{layer}', hparams.n_head)
        gradients |= in_block
    gradients['wpe'] = np.zeros_like(params['wpe'])
    gradients['wpe'][:tokens.shape[1]] = dx.sum(axis=0)
    gradients['wte'] = np.einsum('bsv,bse->ve', dlogits, final)  # as the output head ...
    np.add.at(gradients['wte'], tokens, dx)  # ... and as the embedding
    return loss(tokens, params, hparams, labels), {name: gradients[name] for name in params}


def sgd(params, gradients, learning_rate):
    """The parameters after one step; those without a gradient stay as they are."""
    return float64(params) | {name: params[name] - learning_rate * d for name, d in float64(gradients).items()}


def adam(params, gradients, state, step, learning_rate, beta1=0.9, beta2=0.999, epsilon=1e-8):
    """The parameters after step number `step`, counted from 1; those without a gradient stay as they are.

    TensorFlow's form, just before section 2.1 of Kingma & Ba 2015: the learning rate carries the bias correction, and
    epsilon joins the uncorrected root. `state`, {} at first, keeps the moments name -> (m, v); updated in place.
    """
    params, rate = float64(params), learning_rate * np.sqrt(1 - beta2**step) / (1 - beta1**step)
    for name, d in float64(gradients).items():
        m, v = state.get(name, (0, 0))
        m, v = state[name] = beta1 * m + (1 - beta1) * d, beta2 * v + (1 - beta2) * d**2
        params[name] = params[name] - rate * m / (np.sqrt(v) + epsilon)
    return params


def random_params(hparams, seed, scale=0.2):
    """float32 like a checkpoint, so that both sides of a comparison have the same numbers.

    The noise is ten times that of a new GPT-2, also in biases and gains, so that every term changes the result.
    """
    n, rng = hparams.n_embd, np.random.default_rng(seed)
    in_block = {'ln_1/g': [n], 'ln_1/b': [n], 'attn/c_attn/w': [1, n, 3*n], 'attn/c_attn/b': [3*n],
                'attn/c_proj/w': [1, n, n], 'attn/c_proj/b': [n], 'ln_2/g': [n], 'ln_2/b': [n], 'mlp/c_fc/w': [1, n, 4*n],
                'mlp/c_fc/b': [4*n], 'mlp/c_proj/w': [1, 4*n, n], 'mlp/c_proj/b': [n]}
    blocks = {f'h{layer}/{name}': shape for layer in range(hparams.n_layer) for name, shape in in_block.items()}
    shapes = {'wpe': [hparams.n_ctx, n], 'wte': [hparams.n_vocab, n]} | blocks | {'ln_f/g': [n], 'ln_f/b': [n]}
    return {name: np.float32(rng.normal(1 if name.endswith('/g') else 0, scale, shape)) for name, shape in shapes.items()}


def next_token_probabilities(logits, temperature=1, top_k=0, top_p=0.0):  # [..., n_vocab] -> [..., n_vocab]
    """The exact distribution that a sampler draws from.

    temperature 0 puts all mass on the most likely token, the first of equals. top_k keeps the k most likely; top_p > 0
    overrides it and keeps the smallest set of most likely tokens whose probability, at this temperature, reaches p
    (Holtzman et al. 2020). Tokens as likely as the last one kept are kept too. 0 turns either off.
    """
    logits = np.asarray(logits, np.float64)
    n_vocab = logits.shape[-1]
    if temperature == 0:
        return np.eye(n_vocab)[logits.argmax(axis=-1)]
    descending = -np.sort(-logits, axis=-1)
    last = np.full([*logits.shape[:-1], 1], (top_k or n_vocab) - 1)  # index of the least likely token to keep
    if top_p > 0:
        last = (softmax(descending / temperature).cumsum(axis=-1) < top_p).sum(axis=-1, keepdims=True)
    least = np.take_along_axis(descending, np.minimum(last, n_vocab - 1), axis=-1)
    return softmax(np.where(logits >= least, logits / temperature, -np.inf))
