"""Where in its course a training is, told to the process that started it, and that is there when it is dead."""

import contextlib
import ctypes
import mmap
import os
import pathlib
import signal
import sys

from misc.disk import filesets

SET_UP, BETWEEN = 'set-up', 'between steps'
PHASES = SET_UP, BETWEEN, 'first epoch', 'later epoch', 'self-critical phase', 'validation', 'save'
OPERATIONS = {'open', 'os.rename', 'os.remove', 'os.mkdir'}  # on files, as `sys.audit` names them


class Watched:
    """What a training that is forked after this was made tells: its phase, how often each phase was entered,
    and the operations on files in its folder."""

    def __init__(self):
        self.numbers = (ctypes.c_int * (2 + len(PHASES))).from_buffer(mmap.mmap(-1, 256))

    def phase(self):
        """The phase that it is in, or died in."""
        return PHASES[self.numbers[0]]

    def operations(self):
        """The operations on files in its folder so far."""
        return self.numbers[1]

    def entries(self):
        """{phase: how often it was entered}, of those that were."""
        return {phase: count for phase, count in zip(PHASES, self.numbers[2:]) if count}

    def watch(self, train, folder, die_at=None):
        """In the training's process: tell from now on, and die before the `die_at`-th operation."""
        train.train_step = self._told(train.train_step, self._kind_of_step)
        train.validate = self._told(train.validate, lambda run: 'validation')
        train.train = self._told(train.train, lambda run: BETWEEN)
        filesets.save_set = self._told(filesets.save_set, lambda *_: 'save')
        main, folder = os.getpid(), os.fspath(folder)

        def count(event, arguments):
            if event in OPERATIONS and folder in str(arguments[0]) and os.getpid() == main:
                self.numbers[1] += 1
                if self.numbers[1] == die_at:
                    os.kill(main, signal.SIGKILL)
        sys.addaudithook(count)

    def _kind_of_step(self, run, phase):
        epoch = run.batches.next_epoch
        if run.phases.is_self_critical(epoch):
            return 'self-critical phase'
        return 'later epoch' if epoch else 'first epoch'

    def _told(self, work, kind):
        def told(*given):
            before, phase = self.numbers[0], PHASES.index(kind(*given))
            self.numbers[0] = phase
            self.numbers[2 + phase] += 1
            result = work(*given)
            self.numbers[0] = before
            return result
        return told


def children(process):
    """The numbers of the processes that `process` started and that live."""
    with contextlib.suppress(OSError):
        listed = pathlib.Path(f'/proc/{process}/task/{process}/children').read_text().split()
        return [int(child) for child in listed]
    return []
