"""Worker processes for work that is independent for each item."""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import traceback
from argparse import ArgumentParser
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from multiprocessing.connection import Connection
from typing import Any

from misc.cli import DataError, Progress, number_in
from misc.prepare.broken import Broken

CHUNK = 32  # items that a process takes at a time; fewer than two chunks are not worth a process


def cpu_count() -> int:
    """The processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def add_workers_flag(parser: ArgumentParser) -> None:
    """Add `--num_workers`, for a command that uses `Workers`."""
    parser.add_argument('--num_workers', type=number_in(int, low=1), default=cpu_count(), help=(
        'processes; lower it on a machine you share'))


def convert_images(work: Callable[[str], str | None], todo: Sequence[str], count: int, broken: Broken, label: str,
                   total: int) -> None:
    """Apply `work` to the image ids `todo`, out of `total`, in `count` processes, showing progress.

    `work` returns None, or a message about a broken record, which is added to `broken`.
    """
    with Workers(work, count, len(todo)) as workers, \
            Progress(total, label, done=total - len(todo)) as display:
        for message in workers.map(todo):
            if message:
                broken.add(message)
            display.update()


def submit_ahead(function: Callable[[Any], Any], items: Iterable[Any], pool: Executor,
                 depth: int) -> Iterator[tuple[Any, Future]]:
    """Yield (item, future of function(item)) in order, with `depth` further items submitted to `pool`."""
    submitted: deque[tuple[Any, Future]] = deque()
    for item in items:
        submitted.append((item, pool.submit(function, item)))
        if len(submitted) > depth:
            yield submitted.popleft()
    yield from submitted


class Workers:
    """Applies a function in up to `count` processes, or in this one where `count` is 1; use as a context manager.

    Each process has a pipe of its own and shares no lock with the others, so whichever is killed, whatever it was
    doing, the end of its pipe is noticed at once.  Ctrl-C reaches this process alone, which ends the others.

    Why not `concurrent.futures.ProcessPoolExecutor`, which starts and works as fast: its processes share one pipe
    for results, and where one is killed while it writes a result larger than the pipe holds (the demo data's are),
    the pool waits for the rest for ever: 6 of 40 kills with results of 3 MB, none of 300 with up to 64 KB.  Nor do
    its processes end when the command is killed, without a thread in each that watches for it.
    """

    def __init__(self, work: Callable[[Any], Any], count: int, items: int | None = None):
        """work: a function of one item that can be pickled, sent to each process once; items: how many there will
        be, where that is known, as few need no processes."""
        self.work = work
        self.count = count if items is None else min(count, items // CHUNK)
        self.pipes: list[Connection] = []
        self.processes: list[multiprocessing.Process] = []

    def __enter__(self) -> 'Workers':
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

    def __exit__(self, *error: object) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.join()
        for pipe in self.pipes:
            pipe.close()

    def map(self, items: Sequence[Any]) -> Iterator[Any]:
        """Yield work(item) for each of `items`, in order, as the results arrive; one map at a time.

        Raises what `work` raises, and `DataError` when a process was killed.
        """
        if not self.pipes:
            yield from map(self.work, items)
            return
        size = min(CHUNK, max(1, len(items) // (4 * self.count)))
        chunks = enumerate(items[at:at + size] for at in range(0, len(items), size))
        idle, due = list(self.pipes), 0
        working: dict[Any, int] = {}          # pipe: the number of the chunk that its process works on
        arrived: dict[int, list[Any]] = {}    # number of a chunk: its results
        while True:
            # A process gets a chunk only when its last results are here: neither end blocks the other.
            for pipe, (number, chunk) in zip(list(idle), chunks):
                with _noticing_death():
                    pipe.send(chunk)
                idle.remove(pipe)
                working[pipe] = number
            while due in arrived:
                yield from arrived.pop(due)
                due += 1
            if not working:
                return
            ready: list[Any] = multiprocessing.connection.wait(list(working))
            for pipe in ready:
                arrived[working.pop(pipe)] = _received(pipe)
                idle.append(pipe)


def _received(pipe: Connection) -> list[Any]:
    """The results that a process sent; raises what its work raised."""
    with _noticing_death():
        results, error, trace = pipe.recv()
    if error is not None:
        raise error from RuntimeError(f'in a worker process:\n{trace}')
    return results


@contextlib.contextmanager
def _noticing_death() -> Iterator[None]:
    """Turn the end of a pipe into a `DataError`."""
    try:
        yield
    except (EOFError, OSError):
        raise DataError('a worker process was killed, perhaps for want of memory; run the command again, '
                        'with a smaller --num_workers') from None


def _serve(work: Callable[[Any], Any], pipe: Connection, others: list[Connection]) -> None:
    """Run a worker process: apply `work` to the chunks that arrive by `pipe`, until its other end is closed.

    others: the parent's ends of all pipes so far, of which a fork has copies.
    """
    # A handler inherited from the parent would catch the SIGTERM that ends a worker.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = os.getppid()
    for other in others:
        other.close()
    with contextlib.suppress(EOFError, OSError):   # the command has ended
        while True:
            chunk = pipe.recv()
            pipe.send(_applied(work, chunk, parent))


def _applied(work: Callable[[Any], Any], items: Sequence[Any], parent: int) -> tuple[list[Any], Any, str]:
    """(results, None, ''), or ([], what `work` raised, its traceback)."""
    results = []
    try:
        for item in items:
            results.append(work(item))
            if os.getppid() != parent:
                os._exit(1)   # the command was killed: nobody reads the results, and it may be started again
    except Exception as error:
        return [], error, traceback.format_exc()
    return results, None, ''
