"""Measuring processes of the benchmark: each runs one side of one workload and reports times and memory."""

import contextlib
import multiprocessing
import platform
import resource
import signal
import sys
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch

from misc.cli import DataError, UserError
from misc.machine import pick_device
from scripts.benchmarking.made_up import QUICK, Sizes
from scripts.benchmarking.timing import synchronise
from scripts.benchmarking.workload import Workload
from scripts.benchmarking.workloads import WORKLOADS


@dataclass(frozen=True)
class Setup:
    """How everything is measured: `quick` for the small sizes, `device` as in `--device`."""

    quick: bool
    device: str
    repeats: int

    @property
    def sizes(self) -> Sizes:
        """The sizes of the inputs and the model."""
        return QUICK if self.quick else Sizes()

    def start(self) -> torch.device:
        """Prepare torch in a measuring process -> its device."""
        if self.quick:
            torch.set_num_threads(1)  # work this small gains nothing from threads
        torch.manual_seed(0)
        return pick_device(self.device, 'high')  # as train.py and eval.py do by default


class Side:
    """The process that measures one side of a workload, seen from its parent."""

    def __init__(self, name: str, side: str, setup: Setup) -> None:
        # A spawned process has the memory of a program that does only this.  With --quick, forks save
        # loading torch in each, so their parent must compute nothing and touch no GPU.
        context: Any = multiprocessing.get_context('fork' if setup.quick else 'spawn')
        self.label = f'{name}, {side}'
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, name, side, setup), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, order: str) -> Any:
        """The answer of the process to `order` ('run', 'result' or 'floor')."""
        self.pipe.send(order)
        return self.answer()

    def answer(self) -> Any:
        """Wait for the next answer of the process.  Raises its `UserError`, or `DataError` if it died."""
        try:
            answer = self.pipe.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            raise DataError(f'{self.label}: the process ended with status {self.process.exitcode}'
                            + (' (killed: too little memory?)' if self.process.exitcode == -9 else '')
                            ) from None
        if isinstance(answer, UserError):
            raise answer
        return answer

    def close(self) -> None:
        """End the process."""
        self.process.terminate()
        self.process.join()
        self.pipe.close()


def serve(pipe: Connection, name: str, side: str, setup: Setup) -> None:
    """The main function of a measuring process: answer orders from the pipe until it closes."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # so that the workload removes its files
    try:
        with contextlib.ExitStack() as stack:
            device = setup.start()
            workload = stack.enter_context(contextlib.closing(WORKLOADS[name](setup.sizes, device)))
            stack.callback(signal.signal, signal.SIGTERM, signal.SIG_IGN)  # closing is not interrupted
            answer_orders(pipe, workload, side, device)
    except UserError as error:
        pipe.send(error)
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        pass


def answer_orders(pipe: Connection, workload: Workload, side: str, device: torch.device) -> None:
    """Send (facts, hardware), then for each 'run' a dict of numbers, for 'result' what both sides should agree on,
    for 'floor' the `Floor` of the side."""
    work = getattr(workload, side)
    if side in workload.warm:
        work()
    share = workload.shares.get(side, 1)
    pipe.send((workload.facts, hardware(device)))
    while True:
        order = pipe.recv()
        if order != 'run':
            pipe.send(getattr(workload, order)(side))
            continue
        synchronise(device)
        start = workload.clock()
        numbers = work()
        synchronise(device)
        seconds = workload.clock() - start
        pipe.send({**numbers, 'seconds': seconds / share, 'share': share, 'peak': peak_memory(device)})


def hardware(device: torch.device) -> str:
    """The name of the GPU, or the number of threads and the name of the processor."""
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    names = []
    with contextlib.suppress(OSError), open('/proc/cpuinfo', encoding='utf-8') as file:
        names = [line.split(':', 1)[1].strip() for line in file if line.startswith('model name')]
    return f'{torch.get_num_threads()} cores of {names[0] if names else platform.machine()}'


def peak_memory(device: torch.device) -> int:
    """The most bytes this process ever held: allocated on a GPU, else resident."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)
