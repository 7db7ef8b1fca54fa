"""A .meta file uses nothing that TensorFlow 1.15 does not know: it refuses to import a graph with one new attribute.

ops_of_tensorflow_1_15.json is from that version's own list of ops: the attributes of those that our graphs use. The files were
also imported by TensorFlow 1.15.5 itself.
"""

import json
import os

import pytest

from conftest import ROOT
from network.hparams import HParams

HPARAMS = HParams(n_vocab=37, n_ctx=12, n_embd=24, n_head=3, n_layer=2)

with open(os.path.join(os.path.dirname(__file__), 'ops_of_tensorflow_1_15.json'), encoding='utf-8') as file:
    KNOWN = json.load(file)


def new_in(meta) -> set:
    """Ops, and attributes of ops, that TensorFlow 1.15 lacks; attributes that begin with _ are open to any op."""
    functions = meta.graph_def.library.function
    nodes = [*meta.graph_def.node, *(node for function in functions for node in function.node_def)]
    called = {function.signature.name for function in functions}
    return {(node.op, name) for node in nodes if node.op not in called for name in [None, *node.attr]
            if node.op not in KNOWN or name and name[0] != '_' and name not in KNOWN[node.op]}


@pytest.mark.parametrize('rate', [0, 0.1])
@pytest.mark.parametrize('flags', [{}, {'memory_saving': True, 'clip_norm': 1.0, 'accumulate': 2, 'optimizer': 'adamw'}], ids=str)
def test_a_training_graph_that_samples(tf, session, flags, rate):
    import model
    import sample
    from network.dropout import Dropout
    from storage import saver
    from training.optimizer import TrainStep
    tokens = tf.placeholder(tf.int32, [2, HPARAMS.n_ctx])
    dropout = Dropout(rate, tf.placeholder(tf.int64, [2])) if rate else None
    TrainStep(model.loss(model.model(HPARAMS, tokens, dropout=dropout), tokens), tf.trainable_variables(), **flags)
    sample.sample_sequence(hparams=HPARAMS, length=5, start_token=3, batch_size=1, top_k=2)
    meta = tf.MetaGraphDef.FromString(saver.meta_graph(tf.train.Saver(tf.global_variables())))
    assert len(meta.graph_def.node) > 1000
    assert meta.graph_def.versions.min_consumer <= 134      # the version of graphs that 1.15 reads
    assert new_in(meta) == set()
    with tf.Graph().as_default():
        tf.train.import_meta_graph(meta)
        assert len(tf.global_variables()) > len(HPARAMS.shapes())


def test_the_model_that_comes_with_the_project(tf):
    with open(os.path.join(ROOT, 'models', 'tiny', 'model.ckpt.meta'), 'rb') as file:
        assert new_in(tf.MetaGraphDef.FromString(file.read())) == set()
