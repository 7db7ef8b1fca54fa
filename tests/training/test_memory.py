"""training/memory.py: a run that no machine of this size has memory for is refused; whatever could run is not."""

import dataclasses
import os
import re

import pytest

from command.errors import UserError
from command.models import SIZES
from conftest import ROOT
from network.hparams import HParams
from training import memory
from training.memory import MEDIUM, SMALL, step_of, total
from training.settings import make_settings

GB = 10 ** 9


@pytest.fixture
def check(parse, monkeypatch):
    """Checks the flags of a run of 124M on a machine with so many bytes: check('--batch_size', 4, existing=16 * GB)."""
    def run(*flags, existing=16 * GB, gpus=(), hparams=SMALL, **settings):
        monkeypatch.setattr(memory, 'total_memory', lambda: existing)
        monkeypatch.setattr(memory, 'visible_gpus', lambda: list(gpus))
        memory.check(dataclasses.replace(make_settings(parse(*flags), hparams), **settings), hparams)
    return run


@pytest.mark.parametrize(('flags', 'words'), [
    (['--batch_size', 10 ** 9], ('--batch_size 1000000000, --seq_length 1024, --accumulate_gradients 1: 2,048.0 GB are '
     'needed for the tokens alone, this machine has 16.0 GB: give smaller numbers')),
    (['--accumulate_gradients', 10 ** 8], '--accumulate_gradients 100000000: 204.8 GB are needed for the tokens alone'),
    (['--val_every', 1, '--val_batch_count', 10 ** 7], '--val_batch_size 2, --val_batch_count 10000000: 41.0 GB are needed'),
    (['--sample_num', 10 ** 9], '--sample_num 1000000000, --sample_length 1023: 1,023.0 GB are needed for the tokens alone')])
def test_tokens_that_fit_no_memory_are_refused_with_any_gpu(check, flags, words):
    for gpus in ((), ('0',)):
        with pytest.raises(UserError, match=re.escape(words)):
            check(*flags, gpus=gpus)
    check(*flags, existing=10 ** 13, gpus=['0'])
    check(*flags, existing=None)


def test_what_is_turned_off_takes_nothing(check):
    check('--val_every', 0, '--val_batch_count', 10 ** 9, '--sample_every', 0, '--sample_num', 10 ** 9)


@pytest.mark.parametrize(('flags', 'words'), [
    (['--batch_size', 100], '--batch_size 100, --seq_length 1024: about 52.9 GB are needed, this machine has 8.0 GB and no GPU'),
    (['--val_every', 1, '--val_batch_size', 5000, '--val_batch_count', 1], '--val_batch_size 5000, --seq_length 1024: about 78'),
    (['--batch_size', 300, '--sample_num', 300, '--seq_length', 2], 
     '--batch_size 300, --sample_num 300, --sample_length 1023: about 22.6 GB are needed')])
def test_a_step_far_above_the_memory_is_refused_without_a_gpu(check, flags, words):
    check(*flags, existing=8 * GB, gpus=['0'])
    check(*flags, existing=8 * GB, dry_run=True)       # whose plan says what takes less
    check(*flags, existing=40 * GB)
    with pytest.raises(UserError, match=re.escape(words)):
        check(*flags, existing=5 * GB if '--sample_num' in flags else 8 * GB)


def test_a_step_that_may_just_run_by_swapping_is_not_refused(check, parse):
    needed = total(step_of(make_settings(parse(), MEDIUM), MEDIUM))
    check(existing=int(needed / 3.9), hparams=MEDIUM)
    with pytest.raises(UserError, match='about .* GB are needed'):
        check(existing=int(needed / 4.1), hparams=MEDIUM)


def test_workers_on_this_machine_share_it_and_draw_for_each_other(check):
    check(existing=3 * GB)
    with pytest.raises(UserError, match='--local_workers 4: about 13.9 GB are needed, this machine has 3.0 GB'):
        check(existing=3 * GB, local_workers=4, worker_count=4)
    check('--batch_size', 10 ** 6, existing=4 * GB, gpus=['0'])
    with pytest.raises(UserError, match=r'6\.1 GB are needed for the tokens'):
        check('--batch_size', 10 ** 6, existing=4 * GB, gpus=['0'], worker_count=3)


# The peak of what TensorFlow allocated, in MB, on a stand-in for a GPU that computes on the CPU, in the blocks of a CPU.
COUNTED = {
    '--seq_length 128 --memory_saving_gradients': 40.0,
    '--seq_length 128': 42.7, '--seq_length 128 --precision bfloat16': 46.3, '--seq_length 128 --precision float16': 47.9,
    '--seq_length 128 --precision bfloat16 --memory_saving_gradients': 41.8, '--seq_length 512 --batch_size 2': 86.6,
    '--seq_length 512 --batch_size 2 --precision bfloat16': 75.6, '--seq_length 512 --batch_size 2 --precision float16': 75.6,
    '--seq_length 512 --batch_size 2 --precision bfloat16 --memory_saving_gradients': 60.2,
    '--seq_length 512 --batch_size 2 --memory_saving_gradients': 65.9,
    '--seq_length 128 --precision bfloat16 --lora_rank 8 --base_weights int8 --memory_saving_gradients': 13.5}


@pytest.mark.parametrize('flags', COUNTED)
def test_the_formula_of_a_gpu_is_never_below_what_was_counted(parse, flags):
    hparams = HParams(1000, 1024, 256, 4, 3)
    step = step_of(make_settings(parse(*flags.split()), hparams), hparams)
    planned = (total(step, gpu=1) - memory.CUDA) / 1e6      # so little memory that the blocks do not grow
    assert COUNTED[flags] <= planned <= 1.45 * COUNTED[flags]


def test_float16_needs_all_gradients_together_as_clipping_does():
    step = memory.Step(MEDIUM, memory_saving_gradients=True, precision='bfloat16')
    assert total(step) < total(dataclasses.replace(step, precision='float16')) == total(dataclasses.replace(step, clip_norm=1))
    assert '--clip_norm 0' not in dict(memory.remedies(dataclasses.replace(step, clip_norm=1, precision='float16')))


def test_the_page_about_large_models_has_the_formula_s_figures():
    with open(os.path.join(ROOT, 'docs/large-models.md'), encoding='utf-8') as file:
        page = file.read()
    ways = ({}, {'optimizer': 'adafactor'}, {'train_layers': 4}, {'lora_rank': 8},
            *({'lora_rank': 8, 'base_weights': type} for type in ('bfloat16', 'int8')))
    sizes = {}
    for name, (n_layer, n_embd) in SIZES.items():
        hparams = HParams(50257, 1024, n_embd, n_embd // 64, n_layer)
        sizes[name] = [total(memory.Step(hparams, memory_saving_gradients=name != '124M', **way)) / GB for way in ways]
        assert f'| {name} | {" | ".join(f"{size:.1f}" for size in sizes[name])} |\n' in page
    adam, adafactor, _, _, bfloat16, int8 = range(6)
    for machine, fits in ((8, [('355M', adam), ('774M', adafactor), ('1558M', bfloat16), ('1558M', int8)]),
                          (12, [('1558M', adafactor)]), (16, [('774M', adam)])):
        assert all(memory.MARGIN * sizes[name][way] < machine for name, way in fits)
        assert machine == 8 or all(memory.MARGIN * sizes[name][way] > machine - 4 for name, way in fits)
    assert memory.MARGIN * sizes['1558M'][adam] > 24


CARDS = (4, 6, 8, 12, 16, 24, 32, 40, 80)       # GB
WAYS = {'all weights, Adam': {}, 'all weights, `--optimizer adafactor`': {'optimizer': 'adafactor'},
        '`--lora_rank 8 --base_weights int8`': {'lora_rank': 8, 'base_weights': 'int8'}}


def of_card(name, card, **way):
    """The bytes that a step of a published model takes on a card of so many GB."""
    n_layer, n_embd = SIZES[name]
    step = memory.Step(HParams(50257, 1024, n_embd, n_embd // 64, n_layer),
                       **{'memory_saving_gradients': name != '124M'} | way)
    return total(step, card * GB)


def fits(name, card, **way):
    return memory.MARGIN * of_card(name, card, **way) <= card * GB


def test_the_page_about_gpus_has_the_formula_s_figures():
    rows = ['| | ' + ' | '.join(f'{way} | card' for way in WAYS) + ' |', '|---' * 7 + '|']
    for name in SIZES:
        cells = []
        for way in WAYS.values():
            card = next(card for card in CARDS if fits(name, card, **way))
            cells += [f'{of_card(name, card, **way) / GB:.1f} GB', f'{card} GB']
        rows.append(f'| {name} | {" | ".join(cells)} |')
    with open(os.path.join(ROOT, 'docs/gpu.md'), encoding='utf-8') as page:
        assert '\n'.join(rows) in page.read()


def test_what_the_page_about_gpus_recommends_fits():
    """Each row of its table of cards: GB, cards with their precision, and the largest model and batch of each way."""
    with open(os.path.join(ROOT, 'docs/gpu.md'), encoding='utf-8') as page:
        rows = re.findall(r'^\| (\d+) GB \| .*: `(\w+)` \| (.*) \|$', page.read(), re.MULTILINE)
    assert [card for card, *_ in rows] == ['8', '12', '16', '24', '80']
    for card, precision, cells in rows:
        for cell, way in zip(cells.split(' | '), WAYS.values(), strict=True):
            name, batch = cell.split(', batch ')
            larger = [other for other in list(SIZES)[list(SIZES).index(name) + 1:]]
            way = way | {'precision': precision}
            assert fits(name, int(card), batch_size=int(batch), **way), cell
            assert not fits(name, int(card), batch_size=2 * int(batch), **way), cell
            assert not any(fits(other, int(card), **way) for other in larger), cell
