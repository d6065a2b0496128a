"""Signals that arrive before the first step, while libraries and data are loaded: the run ends, and says `stopped`.

Nothing but the standard library is imported here, so that train.py can catch signals before it loads the others.
"""

import contextlib
import os
import signal
import sys
from types import FrameType
from typing import Any


class Stopped(SystemExit):
    """A signal, `number`, ended the run before its first step."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.name = signal.Signals(number).name


class EarlySignals:
    """Catches the signals that stop a run, up to its first step, where `misc.run.signals` takes over; a context
    manager that restores the handlers at its end.

    They raise `Stopped` where `leaves` is set, from when the folder of the run is known; before that they are kept.
    Of several processes the main one leaves, and the others end with it.
    """

    def __init__(self) -> None:
        self.received = 0    # the last signal
        self.leaves = False
        self._process = 0
        self._handlers: dict[int, Any] = {}

    def catch(self) -> None:
        """Catch the signals from now on."""
        self._process = os.getpid()
        # torchrun sends SIGTERM also to the processes that are left when one of them has failed: no reason to go on.
        several = 'TORCHELASTIC_RUN_ID' in os.environ and os.environ.get('WORLD_SIZE') != '1'
        for number in (signal.SIGINT, *(() if several else (signal.SIGTERM,)), *warning(), *hang_up()):
            if number not in self._handlers:
                self._handlers[number] = signal.signal(number, self._on_signal)

    def leave(self) -> None:
        """From now on a signal ends the run; one that was kept does so now."""
        self.leaves = True
        if self.received:
            raise Stopped(self.received)

    def __enter__(self) -> 'EarlySignals':
        self.catch()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()
        self.received, self.leaves = 0, False

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if os.getpid() != self._process:  # a loader worker that has not set up its own handlers
            return
        self.received = number
        quiet_after(number)
        if self.leaves:
            self.leaves = False  # what is left to do is short
            raise Stopped(number)


EARLY = EarlySignals()   # of train.py


def warning() -> tuple[int, ...]:
    """SIGUSR1, unless the system has none."""
    number = getattr(signal, 'SIGUSR1', None)
    return () if number is None else (number,)


def hang_up() -> tuple[int, ...]:
    """SIGHUP, unless the system has none or it is ignored."""
    number = getattr(signal, 'SIGHUP', None)
    return () if number is None or signal.getsignal(number) == signal.SIG_IGN else (number,)


def quiet_after(number: int) -> None:
    """Let nothing that is printed fail after SIGHUP."""
    if number in hang_up():
        sys.stdout, sys.stderr = Quiet(sys.stdout), Quiet(sys.stderr)


class Quiet:
    """A stream that can no longer fail: what a terminal that is gone does not take is dropped, so that the run can
    still be saved."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write `text` if that is possible."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream if that is possible."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
