"""A file that a run logs to, and what happens where it cannot be written."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from misc.cli import note


class LogFile:
    """A file that a run logs to.  On a disk that is full it says so, once, and writes nothing more: training goes on,
    and its next checkpoint succeeds, or says what to do."""

    what = ''

    def __init__(self) -> None:
        self.file: Any = None

    def step(self, iteration: int, loss: float, rate: float, statistics: Mapping[str, float]) -> None:
        """Write one logged step."""

    def validation(self, iteration: int, scores: Mapping[str, float]) -> None:
        """Write one validation."""

    def took(self, iteration: int, epoch: int, loss: torch.Tensor, rate: float, waited: float) -> None:
        """A step was taken, logged or not, with this loss, a scalar on the device; `waited`: the seconds of waiting
        for batches so far."""

    def event(self, name: str, **content: Any) -> None:
        """Write that something else happened."""

    def flush(self) -> None:
        """Write what was logged to the disk."""
        if self.file is not None:
            with self._disk():
                self.file.flush()

    def close(self) -> None:
        """Write no more."""
        if self.file is not None:
            with self._disk():
                self.file.close()
        self.file = None

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            note(f'warning: no more {self.what} are written ({error.strerror or error}); training goes on')
            self.file = None
