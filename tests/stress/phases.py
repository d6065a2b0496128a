"""The phase that a training process is in, shared with the process that forked it, also after it was killed."""

import ctypes
import mmap
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from misc.disk import filesets

SET_UP, BETWEEN = 'set-up', 'between steps'
PHASES = SET_UP, BETWEEN, 'first epoch', 'later epoch', 'self-critical phase', 'validation', 'save'
OPERATIONS = {'open', 'os.rename', 'os.remove', 'os.mkdir'}  # audit events of operations on files


class SharedPhase:
    """What a training process, forked after this object was made, reports: its phase, how often it entered each
    phase, and how many operations on files in its folder there were."""

    def __init__(self) -> None:
        # The number of the phase, the count of operations, and a count for each phase.
        self.numbers = (ctypes.c_int * (2 + len(PHASES))).from_buffer(mmap.mmap(-1, 256))

    def phase(self) -> str:
        """The phase that the process is in, or died in."""
        return PHASES[self.numbers[0]]

    def operations(self) -> int:
        """The operations on files in its folder so far."""
        return self.numbers[1]

    def entries(self) -> dict[str, int]:
        """{phase: how often it was entered} of the phases that were."""
        return {phase: count for phase, count in zip(PHASES, self.numbers[2:]) if count}

    def report(self, train: ModuleType, folder: str | Path, die_at: int | None = None) -> None:
        """Called in the training process: report from now on, and die before the `die_at`-th operation."""
        train.train_step = self._reported(train.train_step, self._phase_of_step)
        train.validate = self._reported(train.validate, lambda run: 'validation')
        train.train = self._reported(train.train, lambda run: BETWEEN)
        filesets.save_set = self._reported(filesets.save_set, lambda *_: 'save')
        main, folder = os.getpid(), os.fspath(folder)

        def count(event, arguments):
            if event in OPERATIONS and folder in str(arguments[0]) and os.getpid() == main:
                self.numbers[1] += 1
                if self.numbers[1] == die_at:
                    os.kill(main, signal.SIGKILL)
        sys.addaudithook(count)

    def _phase_of_step(self, run, phase):
        epoch = run.batches.next_epoch
        if run.phases.is_self_critical(epoch):
            return 'self-critical phase'
        return 'later epoch' if epoch else 'first epoch'

    def _reported(self, work: Callable, phase_of: Callable[..., str]) -> Callable:
        def reported(*given):
            before, phase = self.numbers[0], PHASES.index(phase_of(*given))
            self.numbers[0] = phase
            self.numbers[2 + phase] += 1
            result = work(*given)
            self.numbers[0] = before
            return result
        return reported
