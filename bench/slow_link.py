"""A slow network between two network namespaces of this machine, with a delay and a rate each way. Linux and root only.

It uses `tc netem` on a veth pair. If the kernel has no netem, a thread of this process carries the packets between two
TUN devices instead, with the same delay and rate. The kernel's TCP settings are not changed.
"""

import collections
import contextlib
import dataclasses
import fcntl
import os
import select
import struct
import subprocess
import threading
import time
from collections.abc import Iterator

ADDRESSES = ('10.213.0.1', '10.213.0.2')
MTU = 9000                  # bytes; large, because each packet costs the carrier the same
QUEUE = 1 << 20             # bytes that wait in one direction; more packets are dropped
COMMAND_SECONDS = 20.0
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454ca, 0x0001, 0x1000      # of Linux's if_tun.h


class Refused(Exception):
    """The system does not allow namespaces or devices; the message is its own."""


@dataclasses.dataclass(frozen=True)
class Link:
    """namespaces: their names, in the order of ADDRESSES. made_by: a description of what delays the packets."""
    namespaces: tuple[str, str]
    made_by: str


@contextlib.contextmanager
def slow_link(delay: float, rate: float) -> Iterator[Link]:
    """Two namespaces with `delay` seconds one way, 2 * delay there and back, and `rate` bytes per second each way.

    They are removed at the end of the block. Raises Refused where namespaces are not allowed.
    """
    names = tuple(f'slow{os.getpid()}{side}' for side in 'ab')
    with contextlib.ExitStack() as stack:
        for name in names:
            _do('ip', 'netns', 'add', name)
            stack.callback(_do, 'ip', 'netns', 'del', name)
        try:
            _veth_pair(names, delay, rate)
            made_by = 'tc netem'
        except Refused as refusal:
            made_by = f'a thread between two TUN devices, as there is no netem ({refusal})'
            stack.enter_context(_Carrier(names, delay, rate))
        for name, address in zip(names, ADDRESSES):
            _do('ip', '-n', name, 'address', 'add', f'{address}/24', 'dev', name)
            _do('ip', '-n', name, 'link', 'set', name, 'mtu', str(MTU), 'up')
            _do('ip', '-n', name, 'link', 'set', 'lo', 'up')
        yield Link(names, made_by)


def _do(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
    except OSError as error:
        raise Refused(f'{command[0]}: {error.strerror}') from None
    if done.returncode:
        raise Refused(f'{command[0]}: {" ".join(done.stderr.split())}')


def _veth_pair(names: tuple[str, str], delay: float, rate: float) -> None:
    """A device in each namespace, with the namespace's name."""
    one, other = names
    _do('ip', 'link', 'add', one, 'netns', one, 'type', 'veth', 'peer', 'name', other, 'netns', other)
    try:
        for name in names:
            _do('tc', '-n', name, 'qdisc', 'add', 'dev', name, 'root', 'netem', 'delay', f'{delay * 1000:g}ms',
                'rate', f'{rate * 8:.0f}bit')
    except Refused:
        _do('ip', '-n', one, 'link', 'del', one)
        raise


class _Carrier:
    """A TUN device in each namespace, with its name, and a thread that carries the packets between them."""

    def __init__(self, names: tuple[str, str], delay: float, rate: float):
        self._delay, self._rate, self._ended = delay, rate, threading.Event()
        self._devices = [_tun_device(name) for name in names]
        self._sent = {device: 0.0 for device in self._devices}      # when the last packet from each device had left
        self._waiting = {device: collections.deque() for device in self._devices}     # (arrival time, packet)
        self._size = {device: 0 for device in self._devices}        # bytes that wait
        self._thread = threading.Thread(target=self._carry, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_) -> None:
        self._ended.set()
        self._thread.join()
        for device in self._devices:
            os.close(device)

    def _carry(self) -> None:
        while not self._ended.is_set():
            due = min((waiting[0][0] for waiting in self._waiting.values() if waiting), default=time.monotonic() + 0.1)
            ready, _, _ = select.select(self._devices, [], [], max(due - time.monotonic(), 0))
            for device in ready:
                self._queue(device)
            for device, other in zip(self._devices, reversed(self._devices)):
                self._deliver(self._waiting[device], device, other)

    def _queue(self, device: int) -> None:
        packet = os.read(device, MTU)
        if self._size[device] + len(packet) > QUEUE:
            return
        self._sent[device] = max(self._sent[device], time.monotonic()) + len(packet) / self._rate
        self._waiting[device].append((self._sent[device] + self._delay, packet))
        self._size[device] += len(packet)

    def _deliver(self, waiting: collections.deque, device: int, other: int) -> None:
        while waiting and waiting[0][0] <= time.monotonic():
            _, packet = waiting.popleft()
            self._size[device] -= len(packet)
            with contextlib.suppress(OSError):      # a device that is not up loses packets, as networks do
                os.write(other, packet)


def _tun_device(name: str) -> int:
    """Creates a TUN device in the namespace of the same name; returns its file descriptor, for packets."""
    try:
        descriptor = os.open('/dev/net/tun', os.O_RDWR)
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack('16sH22x', name.encode(), _IFF_TUN | _IFF_NO_PI))
    except OSError as error:
        raise Refused(f'/dev/net/tun: {error.strerror}') from None
    _do('ip', 'link', 'set', name, 'netns', name)
    return descriptor
