"""`status.json` in the folder of a run: what became of it, for scripts, where exit statuses do not tell.

torchrun exits with 1 whatever its processes exit with, and a process that is killed cannot say anything.  The file
holds {"state", "time", "process", "host", "iteration", "epoch"}, where `state` is

running    it trains, or it was killed: by SIGKILL, for lack of memory, with its machine
stopped    a signal stopped it, `signal`; it was saved if it trained, and goes on when it is started again
finished   there is nothing left to train
failed     it ended with the message `error`

Iteration and epoch are those of the last checkpoint, or of the start, while the run trains; after a failure, those it
had reached.  Before the training they are those of the last checkpoint, and missing where there is none.
"""

import contextlib
import datetime
import json
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

from misc import parallel
from misc.cli import UserError, note, plain_lines
from misc.disk.files import open_regular, write_json
from misc.run.early import EarlySignals, Stopped
from misc.run.folder import RunFolder

STATUS = 'status.json'


class Status:
    """Writes the status of the run in `folder`; of several processes, the main one writes."""

    def __init__(self, folder: str, place: Callable[[], dict[str, Any]] = dict) -> None:
        """`place()` says where the run stands before it trains: {'iteration', 'epoch'}, or {}."""
        self.path, self.place, self.trains = os.path.join(folder, STATUS), place, False

    def start(self, place: Callable[[], dict[str, Any]]) -> None:
        """The training starts; `place()` says where it stands."""
        self.place, self.trains = place, True
        self.write('running')

    def write(self, state: str, **more: Any) -> None:
        """Write the file.  A disk that is full is reported, and nothing else: the checkpoint is what counts."""
        if not parallel.is_main():
            return
        content = {'state': state, 'time': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
                   'process': os.getpid(), 'host': socket.gethostname(), **self.place(), **more}
        try:
            write_json(self.path, content, indent=1)
        except OSError as error:
            note(f'warning: {self.path} cannot be written ({error.strerror or error})')

    def is_open(self) -> bool:
        """Whether an earlier start left a status that does not say that the run is finished."""
        try:
            with open_regular(self.path, 'r', encoding='utf-8') as file:
                return bool(json.load(file)['state'] != 'finished')
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return False


@contextlib.contextmanager
def reported(folder: RunFolder, early: EarlySignals) -> Iterator[Status]:
    """The `Status` of a run in `folder`; an error in the block is its end, and so is a signal before it trains.

    An error before the training starts is written only where an earlier start left the run unfinished, so that no
    script starts it again and again, and neither error nor signal where the folder holds another run.
    """
    status = Status(folder.path, folder.saved_place)
    try:
        if parallel.is_main():
            early.leave()
        yield status
    except Stopped as stopped:
        if folder.is_free():
            status.write('stopped', signal=stopped.name)
        note(f'train.py: stopped by {stopped.name} before the first step; start it again with the same command')
        raise
    except BaseException as error:
        early.leaves = False  # a signal that comes now does not change how the run ended
        if status.trains or status.is_open() and folder.is_free():
            status.write('failed', error=text_of(error)[:1000])
        raise


def text_of(error: BaseException) -> str:
    """What a status says of an error."""
    if isinstance(error, SystemExit):  # see `parallel.together`
        return 'another process of this run failed; its message is in the output'
    return plain_lines(error) if isinstance(error, (UserError, OSError)) else repr(error)
