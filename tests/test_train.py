"""train.py as a person runs it: what it prints and writes, each flag, each mistake."""

import json
import os
import re
import sys

import numpy as np
import pytest

import worker_group
from checkpoint_files import read_checkpoint
from command.errors import UserError
from conftest import ROOT, SMALL_RUN, one_line_error

LINE = re.compile(r'\[(\d+) \| (\d+\.\d\d)\] loss=(\d+\.\d\d) avg=(\d+\.\d\d)')


def losses(output):
    return [float(match[3]) for match in LINE.finditer(output)]


def weights(tf, home, run='run1'):
    """Every variable of a run's newest checkpoint."""
    return read_checkpoint(home / 'checkpoint' / run)


def test_a_run_leaves_what_the_2019_tools_leave(tf, train, home):
    output = train(*SMALL_RUN, '--max_steps', 4, '--sample_every', 2, '--sample_num', 3, '--sample_length', 9, '--batch_size', 2,
                   '--save_every', 2, '--seed', 1)
    assert [int(match[1]) for match in LINE.finditer(output)] == [1, 2, 3, 4]
    files = {path.name for path in (home / 'checkpoint' / 'run1').iterdir()}
    assert {'checkpoint', 'counter', 'hparams.json', 'encoder.json', 'vocab.bpe', 'model-2.index', 'model-4.index',
            'model-4.data-00000-of-00001', 'model-4.meta'} <= files
    assert any(name.startswith('events.out.tfevents') for name in files)
    assert (home / 'checkpoint/run1/counter').read_text() == '4\n'
    sample = (home / 'samples/run1/samples-4').read_text()
    assert re.findall(r'^======== SAMPLE (\d) ========$', sample, re.MULTILINE) == ['1', '2', '3']
    assert sample.count('\n\n======== SAMPLE ') == 2 and sample.endswith('\n')      # an empty line between them
    assert sample in output     # all of them, not only the last
    assert 'model-4' in tf.train.latest_checkpoint(str(home / 'checkpoint/run1'))


def test_the_running_average(train):
    values = [(float(m[3]), float(m[4])) for m in LINE.finditer(train('--max_steps', 5, *SMALL_RUN,
                                                                      '--learning_rate', 0.01))]
    total = weight = 0
    for loss, average in values:
        total, weight = total * 0.99 + loss, weight * 0.99 + 1
        assert average == pytest.approx(total / weight, abs=0.02)


def test_training_lowers_the_loss_and_a_run_continues_where_it_stopped(train, home):
    flags = ('--model_name', 'one_block', '--sample_every', 0, '--learning_rate', 0.01, '--batch_size', 4, '--seed', 1)
    output = train('--max_steps', 20, *flags)
    assert 'starts from scratch' not in output      # no model has the state of an optimizer
    first = losses(output)
    assert first[-1] < first[0] - 1
    output = train('--max_steps', 25, *flags)
    assert [int(match[1]) for match in LINE.finditer(output)] == [21, 22, 23, 24, 25]
    assert losses(output)[0] < first[0] - 1
    assert 'starts from scratch' not in output
    assert 'checkpoint/run1 has already ended after 25 steps: --max_steps 25 reached' in train('--max_steps', 25, *flags)


def test_a_run_repeats_with_a_seed_and_differs_without(tf, train, home):
    flags = ('--model_name', 'one_block', '--max_steps', 3, '--sample_every', 3, '--sample_length', 20, '--noise', 0.2,
             '--top_p', 0.9)
    one, same, other = (train('--run_name', name, *flags, *seed) for name, seed in
                        (('a', ['--seed', 1]), ('b', ['--seed', 1]), ('c', [])))
    assert losses(one) == losses(same) != losses(other)
    a, b = weights(tf, home, 'a'), weights(tf, home, 'b')
    assert all((a[name] == b[name]).all() for name in a)
    samples = [(home / f'samples/{name}/samples-3').read_text() for name in 'abc']
    assert samples[0] == samples[1] != samples[2]


def test_accumulated_gradients_equal_one_large_batch(tf, train, home):
    flags = ('--max_steps', 3, '--sample_every', 0, '--seed', 1, '--optimizer', 'sgd', '--learning_rate', 0.5)
    large = train('--run_name', 'large', '--batch_size', 6, *flags)
    small = train('--run_name', 'small', '--batch_size', 2, '--accumulate_gradients', 3, *flags)
    saving = train('--run_name', 'saving', '--batch_size', 2, '--accumulate_gradients', 3, '--memory_saving_gradients',
                   *flags)
    assert losses(large) == losses(small) == losses(saving)
    expected = weights(tf, home, 'large')
    for name in ('small', 'saving'):
        for variable, value in weights(tf, home, name).items():
            np.testing.assert_allclose(value, expected[variable], atol=1e-5)


def test_only_train_transformer_layers(tf, train, home):
    train('--max_steps', 2, '--sample_every', 0, '--only_train_transformer_layers', '--learning_rate', 0.1,
          '--memory_saving_gradients')
    before = read_checkpoint(home / 'models/toy')
    moved = {name for name, value in weights(tf, home).items()
             if name.startswith('model/') and not name.endswith(('Adam', 'Adam_1'))
             and (value != before[name]).any()}
    assert moved == {name for name in before if '/h' in name}


@pytest.mark.parametrize('saving', ['--memory_saving_gradients', '--no-memory_saving_gradients'])
@pytest.mark.parametrize('accumulate', [1, 2])
def test_train_layers(tf, train, home, saving, accumulate):
    train('--max_steps', 2, '--sample_every', 0, '--train_layers', 1, '--learning_rate', 0.1, saving,
          '--accumulate_gradients', accumulate)
    before, after = read_checkpoint(home / 'models/toy'), weights(tf, home)
    moved = {name for name in before if (after[name] != before[name]).any()}
    assert moved == {name for name in before if '/h1/' in name or '/ln_f/' in name}
    assert {name for name in after if name.endswith('/Adam')} == {f'{name}/Adam' for name in moved}


def test_noise_is_on_the_inputs_only(train, monkeypatch):
    """With every input replaced, what can be learned is how often each token occurs, not which follows which."""
    flags = ('--model_name', 'one_block', '--max_steps', 60, '--sample_every', 0, '--learning_rate', 0.01, '--batch_size', 4,
             '--seed', 1)
    clean = losses(train('--run_name', 'clean', *flags))[-1]
    noisy = losses(train('--run_name', 'noisy', '--noise', 1, *flags))[-1]
    assert clean < 1 < noisy


def test_validation_uses_the_same_batches_each_time(train, home):
    (home / 'other.txt').write_text('something else altogether, ' * 200)
    output = train(*SMALL_RUN, '--max_steps', 2, '--val_every', 1, '--val_dataset', 'other.txt',
                   '--val_batch_count', 3, '--learning_rate', 1e-12)
    values = re.findall(r'\[(\d) \| [\d.]+\] validation loss = ([\d.]+)', output)
    assert [step for step, _ in values] == ['0', '1', '2']
    assert len({value for _, value in values}) == 1
    training = losses(output)
    assert abs(float(values[0][1]) - training[0]) > 0.01


def test_zero_turns_off_what_happens_every_so_often(train, home):
    output = train(*SMALL_RUN, '--max_steps', 2, '--sample_every', 0, '--save_every', 0, '--val_every', 0)
    assert 'SAMPLE' not in output
    assert 'validation' not in output
    assert (home / 'checkpoint/run1/model-2.index').exists()      # the end of a run is saved all the same


def test_a_default_that_does_not_fit_the_model_is_printed(train):
    output = train(*SMALL_RUN, '--max_steps', 1, '--sample_every', 1)
    assert "The model's window holds 32 tokens: --sample_length is 31" in output


def test_restore_from_another_run_a_prefix_and_a_model(train, home):
    flags = ('--model_name', 'one_block', '--sample_every', 0, '--learning_rate', 0.01, '--batch_size', 4, '--seed', 1)
    trained = losses(train('--max_steps', 20, *flags))
    for name, path in (('a', 'checkpoint/run1'), ('b', 'checkpoint/run1/model-20'),
                       ('c', 'checkpoint/run1/model-20.index')):
        output = train('--max_steps', 1, '--run_name', name, '--restore_from', path, *flags)
        assert 'Loading checkpoint checkpoint/run1/model-20\n' in output
        assert losses(output)[0] < trained[0] - 1
    assert losses(train('--max_steps', 1, '--run_name', 'd', '--restore_from', 'models/one_block', *flags))[0] == trained[0]


def test_fresh_never_overwrites_a_run(train, home):
    first = losses(train(*SMALL_RUN, '--max_steps', 2, '--seed', 1, '--restore_from', 'fresh'))
    with pytest.raises(UserError, match='would overwrite the run in checkpoint/run1'):
        train(*SMALL_RUN, '--max_steps', 2, '--restore_from', 'fresh')
    output = train(*SMALL_RUN, '--max_steps', 2, '--seed', 1, '--restore_from', 'fresh', '--run_name', 'b')
    assert losses(output) == first


def test_another_optimizer_is_printed(train):
    train('--max_steps', 1, *SMALL_RUN)
    output = train('--max_steps', 2, *SMALL_RUN, '--optimizer', 'adam')
    assert 'no state of the optimizer adam: it starts from scratch' in output


def test_a_run_of_another_size_is_refused(train, home):
    (home / 'checkpoint' / 'run1').mkdir(parents=True)
    (home / 'checkpoint/run1/hparams.json').write_text(json.dumps(
        {'n_vocab': 300, 'n_ctx': 32, 'n_embd': 48, 'n_head': 3, 'n_layer': 2}))
    with pytest.raises(UserError, match='run1 is a run of a model of another size than toy'):
        train()


@pytest.mark.parametrize(('change', 'words'), [
    ({'n_embd': 48}, r'model/wpe is \[32, 24\] there, \[32, 48\] here'),
    ({'n_layer': 3}, 'it holds no model/h2/'),
    ({'n_layer': 1}, 'n_layer 2 and n_embd 24: it holds model/h1 too'),
])
def test_a_checkpoint_of_another_size_is_named(train, home, model_directory, change, words):
    other = home / 'models' / 'other'
    other.mkdir()
    for file in model_directory.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    hparams = json.loads((other / 'hparams.json').read_text())
    (other / 'hparams.json').write_text(json.dumps(hparams | change))
    with pytest.raises(UserError, match=words) as error:
        train('--model_name', 'other', '--max_steps', 1)
    assert ('models/other/model.ckpt is a checkpoint of another model, it looks like a model with n_layer 2 and n_embd 24: '
            in str(error.value))


def test_a_published_model_is_recognised():
    from storage import check
    blocks = {f'model/h{i}/ln_1/g': [1024] for i in range(24)}
    assert check._model_of({'model/wte': [50257, 1024], **blocks}) == '355M'


def test_a_damaged_checkpoint_is_named(train, home, model_directory):
    other = home / 'models' / 'other'
    other.mkdir()
    for file in model_directory.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    data = other / 'model.ckpt.data-00000-of-00001'
    data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(UserError, match='cannot read the checkpoint models/other/model.ckpt'):
        train('--model_name', 'other', '--max_steps', 1)


def test_each_line_has_the_learning_rate_and_each_row_the_norm(tf, train, home):
    output = train('--model_name', 'one_block', '--max_steps', 4, '--sample_every', 0, '--learning_rate', 0.01,
                   '--learning_rate_schedule', 'linear', '--warmup_steps', 2, '--clip_norm', 1, '--optimizer', 'adamw',
                   '--weight_decay', 0.1)
    assert re.findall(r' lr=(\S+)$', output, re.MULTILINE) == ['0.005', '0.01', '0.01', '0.005']
    rows = [json.loads(row) for row in (home / 'checkpoint/run1/metrics.jsonl').read_text().splitlines()]
    assert len(rows) == 4 and all(row['gradient_norm'] > 0 for row in rows)


def test_bfloat16_learns_as_float32_does(train, home):
    """50 steps of the model that ships, on its own kind of text."""
    flags = ('--model_name', 'tiny', '--models_dir', os.path.join(ROOT, 'models'), '--max_steps', 50, '--sample_every', 0,
             '--batch_size', 2, '--learning_rate', 0.0005, '--seed', 1, '--seq_length', 64)
    exact = losses(train('--run_name', 'a', *flags))
    rounded = losses(train('--run_name', 'b', '--precision', 'bfloat16', *flags))
    assert exact[-1] < exact[0] - 1
    assert np.mean(rounded) == pytest.approx(np.mean(exact), rel=0.01)
    assert np.mean(rounded[-10:]) == pytest.approx(np.mean(exact[-10:]), rel=0.01)


def test_out_of_memory_names_what_to_try_and_leaves_the_run_safe(tf, train, home, monkeypatch):
    from training import memory, optimizer
    train('--max_steps', 2, '--sample_every', 0)
    before = (home / 'checkpoint/run1/checkpoint').read_text()

    def fail(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, 'OOM when allocating tensor')

    monkeypatch.setattr(optimizer.TrainStep, 'run', fail)
    for name in ('PROCESS', 'COMPILED', 'ADAPTED_BLOCK'):       # which are most of what a toy takes
        monkeypatch.setattr(memory, name, 0)
    with pytest.raises(UserError) as error:
        train('--max_steps', 4, '--sample_every', 0, '--batch_size', 2)
    assert str(error.value) == (
        'out of memory in step 3 (checkpoint/run1/model-2 is safe); try, in this order, each with those before it: '
        '--lora_rank 8, --batch_size 1, --memory_saving_gradients, --optimizer adafactor, --seq_length 8 '
        '(--lora_rank in another run, with --restore_from run1)')
    assert (home / 'checkpoint/run1/checkpoint').read_text() == before
    flags = '--batch_size 1, --memory_saving_gradients, --optimizer adafactor, --seq_length 8'
    with pytest.raises(UserError, match=f'those before it: {flags}$'):
        train('--max_steps', 4, '--sample_every', 0, '--batch_size', 64, '--train_layers', 2)


@pytest.mark.parametrize(('flags', 'what', 'advice'), [
    (('--val_every', 1, '--val_batch_count', 1, '--sample_every', 0), 'validation_loss',
     'in the validation after step 0 (models/one_block/model.ckpt is safe); try --val_batch_size 1, or a smaller --seq_length'),
    (('--sample_every', 1), 'sample',
     'in the samples after step 1 (models/one_block/model.ckpt is safe); try --sample_num 1, or a smaller --sample_length'),
    (('--sample_every', 0), 'restore', 'before the first step: try, in this order, each with those before it: --seq_length 8')])
def test_out_of_memory_between_steps_names_what_to_try(tf, train, monkeypatch, flags, what, advice):
    from training import graph, memory

    def fail(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, 'OOM when allocating tensor')
    monkeypatch.setattr(graph.TrainingGraph, what, fail)
    for name in ('PROCESS', 'COMPILED'):
        monkeypatch.setattr(memory, name, 0)
    with pytest.raises(UserError) as error:
        train('--model_name', 'one_block', '--max_steps', 2, '--memory_saving_gradients', '--optimizer', 'adafactor',
              '--train_layers', 1, *flags)
    assert str(error.value) == f'out of memory {advice}'


def train_with_little_memory(*flags):
    """oneDNN's allocator has a limit that can be lowered; TensorFlow's own has none."""
    os.environ['TF_MKL_ALLOC_MAX_BYTES'] = '20000000'
    worker_group.train_alone(*flags)


def test_a_real_lack_of_memory_is_one_line(home):
    flags = (*SMALL_RUN, '--max_steps', 1, '--batch_size', 512)
    with worker_group.processes(home, train_with_little_memory, [flags]) as [process]:
        assert process.status() == 2
    [line] = process.err.splitlines()
    assert ('out of memory in step 1 (models/one_block/model.ckpt is safe); '
            'try, in this order, each with those before it: --batch_size 1') in line


BAD_FLAGS = [
    (['--dataset', 'nowhere.txt'], "cannot find 'nowhere.txt'"),
    (['--dataset', 'none*.txt'], 'nothing matches the pattern none*.txt'),
    (['--dataset', 'empty.txt'], 'empty.txt is empty: 0 tokens'),
    (['--dataset', 'short.txt'], '32 tokens are needed in one piece'),
    (['--dataset', 'latin.txt'], 'latin.txt is not utf-8 text: byte 0xe9 at offset 3'),
    (['--dataset', 'corrupt.npz'], 'corrupt.npz'),
    (['--dataset', 'pickled.npz'], 'pickled objects'),
    (['--dataset', 'floats.npz'], 'holds float64'),
    (['--dataset', 'outside.npz'], 'holds the id 40000'),
    (['--val_every', '1', '--val_dataset', 'nowhere.txt'], "cannot find 'nowhere.txt'"),
    (['--model_name', 'missing'], "no model 'missing' in models; models here: "),
    (['--model_name', '345M'], './download_model.py 345M fetches it; models here: '),
    (['--model_name', 'broken_hparams'], 'hparams.json is not JSON'),
    (['--model_name', 'broken_encoder'], 'encoder.json'),
    (['--model_name', 'broken_vocab'], 'vocab.bpe'),
    (['--model_name', 'no_weights'],
     ("no checkpoint 'models/no_weights'; models/no_weights/checkpoint is missing, or does not name one that is there; "
      'checkpoints there: models/no_weights/model.ckpt')),
    (['--restore_from', 'nowhere'], "no checkpoint 'nowhere'"),
    (['--optimizer', 'lion'], "argument --optimizer: invalid choice: 'lion'"),
    (['--batch_size', '0'], "argument --batch_size: expected a whole number above 0, not '0'"),
    (['--accumulate_gradients', '-1'], 'argument --accumulate_gradients: expected'),
    (['--learning_rate', '0'], "argument --learning_rate: expected a number above 0, not '0'"),
    (['--learning_rate', 'nan'], "argument --learning_rate: expected a number above 0, not 'nan'"),
    (['--sample_length', '0'], 'argument --sample_length: expected'),
    (['--sample_length', '33'], "--sample_length 33 is more than the model's window of 32 tokens"),
    (['--seq_length', '33'], "--seq_length 33 is more than the model's window of 32 tokens"),
    (['--seq_length', '1'], '--seq_length must be 2 or more'),
    (['--top_p', '1.5'], "argument --top_p: expected a number from 0 to 1, not '1.5'"),
    (['--noise', '-0.1'], 'argument --noise: expected a number from 0 to 1'),
    (['--top_k', '-1'], 'argument --top_k: expected'),
    (['--top_k', '2147483648'], "argument --top_k: expected a whole number from 0 to 2147483647, not '2147483648'"),
    (['--encoding', 'klingon'], "unknown text encoding 'klingon'"),
    (['--sample_evry', '5'], 'unknown flag --sample_evry: did you mean --sample_every?'),
    (['--learning_rate_schedule', 'cosine', '--max_steps', '0'], 'cosine ends at --max_steps: give that too'),
    (['--warmup_steps', '5', '--max_steps', '5'], '--warmup_steps 5 must be less than --max_steps 5'),
    (['--weight_decay', '0.1'], '--weight_decay works only with --optimizer adamw'),
    (['--clip_norm', '-1'], "argument --clip_norm: expected a number, 0 or more, not '-1'"),
    (['--precision', 'float8'], "argument --precision: invalid choice: 'float8'"),
    (['--run_name', 'file'], 'cannot write to checkpoint/file: File exists'),
    (['--run_name', 'r\udce9'], "the name 'r\\udce9' is not UTF-8, which TensorFlow needs: choose another one"),
]


@pytest.fixture
def broken_files(home, model_directory):
    """Every broken file that BAD_FLAGS names."""
    (home / 'empty.txt').write_text('')
    (home / 'short.txt').write_text('too short')
    (home / 'latin.txt').write_bytes('caf\xe9 au lait '.encode('latin-1') * 100)
    (home / 'corrupt.npz').write_bytes(b'PK\x03\x04 and then nothing')
    np.savez(home / 'pickled.npz', np.array([{}], object))
    np.savez(home / 'floats.npz', np.ones(100))
    np.savez(home / 'outside.npz', np.full(100, 40000))
    (home / 'checkpoint').mkdir()
    (home / 'checkpoint' / 'file').write_text('')
    for name, file, content in (('broken_hparams', 'hparams.json', '{"n_vocab"'), ('broken_encoder', 'encoder.json', '{'),
                                ('broken_vocab', 'vocab.bpe', '#version: 0.2\na b c\n'), ('no_weights', 'checkpoint', None)):
        directory = home / 'models' / name
        directory.mkdir()
        for source in model_directory.iterdir():
            if source.name != file:
                (directory / source.name).symlink_to(source)
            elif content is not None:
                (directory / file).write_text(content)


@pytest.mark.parametrize(('flags', 'words'), BAD_FLAGS, ids=lambda value: value if isinstance(value, str) else ' '.join(value))
def test_a_mistake_is_one_line_before_tensorflow(mistake, broken_files, home, flags, words):
    assert words in mistake('train.py', '--model_name', 'toy', '--dataset', 'corpus.txt', '--max_steps', 1, *flags)
    # Of a mistake that is found in the tokens, the tokens stay, as is printed.
    assert {path.name for path in (home / 'checkpoint').rglob('*')} <= {'file', 'run1', 'dataset.npz', 'dataset.json'}
    assert not (home / 'samples').exists()


def test_a_process_with_a_mistake_ends_so(without_tensorflow, home):
    line = one_line_error(without_tensorflow('train.py', '--model_name', 'toy', '--dataset', 'nowhere.txt'))
    assert line.startswith("train.py: cannot find 'nowhere.txt'")
    assert not (home / 'checkpoint').exists()


def test_an_output_that_is_not_utf_8_does_not_end_a_run(script, home):
    """A vocabulary of bytes writes many U+FFFD; and the corpus's name is not UTF-8."""
    (home / 'corpus.txt').rename(home / 'caf\udce9.txt')
    result = script('train.py', *SMALL_RUN, '--dataset', 'caf\udce9.txt', '--max_steps', 1, '--sample_every', 1,
                    '--sample_length', 30, '--seed', 1, env=os.environ | {'PYTHONIOENCODING': 'ascii'})
    assert (result.returncode, result.stderr) == (0, '')
    assert '\\ufffd' in result.stdout and 'Loading dataset caf\\udce9.txt' in result.stdout
    assert '\ufffd' in (home / 'samples/run1/samples-1').read_text(encoding='utf-8')
    assert json.loads((home / 'checkpoint/run1/settings.json').read_text())['corpus']['name'] == 'caf\udce9.txt'


def test_what_other_workers_print_is_discarded_whatever_it_is(capsys):
    import train
    from workers.cluster import Cluster
    with train.only_worker_0_prints(Cluster(('a:1', 'b:2'), index=1)):
        print('caf\udce9.txt', flush=True)
    assert capsys.readouterr().out == 'worker 1 (b:2) of 2: worker 0 (a:1) reports the progress\n'


def test_no_dataset_is_one_line(mistake):
    assert '--dataset' in mistake('train.py')


def test_training_called_from_python(train, home, monkeypatch):
    """In the working directory, with arguments of its own instead of those of the program or notebook."""
    import train as script
    train('--max_steps', 1, *SMALL_RUN, '--run_name', 'command')
    monkeypatch.setattr(sys, 'argv', ['notebook', '-f', 'kernel.json'])
    flags = ['--dataset', 'corpus.txt', *map(str, SMALL_RUN), '--run_name', 'mine']
    for steps in ('1', '2'):
        script.main([*flags, '--max_steps', steps])
    assert (home / 'checkpoint/mine/model-2.index').exists()
    with pytest.raises(UserError, match=r'^unknown flag --datset: did you mean --dataset\? \(see train.py --help\)$'):
        script.main(['--datset', 'x'])


def test_local_workers_started_from_python_run_the_script_with_the_arguments(home, monkeypatch):
    import train as script
    commands = []
    monkeypatch.chdir(home)
    monkeypatch.setattr(script.local, 'assign_devices', lambda count: [])
    monkeypatch.setattr(script.local, 'run_workers', lambda args, command, devices: commands.append(command) or 0)
    flags = ['--model_name', 'toy', '--dataset', 'corpus.txt', '--local_workers', '2', '--no_cache']
    with pytest.raises(SystemExit):
        script.main(flags)
    assert commands == [[os.path.join(ROOT, 'train.py'), *flags]]
