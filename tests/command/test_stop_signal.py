"""The first signal is a request to stop; the second ends the process."""

import signal

import pytest

from command.stop_signal import StopSignal, stop_signals


@pytest.fixture(autouse=True)
def hang_up():
    """SIGHUP has its default effect, also if these tests were started by nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_is_noted_and_the_second_has_its_default_effect(number):
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with StopSignal() as stop:
        assert stop.received is None
        signal.raise_signal(number)
        assert stop.received == number.name
        assert {signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)} == {signal.SIG_DFL}
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_nohup_keeps_its_effect():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGHUP)
        assert stop.received is None
        assert [number.name for number in stop_signals()] == ['SIGINT', 'SIGTERM']
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_a_system_without_it(monkeypatch):
    monkeypatch.delattr(signal, 'SIGHUP')
    assert [number.name for number in stop_signals()] == ['SIGINT', 'SIGTERM']
