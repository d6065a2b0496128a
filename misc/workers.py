"""The processes of the machine, for work that is independent for each item."""

import multiprocessing
import os
import signal
from collections import deque

from misc.cli import DataError, Progress, number_in

CHUNK = 32  # items a process takes at a time; fewer than two chunks are not worth a process

_work = _parent = None  # in a worker process: the function it applies, and whom it works for


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
    """

    def __init__(self, work, count, items=None):
        """`items`: how many there will be, where that is known; few need no processes."""
        self.work = work
        self.count = count if items is None else min(count, items // CHUNK)
        self.pool = None

    def __enter__(self):
        if self.count > 1:
            before = {child.pid for child in multiprocessing.active_children()}
            # The processes inherit this mask, so Ctrl-C reaches none of them.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            self.pool = multiprocessing.Pool(self.count, _start, (self.work,))
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            self.pids = {child.pid for child in multiprocessing.active_children()} - before
        return self

    def __exit__(self, *error):
        if self.pool is not None:
            self.pool.terminate()
            self.pool.join()

    def map(self, items):
        """Yield work(item) for each of the list `items`, in order, as they come.

        Raises what `work` raises, and `DataError` when a process was killed (a pool would wait on).
        """
        if self.pool is None:
            yield from map(self.work, items)
            return
        size = min(CHUNK, max(1, len(items) // (4 * self.count)))
        chunks = self.pool.imap(_apply, [items[at:at + size] for at in range(0, len(items), size)])
        while True:
            try:
                yield from chunks.next(timeout=2)
            except StopIteration:
                return
            except multiprocessing.TimeoutError:
                if not self.pids <= {child.pid for child in multiprocessing.active_children()}:
                    raise DataError('a worker process was killed, perhaps for want of memory; run the '
                                    'command again, with a smaller --num_workers') from None


def _start(work):
    global _work, _parent
    # A handler of the parent's would be inherited, and the SIGTERM that ends a pool be caught by it.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _work, _parent = work, os.getppid()


def _apply(items):
    results = []
    for item in items:
        results.append(_work(item))
        if os.getppid() != _parent:
            os._exit(1)   # the command was killed: nobody waits for results, and another may start
    return results
