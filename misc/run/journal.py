"""`log.jsonl` in the folder of a run: what it did and when, one JSON line each, over all its starts.

Each line has a `time` (UTC), an `event` (`start`, `step`, `validation`, `save` or `message`) and `seconds`, the time
since the line before.  A step has its `iteration`, `epoch`, `loss` and `learning_rate`; `waited`, the seconds of
waiting for its batch; `memory_mb`, the most that the main process has held so far, and `gpu_memory_mb`, the most that
its tensors have taken on a CUDA device.

Lines are only ever added.  Steps that a killed run lost, and that are taken again, are there twice, with a `start`
between; `steps.jsonl` holds each step once.
"""

import datetime
import json
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch

from misc.run.logfile import LogFile

LOG = 'log.jsonl'


class Journal(LogFile):
    """Appends to `log.jsonl`."""

    what = f'lines of {LOG}'

    def __init__(self, folder: str, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.steps: list[tuple[dict[str, Any], torch.Tensor]] = []  # lines, and their losses, still on the device
        with self._disk():
            self.file = open(os.path.join(folder, LOG), 'a', encoding='utf-8')  # noqa: SIM115 (closed by `close`)
        self.last, self.waited = time.monotonic(), 0.0

    def took(self, iteration: int, epoch: int, loss: torch.Tensor, rate: float, waited: float) -> None:
        """Take a step down.  It is written later, with others, so that the host does not wait for its loss."""
        line = {**self._head('step'), 'waited': round(waited - self.waited, 6), 'iteration': iteration,
                'epoch': epoch, 'learning_rate': rate}
        self.waited = waited
        self.steps.append((line, loss.detach().clone()))  # it may be a part of something large

    def step(self, iteration: int, loss: float, rate: float, statistics: Mapping[str, float]) -> None:
        self.flush()

    def validation(self, iteration: int, scores: Mapping[str, float]) -> None:
        self.event('validation', iteration=iteration, **scores)

    def event(self, name: str, **content: Any) -> None:
        self._write_steps()
        self._write([{**self._head(name), **content}])

    def flush(self) -> None:
        self._write_steps()
        super().flush()

    def close(self) -> None:
        self._write_steps()
        super().close()

    def _head(self, event: str) -> dict[str, Any]:
        """What each line begins with."""
        now = time.monotonic()
        seconds, self.last = now - self.last, now
        return {'time': datetime.datetime.now(datetime.UTC).isoformat(timespec='milliseconds'), 'event': event,
                'seconds': round(seconds, 6)}

    def _write_steps(self) -> None:
        if self.steps and self.file is not None:
            memory = memory_in_use(self.device)
            losses = torch.stack([loss for _, loss in self.steps]).tolist()
            self._write([{**line, 'loss': loss, **memory} for (line, _), loss in zip(self.steps, losses)])
        self.steps = []

    def _write(self, lines: list[dict[str, Any]]) -> None:
        if self.file is not None:
            with self._disk():
                self.file.write(''.join(json.dumps(line) + '\n' for line in lines))
                self.file.flush()


def memory_in_use(device: torch.device) -> dict[str, float]:
    """{'memory_mb'} of this process, the most so far, and 'gpu_memory_mb' of a CUDA device."""
    found: dict[str, float] = {}
    if sys.platform != 'win32':
        import resource
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found['memory_mb'] = round(most / (1 << 20 if sys.platform == 'darwin' else 1 << 10), 1)
    if device.type == 'cuda':
        found['gpu_memory_mb'] = round(torch.cuda.max_memory_allocated(device) / (1 << 20), 1)
    return found
