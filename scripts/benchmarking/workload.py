"""What every workload of the benchmark shares: its model, its batch, and a training step timed in parts."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from misc.cli import DataError
from misc.machine import precision
from misc.training.losses import all_finite, caption_loss
from misc.training.optim import build_optimiser, set_rate
from models.base import CaptionModel
from scripts.benchmarking.floors import Floor, copy_rate, product_rate
from scripts.benchmarking.made_up import QUICK, Sizes, made_up_batch, made_up_model, model_options
from scripts.benchmarking.timing import synchronise


class Workload:
    """One comparison: the same work done by each of its `sides`, each in a process of its own.

    A side is a method that does the work once and returns numbers whose medians are reported.
    """

    sides: ClassVar[tuple[str, ...]] = ('project', 'plain')
    warm: ClassVar[tuple[str, ...]] = ('project',)  # sides that run once before they are timed
    tolerance: ClassVar[float] = 0.0  # how far the results of project and plain may differ

    def __init__(self, sizes: Sizes, device: torch.device) -> None:
        self.sizes, self.device = sizes, device
        self.facts: dict[str, Any] = {}      # plain values for the report
        self.shares: dict[str, float] = {}   # {side: the part of the workload that one run of it does}, if not 1
        self.model: CaptionModel
        self.batch: Any                      # a `Batch` with all its arrays
        self.optimiser: torch.optim.Optimizer

    def build(self, counts: Sequence[int], seed: int, copies: int = 5, like: 'Workload | None' = None) -> None:
        """Make a batch of images with `counts` regions and `copies` captions each, and a model for it, or take the
        model and the optimiser of `like`, another workload."""
        batch = made_up_batch(counts, self.sizes, model_options(self.sizes), seed, copies)
        self.model = made_up_model(self.sizes, batch).to(self.device) if like is None else like.model
        self.batch = batch.to(self.device)
        self.optimiser = self.new_optimiser() if like is None else like.optimiser

    def image(self, i: int) -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
        """The arguments of the plain version for image i."""
        start = sum(self.batch.counts[:i])
        rows = slice(start, start + self.batch.counts[i])
        return self.model, self.batch.features[rows], self.batch.grids[rows]

    def new_optimiser(self) -> torch.optim.Optimizer:
        """Adam with a learning rate of 0: a step costs the same but leaves the weights as they are, so captions keep
        their lengths and both sides can be compared after they were timed."""
        optimiser = build_optimiser(self.model.parameters(), 'adam')
        set_rate(optimiser, 0.0)
        return optimiser

    def training_step(self, loss_of: Callable[[], torch.Tensor]) -> dict[str, float]:
        """Loss, gradients and update as in train.py -> the seconds of each.  Unlike train.py, waits for a GPU after
        each part."""
        marks = [self.clock()]

        def mark():
            synchronise(self.device)
            marks.append(self.clock())

        self.optimiser.zero_grad(set_to_none=True)
        loss = loss_of()
        mark()
        loss.backward()
        mark()
        parameters = list(self.model.parameters())
        if not all_finite(loss, parameters):
            raise DataError('the loss of a benchmark step is not finite')
        torch.nn.utils.clip_grad_value_(parameters, 0.1)
        self.optimiser.step()
        mark()
        return dict(zip(('forward', 'backward', 'update'), np.diff(marks).tolist()))

    def cross_entropy(self, amp: str = 'off') -> dict[str, float]:
        """The project's cross-entropy step."""
        def loss():
            with precision(self.device, amp):
                return caption_loss(self.model, self.batch)['loss']

        self.model.train()
        return self.training_step(loss)

    def rates(self) -> dict[str, float]:
        """What the floors are computed with: operations a second of products, bytes a second of copies."""
        small = self.sizes == QUICK
        return {'copy': copy_rate(self.device, small),
                **{name: product_rate(self.device, name, small) for name in ('fp32', 'bf16')}}

    def floor(self, side: str) -> Floor | None:
        """Called after the runs: the least that the work of a side asks of the device, where it is counted."""
        return None

    def project(self) -> dict[str, float]:
        """The work as this project does it."""
        raise NotImplementedError

    def plain(self) -> dict[str, float]:
        """The work as `tests/naive.py` does it."""
        raise NotImplementedError

    def result(self, side: str) -> list:
        """Called after the runs: a (nested) list of numbers that both sides should agree on."""
        raise NotImplementedError

    def close(self) -> None:
        """Remove temporary files."""

    def clock(self) -> float:
        """The seconds that count."""
        return time.perf_counter()

    @staticmethod
    def notes(found: dict[str, Any]) -> Iterator[str]:
        """Lines of the report about what `benchmark.measure` found; may add numbers to `found`."""
        yield from ()
