"""The processors, GPUs and memory of this machine."""

import os
import shutil
import subprocess


def available_processors() -> int:
    """The number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    given = os.environ.get('CUDA_VISIBLE_DEVICES')
    if given is not None:
        return [gpu.strip() for gpu in given.split(',') if gpu.strip() not in ('', '-1')]
    if not shutil.which('nvidia-smi'):
        return []
    command = ['nvidia-smi', '--query-gpu=index', '--format=csv,noheader']
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    return listed.stdout.split() if listed.returncode == 0 else []


def available_memory() -> int | None:
    """Bytes that a new process can use without swapping; None where the system does not report it."""
    return _memory('MemAvailable')


def total_memory() -> int | None:
    """Bytes of memory and swap space, which no process can exceed; None where the system does not report it."""
    return _memory('MemTotal', 'SwapTotal')


def _memory(*entries: str) -> int | None:
    """The sum of some entries of /proc/meminfo, in bytes; without them the physical memory, None if that is unknown too."""
    try:
        with open('/proc/meminfo', encoding='ascii') as file:
            values = dict(line.split(':') for line in file)
        return sum(int(values[entry].split()[0]) * 1024 for entry in entries)
    except (OSError, KeyError):     # not Linux, or a kernel before 3.14
        if {'SC_PHYS_PAGES', 'SC_PAGE_SIZE'} <= getattr(os, 'sysconf_names', {}).keys():     # Windows has none
            return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
        return None
