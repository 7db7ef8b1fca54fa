"""Stopped runs continue exactly where they stopped, whatever happened in between."""

import errno
import fcntl
import json
import multiprocessing
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys

import pytest

import worker_group
from checkpoint_files import read_checkpoint, write_checkpoint
from command.errors import UserError
from conftest import ROOT, SMALL_RUN
from optional import needs
from storage import run_state
from storage.model_directory import open_model
from training import loop

LOSS = re.compile(r'^\[(\d+) \|.*? (?:loss=(\S+) avg=(\S+)|validation loss = (\S+))', re.MULTILINE)
SMALL = (*SMALL_RUN, '--batch_size', 2, '--learning_rate', 0.01)
ADAM = (*SMALL, '--optimizer', 'adam')


def logged(output):
    """(step, loss, average or validation loss) of each line."""
    return [match.groups() for match in LOSS.finditer(output)]


def variables(tf, directory):
    return {name: array.tobytes() for name, array in read_checkpoint(directory).items()}


def rows(home, run='run1'):
    return [json.loads(line) for line in (home / f'checkpoint/{run}/metrics.jsonl').read_text().splitlines()]


@pytest.mark.parametrize('flags', [
    ('--optimizer', 'adam', '--val_every', 2, '--val_batch_count', 1, '--sample_every', 1, '--sample_length', 5),
    ('--optimizer', 'sgd', '--accumulate_gradients', 2, '--noise', 0.3),
    ('--model_name', 'toy', '--optimizer', 'adam', '--accumulate_gradients', 2, '--noise', 0.3, '--memory_saving_gradients',
     '--val_every', 1, '--val_batch_count', 1, '--val_split', 0.3, '--dataset', 'documents.txt', '--sample_every', 1,
     '--sample_length', 5, '--sample_num', 2, '--sample_prompt', 'the dog', '--sample_temperature', 0.7),
    ('--optimizer', 'adamw', '--memory_saving_gradients', '--clip_norm', 1, '--learning_rate_schedule', 'cosine'),
    ('--dropout', 0.2, '--accumulate_gradients', 2, '--val_every', 2, '--val_batch_count', 1, '--sample_every', 1,
     '--sample_length', 5),
    ('--dropout', 0.2, '--memory_saving_gradients', '--optimizer', 'adafactor', '--learning_rate_schedule', 'relative',
     '--train_layers', 1, '--model_name', 'toy'),
    ('--model_name', 'toy', '--lora_rank', 3, '--optimizer', 'adamw', '--memory_saving_gradients', '--accumulate_gradients', 2,
     '--noise', 0.3, '--clip_norm', 1, '--base_weights', 'int8'),
    ('--lora_rank', 2, '--lora_alpha', 20, '--base_weights', 'bfloat16', '--dropout', 0.2, '--val_every', 2,
     '--val_batch_count', 1, '--sample_every', 1, '--sample_length', 5),
])
def test_a_run_that_stopped_equals_one_that_did_not(tf, train, home, flags):
    (home / 'documents.txt').write_text('<|endoftext|>'.join(f'the dog number {i} jumps over it; ' * 9 for i in range(9)))
    flags = ('--model_name', 'one_block', '--sample_every', 0, '--batch_size', 2, '--learning_rate', 0.01, '--seed', 3, *flags)
    complete = train('--run_name', 'complete', '--max_steps', 6, *flags)
    before = train('--run_name', 'parts', *flags, '--max_steps', 6, '--epochs', 0.001)      # ends after a step
    assert [step for step, *_ in logged(before)][-1] == '1'
    after = train('--run_name', 'parts', '--max_steps', 6, *flags)
    assert logged(before) + logged(after) == logged(complete)
    weights = variables(tf, home / 'checkpoint/complete')
    assert weights == variables(tf, home / 'checkpoint/parts')
    assert any('/Ada' in name for name in weights) == ('sgd' not in flags)
    timeless = [[{key: value for key, value in row.items() if key != 'tokens_per_second'} for row in rows(home, run)]
                for run in ('complete', 'parts')]
    assert timeless[0] == timeless[1]
    samples = [{path.name: path.read_text() for path in (home / 'samples' / run).iterdir()} for run in ('complete', 'parts')]
    assert samples[0] == samples[1]
    assert bool(samples[0]) == ('--sample_length' in flags)


def test_validation_and_samples_do_not_disturb_training(tf, train, home):
    train('--run_name', 'quiet', '--max_steps', 4, '--seed', 1, *ADAM)
    train('--run_name', 'busy', '--max_steps', 4, '--seed', 1, *ADAM, '--val_every', 1, '--val_batch_count', 1,
          '--sample_every', 1, '--sample_length', 3)
    assert variables(tf, home / 'checkpoint/quiet') == variables(tf, home / 'checkpoint/busy')


def test_where_to_restore_from(train, home):
    train('--max_steps', 3, '--save_every', 1, *SMALL)
    def start(output):
        return re.search('^Loading checkpoint (.*)$', output, re.MULTILINE)[1], logged(output)[0][0]
    assert start(train('--max_steps', 2, '--restore_from', 1, *SMALL)) == ('checkpoint/run1/model-1', '2')
    assert start(train('--max_steps', 3, *SMALL)) == ('checkpoint/run1/model-2', '3')     # the run's last checkpoint
    for where in ('run1', 'checkpoint/run1', 'checkpoint/run1/model-3', 'checkpoint/run1/model-3.index'):
        output = train('--run_name', 'of-' + where.replace('/', '-'), '--restore_from', where, '--max_steps', 1, *SMALL)
        assert start(output) == ('checkpoint/run1/model-3', '1')
    with pytest.raises(UserError, match=r"checkpoint 'checkpoint/run1/model-9'; checkpoints there: .*model-1, .*model-3"):
        train('--restore_from', 9, *SMALL)
    with pytest.raises(UserError, match=r"no checkpoint 'elsewhere'; this run has .*model-3; runs in checkpoint: .*run1"):
        train('--restore_from', 'elsewhere', *SMALL)


def test_a_run_is_overwritten_only_on_demand(train, home):
    train('--max_steps', 2, '--save_every', 1, *SMALL)
    before = sorted((home / 'checkpoint/run1').iterdir())
    for where in ('fresh', 'models/one_block'):
        with pytest.raises(UserError, match='would overwrite the run in checkpoint/run1: give another --run_name, or --over'):
            train('--restore_from', where, '--max_steps', 1, *SMALL)
    assert sorted((home / 'checkpoint/run1').iterdir()) == before
    with pytest.raises(UserError, match='--overwrite would remove checkpoint/run1/model-1'):
        train('--restore_from', 1, '--overwrite', *SMALL)
    output = train('--restore_from', 'fresh', '--overwrite', '--max_steps', 1, *SMALL)
    assert [step for step, *_ in logged(output)] == ['1']
    assert {path.name for path in (home / 'checkpoint/run1').glob('model-*.index')} == {'model-1.index'}
    assert [row['step'] for row in rows(home)] == [1]


def test_rotation_continues_after_a_restart_and_spares_the_best(train, home):
    train('--max_steps', 3, '--save_every', 1, '--keep', 2, *SMALL)
    train('--max_steps', 4, '--save_every', 1, '--keep', 2, *SMALL)
    def kept():
        return {path.stem for path in (home / 'checkpoint/run1').glob('model-*.index')}
    assert kept() == {'model-3', 'model-4'}
    assert {path.name.split('.')[0] for path in (home / 'checkpoint/run1').glob('model-*')} == kept()
    # A learning rate as large as this makes validations after the first worse, and is not large enough to ruin the weights.
    train(*ADAM, '--max_steps', 8, '--keep', 1, '--keep_best', '--val_every', 1, '--val_batch_count', 1, '--save_every', 1,
          '--learning_rate', 0.1)
    losses = [(row['val_loss'], row['step']) for row in rows(home) if 'val_loss' in row]
    assert kept() == {f'model-{min(losses)[1]}', 'model-8'}
    train('--max_steps', 10, '--keep', 0, '--save_every', 1, *SMALL)
    assert {'model-8', 'model-9', 'model-10'} <= kept()


def test_patience_epochs_and_save_secs(train, home):
    flags = (*ADAM, '--max_steps', 50, '--patience', 2, '--val_every', 1, '--val_batch_count', 1, '--learning_rate', 0.1,
             '--seed', 1)
    output = train(*flags)
    values = [row['val_loss'] for row in rows(home) if 'val_loss' in row]
    best = values.index(min(values))
    assert len(values) == best + 3
    assert re.findall(r' patience=(\d)$', output, re.MULTILINE)[-3:] == ['2', '1', '0']
    assert '--patience 2 reached: no validation loss below ' in output
    assert 'has already ended' in train(*flags)
    output = train('--run_name', 'two', '--epochs', 0.1, '--warn_epochs', 0.05, *SMALL)
    epochs = [float(value) for value in re.findall(r'epoch=(\S+)', output)]
    assert epochs[-1] >= 0.1 > epochs[-2]
    assert output.count('times over the corpus') == 1
    output = train('--run_name', 'three', '--max_steps', 3, '--save_secs', 1e-9, '--save_every', 0, *SMALL)
    assert re.findall(r'Saving \S+-(\d)', output) == ['1', '2', '3']


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_and_ends_the_run(home, mistake, number):
    with worker_group.alone(home, *SMALL) as process:
        process.wait_for('[3 ')
        busy = mistake('train.py', '--model_name', 'toy', '--dataset', 'corpus.txt')
        process.signal(number)
        assert process.status() == 0, process.err
    assert f'another process (number {process.process.pid}) trains in checkpoint/run1' in busy
    assert f'{number.name}: stopping\n' in process.out
    step = int((home / 'checkpoint/run1/counter').read_text())
    assert step >= 3
    assert run_state.read(str(home / f'checkpoint/run1/model-{step}')).step == step
    assert rows(home)[-1]['step'] == step


def train_in_terminal(name, *flags):
    """Trains in a session of its own, with a terminal as its standard streams."""
    os.setsid()
    terminal = os.open(name, os.O_RDWR)
    os.dup2(terminal, 0)
    worker_group.redirect(terminal, terminal)
    worker_group.train_alone(*flags)


def test_a_terminal_that_closes_saves_and_ends_the_run(home):
    """The terminal is gone when SIGHUP arrives: printing to it fails."""
    terminal, other_end = pty.openpty()
    flags = (os.ttyname(other_end), *SMALL, '--max_steps', 100000)
    with worker_group.processes(home, train_in_terminal, [flags]) as [process]:
        output = b''
        while b'[3 |' not in output:
            assert process.process.is_alive(), output
            if select.select([terminal], [], [], 1)[0]:
                output += os.read(terminal, 1000)
        os.close(other_end)
        os.close(terminal)
        assert process.status() == 0
    assert int((home / 'checkpoint/run1/counter').read_text()) >= 3


def train_into_pipe(pipe, *flags):
    worker_group.redirect(pipe.fileno(), 2)
    pipe.close()
    worker_group.train_alone(*flags)


def test_a_pipe_that_closes_saves_and_ends_the_run(home):
    reader, writer = multiprocessing.Pipe(duplex=False)
    with worker_group.processes(home, train_into_pipe, [(writer, *SMALL)]) as [process]:
        writer.close()
        with reader, open(reader.fileno(), closefd=False) as lines:
            assert any(line.startswith('[3 ') for line in lines)
        assert process.status() == 0
        assert process.err == ''
    assert int((home / 'checkpoint/run1/counter').read_text()) >= 3


def test_a_signal_does_not_wait_for_all_samples(train, home, monkeypatch):
    """The next start writes those that the run would have written."""
    flags = (*SMALL, '--max_steps', 2, '--sample_every', 1, '--sample_num', 3, '--sample_length', 5, '--seed', 1)
    train('--run_name', 'complete', *flags)
    sample = loop.Training._sample

    def signalled(training, n):
        signal.raise_signal(signal.SIGTERM)
        return sample(training, n)
    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, '_sample', signalled)
        assert 'SIGTERM: stopping' in train(*flags)
    assert os.listdir(home / 'samples/run1') == []
    train(*flags)
    for step in (1, 2):
        assert (home / f'samples/run1/samples-{step}').read_text() == (home / f'samples/complete/samples-{step}').read_text()


def at_step(monkeypatch, step, do):
    """Calls do() after an update."""
    update = loop.Training.update

    def then(training):
        why = update(training)
        if training._state.step == step:
            do()
        return why
    monkeypatch.setattr(loop.Training, 'update', then)


@pytest.mark.parametrize('how', ['removed', 'moved'])
def test_a_directory_that_is_gone_is_written_again_complete(tf, train, home, monkeypatch, how):
    flags = (*ADAM, '--save_every', 3, '--seed', 1, '--sample_every', 4, '--sample_length', 5)
    train('--run_name', 'undisturbed', *flags, '--max_steps', 4)

    def remove():
        for parent in ('checkpoint', 'samples'):
            shutil.rmtree(home / parent / 'run1') if how == 'removed' else (home / parent / 'run1').rename(home / parent / 'away')
    with monkeypatch.context() as patch:
        at_step(patch, 2, remove)
        output = train(*flags, '--max_steps', 4)
    assert output.count('checkpoint/run1 was moved or removed: writing it again\n') == 1
    run = home / 'checkpoint/run1'
    assert [row['step'] for row in rows(home)] == [1, 2, 3, 4]
    assert {'lock', 'settings.json', 'hparams.json', 'encoder.json', 'vocab.bpe'} <= {path.name for path in run.iterdir()}
    assert list(run.glob('events.out.tfevents*'))
    assert (home / 'samples/run1/samples-4').exists()
    assert variables(tf, run) == variables(tf, home / 'checkpoint/undisturbed')
    assert open_model(str(run)).checkpoint.endswith('model-4')
    assert 'other settings' not in train(*flags, '--max_steps', 5)


def test_a_file_that_is_gone_is_written_again(train, home, monkeypatch):
    run = home / 'checkpoint/run1'
    gone = ('hparams.json', 'settings.json', 'lock', 'metrics.jsonl')
    at_step(monkeypatch, 2, lambda: [(run / name).unlink() for name in gone])
    output = train('--max_steps', 3, *SMALL)
    assert 'writing it again' not in output
    assert all((run / name).exists() for name in ('hparams.json', 'settings.json', 'lock'))
    assert [row['step'] for row in rows(home)] == [1, 2, 3]


def test_a_directory_that_another_process_has_taken_is_left_alone(train, home, monkeypatch):
    def replace():
        (home / 'checkpoint/run1').rename(home / 'checkpoint/away')
        (home / 'checkpoint/run1').mkdir()
        other = open(home / 'checkpoint/run1/lock', 'w')        # noqa: SIM115  (locked to the end of the test)
        other.write('77\n')
        other.flush()
        fcntl.flock(other, fcntl.LOCK_EX)
        held.append(other)
    held = []
    at_step(monkeypatch, 2, replace)
    with pytest.raises(UserError, match=r'another process \(number 77\) trains in checkpoint/run1'):
        train('--max_steps', 3, *SMALL)
    assert os.listdir(home / 'checkpoint/run1') == ['lock']
    held[0].close()


def test_the_overwritten_run_stays_until_the_new_one_has_a_checkpoint(tf, train, home, monkeypatch):
    train('--max_steps', 2, *SMALL)
    run = home / 'checkpoint/run1'

    def files():
        return {path.name: path.read_bytes() for path in run.iterdir() if path.name not in ('lock', 'dataset.npz', 'dataset.json')
                and path.is_file() and not path.name.startswith('events')}
    old = files()
    with monkeypatch.context() as patch:
        patch.setattr(run_state, 'write', lambda *_: fail_to_write())
        with pytest.raises(UserError, match='cannot save checkpoint/run1/model-2'):
            train('--overwrite', '--max_steps', 2, *SMALL)
    assert files() == old
    train('--overwrite', '--max_steps', 1, *SMALL)
    assert not (run / '.overwritten').exists()
    assert {name for name in files() if name.startswith('model-')} == {
        f'model-1{suffix}' for suffix in (*run_state.SUFFIXES, '.json')}
    assert [row['step'] for row in rows(home)] == [1]


def fail_to_write():
    raise OSError(errno.ENOSPC, 'No space left on device')


def test_an_overwriting_run_that_is_killed(train, home, monkeypatch):
    train('--max_steps', 2, *SMALL)
    with worker_group.alone(home, *SMALL, '--overwrite', '--save_every', 0) as process:
        process.wait_for('[2 ')
        process.signal(signal.SIGKILL)
    output = train('--max_steps', 3, *SMALL)
    assert 'checkpoint/run1: the run that --overwrite was to replace is back' in output
    assert [step for step, *_ in logged(output)] == ['3']
    assert [row['step'] for row in rows(home)] == [1, 2, 3]


def test_a_checkpoint_of_another_program_continues_with_its_weights(tf, train, home):
    """gpt-2-simple writes over model-STEP, and removes no model-STEP.json."""
    train('--max_steps', 2, '--val_every', 1, '--val_batch_count', 1, *ADAM)
    prefix = home / 'checkpoint/run1/model-2'
    weights = {name: array + 1 for name, array in read_checkpoint(prefix).items() if 'Adam' not in name and 'power' not in name}
    write_checkpoint(prefix, weights)
    output = train('--max_steps', 3, *ADAM)
    assert 'checkpoint/run1/model-2.json is not the state of checkpoint/run1/model-2: another program has written' in output
    assert 'continuing with the weights of checkpoint/run1/model-2 alone' in output
    assert 'model-2 holds no state of the optimizer adam: it starts from scratch' in output
    assert [step for step, *_ in logged(output)] == ['3']
    assert [(row['step'], 'loss' in row) for row in rows(home)] == [
        (0, False), (1, True), (1, False), (2, True), (2, False), (3, True)]


def test_a_second_signal_ends_the_process_immediately():
    code = ('import sys, time\nsys.path.insert(0, sys.argv[1])\nfrom command.stop_signal import StopSignal\n'
            'with StopSignal() as stop:\n    print("ready", flush=True)\n    while True:\n        time.sleep(0.01)\n'
            '        if stop.received:\n            print(stop.received, flush=True)\n            stop.received = None\n')
    with subprocess.Popen([sys.executable, '-c', code, os.path.join(ROOT, 'src')], stdout=subprocess.PIPE,
                          text=True) as process:
        assert process.stdout.readline() == 'ready\n'
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == 'SIGINT\n'
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == -signal.SIGTERM


def train_on_a_full_disk(*flags):
    """A full disk's stand-in is a limit to the size of files."""
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    worker_group.train_alone(*flags)


def test_a_full_disk_leaves_the_checkpoint_before(tf, train, home):
    flags = (*ADAM, '--save_every', 1)
    train(*flags, '--max_steps', 2)
    before = variables(tf, home / 'checkpoint/run1')
    names = {path.name for path in (home / 'checkpoint/run1').iterdir() if not path.name.startswith('events')}
    with worker_group.processes(home, train_on_a_full_disk, [(*flags, '--max_steps', 4)]) as [process]:
        assert process.status() == 2
    [line] = process.err.splitlines()
    assert line.startswith('train.py: cannot save checkpoint/run1/model-3: ')
    assert line.endswith('File too large; checkpoint/run1/model-2 is unchanged')
    assert {path.name for path in (home / 'checkpoint/run1').iterdir() if not path.name.startswith('events')} == names
    assert variables(tf, home / 'checkpoint/run1') == before
    train(*flags, '--max_steps', 3)
    assert (home / 'checkpoint/run1/counter').read_text() == '3\n'


def test_a_save_that_fails_at_its_end_leaves_nothing(train, home, monkeypatch):
    def names():
        return {path.name for path in (home / 'checkpoint/run1').iterdir() if not path.name.startswith('events')}

    def fail(*_):
        raise OSError(errno.ENOSPC, 'No space left on device')
    train('--max_steps', 2, *SMALL)
    before = names()
    with monkeypatch.context() as patch:
        patch.setattr(run_state, 'write', fail)
        with pytest.raises(UserError, match='cannot save checkpoint/run1/model-3: No space left on device; .*model-2 is unch'):
            train('--max_steps', 3, *SMALL)
    assert names() == before


def test_a_save_whose_unfinished_file_cannot_be_written_leaves_nothing(train, home, monkeypatch):
    train('--max_steps', 2, *SMALL)
    write = run_state.write

    def blocked(prefix, state):
        (home / f'{prefix}.json.part').mkdir()
        write(prefix, state)
    monkeypatch.setattr(run_state, 'write', blocked)
    with pytest.raises(UserError, match='cannot save checkpoint/run1/model-3: cannot write checkpoint/run1/model-3.json.part, '
                                        'the unfinished .*: Is a directory; .*; checkpoint/run1/model-2 is unchanged'):
        train('--max_steps', 3, *SMALL)
    assert not list((home / 'checkpoint/run1').glob('model-3*'))


def test_other_settings_are_printed(train, home):
    train('--max_steps', 1, *SMALL)
    assert 'other settings' not in train('--max_steps', 2, *SMALL)
    (home / 'corpus.txt').write_text((home / 'corpus.txt').read_text() * 2)
    output = train('--max_steps', 3, *SMALL, '--batch_size', 3)
    assert re.findall('This run continues with other settings: (.*)', output)[0] == '--batch_size: 2 before, 3 now'
    assert 'other settings: the corpus: corpus.txt of' in output
    settings = json.loads((home / 'checkpoint/run1/settings.json').read_text())
    assert settings['flags']['batch_size'] == 3
    assert set(settings['versions']) >= {'python', 'tensorflow', 'numpy'}
    assert settings['corpus']['tokens'] > 0


def test_an_infinite_loss_never_reaches_a_checkpoint(tf, train, home):
    train('--max_steps', 2, *SMALL)
    before = variables(tf, home / 'checkpoint/run1')
    with pytest.raises(UserError, match=r'the loss of step \d+ is \S+, .*checkpoint/run1/model-2 is safe; try --restore_from 2 '
                                        'with a smaller --learning_rate, --clip_norm 1, --warmup_steps 100$'):
        train('--max_steps', 40, *SMALL, '--learning_rate', 1e30, '--save_every', 0)
    assert variables(tf, home / 'checkpoint/run1') == before


def test_metrics_of_lost_steps_are_dropped(tf, train, home):
    train('--max_steps', 2, '--val_every', 1, '--val_batch_count', 1, *SMALL)
    path = home / 'checkpoint/run1/metrics.jsonl'
    kept = path.read_text()
    path.write_text(kept + '{"step": 3, "loss": 1.0}\n{"step": 3, "val_loss": 1.0}\n{"step": 4, "lo')
    train('--max_steps', 3, '--val_every', 1, '--val_batch_count', 1, *SMALL)
    assert path.read_text().startswith(kept)
    assert [(row['step'], 'loss' in row) for row in rows(home)] == [
        (0, False), (1, True), (1, False), (2, True), (2, False), (3, True), (3, False)]


def test_the_plot(train, home):
    needs('matplotlib')
    output = train('--max_steps', 2, '--val_every', 1, '--val_batch_count', 1, '--plot', *SMALL)
    assert 'Loss curve: checkpoint/run1/loss.png' in output
    assert (home / 'checkpoint/run1/loss.png').read_bytes().startswith(b'\x89PNG')


def test_weights_alone_are_accepted(train, home):
    output = train('--run_name', 'other', '--restore_from', 'models/one_block/model.ckpt', '--max_steps', 1, *SMALL)
    assert [step for step, *_ in logged(output)] == ['1']


BAD_FLAGS = [
    (['--keep', '-1'], 'argument --keep: expected a whole number, 0 or more'),
    (['--epochs', 'many'], 'argument --epochs: expected a number, 0 or more'),
    (['--save_secs', '-2'], 'argument --save_secs: expected'),
    (['--warn_epochs', 'x'], 'argument --warn_epochs: expected'),
    (['--patience', '2'], '--patience compares validation losses: give --val_every too'),
    (['--keep_best'], '--keep_best compares validation losses'),
    (['--val_split', '2'], 'argument --val_split: expected a number from 0 to 1'),
    (['--val_split', '0.001'], '--val_split 0.001 holds out '),
    (['--val_split', '1'], '--val_split 1 leaves nothing to train on: give a smaller share, or more text'),
    (['--val_split', '0.5', '--val_dataset', 'corpus.txt'], '--val_split and --val_dataset: give only one of them'),
    (['--restore_from', '7'], "no checkpoint 'checkpoint/run1/model-7'; checkpoint/run1 holds no checkpoints"),
    (['--restore_from', 'nowhere'], "no checkpoint 'nowhere'; this run has none; runs in checkpoint: none"),
]


@pytest.mark.parametrize(('flags', 'words'), BAD_FLAGS, ids=lambda value: value if isinstance(value, str) else ' '.join(value))
def test_a_mistake_is_one_line_before_tensorflow(mistake, home, flags, words):
    assert words in mistake('train.py', '--model_name', 'toy', '--dataset', 'corpus.txt', '--max_steps', 1, *flags)
    assert {path.name for path in (home / 'checkpoint').rglob('*')} <= {'run1', 'dataset.npz', 'dataset.json'}

