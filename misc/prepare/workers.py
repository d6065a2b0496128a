"""The processes of the machine, for work that is independent for each item."""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
from collections import deque
from multiprocessing.pool import ExceptionWithTraceback

from misc.cli import DataError, Progress, number_in

CHUNK = 32  # items a process takes at a time; fewer than two chunks are not worth a process


def cpu_count():
    """The processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def add_workers_flag(parser):
    """`--num_workers` of a command that uses `Workers`."""
    parser.add_argument('--num_workers', type=number_in(int, low=1), default=cpu_count(), help=(
        'processes; lower it on a machine you share'))


def convert_images(work, todo, count, broken, label, total):
    """Apply `work` to the images `todo` of `total` in `count` processes, with progress; what it returns
    is None, or a message about a broken record, which goes to `broken`."""
    with Workers(work, count, len(todo)) as workers, \
            Progress(total, label, done=total - len(todo)) as display:
        for message in workers.map(todo):
            if message:
                broken.add(message)
            display.update()


def ahead(function, items, pool, depth):
    """Yield (item, future of function(item)) in order, `depth` of them started ahead in `pool`."""
    started = deque()
    for item in items:
        started.append((item, pool.submit(function, item)))
        if len(started) > depth:
            yield started.popleft()
    yield from started


class Workers:
    """Applies one function in up to `count` processes (in this one where `count` is 1).

    `work` is a function of one item that can be pickled, for instance a `functools.partial` of a
    function of a module; it goes to each process once.  Ctrl-C is left to this process, which ends the
    others on the way out of the `with` block.

    Each process has a pipe of its own and shares no lock with another: whichever is killed, and whatever it
    was doing, this one sees it at once and waits for nobody.
    """

    def __init__(self, work, count, items=None):
        """`items`: how many there will be, where that is known; few need no processes."""
        self.work = work
        self.count = count if items is None else min(count, items // CHUNK)
        self.pipes, self.processes = [], []

    def __enter__(self):
        if self.count > 1:
            # The processes inherit this mask, so Ctrl-C reaches none of them.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            for _ in range(self.count):
                ours, theirs = multiprocessing.Pipe()
                self.pipes.append(ours)
                process = multiprocessing.Process(target=_serve, args=(self.work, theirs, self.pipes),
                                                  daemon=True)
                process.start()
                theirs.close()   # so that the end of the process is the end of the pipe
                self.processes.append(process)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        return self

    def __exit__(self, *error):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.join()
        for pipe in self.pipes:
            pipe.close()

    def map(self, items):
        """Yield work(item) for each of the list `items`, in order, as they come; one map at a time.

        Raises what `work` raises, and `DataError` when a process was killed.
        """
        if not self.pipes:
            yield from map(self.work, items)
            return
        size = min(CHUNK, max(1, len(items) // (4 * self.count)))
        chunks = enumerate(items[at:at + size] for at in range(0, len(items), size))
        idle, working, come, place = list(self.pipes), {}, {}, 0
        while True:
            # A process is sent a chunk only when its last result is here: neither end waits for the other.
            for pipe, (number, chunk) in zip(list(idle), chunks):
                with _noticing_death():
                    pipe.send(chunk)
                idle.remove(pipe)
                working[pipe] = number
            while place in come:
                yield from come.pop(place)
                place += 1
            if not working:
                return
            for pipe in multiprocessing.connection.wait(list(working)):
                come[working.pop(pipe)] = _received(pipe)
                idle.append(pipe)


def _received(pipe):
    """The results that a process has sent; raises what it raised."""
    with _noticing_death():
        results, error = pipe.recv()
    if error is not None:
        raise error
    return results


@contextlib.contextmanager
def _noticing_death():
    """Turn the end of a pipe into a `DataError`."""
    try:
        yield
    except (EOFError, OSError):
        raise DataError('a worker process was killed, perhaps for want of memory; run the command again, '
                        'with a smaller --num_workers') from None


def _serve(work, pipe, others):
    """Be a worker process: apply `work` to the chunks that come by `pipe`, until the other end is closed.
    `others`: the ends of the parent, of which this process has copies."""
    # A handler of the parent's would be inherited, and the SIGTERM that ends a process be caught by it.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = os.getppid()
    for other in others:
        other.close()
    with contextlib.suppress(EOFError, OSError):   # the command is gone
        while True:
            chunk = pipe.recv()
            pipe.send(_applied(work, chunk, parent))


def _applied(work, items, parent):
    """(results, None), or (None, what `work` raised)."""
    results = []
    try:
        for item in items:
            results.append(work(item))
            if os.getppid() != parent:
                os._exit(1)   # the command was killed: nobody waits for results, and another may start
    except Exception as error:
        return None, ExceptionWithTraceback(error, error.__traceback__)
    return results, None
