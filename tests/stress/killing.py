"""Run a function in a process of its own and kill that process: at a moment, at a change of its files, or through one
of its worker processes.

Processes are forks, so what they import is loaded once for all of them.
"""

import multiprocessing
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

LIMIT = 90   # seconds after which a process counts as hanging
# Audit events that change files: the position of the file among their arguments.
CHANGES = {'open': 0, 'os.rename': 1, 'os.remove': 0, 'os.mkdir': 0, 'os.rmdir': 0, 'os.truncate': 0}
IMAGE_SUFFIXES = ('.npz', '.npy', '.jpg')
KINDS = ('moment', 'change', 'index', 'worker')


class Failure(Exception):
    """A run did not do what it should."""


@dataclass
class Kill:
    """When a run is killed.

    kind    'moment': after `after` seconds; 'change': before the `after`-th change of a file in its folder;
            'index': before the `after`-th change of a file that does not belong to a single image; 'worker': one of
            its child processes is killed instead, after `after` seconds
    """

    kind: str
    after: float


@dataclass
class Run:
    """How a run ended."""

    status: int      # its exit status, -9 if it was killed
    struck: bool     # whether the kill came before its end
    seconds: float
    output: str      # stdout and stderr
    changes: int     # changes of files in its folder
    index: int       # of those, changes of files that do not belong to a single image


def run(work: Callable[[], object], folder: Path, kill: Kill | None = None,
        draw: random.Random | None = None) -> Run:
    """Call `work()` in a fork whose current folder is `folder`; `draw` chooses the worker process to kill."""
    counts, output = multiprocessing.RawArray('L', 2), f'{folder}.output'
    process = multiprocessing.get_context('fork').Process(target=_work, args=(work, folder, output, counts, kill))
    started = time.monotonic()
    process.start()
    struck = False
    try:
        if kill is not None and kill.kind == 'moment':
            process.join(kill.after)
            if process.is_alive():
                process.kill()
        elif kill is not None and kill.kind == 'worker':
            process.join(kill.after)
            struck = kill_worker(process, draw or random.Random(0))
        process.join(LIMIT)
        if process.is_alive():
            raise Failure(f'it did not end in {LIMIT} seconds; its output:\n{_read(output)}')
    finally:
        if process.is_alive():
            os.killpg(process.pid, signal.SIGKILL)
    status = process.exitcode
    return Run(status, struck or status == -signal.SIGKILL, time.monotonic() - started, _read(output), *counts)


def kill_worker(process: multiprocessing.Process, draw: random.Random) -> bool:
    """Kill a child process of `process` as soon as there is one; returns whether there was."""
    while process.is_alive():
        workers = children(process.pid)
        if workers:
            try:
                os.kill(draw.choice(workers), signal.SIGKILL)
                return True
            except ProcessLookupError:
                pass
        process.join(0.002)
    return False


def children(pid: int) -> list[int]:
    """The ids of the live child processes of a process."""
    found = []
    try:
        for thread in os.listdir(f'/proc/{pid}/task'):
            with open(f'/proc/{pid}/task/{thread}/children', encoding='ascii') as file:
                found += map(int, file.read().split())
    except OSError:   # the process, or a thread of it, has ended
        pass
    return found


def _work(work, folder, output, counts, kill):
    """The main function of a fork."""
    os.setpgid(0, 0)
    os.chdir(folder)
    with open(output, 'w', buffering=1, encoding='utf-8') as file:
        sys.stdout = sys.stderr = file
        sys.addaudithook(_counter(os.path.realpath(folder), counts, kill))
        try:
            work()
        except Exception:
            traceback.print_exc()
            sys.exit(1)


def _counter(folder, counts, kill):
    """An audit hook that counts changes of files in `folder` by this process and its children, and kills this process
    when `kill` says so."""
    main = os.getpid()

    def hook(event, arguments):
        if event not in CHANGES:
            return
        path = arguments[CHANGES[event]]
        if event == 'open' and not arguments[2] & (os.O_WRONLY | os.O_RDWR) or not isinstance(path, str):
            return
        if not os.path.join(folder, path).startswith(folder + os.sep):
            return
        of_all = not any(suffix in os.path.basename(path) for suffix in IMAGE_SUFFIXES)
        counts[0] += 1
        counts[1] += of_all
        if kill is not None and (kill.kind == 'change' and counts[0] == kill.after
                                 or kill.kind == 'index' and of_all and counts[1] == kill.after):
            os.kill(main, signal.SIGKILL)
    return hook


def _read(path):
    with open(path, encoding='utf-8', errors='replace') as file:
        return file.read()
