"""Stop signals: received by one process, agreed on by all, and left as they were at the end."""

import os
import signal

import pytest

from misc import parallel
from misc.run.signals import StopSignals


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_asks_to_stop_and_the_handlers_come_back(number):
    before = signal.getsignal(number)
    with StopSignals() as stop:
        assert not stop.asked()
        os.kill(os.getpid(), number)
        assert stop.asked() and stop.name == number.name and stop.status == 128 + number
    assert signal.getsignal(number) == before


def test_a_signal_that_another_process_received_stops_this_one_too(monkeypatch):
    monkeypatch.setattr(parallel, 'most', lambda received: max(received, signal.SIGTERM))
    with StopSignals() as stop:
        assert stop.asked() and stop.received == 0 and stop.agreed == signal.SIGTERM
