"""Code written for the modules of 2019: a complete notebook, and the names that it and others used."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import notebook_2019
import reference
from conftest import ROOT, load_params
from encoder import bytes_to_unicode
from load_dataset import Sampler, load_dataset
from network.hparams import HParams, default_hparams

HPARAMS = HParams(n_vocab=37, n_ctx=12, n_embd=24, n_head=3, n_layer=2)
TOKENS = np.random.default_rng(1).integers(HPARAMS.n_vocab, size=(2, HPARAMS.n_ctx))


def check(losses, texts, directory):
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0] - 0.1
    assert [text.startswith('The king') for text in texts] == [True, True, False, False]
    assert all(text.startswith('<|endoftext|>') for text in texts[2:])
    assert (directory / 'model-5.index').exists()


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / 'corpus.txt').write_text('What is the matter with the king of France, my lord?\n' * 20)
    return str(tmp_path / 'corpus.txt')


def test_a_notebook_of_2019(tf, corpus, model_directory, tmp_path):
    check(*notebook_2019.notebook(str(model_directory.parent), corpus, str(tmp_path)), tmp_path)


def test_a_notebook_that_disables_tensorflow_2_s_behaviour(corpus, model_directory, tmp_path):
    arguments = [os.path.join(ROOT, 'src'), str(model_directory.parent), corpus, str(tmp_path)]
    result = subprocess.run([sys.executable, notebook_2019.__file__, *arguments], capture_output=True, text=True, timeout=300,
                            check=False)
    assert result.returncode == 0, result.stderr
    check(*json.loads(result.stdout.splitlines()[-1]), tmp_path)


def test_hparams_change():
    hparams = default_hparams()
    assert hparams.override_from_dict({'n_layer': 2, 'n_embd': 24}) is hparams
    hparams.n_ctx = 8
    assert (hparams.n_ctx, hparams.n_embd, hparams.n_head, hparams.n_layer) == (8, 24, 12, 2)
    with pytest.raises(KeyError, match='n_heads'):
        hparams.override_from_dict({'n_heads': 2})
    with pytest.raises(ValueError, match='n_embd 25 is not divisible by n_head 12'):
        hparams.override_from_dict({'n_embd': 25})
    assert hparams.n_embd == 24


def test_the_parts_of_an_encoder(toy):
    assert toy.decoder[toy.encoder['Ġ']] == 'Ġ' and len(toy.decoder) == toy.n_vocab
    spelled = ''.join(toy.byte_encoder[byte] for byte in b' returns')
    assert [toy.encoder[token] for token in toy.bpe(spelled).split(' ')] == toy.encode(' returns')
    assert len(toy.bpe(spelled).split(' ')) < 8
    assert bytes_to_unicode()[ord(' ')] == 'Ġ' and toy.byte_decoder['Ġ'] == ord(' ')


def test_samples_can_be_written_to(toy, corpus):
    chunks = load_dataset(toy, corpus, 50000, encoding=None)
    sampler = Sampler(chunks)
    before = chunks[0].copy()
    sampler.sample(5)[:] = 0
    assert (chunks[0] == before).all()


def test_k_of_0_keeps_all_logits(tf, session):
    import sample
    logits = tf.constant([[1.0, 3.0, 2.0]])
    fed = tf.placeholder(tf.int32, [])
    assert session.run(sample.top_k_logits(logits, 0)).tolist() == [[1, 3, 2]]
    assert session.run(sample.top_k_logits(logits, fed), {fed: 0}).tolist() == [[1, 3, 2]]
    assert session.run(sample.top_k_logits(logits, fed), {fed: 1})[0, 1:].argmax() == 0


def test_gradients_are_averaged_over_the_batches(tf, session):
    from accumulate import AccumulatingOptimizer
    w = tf.get_variable('w', initializer=np.float32([1, 2]))
    unused = tf.get_variable('unused', initializer=np.float32([5]))
    x = tf.placeholder(tf.float32, [2])
    loss = tf.reduce_sum(w * x)
    opt = AccumulatingOptimizer(tf.train.GradientDescentOptimizer(1.0), [w, unused])
    reset, compute, apply = opt.reset(), opt.compute_gradients(loss), opt.apply_gradients()
    assert tf.trainable_variables() == [w, unused]      # not the sums, which an optimizer without var_list would update
    session.run(tf.global_variables_initializer())
    for _ in range(2):      # a reset really forgets
        session.run(w.assign([1, 2]))
        session.run(reset)
        for batch in ([1, 0], [3, 4]):
            session.run(compute, {x: batch})
        assert session.run(apply) == (1 + 11) / 2
        assert session.run([w, unused])[0].tolist() == [1 - 2, 2 - 2]


def network(tf, model, tokens, past=None):
    """2019's model.model, from its own functions: logits and present."""
    with tf.variable_scope('model', reuse=tf.AUTO_REUSE):
        wpe = tf.get_variable('wpe', [HPARAMS.n_ctx, HPARAMS.n_embd])
        wte = tf.get_variable('wte', [HPARAMS.n_vocab, HPARAMS.n_embd])
        start = 0 if past is None else tf.shape(past)[-2]
        h = tf.gather(wte, tokens) + tf.gather(wpe, model.positions_for(tokens, start))
        pasts = tf.unstack(past, axis=1) if past is not None else [None] * HPARAMS.n_layer
        presents = []
        for layer, layer_past in enumerate(pasts):
            h, present = model.block(h, f'h{layer}', past=layer_past, hparams=HPARAMS)
            presents.append(present)
        return tf.einsum('bsf,vf->bsv', model.norm(h, 'ln_f'), wte), tf.stack(presents, axis=1)


def test_the_functions_of_the_model_compute_gpt2(tf, session):
    import model
    params = reference.random_params(HPARAMS, seed=0)
    tokens = tf.placeholder(tf.int32, [None, None])
    logits, present = network(tf, model, tokens)
    past = tf.placeholder(tf.float32, model.past_shape(hparams=HPARAMS))
    continued, _ = network(tf, model, tokens, past)
    load_params(session, params)
    expected = reference.gpt2(TOKENS, params, HPARAMS)
    found, kept = session.run([logits, present], {tokens: TOKENS})
    np.testing.assert_allclose(found, expected, atol=1e-4)
    rest = session.run(continued, {tokens: TOKENS[:, 5:], past: kept[..., :5, :]})
    np.testing.assert_allclose(rest, expected[:, 5:], atol=1e-4)
    assert session.run(model.attention_mask(2, 3, dtype=tf.float32)).tolist() == [[1, 1, 0], [1, 1, 1]]
    np.testing.assert_allclose(session.run(model.softmax(tf.constant([[0.0, np.log(3)]]))), [[0.25, 0.75]], rtol=1e-6)


@pytest.mark.parametrize('control_flow', ['enable_control_flow_v2', 'disable_control_flow_v2'])
def test_a_graph_that_samples_is_saved_and_imported(tf, session, tmp_path, control_flow):
    import model
    import sample
    getattr(tf, control_flow)()
    try:
        model.model(HPARAMS, tf.placeholder(tf.int32, [None, None]))
        tokens = sample.sample_sequence(hparams=HPARAMS, length=5, start_token=3, batch_size=2, top_k=1)
        params = reference.random_params(HPARAMS, seed=0)
        load_params(session, params)
        tf.train.Saver().export_meta_graph(str(tmp_path / 'graph.meta'))
        with tf.Graph().as_default() as graph, tf.Session() as other:
            tf.train.import_meta_graph(str(tmp_path / 'graph.meta'))
            assert len(tf.get_collection('checkpoints')) == 2 * HPARAMS.n_layer
            load_params(other, params)
            assert other.run(graph.get_tensor_by_name(tokens.name)).tolist() == session.run(tokens).tolist()
    finally:
        tf.enable_control_flow_v2()
