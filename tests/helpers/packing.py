"""Packing that is killed."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any

from misc.dataset import packing


def killed_at(write: int, command: Callable[[], Any]) -> int | None:
    """Call `command` in a process that is killed halfway through its `write`-th write into a packed file; returns its
    exit status."""
    def work():
        plain, written = packing._write_all, []

        def dying(file, array):
            written.append(file)
            if len(written) == write:
                file.write(memoryview(array).cast('B')[:array.nbytes // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            plain(file, array)
        packing._write_all = dying
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        command()
    process = multiprocessing.get_context('fork').Process(target=work)
    process.start()
    process.join()
    return process.exitcode
