"""The processors, GPUs and memory that a process may use."""

import io
import os

import pytest

from command import machine


def test_gpus_of_the_environment(monkeypatch):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '3, GPU-5,-1,')
    assert machine.visible_gpus() == ['3', 'GPU-5']


def test_gpus_of_the_driver(monkeypatch, tmp_path):
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    monkeypatch.setenv('PATH', str(tmp_path))
    assert machine.visible_gpus() == []
    command = tmp_path / 'nvidia-smi'
    command.write_text('#!/bin/sh\nprintf "0\\n1\\n2\\n"\n')
    command.chmod(0o755)
    assert machine.visible_gpus() == ['0', '1', '2']
    command.write_text('#!/bin/sh\nprintf "0\\n"\nexit 9\n')
    assert machine.visible_gpus() == []


def test_gpus_of_the_driver_that_this_process_may_not_use(monkeypatch, tmp_path):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    monkeypatch.setenv('PATH', str(tmp_path))
    assert machine.nvidia_gpus() == []
    command = tmp_path / 'nvidia-smi'
    command.write_text('#!/bin/sh\nprintf "NVIDIA A10, 23028\nNVIDIA GB10, [N/A]\n"\n')
    command.chmod(0o755)
    assert machine.nvidia_gpus() == [('NVIDIA A10', 23028 * 2 ** 20), ('NVIDIA GB10', None)]
    command.write_text('#!/bin/sh\nexec /bin/sleep 60\n')
    monkeypatch.setattr(machine, 'DRIVER_TIMEOUT', 0.1)
    assert machine.nvidia_gpus() == []      # a driver that does not answer


def test_memory_and_name_of_the_gpus_that_this_process_may_use(monkeypatch, tmp_path):
    """The driver is asked for those of CUDA_VISIBLE_DEVICES; the smallest memory of them is promised."""
    monkeypatch.setenv('PATH', f'{tmp_path}')
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    assert machine.gpu_memory() is None and machine.gpu_id() is None
    command = tmp_path / 'nvidia-smi'
    command.write_text('''#!/bin/sh
case "$*" in
*index*) printf "0\\n1\\n" ;;
*uuid*id=0) printf "GPU-a\\n" ;;
*uuid*id=1) printf "GPU-b\\n" ;;
*memory.total*nounits*id=0,1) printf "15360\\n8192\\n" ;;
*memory.total*nounits*id=0) printf "15360\\n" ;;
*memory.total*id=GB10) printf "[N/A]\\n" ;;
*) echo "No devices were found"; exit 6 ;;
esac
''')
    command.chmod(0o755)
    assert machine.gpu_memory() == 8192 * 2 ** 20 and machine.gpu_id() == 'GPU-a'
    for visible, memory, name in (('0', 15360 * 2 ** 20, 'GPU-a'), ('1', None, 'GPU-b'), ('1,0', None, 'GPU-b'),
                                  ('GB10', None, None), ('', None, None), ('-1', None, None), ('MIG-x', None, None)):
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
        assert (machine.gpu_memory(), machine.gpu_id()) == (memory, name)


def test_processors_are_those_that_this_process_may_use(monkeypatch):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: {3, 5, 8}, raising=False)
    assert machine.available_processors() == 3
    monkeypatch.delattr(os, 'sched_getaffinity')
    monkeypatch.setattr(os, 'cpu_count', lambda: None)
    assert machine.available_processors() == 1


@pytest.mark.parametrize(('flags', 'has'), [
    ('fpu avx512_vnni amx_tile amx_int8', True), ('fpu avx512_vnni', False), (None, False)])
def test_amx_is_found_among_the_flags_of_the_processor(monkeypatch, flags, has):
    def open_file(path, **_):
        assert path == '/proc/cpuinfo'
        if flags is None:       # not Linux
            raise FileNotFoundError
        return io.StringIO(f'processor\t: 0\nbugs\t: amx_int8\nflags\t\t: {flags}\n')
    monkeypatch.setattr(machine, 'open', open_file, raising=False)
    assert machine.has_amx() == has


def test_available_memory(monkeypatch):
    monkeypatch.setattr(machine, 'open', lambda *_, **__: io.StringIO('MemTotal: 999 kB\nMemAvailable:    5 kB\n'), raising=False)
    assert machine.available_memory() == 5 * 1024


@pytest.mark.parametrize('meminfo', ['MemTotal: 999 kB\n', None])
def test_memory_without_linux_s_figure(monkeypatch, meminfo):
    def open_meminfo(*_, **__):
        if meminfo is None:
            raise FileNotFoundError
        return io.StringIO(meminfo)
    monkeypatch.setattr(machine, 'open', open_meminfo, raising=False)
    monkeypatch.setattr(os, 'sysconf', {'SC_PHYS_PAGES': 7, 'SC_PAGE_SIZE': 4096}.get)
    assert machine.available_memory() == 7 * 4096
    monkeypatch.setattr(os, 'sysconf_names', {'SC_PAGE_SIZE': 1})
    assert machine.available_memory() is None
    monkeypatch.delattr(os, 'sysconf_names')        # as on Windows
    assert machine.available_memory() is None
