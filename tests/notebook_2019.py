"""What a notebook of 2019 did with the fork's modules, with only its import line changed.

Run as a program, it first turns TensorFlow 2's behaviour off, as many did: notebook_2019.py SRC MODELS CORPUS OUT.
"""

import json
import os
import sys


def notebook(models, corpus, out):
    """Trains models/toy a little and samples from it. Returns the losses, and what it sampled."""
    import numpy as np
    import tensorflow.compat.v1 as tf

    import encoder
    import memory_saving_gradients
    import model
    import sample
    from accumulate import AccumulatingOptimizer
    from load_dataset import Sampler, load_dataset

    enc = encoder.get_encoder('toy', models)
    hparams = model.default_hparams()
    with open(os.path.join(models, 'toy', 'hparams.json')) as f:
        hparams.override_from_dict(json.load(f))
    hparams.n_ctx = int(hparams.n_ctx)

    with tf.Session(graph=tf.Graph()) as sess:
        np.random.seed(1)
        tf.set_random_seed(1)
        context = tf.placeholder(tf.int32, [2, None])
        output = model.model(hparams=hparams, X=context)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(
            labels=context[:, 1:], logits=output['logits'][:, :-1]))
        tf_sample = sample.sample_sequence(hparams=hparams, length=6, context=context, batch_size=2, temperature=1.0, top_k=40)
        start = sample.sample_sequence(hparams=hparams, length=6, start_token=enc.encoder['<|endoftext|>'], batch_size=2)

        train_vars = [v for v in tf.trainable_variables() if 'model' in v.name]
        opt = AccumulatingOptimizer(opt=tf.train.AdamOptimizer(learning_rate=0.001), var_list=train_vars)
        opt_reset, opt_compute, opt_apply = opt.reset(), opt.compute_gradients(loss), opt.apply_gradients()
        saving = tf.train.GradientDescentOptimizer(0.1).apply_gradients(
            list(zip(memory_saving_gradients.gradients(loss, train_vars), train_vars)))

        saver = tf.train.Saver(var_list=train_vars, max_to_keep=5, keep_checkpoint_every_n_hours=2)
        sess.run(tf.global_variables_initializer())
        saver.restore(sess, tf.train.latest_checkpoint(os.path.join(models, 'toy')))

        chunks = load_dataset(enc, corpus, 50000, encoding=None)
        data_sampler = Sampler(chunks)
        batch = [data_sampler.sample(24) for _ in range(2)]
        batch[0][0] = batch[0][1]
        losses = []
        for _ in range(3):
            sess.run(opt_reset)
            for _ in range(2):
                sess.run(opt_compute, feed_dict={context: batch})
            losses.append(float(sess.run(opt_apply)))
        losses += [float(sess.run((loss, saving), feed_dict={context: batch})[0]) for _ in range(2)]
        saver.save(sess, os.path.join(out, 'model'), global_step=5)
        tokens = sess.run(tf_sample, feed_dict={context: 2 * [enc.encode('The king')]})
        return losses, [enc.decode(row) for row in [*tokens, *sess.run(start)]]


if __name__ == '__main__':
    sys.path.insert(0, sys.argv[1])
    import tensorflow.compat.v1 as tf
    tf.disable_v2_behavior()
    print(json.dumps(notebook(*sys.argv[2:])))
