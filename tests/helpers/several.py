"""Programs in several processes as torchrun starts them, forked, so that torch is loaded once."""

import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from misc.cli import run_command
from misc.training.optim import build_optimiser
from tests.helpers import tiny


def run(processes: int, module: ModuleType, arguments: list[Any], folder: Path,
        prepare: Callable[[int], None] | None = None, timeout: float = 60) -> tuple[list[int], list[str]]:
    """Run `module` with `arguments` in `processes` processes -> (exit statuses, what each printed), by rank.

    `prepare(rank)`, if given, is called first in each process.  Their output goes to files in `folder`.
    """
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    build_optimiser([torch.zeros(1)], 'sgd')  # torch loads modules here: once for all forks
    context = multiprocessing.get_context('fork')
    started = [context.Process(target=_work, args=(rank, processes, port, module, arguments, folder, prepare))
               for rank in range(processes)]
    for process in started:
        process.start()
    for process in started:
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in started], [
        (folder / f'{rank}.txt').read_text() for rank in range(processes)]


def _work(rank, processes, port, module, arguments, folder, prepare):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes),
                      LOCAL_WORLD_SIZE=str(processes), MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port),
                      TORCHELASTIC_RUN_ID='test')
    torch.set_num_threads(1)  # a fork has none of its parent's threads
    with open(folder / f'{rank}.txt', 'w', buffering=1, encoding='utf-8') as output:
        sys.stdout = sys.stderr = sys.__stderr__ = output
        try:
            if prepare is not None:
                prepare(rank)
            run_command(lambda: tiny.run(module, arguments))
        except Exception:
            traceback.print_exc()
            sys.exit(1)
