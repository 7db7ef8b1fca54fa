"""SIGINT (Ctrl-C) and SIGTERM as a polite request, which the training loop sees at the end of a step."""

import signal


class StopSignal:
    """While it is entered, the first signal is noted in `received` (its name), and a second one ends the process at once."""

    def __init__(self):
        self.received = None
        self._before = {}

    def __enter__(self):
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _note(self, number, _) -> None:
        self.received = signal.Signals(number).name
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
