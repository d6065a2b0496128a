"""Stopping a run on SIGINT, SIGTERM, SIGHUP or SIGUSR1, in all its processes at the same step."""

import os
import signal
from types import FrameType
from typing import Any

from misc import parallel
from misc.run.early import EarlySignals, hang_up, quiet_after, warning
from misc.training.gradients import JointGradients


class StopSignals:
    """Turns SIGINT, SIGTERM, SIGHUP (a lost terminal) and SIGUSR1 (a batch system's warning that time is nearly up)
    into a request to stop; a context manager that restores the handlers at its end.  A SIGHUP that is ignored, as
    under nohup, stays ignored.

    Of several processes, a step's messages carry the request to all of them: they stop after the same step.
    """

    def __init__(self, joint: JointGradients, early: EarlySignals | None = None) -> None:
        """`joint`: sends the messages; `early`: has caught the signals so far."""
        self.joint, self.early = joint, early
        self.received = 0  # signal received by this process
        self.agreed = 0    # signal agreed on by all processes
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> 'StopSignals':
        self._handlers = {number: signal.signal(number, self._on_signal)
                          for number in (signal.SIGINT, signal.SIGTERM, *warning(), *hang_up())}
        if self.early is not None:
            self.early.leaves = False
            if self.early.received:  # by a process that is not the main one
                self.received = self.joint.request = self.early.received
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def asked(self) -> bool:
        """Whether any process received a signal: after the same step, all of them get the same answer."""
        self.agreed = self.joint.agreed if self.joint.shared else self.received
        return self.agreed > 0

    def agree(self) -> None:
        """Agree outside a step: all processes call this at the same time."""
        self.joint.agreed = parallel.most(self.received)

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
        # well come twice, from the batch system and from torchrun, which kills those that take too long.  After a
        # warning the batch system sends SIGTERM: the save that is under way then has until its SIGKILL.
        if self.received and self.received not in warning() and not self.joint.shared:
            os._exit(128 + number)
        self.received = self.joint.request = number
        quiet_after(number)
