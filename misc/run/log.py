"""What a run logs while it trains: lines on the terminal, TensorBoard events, `log.jsonl` (`misc.run.journal`), and
`steps.jsonl`, one JSON line per logged step, which the report and the plots read."""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from typing import IO, Any

import torch

from misc import parallel
from misc.disk.files import replacing
from misc.run.journal import Journal
from misc.run.logfile import LogFile
from misc.training.step import Step

STEPS = 'steps.jsonl'
COMPARED = ('validation/loss', 'validation/CIDEr')  # what TensorBoard shows beside the hyperparameters
EVENTS = 'events.out.tfevents.'   # then the time in seconds, which has ten digits, and more
# In infos and histories_ID.pkl: numbers by iteration; rewards and validations: named numbers by iteration.
LOSSES, RATES, SAMPLING, REWARDS, SCORES = (
    'loss_history', 'lr_history', 'ss_prob_history', 'reward_history', 'val_result_history')
HISTORIES = (SCORES, LOSSES, RATES, SAMPLING)


class RunLog:
    """The log of a run; of several processes, the main one writes."""

    def __init__(self, folder: str, histories: dict[str, dict], batches: Any, max_epochs: int,
                 hyperparameters: Mapping[str, Any], device: torch.device) -> None:
        """`histories` are kept up to date, for the checkpoint; `batches` (a `TrainBatches`) tells positions and
        waiting times; `max_epochs` -1: no end; `hyperparameters` {name: value} are shown by TensorBoard;
        `device`: the model's."""
        self.folder, self.histories, self.batches, self.max_epochs = folder, histories, batches, max_epochs
        self.hyperparameters, self.device = hyperparameters, device
        self.files: list[LogFile] = []

    def open(self, iteration: int) -> None:
        """Open the files and start the clock of a run that starts, or is resumed, at `iteration`."""
        if parallel.is_main():
            self.files = [EventFile(self.folder, iteration, self.hyperparameters),
                          StepFile(self.folder, self.histories), Journal(self.folder, self.device)]
        self._event('start', iteration=iteration, process=os.getpid(), host=socket.gethostname(),
                    processes=parallel.count(), device=str(self.device))
        self.started, self.paused = time.monotonic(), 0.0  # the latter: seconds of validations
        self.logged = self.validated = self._clock()

    def took(self, step: Step, loss: torch.Tensor) -> None:
        """Take down a training step, whether it is logged or not; `loss`: a scalar on the device."""
        for file in self.files:
            file.took(step.iteration, step.epoch, loss, step.rate, self.batches.waited)

    def step(self, iteration: int, epoch: int, loss: float, rate: float, sampling: float,
             statistics: Mapping[str, float]) -> None:
        """Log one training step; `sampling` is the probability of scheduled sampling, `statistics` those of the
        self-critical rewards, if any."""
        for name, value in ((LOSSES, loss), (RATES, rate), (SAMPLING, sampling)):
            self.histories[name][iteration] = value
        if statistics:
            self.histories.setdefault(REWARDS, {})[iteration] = dict(statistics)
        for file in self.files:
            file.step(iteration, loss, rate, statistics)
        speed = self.batches.images_read / (time.monotonic() - self.started - self.paused)
        line = (f'iteration {iteration} (epoch {epoch}, {self.batches.position} of '
                f'{self.batches.images} images): loss {loss:.4f}, learning rate {rate:.3g}, ')
        line += ''.join(f'{name} {value:.3f}, ' for name, value in statistics.items())
        line += f'{speed:.1f} images/s, waited {100 * self._waited(self.logged):.1f} %'
        self.logged = self._clock()
        if self.max_epochs >= 0:
            left = int(((self.max_epochs - epoch) * self.batches.images - self.batches.position) / speed)
            line += f', {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left'
        print(line, flush=True)

    def validation(self, iteration: int, scores: Mapping[str, float], is_best: bool) -> None:
        """Log the scores of a validation."""
        self.histories[SCORES][iteration] = dict(scores)
        for file in self.files:
            file.validation(iteration, scores)
        listed = ', '.join(f'{name} {value:.4f}' for name, value in scores.items())
        print(f'validation at iteration {iteration}: {listed}{" (best)" if is_best else ""}', flush=True)

    def saved(self, iteration: int, is_best: bool) -> None:
        """Log that a checkpoint was written."""
        self._event('save', iteration=iteration, best=is_best)

    def waited_since_validation(self) -> float:
        """The share of the time since the last validation that was spent waiting for batches."""
        return self._waited(self.validated)

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Leave the time of the block, a validation, out of the training speed."""
        started = time.monotonic()
        yield
        self.paused += time.monotonic() - started
        self.logged = self.validated = self._clock()

    def print(self, line: str) -> None:
        """Print a line at once, and log it."""
        print(line, flush=True)
        self._event('message', text=line)

    def flush(self) -> None:
        """Write what was logged to the disk."""
        for file in self.files:
            file.flush()

    def close(self) -> None:
        """End the log."""
        for file in self.files:
            file.close()

    def _event(self, name: str, **content: Any) -> None:
        for file in self.files:
            file.event(name, **content)

    def _clock(self) -> tuple[float, float]:
        """Now, and the seconds spent waiting for batches so far."""
        return time.monotonic(), self.batches.waited

    def _waited(self, since: tuple[float, float]) -> float:
        """The share of the time since an earlier `_clock` that was spent waiting for batches."""
        (now, waited), (then, before) = self._clock(), since
        return (waited - before) / max(now - then, 1e-9)


class EventFile(LogFile):
    """TensorBoard events, through tensorboardX's file writer.

    Its SummaryWriter is not used: where the disk is full its thread dies, and after ten more numbers the training
    hangs for ever in `add_scalar` (tensorboardX 2.6.5).  The mark that a resumed run leaves is that of its
    `purge_step`: what an earlier, killed run wrote from that step on is discarded.
    """

    what = 'TensorBoard events'

    def __init__(self, folder: str, iteration: int, hyperparameters: Mapping[str, Any]) -> None:
        super().__init__()
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog
        from tensorboardX.summary import hparams
        # The rest of the name gives the second, within which a killed run may be started again.
        before = [entry for entry in os.scandir(folder) if entry.name.startswith(EVENTS)]
        # TensorBoard reads files in the order of their names: a clock that was set back must not put this one first.
        latest = max(map(latest_time, before), default=0.0)
        self.file = EventsWriter(os.path.join(folder, 'events'), f'.{len(before):06d}')
        name = os.path.basename(self.file._file_name)
        stamp, rest = name.removeprefix(EVENTS).split('.', 1)
        if int(stamp) < int(latest):
            os.rename(os.path.join(folder, name), os.path.join(folder, f'{EVENTS}{int(latest)}.{rest}'))
        self.clock = max(time.time(), latest) - time.monotonic()
        if iteration:
            self._write(step=iteration + 1, session_log=SessionLog(status=SessionLog.START))
        # For the tab of hyperparameters.  The third summary would say that the run has ended.
        for summary in hparams(dict(hyperparameters), dict.fromkeys(COMPARED))[:2]:
            self._write(summary=summary)

    def step(self, iteration: int, loss: float, rate: float, statistics: Mapping[str, float]) -> None:
        phase = 'self_critical' if statistics else 'cross_entropy'  # whose losses cannot be compared
        self._scalars(iteration, {f'{phase}/loss': loss, 'training/learning_rate': rate,
                                  **{f'{phase}/{name}': value for name, value in statistics.items()}})

    def validation(self, iteration: int, scores: Mapping[str, float]) -> None:
        self._scalars(iteration, {f'validation/{name}': value for name, value in scores.items()})

    def _scalars(self, iteration: int, numbers: Mapping[str, float]) -> None:
        from tensorboardX.proto.summary_pb2 import Summary
        for tag, number in numbers.items():
            self._write(step=iteration, summary=Summary(value=[Summary.Value(tag=tag, simple_value=number)]))

    def _write(self, **content: Any) -> None:
        if self.file is not None:
            from tensorboardX.proto.event_pb2 import Event
            with self._disk():
                self.file.write_event(Event(wall_time=self.clock + time.monotonic(), **content))


def latest_time(entry: os.DirEntry) -> float:
    """The time, in seconds, until which an event file was written, or that its name gives if that is later."""
    digits = entry.name.removeprefix(EVENTS).split('.')[0]
    return max(entry.stat().st_mtime, float(digits) if digits.isdecimal() and len(digits) <= 10 else 0.0)


class StepFile(LogFile):
    """`steps.jsonl`: one JSON line per logged step, {'iteration', 'loss', 'learning_rate'} and in the self-critical
    phase the statistics of the rewards.

    A start writes the file anew from the histories of the checkpoint, so that what a killed run logged after its
    last checkpoint is never there twice.
    """

    what = f'lines of {STEPS}'

    def __init__(self, folder: str, histories: Mapping[str, Mapping[int, Any]]) -> None:
        super().__init__()
        path, rewards = os.path.join(folder, STEPS), histories.get(REWARDS, {})
        with self._disk():
            with replacing(path, 'w') as file:
                for iteration, loss in histories[LOSSES].items():
                    _write_line(file, iteration, loss, histories[RATES].get(iteration), rewards.get(iteration, {}))
            self.file = open(path, 'a', encoding='utf-8')  # noqa: SIM115 (closed by `close`)

    def step(self, iteration: int, loss: float, rate: float, statistics: Mapping[str, float]) -> None:
        if self.file is not None:
            with self._disk():
                _write_line(self.file, iteration, loss, rate, statistics)
                self.file.flush()


def _write_line(file: IO[str], iteration: int, loss: float, rate: float | None,
                statistics: Mapping[str, float]) -> None:
    file.write(json.dumps({'iteration': iteration, 'loss': loss, 'learning_rate': rate, **statistics}) + '\n')
