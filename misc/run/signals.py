"""Stopping a run on SIGINT or SIGTERM, in all its processes at the same step."""

import os
import signal
from types import FrameType
from typing import Any

from misc import parallel


class StopSignals:
    """Turns SIGINT and SIGTERM into a request to stop; a context manager that restores the handlers at its end."""

    def __init__(self) -> None:
        self.received = 0  # signal received by this process
        self.agreed = 0    # signal agreed on by all processes
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> 'StopSignals':
        self._handlers = {number: signal.signal(number, self._on_signal)
                          for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def asked(self) -> bool:
        """Whether any process received a signal; all of them ask at the same time, and get the same answer."""
        self.agreed = parallel.most(self.received)
        return self.agreed > 0

    @property
    def name(self) -> str:
        """The name of the signal agreed on, such as SIGTERM."""
        return signal.Signals(self.agreed).name

    @property
    def status(self) -> int:
        """The exit status of a run that the signal stopped."""
        return 128 + self.agreed

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        # Asked twice: leave at once, the last checkpoint is intact.  With several processes the signal may
        # well come twice, from the batch system and from torchrun, which kills those that take too long.
        if self.received and parallel.count() == 1:
            os._exit(128 + number)
        self.received = number
