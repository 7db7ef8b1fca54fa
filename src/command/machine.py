"""The processors, GPUs and memory of this machine."""

import os
import shutil
import subprocess
from collections.abc import Iterable

DRIVER_TIMEOUT = 20     # seconds in which NVIDIA's driver must list its GPUs


def available_processors() -> int:
    """The number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def has_amx() -> bool:
    """Whether the processor has Intel's AMX, circuits that multiply small matrices of int8 or bfloat16; only Linux tells."""
    try:
        with open('/proc/cpuinfo', encoding='utf-8', errors='replace') as file:
            return any(line.startswith('flags') and 'amx_int8' in line.split() for line in file)
    except OSError:
        return False


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    given = os.environ.get('CUDA_VISIBLE_DEVICES')
    if given is not None:
        return [gpu.strip() for gpu in given.split(',') if gpu.strip() not in ('', '-1')]
    return _nvidia_smi('index')


def nvidia_gpus() -> list[tuple[str, int | None]]:
    """Each GPU that NVIDIA's driver has, whether or not this process may use it: name, and bytes of memory if known."""
    rows = (row.rsplit(', ', 1) for row in _nvidia_smi('name,memory.total', 'nounits'))
    return [(row[0], int(row[1]) * 2 ** 20 if row[-1].isdecimal() else None) for row in rows]


def gpu_memory() -> int | None:
    """Bytes of memory of the smallest GPU that this process may use; None if there is none, or its memory is not known."""
    sizes = _nvidia_smi('memory.total', 'nounits', select=gpus) if (gpus := visible_gpus()) else []
    return min(map(int, sizes)) * 2 ** 20 if sizes and all(map(str.isdecimal, sizes)) else None


def gpu_id() -> str | None:
    """What names the first GPU that this process may use, and no other GPU of any machine; None if the driver does not say."""
    found = _nvidia_smi('uuid', select=gpus[:1]) if (gpus := visible_gpus()) else []
    return found[0] if found else None


def _nvidia_smi(fields: str, *format: str, select: Iterable[str] = ()) -> list[str]:
    """A line of these fields for each GPU, or for those selected; none if there is no driver, or if it does not answer."""
    if not shutil.which('nvidia-smi'):
        return []
    command = ['nvidia-smi', f'--query-gpu={fields}', f'--format={",".join(("csv", "noheader", *format))}',
               *([f'--id={",".join(select)}'] if select else [])]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DRIVER_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return listed.stdout.splitlines() if listed.returncode == 0 else []


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
