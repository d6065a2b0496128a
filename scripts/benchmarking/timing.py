"""Measuring the time of work that a device may do after it was asked for."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch


def synchronise(device: torch.device) -> None:
    """Wait until a CUDA device has finished its work."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


@contextlib.contextmanager
def matmul(precision: str) -> Iterator[None]:
    """The block in which products of float32 matrices on CUDA have this precision: 'highest' or 'high' (TF32)."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def seconds_of(work: Callable[[], Any], device: torch.device, repeats: int, warm: int = 3) -> float:
    """The median of the seconds that `work` takes, started and finished, after it ran `warm` times."""
    for _ in range(min(warm, repeats)):
        work()
    taken = []
    for _ in range(repeats):
        synchronise(device)
        start = time.perf_counter()
        work()
        synchronise(device)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)
