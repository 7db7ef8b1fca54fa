"""storage/saver.py: what is restored of a checkpoint, and which files a run's directory has after each save."""

import contextlib
import errno
import os
import stat
import weakref

import numpy as np
import pytest

from checkpoint_files import read_checkpoint, write_checkpoint
from command import atomic_files, notes
from command.errors import UserError
from storage import checkpoints, run_state
from storage.run_state import RunState

ARRAYS = {'model/wte': np.float32([[1, 2]]), 'model/b': np.float32([3]), 'model/c': np.float32(6),
          'model/b/Adam': np.float32([4]), 'step': np.float32(5)}


@pytest.fixture
def variables(tf, session):
    """Variables of zeros by name."""
    made = {name: tf.get_variable(name, initializer=np.zeros_like(array), trainable=name in ('model/wte', 'model/b', 'model/c'))
            for name, array in ARRAYS.items()}
    session.run(tf.global_variables_initializer())
    return made


@pytest.fixture
def weights(variables):
    return [variables['model/wte'], variables['model/b'], variables['model/c']]


def test_all_variables_are_restored(session, variables, weights, tmp_path):
    from storage import saver
    write_checkpoint(tmp_path / 'm', ARRAYS)
    assert saver.restore(session, str(tmp_path / 'm'), weights)
    for name, variable in variables.items():
        assert np.array_equal(session.run(variable), ARRAYS[name])


@pytest.mark.parametrize('changes', [{'step': None}, {'model/b/Adam': np.float32([4, 4])}])
def test_weights_alone_are_restored_if_something_else_is_missing_or_of_another_shape(
        session, variables, weights, tmp_path, changes):
    from storage import saver
    write_checkpoint(tmp_path / 'm', {name: array for name, array in (ARRAYS | changes).items() if array is not None})
    assert not saver.restore(session, str(tmp_path / 'm'), weights)
    assert session.run(variables['model/wte']).tolist() == [[1, 2]] and session.run(variables['model/b']) == 3
    assert session.run([variables['model/b/Adam'], variables['step']]) == [0, 0]


def test_smaller_weights_are_made_one_at_a_time(tf, session, tmp_path, monkeypatch):
    """Never is a second weight in memory, to say nothing of the model."""
    from network.quantize import quantize
    from storage import saver
    rng = np.random.default_rng(0)
    arrays = {f'model/h{i}/w': rng.normal(size=[1, 6, 4]).astype(np.float32) for i in range(5)} | {'model/g': np.float32([7])}
    write_checkpoint(tmp_path / 'm', arrays)
    dtypes = {'model/h0/w': tf.bfloat16, 'model/h1/w': tf.float32, 'model/g': tf.float32}
    made = {name: tf.get_variable(name, initializer=tf.zeros(array.shape, dtypes.get(name, tf.int8)))
            for name, array in arrays.items()}
    made |= {f'model/h{i}/w_scale': tf.get_variable(f'model/h{i}/w_scale', [4]) for i in (2, 3, 4)}
    read, alive, smaller = saver.Weights.read, {}, {name for name in arrays if dtypes.get(name) != tf.float32}

    def read_alone(self, name):
        # The one before is replaced by what this returns; a float32 variable may keep the memory of what it got.
        assert not any(one() is not None for of, one in list(alive.items())[:-1] if of in smaller)
        value = read(self, name)
        alive[name] = weakref.ref(value)
        return value

    monkeypatch.setattr(saver.Weights, 'read', read_alone)
    saver.restore_smaller(session, str(tmp_path / 'm'), list(made.values()))
    assert len(alive) == len(arrays)
    values = dict(zip(made, session.run(list(made.values()))))
    assert np.array_equal(values['model/g'], [7]) and np.array_equal(values['model/h1/w'], arrays['model/h1/w'])
    assert np.array_equal(values['model/h0/w'], arrays['model/h0/w'].astype(values['model/h0/w'].dtype))
    for i in (2, 3, 4):
        q, scale = quantize(arrays[f'model/h{i}/w'], -2)
        assert np.array_equal(values[f'model/h{i}/w'], q) and np.array_equal(values[f'model/h{i}/w_scale'], scale)
    write_checkpoint(tmp_path / 'm', arrays | {'model/h3/w': np.zeros([1, 4, 4], np.float32)})
    with pytest.raises(UserError, match=r'm is a checkpoint of another model, .* model/h3/w is \[1, 4, 4\] there'):
        saver.restore_smaller(session, str(tmp_path / 'm'), list(made.values()))


def test_variables_are_set_a_few_at_a_time(tf, session, monkeypatch):
    from storage import saver
    made = [tf.get_variable(f'v{i}', initializer=np.float32([0, 0])) for i in range(5)]
    together, initialize = [], saver.initialize
    monkeypatch.setattr(saver, 'TOGETHER', 16)      # bytes of two of them
    monkeypatch.setattr(saver, 'initialize', lambda session, values: together.append(len(values)) or initialize(session, values))
    saver.load(session, ((variable, np.float32([i, 9])) for i, variable in enumerate(made)))
    assert together == [2, 2, 1]
    assert np.array(session.run(made)).tolist() == [[i, 9] for i in range(5)]


def test_another_model_and_damage_are_named(session, variables, weights, tmp_path):
    from storage import saver
    write_checkpoint(tmp_path / 'm', ARRAYS | {'model/wte': np.float32([[1]])})
    with pytest.raises(UserError, match=r'm is a checkpoint of another model, .* model/wte is \[1, 1\] there, \[1, 2\] here'):
        saver.restore(session, str(tmp_path / 'm'), weights)
    write_checkpoint(tmp_path / 'm', ARRAYS)
    data = tmp_path / 'm.data-00000-of-00001'
    data.write_bytes(bytes([data.read_bytes()[0] ^ 1]) + data.read_bytes()[1:])
    with pytest.raises(UserError, match='cannot read the checkpoint .*m: .*[Cc]hecksum') as error:
        saver.restore(session, str(tmp_path / 'm'), weights)
    assert '\n' not in str(error.value)


def test_the_cause_is_the_line_above_the_node():
    from storage import saver
    assert saver._cause(ValueError('one\ntwo')) == 'one'
    error = RuntimeError('2 root errors\n  (0) Data loss: short\n\t [[{{node save/RestoreV2}}]]\nmore')
    assert saver._cause(error) == '  (0) Data loss: short'


@pytest.fixture
def run(variables, tmp_path):
    """save(step, best_step) of a run in tmp_path/run, and the files of a model that it starts from."""
    from storage import saver
    for directory in ('model', 'run'):
        (tmp_path / directory).mkdir()
    for name in ('hparams.json', 'encoder.json', 'vocab.bpe'):
        (tmp_path / 'model' / name).write_text(name)
    return lambda **keep: saver.RunSaver(str(tmp_path / 'run'), str(tmp_path / 'model'), **keep)


class Refused:
    """Makes os.fsync of directories, and of files if asked, raise an error."""

    def __init__(self, monkeypatch, error, files=False):
        def fsync(descriptor, _fsync=os.fsync):
            if files or stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(error, os.strerror(error))
            _fsync(descriptor)
        monkeypatch.setattr(os, 'fsync', fsync)
        monkeypatch.setattr(notes, '_printed', set())


@pytest.mark.parametrize('error', [errno.EINVAL, errno.EBADF, errno.EIO, errno.EOPNOTSUPP])
def test_a_directory_that_cannot_be_synced_costs_no_checkpoint(session, run, tmp_path, monkeypatch, capsys, error):
    Refused(monkeypatch, error)
    saver = run()
    for step in (1, 2):
        saver.save(session, RunState(step=step))
        assert run_state.read(str(tmp_path / f'run/model-{step}')) == RunState(step=step)
    assert capsys.readouterr().out == (f'the file system of {tmp_path}/run cannot sync it to disk ({os.strerror(error)}): if the '
                                       'power fails, what was written last may be lost\n')


@pytest.mark.parametrize(('error', 'fatal'), [(errno.EINVAL, False), (errno.EIO, True), (errno.ENOSPC, True)])
def test_files_that_cannot_be_synced(session, run, tmp_path, monkeypatch, capsys, error, fatal):
    Refused(monkeypatch, error, files=True)
    with pytest.raises(UserError, match=f'model-1: {os.strerror(error)}; there is no e') if fatal else contextlib.nullcontext():
        run().save(session, RunState(step=1))
    assert kept(tmp_path / 'run') == (set() if fatal else {1})
    assert capsys.readouterr().out.count('cannot sync') == (not fatal)


def test_all_files_are_on_disk_before_a_checkpoint_is_named(session, run, monkeypatch):
    synced = []
    for name in ('sync', 'sync_directory'):
        monkeypatch.setattr(atomic_files, name, lambda path: synced.append(os.path.basename(path)))
    monkeypatch.setattr(atomic_files, 'sync_file', lambda _, path: synced.append(os.path.basename(path)))
    run().save(session, RunState(step=1))
    assert synced == [*(f'model-1{suffix}' for suffix in run_state.SUFFIXES), 'model-1.json', 'run', 'checkpoint', 'counter']


def test_a_complete_checkpoint_that_cannot_be_named_stays(session, run, tmp_path):
    saver = run()
    saver.save(session, RunState(step=1))
    (tmp_path / 'run/checkpoint.part').mkdir()
    with pytest.raises(UserError, match='model-2 is complete, but the earlier checkpoints cannot be replaced: cannot write .*'
                                        'remove .*checkpoint.part; --restore_from 2 continues from it'):
        saver.save(session, RunState(step=2))
    assert run_state.read(str(tmp_path / 'run/model-2')) == RunState(step=2)
    assert checkpoints.latest_checkpoint(str(tmp_path / 'run')) == str(tmp_path / 'run/model-1')


def kept(directory):
    return {checkpoints.checkpoint_step(prefix) for prefix in checkpoints.list_checkpoints(str(directory))}


def test_a_run_directory_is_a_model_directory(session, run, tmp_path):
    (tmp_path / 'run/vocab.bpe').write_text('is already there')
    saver = run()
    (tmp_path / 'model/hparams.json').unlink()      # the model may be removed after the start
    saver.write_setting_files()
    saver.save(session, RunState(step=7, tokens=70))
    assert {path.name for path in (tmp_path / 'run').iterdir()} == {
        'hparams.json', 'encoder.json', 'vocab.bpe', 'checkpoint', 'counter', 'model-7.index', 'model-7.data-00000-of-00001',
        'model-7.meta', 'model-7.json'}
    assert [(tmp_path / 'run' / name).read_text() for name in ('hparams.json', 'vocab.bpe', 'counter')] == [
        'hparams.json', 'is already there', '7\n']
    assert run_state.read(str(tmp_path / 'run/model-7')) == RunState(step=7, tokens=70)
    assert read_checkpoint(tmp_path / 'run').keys() == ARRAYS.keys()


def test_special_tokens_are_copied_where_they_are(run, tmp_path):
    (tmp_path / 'model/special_tokens.json').write_text('here')
    run().write_setting_files()
    assert (tmp_path / 'run/special_tokens.json').read_text() == 'here'


@pytest.mark.parametrize(('flags', 'expected'), [({}, {2, 3, 4, 5, 6}), ({'keep': 2}, {5, 6}), ({'keep': 0}, {1, 2, 3, 4, 5, 6}),
                                                 ({'keep': 2, 'keep_best': True}, {1, 5, 6}), ({'keep': 1}, {6})])
def test_how_many_checkpoints_stay(session, run, tmp_path, flags, expected):
    saver = run(**flags)
    for step in range(1, 7):
        saver.save(session, RunState(step=step, best_step=1))
        saver.remove_outdated(step, best_step=1)
    assert kept(tmp_path / 'run') == expected
    named = (tmp_path / 'run/checkpoint').read_text().splitlines()
    assert named == ['model_checkpoint_path: "model-6"',
                     *(f'all_model_checkpoint_paths: "model-{step}"' for step in sorted(expected))]


def test_nothing_is_removed_before_it_is_asked_for(session, run, tmp_path):
    saver = run(keep=1)
    for step in (1, 2, 3):
        saver.save(session, RunState(step=step))
    assert kept(tmp_path / 'run') == {1, 2, 3}
    assert (tmp_path / 'run/checkpoint').read_text().splitlines()[0] == 'model_checkpoint_path: "model-3"'


def test_a_checkpoint_is_discarded(session, run, tmp_path):
    saver = run()
    for step in (4, 9, 6):      # a run that went back to step 4, after which 9 is of its abandoned part
        saver.save(session, RunState(step=step))
    saver.discard(6, newest=4)
    assert kept(tmp_path / 'run') == {4, 9}
    assert checkpoints.newest_sound(str(tmp_path / 'run')) == (str(tmp_path / 'run/model-4'), RunState(step=4))
    assert (tmp_path / 'run/counter').read_text() == '4\n'
    assert not list((tmp_path / 'run').glob('model-6*'))


def test_the_only_checkpoint_is_discarded(session, run, tmp_path):
    saver = run()
    saver.save(session, RunState(step=1))
    saver.discard(1, newest=0)
    assert os.listdir(tmp_path / 'run') == []


def test_a_failed_save_leaves_what_was_there(session, run, tmp_path, monkeypatch):
    def fail(prefix, _):
        os.mkdir(f'{prefix}_temp')      # as TensorFlow may leave one
        raise OSError(errno.ENOSPC, 'No space left on device')
    saver = run()
    with monkeypatch.context() as patch:
        patch.setattr(run_state, 'write', fail)
        with pytest.raises(UserError, match='cannot save .*model-1: No space left on device; there is no earlier checkpoint'):
            saver.save(session, RunState(step=1))
        assert kept(tmp_path / 'run') == set()
    saver.save(session, RunState(step=1))
    before = sorted(os.listdir(tmp_path / 'run'))
    monkeypatch.setattr(run_state, 'write', fail)
    with pytest.raises(UserError, match='cannot save .*model-2: No space left on device; .*model-1 is unchanged'):
        saver.save(session, RunState(step=2))
    assert sorted(os.listdir(tmp_path / 'run')) == before


def test_a_saved_model_can_be_moved(tf, session, variables, tmp_path):
    from storage import saver
    (tmp_path / 'new.part').mkdir()
    saver.save_model(session, str(tmp_path / 'new.part'))
    (tmp_path / 'new.part').rename(tmp_path / 'new')
    assert (tmp_path / 'new/checkpoint').read_text().splitlines()[0] == 'model_checkpoint_path: "model.ckpt"'
    assert tf.train.latest_checkpoint(str(tmp_path / 'new')) == str(tmp_path / 'new/model.ckpt')


def test_a_model_is_saved_from_variables_or_from_a_checkpoint(session, variables, tmp_path):
    from storage import saver
    write_checkpoint(tmp_path / 'm', ARRAYS)
    for directory in ('new', 'copied', 'other'):
        (tmp_path / directory).mkdir()
    saver.save_model(session, str(tmp_path / 'new'))
    assert not read_checkpoint(tmp_path / 'new')['model/wte'].any()
    saver.save_model(session, str(tmp_path / 'copied'), str(tmp_path / 'm'))
    assert read_checkpoint(tmp_path / 'copied')['model/wte'].tolist() == [[1, 2]]
    write_checkpoint(tmp_path / 'm', {'model/wte': np.zeros([1, 2])})
    with pytest.raises(UserError, match='m is a checkpoint of another model, .* it holds no '):
        saver.save_model(session, str(tmp_path / 'other'), str(tmp_path / 'm'))
