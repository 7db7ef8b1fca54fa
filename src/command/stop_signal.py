"""Stopping a training run after a step: Ctrl-C, SIGTERM, SIGHUP."""

import os
import signal

STOPPING = '\nfinishing this step, then saving (Ctrl-C again: exit without saving)\n'
NAMES = ('SIGINT', 'SIGTERM', 'SIGHUP')


def stop_signals() -> list[signal.Signals]:
    """The signals that ask this process to stop: SIGHUP, of a terminal that closes, not if it is ignored, as nohup sets it."""
    numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]        # Windows has no SIGHUP
    return [number for number in numbers if number.name != 'SIGHUP' or signal.getsignal(number) != signal.SIG_IGN]


class StopSignal:
    """A context in which the first signal only sets `received` to its name; the second ends the process immediately.

    On a terminal, Ctrl-C prints that, below the ^C and whatever line was being drawn.
    """

    def __init__(self):
        self.received = None
        self._handlers, self._terminals = {}, []

    def __enter__(self):
        self._handlers = {number: signal.signal(number, self._note) for number in stop_signals()}
        self._terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]
        return self

    def output_closed(self) -> None:
        """Notes that nobody reads the output any more, as when `| tee` or `| head` has ended. Nothing is printed from now on."""
        self.received = self.received or 'the output was closed'
        discard_output([1])

    def _note(self, number, _) -> None:
        self.received = signal.Signals(number).name
        for each in self._handlers:
            signal.signal(each, signal.SIG_DFL)
        if self.received == 'SIGINT' and 2 in self._terminals:
            os.write(2, STOPPING.encode())      # not print, which may be what the signal interrupted
        if self.received == 'SIGHUP':
            discard_output(self._terminals)     # writing to a terminal that is gone is an error

    def __exit__(self, *_) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)


def discard_output(descriptors: list[int]) -> None:
    """Discards what is written to these file descriptors from now on."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in descriptors:
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
