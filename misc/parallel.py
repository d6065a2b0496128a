"""Several processes that work as one, started by `torchrun`; without it, one process that sends no messages.

Each process holds the whole model and works on its share of the images; `misc/training/gradients.py` adds up their
gradients.

Numbers and Python objects travel by gloo, so no message waits for a GPU; gradients of GPUs travel by NCCL.  Work
that can fail in one process alone runs inside `together`, `gathered` or `on_main`: all processes agree on how it
ended before any goes on, so none waits for one that failed.
"""

import contextlib
import datetime
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import distributed

from misc.cli import UsageError, UserError

Result = TypeVar('Result')
Item = TypeVar('Item')

PATIENCE = datetime.timedelta(hours=2)  # how long processes wait while the main one scores or saves
LONG_PATIENCE = datetime.timedelta(days=365)  # for work that may take days; a process that dies is noticed at once


def count() -> int:
    """The number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def share_a_machine() -> bool:
    """Whether all processes are on one machine."""
    return count() == 1 or int(os.environ['LOCAL_WORLD_SIZE']) == count()


def launcher() -> str:
    """What a command begins with that starts as many processes: python, or torchrun with its flags."""
    if count() == 1:
        return 'python'
    return f'torchrun --nproc_per_node {count()}' if share_a_machine() else 'torchrun ...'


def is_main() -> bool:
    """Whether this is the process that prints and writes."""
    return rank() == 0


@contextlib.contextmanager
def processes() -> Iterator[None]:
    """Join the processes that `torchrun` started, for the length of the block.

    Inside it only the main process prints; another one prints only an error that it alone has.  Raises `UsageError`
    where another program started several processes that would know nothing of each other.
    """
    check_launcher()
    if not distributed.is_torchelastic_launched() or int(os.environ['WORLD_SIZE']) == 1:
        yield
        return
    backend = 'cpu:gloo,cuda:nccl' if torch.cuda.is_available() else 'gloo'
    distributed.init_process_group(backend, timeout=PATIENCE)
    if not is_main():
        # Muted until the process ends.
        sys.stdout = sys.stderr = open(os.devnull, 'w', encoding='utf-8')  # noqa: SIM115
    try:
        yield
    except Exception:
        _unmute()
        raise
    finally:
        distributed.destroy_process_group()


# Program: the variable in which it tells each process how many there are.
LAUNCHERS = {'srun': 'SLURM_STEP_NUM_TASKS', 'mpirun': 'OMPI_COMM_WORLD_SIZE'}


def check_launcher() -> None:
    """Refuse to be one of several processes that `srun` or `mpirun` started without torchrun: each would do the whole
    work, and write into the same folder.  Each says so: it may have a log of its own."""
    if distributed.is_torchelastic_launched():
        return
    for program, size in LAUNCHERS.items():
        tasks = os.environ.get(size, '1')
        if not tasks.isdecimal() or int(tasks) < 2:
            continue
        raise UsageError(f'{program} started {tasks} processes that do not know of each other, and each would do all '
                         f'of the work; start one torchrun on each machine (docs/cluster.md), or one process: '
                         f'{program} -n 1')


def together(work: Callable[[], Result], group: distributed.ProcessGroup | None = None) -> Result:
    """Run `work()` in every process and return this process's result once all have succeeded.

    If it fails in some, all processes end: the first of those raises its error, the others exit silently with
    the same status.  `group`, of all processes, carries the messages.
    """
    if count() == 1:
        return work()
    result: Result
    error: Exception | None = None
    try:
        result = work()
    except Exception as failure:
        if getattr(failure, 'agreed', False):   # raised by a `together` within this one: the others have left
            raise
        error = failure
    statuses = _all_integers(0 if error is None else getattr(error, 'status', 1), group)
    failed = [number for number, status in enumerate(statuses) if status]
    if not failed:
        return result
    if error is None or rank() != failed[0]:
        raise SystemExit(statuses[failed[0]])
    _unmute()
    error.agreed = True  # type: ignore[attr-defined]
    raise error


def gathered(work: Callable[[], Result]) -> list[Result]:
    """Run `work()` in every process and return all results, by rank, in all of them."""
    result = together(work)
    if count() == 1:
        return [result]
    results: list[Any] = [None] * count()
    with noticing_lost_processes():
        distributed.all_gather_object(results, result)
    return results


def on_main(work: Callable[[], Result], may_take_days: bool = False) -> Result:
    """Run `work()` in the main process and return its result in all of them.

    The others wait for up to `PATIENCE`, or with `may_take_days` for as long as it takes.
    """
    group: Any = None
    if may_take_days and count() > 1:
        together(lambda: None)   # a group cannot be made if a process has already failed
        group = distributed.new_group(timeout=LONG_PATIENCE, backend='gloo')
    results: list[Any] = [together(work if is_main() else lambda: None, group)]
    if count() > 1:
        with noticing_lost_processes():
            distributed.broadcast_object_list(results, 0)
    return results[0]


def most(number: int) -> int:
    """The largest of the processes' whole numbers."""
    return number if count() == 1 else max(_all_integers(number))


def part(items: Sequence[Item]) -> Sequence[Item]:
    """This process's contiguous share of a sequence; empty where there are more processes than items."""
    start, end = (len(items) * number // count() for number in (rank(), rank() + 1))
    return items[start:end]


def every_nth(items: Sequence[Item]) -> Sequence[Item]:
    """This process's interleaved share of a sequence: with n processes, every n-th item."""
    return items[rank()::count()]


def put_together(shares: Sequence[Sequence[Item]]) -> list[Item]:
    """The list whose `every_nth` shares, by rank, are `shares`."""
    items: list[Any] = [None] * sum(map(len, shares))
    for number, share in enumerate(shares):
        items[number::len(shares)] = share
    return items


class Counter:
    """A number that all processes add to, each when it likes to; made by all of them at the same time."""

    def __init__(self) -> None:
        self.sum, self.store = 0, cast(distributed.TCPStore | None, None)
        if count() > 1:
            host = os.environ['MASTER_ADDR']   # the machine of the main process
            port = on_main(lambda: self._serve(host))
            if not is_main():
                self.store = distributed.TCPStore(host, port, timeout=PATIENCE)

    def _serve(self, host: str) -> int:
        """Keep the number in this process -> the port at which the others find it."""
        self.store = distributed.TCPStore(host, 0, is_master=True, wait_for_workers=False)
        return self.store.port

    def add(self, number: int) -> int:
        """Add `number` -> the sum so far."""
        if self.store is None:
            self.sum += number
            return self.sum
        with noticing_lost_processes():
            return self.store.add('sum', number)


class LostProcess(UserError):
    """Another process has ended."""


@contextlib.contextmanager
def noticing_lost_processes() -> Iterator[None]:
    """Turn a message that fails because another process has ended into an error of the main process, and a
    silent exit of the others."""
    try:
        yield
    except RuntimeError as error:
        if 'DataLoader worker' in str(error):  # a signal that arrived during the wait: not about other processes
            raise
        if not is_main():
            raise SystemExit(LostProcess.status) from None
        raise LostProcess('another process of this run ended unexpectedly, perhaps for lack of memory; start all '
                          'of them again, with --resume if this was training '
                          f'({str(error)[:100]})') from None


def _all_integers(number: int, group: distributed.ProcessGroup | None = None) -> list[int]:
    """The whole numbers of all processes, by rank."""
    numbers = [torch.zeros(1, dtype=torch.long) for _ in range(count())]
    with noticing_lost_processes():
        distributed.all_gather(numbers, torch.tensor([number]), group)
    return [int(one) for one in numbers]


def _unmute() -> None:
    """Let this process print to standard error again."""
    if not is_main():
        sys.stderr = sys.__stderr__
