"""Stopping a training run by SIGINT (Ctrl-C) or SIGTERM, after a step."""

import signal


class StopSignal:
    """A context in which the first signal only sets `received` to its name; the second ends the process immediately."""

    def __init__(self):
        self.received = None
        self._handlers = {}

    def __enter__(self):
        self._handlers = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _note(self, number, _) -> None:
        self.received = signal.Signals(number).name
        for each in self._handlers:
            signal.signal(each, signal.SIG_DFL)

    def __exit__(self, *_) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
