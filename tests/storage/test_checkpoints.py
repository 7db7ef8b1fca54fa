"""storage/checkpoints.py: which checkpoint is meant, which are removed, and what an interruption leaves."""

import os

import numpy as np
import pytest

from checkpoint_files import write_checkpoint
from command.errors import UserError
from storage import checkpoints, run_state
from storage.find_checkpoint import find_start
from storage.run_state import RunState


def test_the_latest_is_the_one_that_is_named(write):
    write('run/model-9', 'run/model-10', 'run/model-2')
    assert checkpoints.latest_checkpoint('run') == 'run/model-2'
    assert checkpoints.list_checkpoints('run') == ['run/model-2', 'run/model-9', 'run/model-10']
    os.remove('run/model-2.index')
    assert checkpoints.latest_checkpoint('run') is None
    assert checkpoints.latest_checkpoint('nowhere') is None


def test_a_path_in_the_checkpoint_file_is_followed_unless_the_directory_was_moved(write, tmp_path):
    write('a/model-1', 'b/model-1')
    with open('b/checkpoint', 'w') as file:
        file.write(f'model_checkpoint_path: "{tmp_path}/a/model-1"\n')
    assert checkpoints.latest_checkpoint('b') == 'b/model-1'
    os.remove('b/model-1.index')
    assert checkpoints.latest_checkpoint('b') == f'{tmp_path}/a/model-1'


def test_directories_and_other_files_are_no_checkpoints(write):
    write('run/model-1')
    os.mkdir('run/model-3.index')
    open('run/model-x.json', 'w').close()
    assert checkpoints.list_checkpoints('run') == ['run/model-1']
    assert {os.path.basename(path) for path in checkpoints.checkpoint_files('run')} == {
        'model-3.index', *(f'model-1{suffix}' for suffix in run_state.SUFFIXES)}


@pytest.mark.parametrize(('prefix', 'step'), [('run/model-500', 500), ('models/124M/model.ckpt', 0), ('run-7/model.ckpt', 0)])
def test_steps(prefix, step):
    assert checkpoints.checkpoint_step(prefix) == step


@pytest.mark.parametrize('suffix', ['.index', '.data-00000-of-00001', '.json'])
@pytest.mark.parametrize('harm', ['cut', 'flip', 'remove'])
def test_a_damaged_checkpoint_is_named_and_skipped(write, harm, suffix, capsys):
    write('run/model-1', 'run/model-2', state=True)
    assert checkpoints.newest_sound('run') == ('run/model-2', RunState(step=2))
    path = f'run/model-2{suffix}'
    with open(path, 'rb') as file:
        content = bytearray(file.read())
    content[40] ^= 1
    os.remove(path)
    if harm != 'remove':
        with open(path, 'wb') as file:
            file.write(content if harm == 'flip' else content[:40])
    elif suffix == '.json':      # as a checkpoint of the 2019 tools
        assert checkpoints.newest_sound('run') == ('run/model-2', None)
        return
    assert checkpoints.newest_sound('run') == ('run/model-1', RunState(step=1))
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith(path) and line.endswith(': skipping this checkpoint')
    checkpoints.remove_checkpoint('run/model-1')
    with pytest.raises(UserError, match='every checkpoint in run is damaged: run/model-2.*; copy an undamaged one there, or'):
        checkpoints.newest_sound('run')


@pytest.mark.parametrize('harm', ['remove', 'flip'])
def test_weights_need_no_graph(write, harm):
    write('run/model-1', 'run/model-2', state=True)
    os.remove('run/model-2.meta')
    if harm == 'flip':
        open('run/model-2.meta', 'w').close()
    assert checkpoints.newest_sound('run') == ('run/model-2', RunState(step=2))


def test_a_checkpoint_that_another_program_wrote_over_is_used_without_its_state(write, capsys):
    write('run/model-1', 'run/model-2', state=True)
    write_checkpoint('run/model-2', {'w': np.arange(9)})
    assert checkpoints.newest_sound('run') == ('run/model-2', None)
    assert capsys.readouterr().out == ('run/model-2.json is not the state of run/model-2: another program has written over the '
                                       'checkpoint\n')
    with open('run/model-2.data-00000-of-00001', 'r+b') as file:
        file.write(b'other')
    assert checkpoints.newest_sound('run') == ('run/model-1', RunState(step=1))


def test_weights_are_used_where_no_state_can_be_read(write, capsys):
    """With an earlier checkpoint that has its state, the run continues exactly; without one, the weights are what there is."""
    write('run/model-1', 'run/model-2', state=True)
    write_checkpoint('run/model-2', {'w': np.arange(9)})
    run_state.write('run/model-2', RunState(step=2))
    os.truncate('run/model-2.json', 40)
    assert checkpoints.newest_sound('run') == ('run/model-1', RunState(step=1))
    checkpoints.remove_checkpoint('run/model-1')
    capsys.readouterr()
    assert checkpoints.newest_sound('run') == ('run/model-2', None)
    assert capsys.readouterr().out == ('run/model-2.json is damaged: skipping this checkpoint\n'
                                       'the weights of run/model-2 are sound\n')


def test_a_missing_state_is_printed(write, capsys):
    write('run/model-2')
    assert checkpoints.newest_sound('run') == ('run/model-2', None)
    assert capsys.readouterr().out == 'run/model-2.json, the state of the run, is missing\n'


def test_only_earlier_checkpoints_replace_a_damaged_one(write):
    """After a return to step 2, steps 9 and 10 belong to the part of the run that was given up."""
    write('run/model-1', 'run/model-9', 'run/model-10', 'run/model-2', state=True)
    os.remove('run/model-2.data-00000-of-00001')
    assert checkpoints.newest_sound('run')[0] == 'run/model-1'
    os.remove('run/checkpoint')     # now the highest step is the newest
    assert checkpoints.newest_sound('run')[0] == 'run/model-10'


def test_a_directory_without_checkpoints(tmp_path):
    assert checkpoints.newest_sound(str(tmp_path)) == (None, None)


@pytest.mark.parametrize(('keep', 'spared', 'removed'), [
    (1, {8}, [10, 9, 7]), (2, {8}, [10, 9]), (3, {8}, [10]), (4, {8}, []), (9, {8}, []), (0, {8}, []), (1, {8, 9}, [10, 7])])
def test_which_checkpoints_are_outdated(write, keep, spared, removed):
    steps = [10, 9, 7, 8]       # in the order in which they were written
    write(*(f'run/model-{step}' for step in steps))
    for i, step in enumerate(steps):
        os.utime(f'run/model-{step}.index', (i, i))
    assert checkpoints.outdated('run', keep, spared) == [f'run/model-{step}' for step in removed]


def test_leftovers_are_cleaned(write, tmp_path):
    write('run/model-2', state=True)
    write('run/model-1')
    kept = set(os.listdir('run'))
    for name in ('model-3.data-00000-of-00001', 'model-3.data-00000-of-00001.tempstate123', 'counter.part', 'model-4.index',
                 'model-5.meta'):
        (tmp_path / 'run' / name).write_text('half')
    (tmp_path / 'run/model-3_temp').mkdir()
    for name in ('mine.part', 'model.part'):
        (tmp_path / 'run' / name).write_text('not of this project')
    for name in ('counter.part', 'v2.part', 'model-a_temp'):
        (tmp_path / 'run' / name).unlink(missing_ok=True)
        (tmp_path / 'run' / name).mkdir()       # the names of other runs, like exp/v2.part
    checkpoints.clean('run')
    assert set(os.listdir('run')) == {*kept, 'mine.part', 'model.part', 'counter.part', 'v2.part', 'model-a_temp'}
    os.rmdir('run/counter.part')
    (tmp_path / 'run/counter.part').write_text('half')
    checkpoints.clean('run')
    assert 'counter.part' not in os.listdir('run')


@pytest.mark.parametrize('removed', range(4))
def test_an_interrupted_removal_is_completed_later(write, tmp_path, monkeypatch, removed):
    write('run/model-3', state=True)
    os.remove('run/checkpoint')
    with monkeypatch.context() as patch:
        left = [removed]

        def remove(path, unlink=os.unlink):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            unlink(path)
        patch.setattr(os, 'remove', remove)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.remove_checkpoint('run/model-3')
    assert [os.path.exists(f'run/model-3{suffix}') for suffix in ('.json', '.index')] == [removed < 1, removed < 2]
    checkpoints.clean('run')
    for prefix in checkpoints.outdated('run', 1, set()):
        checkpoints.remove_checkpoint(prefix)
    assert os.listdir('run') == []


@pytest.mark.parametrize(('name', 'near'), [('porms', ': did you mean poems?'), ('latset', ': did you mean latest?'), ('x', ';')])
def test_a_misspelled_start_is_answered_with_the_nearest_name(tmp_path, monkeypatch, name, near):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'checkpoint/poems').mkdir(parents=True)
    (tmp_path / 'checkpoint/poems/hparams.json').touch()
    with pytest.raises(UserError) as error:
        find_start(name, 'checkpoint/run1')
    assert str(error.value) == f'no checkpoint {name!r}{near} this run has none; runs in checkpoint: poems'
