"""One run of something in a process of its own, which may be killed: at a moment, at a change of its files, or
one of its worker processes.

Processes are forks, so that what a run imports is loaded once for all of them.
"""

import multiprocessing
import os
import signal
import sys
import time
from dataclasses import dataclass

LIMIT = 90   # seconds after which a run counts as one that never ends
# Audit event: which of its arguments is the file that changes.
CHANGES = {'open': 0, 'os.rename': 1, 'os.remove': 0, 'os.mkdir': 0, 'os.rmdir': 0, 'os.truncate': 0}
OF_AN_IMAGE = ('.npz', '.npy', '.jpg')
KINDS = ('moment', 'change', 'index', 'worker')


class Failure(Exception):
    """A run that did not do what it has to."""


@dataclass
class Kill:
    """When a run is killed.

    kind    'moment': after `after` seconds; 'change': before the `after`-th change of a file in its folder;
            'index': before the `after`-th change of a file that is not of one image; 'worker': a process that
            it started, after `after` seconds
    """

    kind: str
    after: float


@dataclass
class Run:
    """How a run ended: its status (-9 where it was killed), whether a kill struck, its seconds, what it said, and
    how many changes of files and of index files there were."""

    status: int
    struck: bool
    seconds: float
    said: str
    changes: int
    index: int


def run(work, folder, kill=None, random=None):
    """Call `work()` in a fork whose working folder is `folder` -> `Run`."""
    counts, said = multiprocessing.RawArray('L', 2), f'{folder}.said'
    process = multiprocessing.get_context('fork').Process(target=_be, args=(work, folder, said, counts, kill))
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
            struck = kill_worker(process, random)
        process.join(LIMIT)
        if process.is_alive():
            raise Failure(f'it did not end in {LIMIT} seconds; it said:\n{_read(said)}')
    finally:
        end_group(process.pid if process.is_alive() else None)
    status = process.exitcode
    return Run(status, struck or status == -signal.SIGKILL, time.monotonic() - started, _read(said), *counts)


def kill_worker(process, random):
    """Kill a process that `process` started, as soon as there is one; whether there was."""
    while process.is_alive():
        workers = children(process.pid)
        if workers:
            try:
                os.kill(random.choice(workers), signal.SIGKILL)
                return True
            except ProcessLookupError:
                pass
        process.join(0.002)
    return False


def children(pid):
    """The processes that a process started, and that have not ended."""
    found = []
    try:
        for thread in os.listdir(f'/proc/{pid}/task'):
            with open(f'/proc/{pid}/task/{thread}/children', encoding='ascii') as file:
                found += map(int, file.read().split())
    except OSError:   # it, or a thread of it, has ended
        pass
    return found


def end_group(pid):
    """Kill a process and all that it started."""
    if pid is not None:
        os.killpg(pid, signal.SIGKILL)


def _be(work, folder, said, counts, kill):
    """The fork: say everything into the file `said`, count changes, be killed at one of them, work."""
    os.setpgid(0, 0)
    os.chdir(folder)
    sys.stdout = sys.stderr = open(said, 'w', buffering=1, encoding='utf-8')
    sys.addaudithook(_counter(os.path.realpath(folder), counts, kill))
    work()


def _counter(folder, counts, kill):
    """An audit hook that counts changes of files in `folder`, of this process and those that it starts."""
    main = os.getpid()

    def hook(event, arguments):
        if event not in CHANGES:
            return
        path = arguments[CHANGES[event]]
        if event == 'open' and not arguments[2] & (os.O_WRONLY | os.O_RDWR) or not isinstance(path, str):
            return
        if not os.path.join(folder, path).startswith(folder + os.sep):
            return
        of_all = not any(suffix in os.path.basename(path) for suffix in OF_AN_IMAGE)
        counts[0] += 1
        counts[1] += of_all
        if kill is not None and (kill.kind == 'change' and counts[0] == kill.after
                                 or kill.kind == 'index' and of_all and counts[1] == kill.after):
            os.kill(main, signal.SIGKILL)
    return hook


def _read(path):
    with open(path, encoding='utf-8', errors='replace') as file:
        return file.read()
