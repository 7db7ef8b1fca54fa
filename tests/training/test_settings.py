"""Flags become settings: which flags there are, every default that depends on the model, every contradiction."""

import dataclasses
import sys

import pytest

from command.errors import UserError
from network.hparams import HParams
from training.settings import RECOMPUTE_FROM, Settings, check_flags, is_trained, make_settings

SMALL, SHORT = HParams(50257, 1024, 768, 12, 12), HParams(300, 32, 24, 3, 2)


def test_the_fields_are_the_flags_and_the_number_of_workers(parse):
    assert {field.name for field in dataclasses.fields(Settings)} == {*vars(parse()), 'worker_count'}


def test_defaults_of_a_published_model(parse, capsys):
    args = parse()
    assert make_settings(args, SMALL) == Settings(**vars(args) | {
        'seq_length': 1024, 'sample_length': 1023, 'weight_decay': 0.01, 'memory_saving_gradients': False, 'worker_count': 1,
        'val_every': 0})
    assert capsys.readouterr().out == ''


def test_directories_of_a_run(parse):
    settings = make_settings(parse('--run_name', 'a/b'), SMALL, 3)
    assert (settings.run_directory, settings.sample_directory, settings.worker_count) == ('checkpoint/a/b', 'samples/a/b', 3)


@pytest.mark.parametrize(('n_ctx', 'sample_every', 'length', 'printed'), [
    (1024, 1, 1023, ''), (1023, 1, 1023, ''), (32, 0, 31, ''),
    (32, 1, 31, "The model's window holds 32 tokens: --sample_length is 31\n"),
    (1022, 1, 1021, "The model's window holds 1022 tokens: --sample_length is 1021\n")])
def test_the_default_sample_length_fits_the_model(parse, capsys, n_ctx, sample_every, length, printed):
    settings = make_settings(parse('--sample_every', sample_every), dataclasses.replace(SHORT, n_ctx=n_ctx))
    assert (settings.sample_length, settings.seq_length) == (length, n_ctx)
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize(('n_ctx', 'prompt_length', 'length', 'printed'), [
    (1026, 4, 1023, ''), (1027, 4, 1023, ''), (1025, 4, 1021, "1025 tokens, --sample_prompt has 4: --sample_length is 1021\n"),
    (32, 31, 1, 'is 1\n'), (32, 32, 1, 'is 1\n')])
def test_the_default_sample_length_leaves_room_for_the_prompt(parse, capsys, n_ctx, prompt_length, length, printed):
    hparams = dataclasses.replace(SHORT, n_ctx=n_ctx)
    assert make_settings(parse('--sample_prompt', 'text'), hparams, prompt_length=prompt_length).sample_length == length
    output = capsys.readouterr().out
    assert output.endswith(printed) and bool(output) == bool(printed)


def test_a_prompt_and_a_sample_that_do_not_fit_together(parse):
    flags = parse('--sample_prompt', 'text', '--sample_length', 30)
    assert make_settings(flags, SHORT, prompt_length=3).sample_length == 30
    with pytest.raises(UserError, match="^--sample_prompt has 4 tokens, too many for the model's window of 32 with "
                                        '--sample_length 30: give a shorter one, or --sample_length 29$'):
        make_settings(flags, SHORT, prompt_length=4)


@pytest.mark.parametrize(('blocks', 'on'), [(1, True), (0, False)])
def test_recomputation_is_on_by_default_for_large_models(parse, capsys, blocks, on):
    hparams = dataclasses.replace(SMALL, n_layer=RECOMPUTE_FROM // 1024 - 1 + blocks, n_embd=1024, n_head=16)
    assert make_settings(parse(), hparams).memory_saving_gradients == on
    assert capsys.readouterr().out == on * ('For a model of this size, --memory_saving_gradients is on '
                                            '(--no-memory_saving_gradients turns it off)\n')


def test_345m_is_large_and_117m_is_not(parse):
    assert make_settings(parse(), HParams(50257, 1024, 1024, 16, 24)).memory_saving_gradients
    assert not make_settings(parse(), SMALL).memory_saving_gradients


def test_given_values_stay(parse, capsys):
    settings = make_settings(parse('--seq_length', 2, '--sample_length', 32, '--optimizer', 'adamw', '--weight_decay', 0,
                                   '--memory_saving_gradients'), SHORT)
    assert (settings.seq_length, settings.sample_length, settings.weight_decay) == (2, 32, 0.0)
    assert settings.memory_saving_gradients is True
    large = HParams(50257, 1024, 1600, 25, 48)
    assert make_settings(parse('--no-memory_saving_gradients'), large).memory_saving_gradients is False
    assert capsys.readouterr().out == ''


@pytest.mark.parametrize(('flags', 'error'), [
    (['--seq_length', 33], "--seq_length 33 is more than the model's window of 32 tokens"),
    (['--sample_length', 33], "--sample_length 33 is more than the model's window of 32 tokens"),
    (['--seq_length', 1], '--seq_length must be 2 or more')])
def test_lengths_that_do_not_fit(parse, flags, error):
    with pytest.raises(UserError, match=error):
        make_settings(parse(*flags), SHORT)


@pytest.mark.parametrize(('flags', 'error'), [
    (['--learning_rate_schedule', 'linear'], '--learning_rate_schedule linear ends at --max_steps: give that too'),
    (['--warmup_steps', 5, '--max_steps', 5], '--warmup_steps 5 must be less than --max_steps 5'),
    (['--weight_decay', 0.1], '--weight_decay works only with --optimizer adamw'),
    (['--weight_decay', 0, '--optimizer', 'sgd'], '--weight_decay works only with --optimizer adamw'),
    (['--val_split', 0.1, '--val_dataset', 'x'], '--val_split and --val_dataset: give only one of them'),
    (['--keep_best', '--val_split', 0.1, '--val_every', 0], '--keep_best compares validation losses: give --val_every too'),
    (['--keep_best'], '--keep_best compares validation losses: give --val_every too'),
    (['--train_layers', 1, '--only_train_transformer_layers'],
     '--train_layers and --only_train_transformer_layers: give only one of them'),
    (['--learning_rate_schedule', 'relative'], '--learning_rate_schedule relative works only with --optimizer adafactor'),
    (['--patience', 1], '--patience compares validation losses: give --val_every too')])
def test_flags_that_contradict_each_other(parse, flags, error):
    with pytest.raises(UserError, match=f'^{error}$'):
        check_flags(parse(*flags))


@pytest.mark.parametrize('flags', [
    [], ['--learning_rate_schedule', 'linear', '--max_steps', 1], ['--warmup_steps', 4, '--max_steps', 5], ['--warmup_steps', 5],
    ['--weight_decay', 0.1, '--optimizer', 'adamw'], ['--val_split', 0.1], ['--val_dataset', 'x'],
    ['--optimizer', 'adafactor'], ['--optimizer', 'adafactor', '--learning_rate_schedule', 'relative'], ['--train_layers', 2],
    ['--keep_best', '--patience', 1, '--val_every', 1], ['--keep_best', '--patience', 1, '--val_split', 0.1]])
def test_flags_that_go_together(parse, flags):
    check_flags(parse(*flags))


@pytest.mark.parametrize(('flags', 'steps', 'printed'), [
    ([], 0, False), (['--val_dataset', 'x'], 0, False), (['--val_split', 0.1], 100, True),
    (['--val_split', 0.1, '--max_steps', 1000], 100, True), (['--val_split', 0.1, '--max_steps', 30], 30, True),
    (['--val_split', 0.1, '--val_every', 0], 0, False), (['--val_split', 0.1, '--val_every', 7], 7, False)])
def test_how_often_to_validate(parse, capsys, flags, steps, printed):
    assert make_settings(parse(*flags, '--sample_every', 0), SHORT).val_every == steps
    assert ('validating every' in capsys.readouterr().out) == printed


def test_a_plot_without_matplotlib(parse, monkeypatch):
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    check_flags(parse())
    with pytest.raises(UserError, match='^--plot needs matplotlib: pip install matplotlib$'):
        check_flags(parse('--plot'))


def test_which_weights_are_trained(parse):
    names = [f'model/{name}' for name in ('wpe', 'wte', 'h0/ln_1/g', 'h1/attn/c_attn/w', 'h10/mlp/c_fc/b', 'ln_f/g')]
    def trained(*flags):
        return [name for name in names if is_trained(name, parse(*flags), n_layer=11)]
    assert trained() == names
    assert trained('--only_train_transformer_layers') == names[2:5]
    assert trained('--train_layers', 1) == names[4:]
    assert trained('--train_layers', 10) == names[3:]
    assert trained('--train_layers', 11) == names[2:]


def test_more_layers_than_there_are(parse):
    with pytest.raises(UserError, match=f'^--train_layers 13: the model has {SHORT.n_layer} blocks$'):
        make_settings(parse('--train_layers', 13), SHORT)
