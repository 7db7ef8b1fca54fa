"""train.py --dry_run: a plan, without TensorFlow and without a byte written; its formula against what was measured."""

import argparse
import dataclasses
import fcntl
import json
import os
import re
import shutil
import sys

import numpy as np
import pytest

from checkpoint_files import write_checkpoint, zeros
from command import machine
from command.errors import UserError
from command.models import SIZES
from conftest import ROOT, TEXT
from encoder import load_encoder
from network import block_sizes
from network.hparams import HParams, load_hparams
from storage import lock
from storage.run_state import RunState
from training import disk, memory, not_downloaded, prepare
from training import dry_run as planning
from training.memory import MEASURED, MEDIUM, REMEDIES, SMALL, Step, total
from training.settings import make_settings

MEMORY = 'memory of a training step on a CPU, in float32, by formula'
BENCH = 'measured (bench/README.md; one sequence of 1,024 tokens unless flags say otherwise)'
LESS = 'flags that take less, each with all those above it'


@pytest.fixture
def place(settings_directory, tmp_path):
    """A working directory with a corpus and `models/toy`, whose weights are zeros."""
    shutil.copytree(settings_directory, tmp_path / 'models/toy')
    (tmp_path / 'models/toy/checkpoint').write_text('model_checkpoint_path: "model.ckpt"\n')
    write_checkpoint(tmp_path / 'models/toy/model.ckpt', zeros(load_hparams(str(settings_directory)).shapes()))
    (tmp_path / 'corpus.txt').write_text(TEXT)
    return tmp_path


@pytest.fixture
def dry_run(place, monkeypatch, capsys):
    """Runs train.py --dry_run in this process: its plan, as {section: {row: (value, remark)}}, and all that it prints."""
    def contents():
        return {path: path.is_file() and (path.read_bytes(), path.stat().st_mtime_ns) for path in place.rglob('*')}

    def run(*flags):
        import train
        monkeypatch.chdir(place)
        monkeypatch.setattr(sys, 'argv', ['train.py', '--model_name', 'toy', '--dataset', 'corpus.txt', '--dry_run',
                                          *map(str, flags)])
        for name in ('tensorflow', 'tensorflow.compat.v1'):     # which makes an import of it fail
            monkeypatch.setitem(sys.modules, name, None)
        before = contents()
        try:
            train.main()
        finally:
            assert contents() == before
        output = capsys.readouterr().out
        return sections(output), output
    return run


def sections(output):
    found, section = {}, None
    for line in output.splitlines():
        if not line.startswith(' '):
            section = found.setdefault(line.split(':')[0], {})
        elif row := re.fullmatch(r'  (.{40}) +(\S+(?: GB| limit)?)(?:  (.*))?', line):
            section[row[1].strip()] = (row[2], row[3])
    return found


def bench_memory():
    """The table of bench/memory.py in bench/README.md: (size, flags) -> its other cells, by their headers."""
    with open(os.path.join(ROOT, 'bench/README.md'), encoding='utf-8') as file:
        [section] = re.findall('<!-- bench/run.py --only memory -->(.*?)<!-- end -->', file.read(), re.DOTALL)
    (first, *headers), _, *rows = [[cell.strip() for cell in line.strip('|').split('|')]
                                   for line in section.splitlines() if line.startswith('|')]
    assert first == 'run'
    return {(run.split()[0], ' '.join(run.split()[1:])): dict(zip(headers, cells)) for run, *cells in rows}


def step_of_run(parse, size, flags):
    """The step of train.py with these flags and a published model."""
    n_layer, n_embd = SIZES[size]
    hparams = HParams(50257, 1024, n_embd, n_embd // 64, n_layer)
    return memory.step_of(make_settings(parse(*flags.split()), hparams), hparams)


@pytest.mark.parametrize(('size', 'flags'), bench_memory(), ids=' '.join)
def test_the_formula_is_never_below_what_was_measured_and_little_above(parse, size, flags):
    row = bench_memory()[size, flags]
    peak, planned = float(row['peak GB']), total(step_of_run(parse, size, flags)) / 1e9
    assert peak <= planned <= 1.15 * peak
    assert row['plan GB'] == f'{planned:.2f}'
    assert abs(float(row['plan / peak']) - planned / peak) < 0.011      # the script divides by a peak that is not rounded


def test_the_measured_figures_are_those_of_the_benchmark(parse):
    table = {step_of_run(parse, *run): float(row['peak GB']) for run, row in bench_memory().items()}
    assert {step: table.get(step) for step in MEASURED} == MEASURED


def test_the_measured_figures_are_of_both_sizes_with_and_without_recomputation():
    assert {(step.hparams, step.memory_saving_gradients) for step in MEASURED} == {
        (hparams, recompute) for hparams in (SMALL, MEDIUM) for recompute in (False, True)}


def test_the_page_names_the_measured_figures_and_the_remedies_in_their_order():
    with open(os.path.join(ROOT, 'docs/memory.md'), encoding='utf-8') as file:
        page = file.read()
    rows = re.findall(r'^\| (124M|355M)(?:, (.*))? \| (\d\.\d) \|$', page, re.MULTILINE)
    assert len(rows) == 18
    flags = {'': '', '512 tokens': '--seq_length 512', '256 tokens': '--seq_length 256', 'batch 4': '--batch_size 4'}
    measured = {('124M' if step.hparams == SMALL else '355M', step.flags()): peak for step, peak in MEASURED.items()}
    for size, change, peak in rows:
        assert abs(measured[size, flags.get(change, change.strip('`'))] - float(peak)) < 0.051
    [advice] = re.findall('^## What to do when it is too much\n(.*?)^## ', page, re.MULTILINE | re.DOTALL)
    items = re.findall(r'^\d\. `(--\w+)(?: ([^`]*))?`', advice, re.MULTILINE)
    assert [flag for flag, _ in items] == [f'--{name}' for name in REMEDIES]
    for flag, value in items:
        assert not value or value == str(REMEDIES[flag.removeprefix('--')])
    assert [value for _, value in items] == ['8', 'int8', '', '', '1', '0', 'adafactor', '', '']


def test_parameters_of_the_published_models():
    assert memory.parameters(SMALL) == {
        'token embeddings': 50257 * 768, 'position embeddings': 1024 * 768,
        'attention': 12 * (768 * 2304 + 2304 + 768 * 768 + 768),
        'mlp': 12 * (2 * 768 * 3072 + 3072 + 768), 'normalisation': 25 * 2 * 768}
    assert sum(memory.parameters(SMALL).values()) == 124_439_808
    assert sum(memory.parameters(MEDIUM).values()) == 354_823_168
    assert memory.trained_parameters(Step(SMALL)) == 124_439_808
    assert memory.trained_parameters(Step(SMALL, only_train_transformer_layers=True)) == 12 * (12 * 768 ** 2 + 13 * 768)


def test_what_each_flag_changes():
    weights = 4 * 124_439_808
    parts = memory.memory(Step(SMALL))
    assert (parts['weights'], parts['optimizer'], parts['sums of gradients']) == (weights, 2 * weights, 0)
    assert memory.memory(Step(SMALL, optimizer='sgd'))['optimizer'] == 0
    assert memory.memory(Step(SMALL, accumulate_gradients=2))['sums of gradients'] == weights
    assert memory.memory(Step(SMALL, memory_saving_gradients=True))['activations'] == parts['activations'] / memory.ACTIVATIONS
    assert memory.memory(Step(SMALL, batch_size=4))['activations'] == 4 * parts['activations']
    assert memory.memory(Step(SMALL, optimizer='adafactor'))['gradients'] == 2 * 4 * 50257 * 768     # and its squares
    # Only where the logits are computed in several chunks, a sum of wte's gradient waits for the next part.
    heads = [memory.memory(Step(SMALL, seq_length=block_sizes.HEAD_ROWS + more))['head'] for more in (0, 1)]
    assert heads[1] - heads[0] == 4 * 50257 * 768
    parts = memory.memory(Step(SMALL, lora_rank=8))
    assert memory.trained_parameters(Step(SMALL, lora_rank=8)) == 12 * 8 * 16 * 768
    assert (parts['weights'], parts['optimizer']) == (weights + 4 * 12 * 8 * 16 * 768, 2 * 4 * 12 * 8 * 16 * 768)
    assert parts['gradients'] == 4 * 8 * 3072
    parts = memory.memory(Step(SMALL))
    # Of dropout nothing is kept; it shows where attention is the peak, as that of many sequences with a small vocabulary is.
    assert memory.memory(Step(SMALL, dropout=0.1)) == parts
    steps = [Step(dataclasses.replace(SMALL, n_vocab=300), batch_size=8, dropout=rate) for rate in (0, 0.1)]
    assert total(steps[1]) - total(steps[0]) == 2 * 4 * 8 * 12 * 256 * 1024
    # A gradient is gone once its weight is updated, except where all gradients are needed together.
    assert memory.memory(Step(MEDIUM, memory_saving_gradients=True))['gradients'] == 4 * 50257 * 1024
    assert memory.memory(Step(MEDIUM, memory_saving_gradients=True, accumulate_gradients=2))['gradients'] == 4 * 354_823_168
    parts = memory.memory(Step(MEDIUM, memory_saving_gradients=True, clip_norm=1.0))
    assert parts['activations'] + parts['gradients'] == 4 * 354_823_168


def test_the_plan_of_a_corpus_and_a_model(dry_run, place):
    (place / 'corpus').mkdir()
    (place / 'corpus/a.txt').write_text(TEXT)
    (place / 'corpus/b.txt').write_text('the lazy dog')
    plan, output = dry_run('--dataset', 'corpus', '--batch_size', 3, '--accumulate_gradients', 2, '--seq_length', 16,
                           '--max_steps', 100, '--epochs', 1.5)
    encoder = load_encoder(str(place / 'models/toy'))
    tokens = len(encoder.encode(TEXT)) + len(encoder.encode('the lazy dog')) + 1      # and <|endoftext|> between them
    assert plan['corpus'] == {
        'files': ('2', None), 'bytes': (f'{len(TEXT) + 12:,}', None), 'tokens': (f'{tokens:,}', None),
        'tokens in a step': ('96', None), 'steps in an epoch': (str(-(-tokens // 96)), None)}
    steps = -(-3 * tokens // 192)
    assert plan['run'] == {'steps': (str(steps), '--max_steps 100, --epochs 1.5'), 'epochs': (f'{96 * steps / tokens:.1f}', None)}
    assert plan['model']['mlp'] == (f'{2 * (2 * 24 * 96 + 96 + 24):,}', None)
    assert plan['model']['trained'] == (plan['model']['parameters'][0], 'with adam, from models/toy/model.ckpt')
    assert plan[MEMORY]['available'][1] == 'fits'
    assert 'flags that take less' not in output
    assert plan[BENCH]['124M'] == ('3.41 GB', None)


def test_the_plan_of_several_workers(dry_run):
    """They share each step, and on one machine its memory."""
    flags = ('--batch_size', 2, '--seq_length', 16, '--max_steps', 100)
    alone, _ = dry_run(*flags)
    here, _ = dry_run(*flags, '--local_workers', 3)
    elsewhere, _ = dry_run(*flags, '--workers', 'a:1,b:1,c:1', '--worker_index', 2)
    tokens = int(alone['corpus']['tokens'][0].replace(',', ''))
    for plan in (here, elsewhere):
        assert plan['corpus']['workers'] == ('3', 'share each step')
        assert plan['corpus']['tokens in a step'] == ('96', None)
        assert plan['corpus']['steps in an epoch'] == (str(-(-tokens // 96)), None)
        assert plan['run']['epochs'][0] == f'{9600 / tokens:.1f}'
        assert plan[MEMORY]['total'] == (alone[MEMORY]['total'][0], 'for each worker, and some more for sums')
    assert 'workers' not in alone['corpus'] and alone[MEMORY]['total'][1] is None
    assert '3 workers on this machine' in here[MEMORY] and '3 workers on this machine' not in elsewhere[MEMORY]
    assert elsewhere['model']['trained'][1] == 'with adam, from worker 0'


def test_workers_on_one_machine_share_its_memory():
    needed = total(Step(SMALL))
    plan = sections('\n'.join(planning._memory(Step(SMALL), int(2.3 * needed), 2, 2)))
    assert plan[MEMORY]['2 workers on this machine'] == (f'{2 * needed / 1e9:.2f} GB', None)
    assert plan[MEMORY]['available'][1] == 'may just fit'
    smaller = 2 * total(Step(SMALL, lora_rank=8))
    assert plan[LESS] == {'--lora_rank 8': (f'{smaller / 1e9:.2f} GB', 'fits')}
    assert sections('\n'.join(planning._memory(Step(SMALL), int(2.3 * needed), 2)))[MEMORY]['available'][1] == 'fits'


def test_a_dry_run_of_more_local_workers_than_gpus(dry_run, monkeypatch):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '0')
    with pytest.raises(UserError, match='--local_workers 2: there are 1 GPUs, and each worker takes one'):
        dry_run('--local_workers', 2)


def test_another_number_of_workers_is_printed(dry_run, place):
    settings = {'flags': {}, 'corpus': {}, 'workers': 2}
    (run_of_seven_steps(place) / 'settings.json').write_text(json.dumps(settings))
    assert 'the number of workers' not in dry_run('--local_workers', 2)[1]
    assert '--batch_size sequences: 2 before, 3 now' in dry_run('--local_workers', 3)[1]


def test_what_is_held_out_is_not_trained_on(dry_run, place):
    (place / 'corpus.txt').write_text('<|endoftext|>'.join([TEXT] * 4))
    complete, rest = (dry_run(*flags)[0]['corpus']['tokens'][0] for flags in ((), ('--val_split', 0.25, '--val_every', 1)))
    assert int(rest.replace(',', '')) < 0.8 * int(complete.replace(',', ''))


def run_of_seven_steps(place):
    run = place / 'checkpoint/run1'
    shutil.copytree(place / 'models/toy', run)
    (run / 'checkpoint').write_text('model_checkpoint_path: "model-7"\n')
    for suffix in ('index', 'data-00000-of-00001'):
        (run / f'model.ckpt.{suffix}').rename(run / f'model-7.{suffix}')
    return run


def test_an_existing_run_is_reported_and_left_alone(dry_run, place):
    run = run_of_seven_steps(place)
    (run / 'model-9.index.part').write_text('what a start of the run would clean up')
    plan, output = dry_run('--optimizer', 'sgd', '--only_train_transformer_layers')
    assert plan['model']['trained'][1] == 'with sgd, from checkpoint/run1/model-7'
    assert int(plan['model']['trained'][0].replace(',', '')) == 2 * (12 * 24 ** 2 + 13 * 24)
    assert 'optimizer' not in plan[MEMORY]
    assert 'this run continues after 7 steps' in output
    assert 'this run has already ended after 7 steps: --max_steps 5 reached' in dry_run('--max_steps', 5)[1]
    assert 'from models/toy/model.ckpt' in dry_run('--overwrite')[1]


@pytest.mark.parametrize(('flags', 'words'), [
    (['--dataset', 'nowhere.txt'], "cannot find 'nowhere.txt'"),
    (['--seq_length', 33], '--seq_length 33 is more than'),
    (['--model_name', 'none'], "no model 'none'"),
    (['--restore_from', 'nowhere'], "no checkpoint 'nowhere'"),
    (['--val_every', 1, '--val_dataset', 'nowhere.txt'], "cannot find 'nowhere.txt'"),
    (['--run_name', '../run'], 'is not the name of a directory in checkpoint'),
    (['--checkpoint_dir', 'corpus.txt'], 'cannot write to corpus.txt/run1: .*corpus.txt is not a directory'),
    (['--sample_dir', 'corpus.txt'], 'cannot write to corpus.txt/run1: .*corpus.txt is not a directory'),
    (['--val_every', 1, '--val_batch_count', 10 ** 12], '--val_batch_count 1000000000000: .* GB are needed for the tokens')])
def test_what_would_stop_a_run_stops_its_plan(dry_run, flags, words):
    with pytest.raises(UserError, match=words):
        dry_run(*flags)


@pytest.mark.parametrize(('harm', 'words'), [
    (lambda model: (model / 'model.ckpt.data-00000-of-00001').unlink(),
     'cannot read the checkpoint models/toy/model.ckpt: models/toy/model.ckpt.data-00000-of-00001: No such file'),
    (lambda model: os.truncate(model / 'model.ckpt.data-00000-of-00001', 1000), 'is cut off: it has 1,000 bytes of '),
    (lambda model: os.truncate(model / 'model.ckpt.index', 100), 'models/toy/model.ckpt.index is cut off or damaged'),
    (lambda model: write_checkpoint(model / 'model.ckpt', zeros(load_hparams(str(model)).shapes()) | {
        'model/h1/ln_1/g': np.full([24], np.inf)}),
     'the checkpoint models/toy/model.ckpt is of no use: its weight model/h1/ln_1/g holds NaN or infinite numbers'),
    (lambda model: write_checkpoint(model / 'model.ckpt', zeros({'model/wte': [9, 24]})),
     'models/toy/model.ckpt is a checkpoint of another model, it looks like .* n_embd 24: it holds no model/wpe')])
def test_weights_that_are_not_valid(dry_run, place, harm, words):
    harm(place / 'models/toy')
    with pytest.raises(UserError, match=words):
        dry_run()


def test_cached_tokens_are_read(dry_run, place, monkeypatch):
    import train
    assert 'reading its tokens from' not in dry_run()[1]
    monkeypatch.setattr(sys, 'argv', ['train.py', '--model_name', 'toy', '--dataset', 'corpus.txt'])
    prepare.prepare(train.parse_flags()).lock.close()
    plan, output = dry_run()
    assert 'reading its tokens from checkpoint/run1/dataset.npz' in output
    fresh, output = dry_run('--no_cache')
    assert 'reading its tokens from' not in output and plan['corpus'] == fresh['corpus']


def test_another_process_that_trains_there_is_reported_and_not_disturbed(dry_run, place, monkeypatch):
    monkeypatch.chdir(place)
    assert 'another process' not in dry_run()[1]
    with lock.lock('checkpoint/run1'):
        for _ in range(2):      # looking leaves no lock behind
            assert (f'another process (number {os.getpid()}) trains in checkpoint/run1: no run can start until it ends'
                    in dry_run()[1])
        with pytest.raises(UserError, match='another process .* trains in checkpoint/run1'):
            lock.lock('checkpoint/run1')
    assert 'another process' not in dry_run()[1]


def test_a_run_that_begins_while_somebody_looks_waits_a_moment(tmp_path, monkeypatch):
    (tmp_path / 'lock').touch()
    looks = open(tmp_path / 'lock', encoding='utf-8')      # noqa: SIM115  (closed when the run waits)
    fcntl.flock(looks, fcntl.LOCK_SH)
    monkeypatch.setattr(lock.time, 'sleep', lambda seconds: looks.close())
    with lock.lock(str(tmp_path)):
        assert looks.closed


def test_a_vocabulary_larger_than_the_model(dry_run, place):
    path = place / 'models/toy/hparams.json'
    n_tokens = json.loads(path.read_text())['n_vocab']
    path.write_text(json.dumps(json.loads(path.read_text()) | {'n_vocab': n_tokens - 1}))
    with pytest.raises(UserError, match=f'models/toy: encoder.json has {n_tokens} tokens, but n_vocab in hparams.json is '
                                        f'{n_tokens - 1}$'):
        dry_run()


def test_a_directory_without_write_permission(dry_run, place, monkeypatch):
    monkeypatch.setattr(os, 'access', lambda *_: False)
    with pytest.raises(UserError, match=f'cannot write to checkpoint/run1: there is no permission to write to {place}'):
        dry_run()


def test_flags_that_take_less_until_it_fits():
    step = Step(MEDIUM, batch_size=8, accumulate_gradients=2, clip_norm=1.0)
    flags, steps = zip(*memory.remedies(step))
    assert flags == ('--lora_rank 8', '--base_weights int8', '--batch_size 1', '--memory_saving_gradients', '--seq_length 256')
    sizes = [total(smaller) for smaller in (step, *steps)]
    assert sizes == sorted(sizes, reverse=True)
    # Without adapters, which do not go with --train_layers; and a flag that changes next to nothing is not named.
    of_some_layers = dataclasses.replace(step, train_layers=20)
    assert [flag for flag, _ in memory.remedies(of_some_layers)] == [
        '--batch_size 1', '--memory_saving_gradients', '--accumulate_gradients 1', '--clip_norm 0', '--optimizer adafactor',
        '--seq_length 256']
    assert [flag for flag, _ in memory.remedies(dataclasses.replace(steps[-1], seq_length=4))] == []
    lines = '\n'.join(planning._memory(step, int(1.2 * sizes[2]) + 1))
    plan = sections(lines)
    assert plan[MEMORY]['available'][1] == 'too much'
    assert [remark for _, remark in plan[LESS].values()] == ['may just fit', 'fits']


def test_flags_are_printed_for_what_may_just_fit():
    needed = total(Step(SMALL))
    plan = sections('\n'.join(planning._memory(Step(SMALL), int(1.1 * needed))))
    assert plan[MEMORY]['available'][1] == 'may just fit'
    assert plan[LESS]['--lora_rank 8'][1] == 'fits'
    assert 'flags that take less' not in '\n'.join(planning._memory(Step(SMALL), int(1.3 * needed)))


GPU = 'memory of a training step on a GPU, in float32, by formula, not measured on one'


def test_the_plan_of_a_gpu_that_is_named_or_found(dry_run, monkeypatch):
    import train
    monkeypatch.setattr(train, 'gpu_memory', lambda: 24 * 10 ** 9)
    plan, output = dry_run('--batch_size', 2)
    assert plan[GPU]['available'] == (
        '24.00 GB', 'fits (of the GPU that the driver lists; --gpu_memory 0 plans for the CPU)')
    assert plan[GPU]['driver and libraries'] == ('0.60 GB', None)
    assert MEMORY not in plan and 'process' not in plan[GPU] and 'measured (bench' not in output
    plan, _ = dry_run('--gpu_memory', 0.5)
    assert plan[GPU]['available'] == ('0.50 GB', 'too much (--gpu_memory)')
    plan, _ = dry_run('--gpu_memory', 0)
    assert GPU not in plan and MEMORY in plan
    assert 'memory of a training step on a GPU, in bfloat16, by' in dry_run('--precision', 'bfloat16')[1]
    monkeypatch.setattr(train, 'gpu_memory', lambda: None)
    assert GPU not in dry_run()[0]


def test_workers_with_a_gpu_each_do_not_share_its_memory(dry_run, monkeypatch):
    alone, here = (dry_run('--gpu_memory', 8, *flags)[0][GPU] for flags in ((), ('--local_workers', 2)))
    assert here['total'] == (alone['total'][0], 'for each worker, and some more for sums')
    assert here['available'] == alone['available']
    assert alone.keys() == here.keys()


def test_a_gpu_has_larger_blocks_and_no_part_in_the_process():
    parts, on_gpu = memory.memory(Step(SMALL)), memory.memory(Step(SMALL), 80 * 10 ** 9)
    assert parts.keys() - on_gpu.keys() == {'process'} and on_gpu.keys() - parts.keys() == {'driver and libraries'}
    assert {part for part in parts.keys() & on_gpu.keys() if parts[part] != on_gpu[part]} == {'head'}
    assert on_gpu['head'] == 3 * 4 * 1024 * 50257       # all logits of the sequence together
    assert memory.memory(Step(SMALL), 8 * 10 ** 9)['head'] == parts['head']


def test_flags_that_make_it_fit_a_gpu():
    step = Step(MEDIUM, batch_size=8)
    plan = sections('\n'.join(planning._gpu_memory(step, 8 * 10 ** 9, True, 1)))
    assert plan[GPU]['available'][1] == 'too much (--gpu_memory)'
    *_, (flag, (needed, remark)) = plan[LESS].items()
    assert remark == 'fits' and float(needed.split()[0]) * 1e9 * memory.MARGIN < 8.1e9
    steps = dict(memory.remedies(step, 8 * 10 ** 9))
    assert needed == f'{total(steps[flag], 8 * 10 ** 9) / 1e9:.2f} GB'


def test_a_named_gpu_is_for_a_plan_only(dry_run, parse):
    from training.settings import check_flags
    with pytest.raises(UserError, match='^--gpu_memory works only with --dry_run$'):
        check_flags(parse('--gpu_memory', '16'))


def test_the_formula_gets_the_flags(dry_run, place, monkeypatch):
    given = []
    monkeypatch.setattr(planning, '_memory', lambda step, *_: given.append(step) or [])
    dry_run()
    dry_run('--batch_size', 2, '--seq_length', 16, '--accumulate_gradients', 3, '--memory_saving_gradients', '--clip_norm', 1,
            '--optimizer', 'sgd', '--only_train_transformer_layers')
    hparams = load_hparams(str(place / 'models/toy'))
    assert given == [Step(hparams, seq_length=32), Step(hparams, 2, 16, 3, True, 1.0, 'sgd', True)]


def test_memory_that_the_system_does_not_report(monkeypatch):
    assert 1e6 < machine.available_memory() <= os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')

    def missing(*_, **__):
        raise FileNotFoundError
    monkeypatch.setattr(machine, 'open', missing, raising=False)
    assert machine.available_memory() == os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    monkeypatch.setattr(os, 'sysconf_names', {})
    assert machine.available_memory() is None
    assert 'this system does not report how much is available' in '\n'.join(planning._memory(Step(SMALL), None))


def test_how_many_steps_a_run_makes(dry_run, place):
    plan, output = dry_run()
    assert plan['run'] == {'steps': ('no limit', 'Ctrl-C ends it, or --max_steps or --epochs')}
    run_of_seven_steps(place)
    plan, output = dry_run('--max_steps', 10, '--patience', 3, '--val_every', 1)
    assert plan['run']['steps'] == ('3', '--max_steps 10')
    assert 'it ends earlier after 3 validations without a new lowest loss' in output
    assert dry_run('--max_steps', 5)[0]['run']['steps'][0] == '0'


def test_steps_that_are_left_of_epochs(parse):
    settings = dataclasses.replace(make_settings(parse(), SMALL), epochs=2.0)
    for tokens, left in ((0, 20), (3 * 1024, 17), (19 * 1024 + 1, 1), (30 * 1024, 0)):
        job = argparse.Namespace(settings=settings, state=RunState(tokens=tokens), train=argparse.Namespace(total_size=10 * 1024))
        assert planning.steps_left(job) == left


@pytest.fixture
def prepare_run(place, parse, monkeypatch):
    monkeypatch.chdir(place)
    return lambda *flags: prepare.prepare(parse(*flags))


def test_the_plan_of_a_model_that_is_not_downloaded(dry_run, place):
    (place / 'corpus.txt').write_text('<|endoftext|>'.join([TEXT] * 8))
    for name, parameters in (('124M', 124_439_808), ('345M', 354_823_168), ('774M', 774_030_080), ('1558M', 1_557_611_200)):
        plan, output = dry_run('--model_name', name, '--max_steps', 9, '--seq_length', 64)
        assert f'model: {name}, which is not downloaded: ./download_model.py {name} fetches it\n' in output
        assert plan['model']['trained'] == (f'{parameters:,}', 'with adam, from the published weights')
        assert plan['corpus']['tokens'] == (f'{8 * -(-len(TEXT) // 4) + 7:,}',
                                            'an estimate by its bytes: of English prose, code has up to twice as many')
        assert plan['disk']['a checkpoint'][0] == f'{12 * parameters / 1e9:.2f} GB'
    assert 'dataset has about ' in output
    split, _ = dry_run('--model_name', '124M', '--seq_length', 64, '--val_split', 0.25)
    assert split['corpus']['tokens'][0] == f'{6 * -(-len(TEXT) // 4) + 5:,}'        # two of eight documents are held out
    np.savez(place / 'corpus.npz', np.arange(99))
    assert dry_run('--model_name', '124M', '--seq_length', 64, '--dataset', 'corpus.npz')[0]['corpus']['tokens'] == ('99', None)


def test_only_a_dry_run_does_without_it_and_only_for_published_names(dry_run, prepare_run):
    with pytest.raises(UserError, match="^no model '125M' in models: did you mean 124M"):
        dry_run('--model_name', '125M')
    with pytest.raises(UserError, match="^no model '124M' in models: ./download_model.py 124M fetches it"):
        prepare_run('--model_name', '124M')


def test_a_download_that_was_interrupted(dry_run, place):
    shutil.copytree(place / 'models/toy', place / 'models/774M', ignore=shutil.ignore_patterns('vocab.bpe', '*.data*'))
    assert dry_run('--model_name', '774M', '--seq_length', 64)[0]['model']['parameters'][0] == '774,030,080'


def test_the_vocabulary_of_another_published_model_counts_the_tokens(dry_run, place, monkeypatch):
    shutil.copytree(place / 'models/toy', place / 'models/355M')
    size = load_hparams(str(place / 'models/toy')).n_vocab
    monkeypatch.setattr(not_downloaded, 'default_hparams', lambda: dataclasses.replace(SMALL, n_vocab=size))
    plan, output = dry_run('--model_name', '117M', '--seq_length', 64)
    tokens = len(load_encoder(str(place / 'models/toy')).encode(TEXT))
    assert plan['corpus']['tokens'] == (f'{tokens:,}', None) and 'about' not in output
    assert 'model: 117M, which is not downloaded' in output


def test_what_would_stop_a_run_still_stops_it(dry_run, place):
    (place / 'corpus.txt').write_text('short')
    with pytest.raises(UserError, match='^the corpus is too short: 1024 tokens are needed in one piece'):
        dry_run('--model_name', '124M')
    (place / 'corpus.txt').write_text(TEXT)
    run_of_seven_steps(place)
    with pytest.raises(UserError, match='^checkpoint/run1 is a run of a model of another size than 124M: '):
        dry_run('--model_name', '124M', '--restore_from', 'fresh')
    with pytest.raises(UserError, match='--sample_prompt has 1250 tokens'):
        dry_run('--model_name', '124M', '--seq_length', 64, '--run_name', 'new', '--sample_prompt', 'x' * 5000)


def test_the_estimate_of_tokens():
    estimate = not_downloaded.TokenEstimate()
    assert estimate.encode_with_special('') == []
    assert estimate.encode_with_special('a') == [0]
    assert estimate.encode_with_special('eight ch<|endoftext|><|endoftext|>x') == [0, 0, 50256, 50256, 0]
    assert len(estimate.encode_array('щ' * 80 + '\ud800')) == 102       # a lone surrogate is three bytes


@pytest.mark.parametrize(('flags', 'steps', 'existing', 'count'), [
    ({}, 10_000, 0, 6), ({}, 2500, 0, 3), ({}, 2500, 2, 5), ({}, 2500, 5, 6), ({}, None, 0, 6), ({'keep_best': True}, None, 0, 7),
    ({'keep_best': True}, 3, 0, 3), ({'save_secs': 1.0}, 3, 1, 4), ({'save_every': 0}, 10_000, 0, 1), ({'keep': 0}, 4500, 1, 6),
    ({'keep': 0}, None, 0, None), ({'keep': 1}, 4500, 0, 2)])
def test_how_many_checkpoints_a_run_has_at_a_time(parse, flags, steps, existing, count):
    job = argparse.Namespace(settings=dataclasses.replace(make_settings(parse(), SMALL), **flags))
    assert disk._at_a_time(job, steps, existing) == count


def test_what_is_there_already_is_not_needed_again_but_one_checkpoint():
    assert disk.Disk(checkpoint=10, checkpoints=3, corpus=2, existing=0).needed == 32
    assert disk.Disk(checkpoint=10, checkpoints=3, corpus=2, existing=12).needed == 20
    assert disk.Disk(checkpoint=10, checkpoints=3, corpus=2, existing=99).needed == 10
    assert disk.Disk(checkpoint=10, checkpoints=None, corpus=2, existing=0).needed == 12


def test_disk(dry_run, place, monkeypatch):
    flags = ('--max_steps', 2000, '--save_every', 10, '--keep', 2)
    free = 20_000_000
    monkeypatch.setattr(planning, 'free_space', lambda directory: free)
    plan, output = dry_run(*flags)
    checkpoint = 12 * sum(memory.parameters(load_hparams(str(place / 'models/toy'))).values())
    assert plan['disk']['checkpoints at a time, at most'] == ('3', 'by --keep 2, and the one that is being written')
    assert plan['disk']['available'] == ('0.02 GB', 'fits') and 'there already' not in output
    free = 3 * checkpoint
    assert dry_run(*flags)[0]['disk']['available'][1] == 'too much: try a smaller --keep, or another --checkpoint_dir'
    assert dry_run(*flags, '--no_cache')[0]['disk']['available'][1] == 'fits'
    run_of_seven_steps(place)
    assert 'of it there already, at most' in dry_run(*flags)[0]['disk']
    assert 'of it there already, at most' not in dry_run(*flags, '--overwrite')[0]['disk']
    plan, _ = dry_run('--keep', 0)
    assert plan['disk']['checkpoints at a time, at most'] == ('no limit', '--keep 0 keeps all')
    assert plan['disk']['total'][1] == 'and more with each checkpoint'
