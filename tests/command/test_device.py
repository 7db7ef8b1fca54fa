"""What a command says it runs on; TensorFlow's answers about GPUs are made up."""

import sys

import pytest

from command import device
from command.errors import UserError
from conftest import SMALL_RUN


@pytest.fixture
def machine(tf, monkeypatch):
    """machine(gpus that TensorFlow finds, GPUs of the driver): pretends to be on such a machine."""
    for name in ('CUDA_VISIBLE_DEVICES', 'TF_NUM_INTRAOP_THREADS'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(device, 'available_processors', lambda: 6)
    monkeypatch.setattr(device, 'available_memory', lambda: 6_120_000_000)

    def pretend(found, driver):
        monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind: found)
        monkeypatch.setattr(tf.config.experimental, 'get_device_details', lambda gpu: {'device_name': gpu})
        monkeypatch.setattr(device, 'nvidia_gpus', lambda: driver)
    return pretend


def test_a_cpu(machine, monkeypatch):
    machine([], [])
    assert device.device() == 'Device: CPU, 6 threads, 6.1 GB of memory available, float32'
    assert device.unused_gpu() is None
    monkeypatch.setattr(device, 'available_memory', lambda: None)
    monkeypatch.setenv('TF_NUM_INTRAOP_THREADS', '2')
    assert device.device() == 'Device: CPU, 2 threads, float32'


def test_gpus(machine):
    machine(['A10'], [('A10', 24_000_000_000)])
    assert device.device('tf32') == 'Device: A10, 24.0 GB, 6 threads of the CPU, tf32'
    assert device.unused_gpu() is None
    machine(['A10', 'B'], [('A10', 1), ('A10', 2), ('B', 3)])        # two of one name, and not the same memory
    assert device.device() == 'Device: A10 (the first of 2), 6 threads of the CPU, float32'
    machine(['A10', 'A10'], [('A10', 24_000_000_000)] * 2)
    assert device.device() == 'Device: A10 (the first of 2), 24.0 GB, 6 threads of the CPU, float32'
    machine(['A10'], [('A10', None)])
    assert device.device() == 'Device: A10, 6 threads of the CPU, float32'


@pytest.mark.parametrize(('capability', 'precision', 'line'), [
    ((7, 5), 'bfloat16',
     'A is not made for --precision bfloat16: it has compute capability 7.5, and bfloat16 begins at 8.0; use float16'),
    ((6, 1), 'tf32', 'A is not made for --precision tf32: it has compute capability 6.1, and tf32 begins at 8.0; use float32'),
    ((8, 0), 'bfloat16', None), ((12, 0), 'tf32', None), ((6, 1), 'float16', None), ((3, 5), 'float32', None),
    (None, 'bfloat16', None)])
def test_a_gpu_that_lacks_a_precision(tf, machine, monkeypatch, capability, precision, line):
    machine(['A'], [])
    details = {'device_name': 'A'} | ({'compute_capability': capability} if capability else {})
    monkeypatch.setattr(tf.config.experimental, 'get_device_details', lambda gpu: details)
    assert device.lacking(precision) == line
    machine([], [])
    assert device.lacking(precision) is None


def test_xla_is_tried_before_it_is_used(tf, monkeypatch):
    device.check_xla()

    def fail(*_, **__):
        raise tf.errors.UnimplementedError(None, None, 'no  libdevice\n\t a long story')
    monkeypatch.setattr(tf.Session, 'run', fail)
    with pytest.raises(UserError) as error:
        device.check_xla()
    assert str(error.value) == ('--xla: XLA cannot compile for this device (no libdevice): leave --xla out, or install what it '
                                "needs: pip install 'tensorflow[and-cuda]'")


def test_a_run_that_asks_for_xla_tries_it(train, monkeypatch):
    from command import device
    tried = []
    monkeypatch.setattr(device, 'check_xla', lambda: tried.append(True))
    for flags in ((), ('--no-xla',), ('--xla',)):
        train(*SMALL_RUN, '--max_steps', 1, '--overwrite', *flags)
    assert tried == [True]


def test_the_lack_is_printed_at_the_start(tf, train, monkeypatch):
    from command import device
    monkeypatch.setattr(device, 'lacking', lambda precision: f'no {precision} here')
    lines = train('--model_name', 'one_block', '--max_steps', 1, '--sample_every', 0, '--precision', 'bfloat16').splitlines()
    assert lines[lines.index('Loading TensorFlow') + 2] == 'no bfloat16 here'


def test_a_gpu_for_which_tensorflow_is_not_built(tf, machine, monkeypatch):
    machine([], [('A10', 24_000_000_000)])
    monkeypatch.setattr(tf.test, 'is_built_with_cuda', lambda: False)
    assert device.unused_gpu() == (
        'A10 is not used: this TensorFlow is built for CPUs alone. On Linux, or in WSL on Windows, install the one for GPUs:\n'
        "  pip install 'tensorflow[and-cuda]'")


def test_a_gpu_that_is_not_used(tf, machine, monkeypatch):
    machine([], [('A10', 24_000_000_000)])
    monkeypatch.setattr(tf.test, 'is_built_with_cuda', lambda: True)
    assert device.device().startswith('Device: CPU, ')
    assert device.unused_gpu() == ("A10 is not used: TensorFlow does not find it. It needs CUDA libraries:\n"
                                   "  pip install 'tensorflow[and-cuda]'")
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '0')
    assert device.unused_gpu()
    for hidden in ('', '-1'):
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', hidden)
        assert device.unused_gpu() is None


@pytest.mark.parametrize('terminal', [True, False])
def test_standard_output_is_left_alone(machine, monkeypatch, capsys, terminal):
    before = []     # loading it: what is printed by then
    monkeypatch.setattr(device, 'load_tensorflow', lambda: before.append(capsys.readouterr()))
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: terminal)
    machine([], [])
    device.load_and_report()
    assert before == [('', 'Loading TensorFlow\n' if terminal else '')]
    assert capsys.readouterr() == ('', f'{device.device()}\n' if terminal else '')
    machine([], [('A10', 1)])
    device.load_and_report()
    out, err = capsys.readouterr()
    assert out == '' and err.endswith(f'{device.unused_gpu()}\n')
    machine([], [])
    monkeypatch.setattr(sys, 'stderr', None)        # closed
    device.load_and_report()


def test_a_script_names_the_device(train):
    lines = train('--max_steps', 1, '--sample_every', 0).splitlines()
    start = lines.index('Loading TensorFlow')
    assert lines[start + 1].startswith('Device: ') and lines[start + 1].endswith(', float32')
