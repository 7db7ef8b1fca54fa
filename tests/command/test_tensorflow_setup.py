"""Ctrl-C while TensorFlow runs, and while it is loaded; what it writes then."""

import concurrent.futures
import os
import signal

import pytest

from command.stop_signal import StopSignal
from command.tensorflow_setup import _stderr_held_back, ctrl_c_held_back


def test_ctrl_c_comes_at_the_end():
    done = False
    with pytest.raises(KeyboardInterrupt), ctrl_c_held_back():
        signal.raise_signal(signal.SIGINT)
        done = True
    assert done
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_an_error_within_comes_through():
    with pytest.raises(ValueError, match='within'), ctrl_c_held_back():
        raise ValueError('within')
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_one_s_own_stays():
    with StopSignal() as stop, ctrl_c_held_back():
        signal.raise_signal(signal.SIGINT)
        assert stop.received == 'SIGINT'


def test_another_thread_has_no_ctrl_c_to_hold_back():
    def run():
        with ctrl_c_held_back():
            return 'ran'
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert pool.submit(run).result() == 'ran'


@pytest.mark.parametrize(('error', 'shown'), [(ImportError, 'chatter\n'), (KeyboardInterrupt, '')])
def test_chatter_is_shown_with_an_error_but_not_with_ctrl_c(capfd, error, shown):
    with pytest.raises(error), _stderr_held_back():
        os.write(2, b'chatter\n')
        raise error
    assert capfd.readouterr().err == shown
