"""Stop signals: received by one process, agreed on by all, and left as they were at the end."""

import io
import os
import signal
import sys
import types

import pytest

from misc.run.signals import StopSignals


def joint(shared=False):
    """What of `JointGradients` carries requests."""
    return types.SimpleNamespace(shared=shared, request=0, agreed=0)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_asks_to_stop_and_the_handlers_come_back(number, monkeypatch):
    for name in ('stdout', 'stderr'):  # SIGHUP replaces both
        monkeypatch.setattr(sys, name, getattr(sys, name))
    before = signal.getsignal(number)
    with StopSignals(joint()) as stop:
        assert not stop.asked()
        os.kill(os.getpid(), number)
        assert stop.asked() and stop.name == number.name and stop.status == 128 + number
    assert signal.getsignal(number) == before


def test_after_a_warning_a_second_signal_leaves_the_time_to_save_and_after_another_one_it_ends_at_once(monkeypatch):
    ended = []
    monkeypatch.setattr(os, '_exit', ended.append)
    for first, second, statuses in ((signal.SIGUSR1, signal.SIGTERM, []), (signal.SIGUSR1, signal.SIGUSR1, []),
                                    (signal.SIGTERM, signal.SIGTERM, [128 + signal.SIGTERM])):
        ended.clear()
        with StopSignals(joint()) as stop:
            os.kill(os.getpid(), first)
            os.kill(os.getpid(), second)
            assert stop.asked() and ended == statuses


def test_a_signal_is_passed_on_and_one_that_another_process_received_stops_this_one_too():
    messages = joint(shared=True)
    with StopSignals(messages) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert messages.request == signal.SIGINT and not stop.asked()  # the others do not know of it yet
        messages.agreed = signal.SIGTERM
        assert stop.asked() and stop.name == 'SIGTERM'


def test_a_lost_terminal_asks_to_stop_and_what_is_printed_then_is_dropped(monkeypatch):
    class Lost(io.StringIO):
        def write(self, text=''):
            raise OSError(5, 'Input/output error')

        flush = write
    monkeypatch.setattr(sys, 'stdout', Lost())
    monkeypatch.setattr(sys, 'stderr', Lost())
    with pytest.raises(OSError):
        print('lost')
    with StopSignals(joint()) as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.asked() and stop.status == 128 + signal.SIGHUP
        print('saved', flush=True)
        print('saved', file=sys.stderr, flush=True)


def test_a_run_that_ignores_lost_terminals_goes_on_ignoring_them():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals(joint()) as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.asked()
    finally:
        signal.signal(signal.SIGHUP, before)
