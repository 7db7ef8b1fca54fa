"""bench/train.py: a step with adapters, and the work that it counts."""

import math

import pytest

from bench import train

TOY = {'kind': 'ours', 'batch': 1, 'sequence': 8, 'n_ctx': 8, 'n_embd': 8, 'n_head': 2, 'n_layer': 2}


@pytest.mark.parametrize('recompute', [False, True])
@pytest.mark.parametrize('base_weights', ['float32', 'int8'])
def test_a_step_with_adapters_trains_them_on_random_weights(base_weights, recompute):
    import tensorflow.compat.v1 as tf
    with tf.Graph().as_default() as graph:
        step = train.ours(TOY | {'lora_rank': 2, 'base_weights': base_weights, 'recompute': recompute})
        loss, norm, _ = step()
        moments = [v.op.name for v in graph.get_collection(tf.GraphKeys.GLOBAL_VARIABLES) if v.op.name.endswith('/Adam')]
    assert loss == pytest.approx(math.log(50257), abs=0.1) and norm > 0
    assert len(moments) == 2 * 4 * 2 and all('/lora_' in name for name in moments)


def test_a_frozen_weight_gets_random_values_in_its_own_type():
    import tensorflow.compat.v1 as tf

    from model import HParams, model
    from network.lora import Lora
    values = {}
    for base_weights in ('float32', 'int8'):
        with tf.Graph().as_default():
            model(HParams(**train.sizes(TOY)), tf.zeros([1, 8], tf.int32), lora=Lora(2, 4, base_weights))
            values[base_weights] = {weight.op.name: value for weight, value in train.random_values(tf.global_variables())}
            assert {*values[base_weights]} == {weight.op.name for weight in tf.global_variables()}
    exact, q, scale = (values[base][f'model/h1/mlp/c_fc/w{end}'] for base, end in
                       (('float32', ''), ('int8', ''), ('int8', '_scale')))
    assert (exact.dtype, q.dtype) == ('float32', 'int8') and exact.std() > 0.01
    assert (abs(q * scale - exact) <= 0.501 * scale).all()


def test_the_work_with_adapters_has_no_gradients_of_frozen_weights():
    work = {'batch': 1, 'sequence': 1024}
    weights, attention = 12 * 12 * 768 ** 2 + 50257 * 768, 12 * 768 * 1024
    assert train.gigaflops(work) == pytest.approx(6 * 1024 * (weights + attention) / 1e9)
    assert train.gigaflops(work | {'lora_rank': 8}) == pytest.approx(2 * 1024 * (2 * weights + 3 * attention) / 1e9)


def test_a_group_s_name_is_one_word_on_the_command_line():
    assert all(name.split() == [name] for name in train.GROUPS)
