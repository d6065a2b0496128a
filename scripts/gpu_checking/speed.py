"""Section `speed`: the time and memory of each work by every implementation and precision, and how many times the
least time that the device could take."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch

from models import kernels
from models.kernels import fused_obstacle
from models.kernels.xlinear import XLinearMix
from scripts.benchmarking.operations import counted_decoding, counted_operations
from scripts.gpu_checking.card import copy_rate, product_rate
from scripts.gpu_checking.sections import Report, Setting, matmul, milliseconds, seconds_of
from scripts.gpu_checking.works import CrossEntropy, Decoding, SelfCriticalStep, Work

# Precision: (products of float32 matrices, --amp).
PRECISIONS = {'fp32': ('highest', 'off'), 'TF32': ('high', 'off'), 'bf16': ('high', 'bf16')}
UPDATE_BYTES = 7 * 4   # of a parameter: Adam reads weight, gradient and moments, and writes weight and moments


def run(setting: Setting, report: Report) -> None:
    """Time cross-entropy steps by all implementations, and the other works by the best one; in all of them there are
    five captions, samples or beams of each image."""
    device = setting.start()
    copies = copy_rate(device, setting.small)
    rates = {name: product_rate(device, name, setting.small) for name in PRECISIONS}
    timing = Timing(setting, device, report, copies, rates)
    step = CrossEntropy(setting, device)
    floor = Floor(counted_operations(step.sizes, step.counts, step.lengths), update=update_bytes(step.model))
    implementations = implementations_on(device, step.model)
    best = implementations[-1]
    for name in implementations:
        timing.work('cross-entropy', name, step, step.model, len(step.counts), floor)
    del step
    timing.work('cross-entropy', best, *large_step(setting, device))
    timing.work('self-critical', best, *self_critical(setting, device))
    decoding = Decoding(setting, device)
    images = len(decoding.counts)
    timing.work('beams', best, decoding.beams, decoding.model, images,
                decoding_floor(decoding, decoding.all_beams()), ('fp32', 'TF32'))


def large_step(setting: Setting, device: torch.device) -> tuple[Work, Any, int, 'Floor']:
    """A cross-entropy step on 60 images: what `Timing.work` takes."""
    step = CrossEntropy(setting, device, images=60)
    floor = Floor(counted_operations(step.sizes, step.counts, step.lengths), update=update_bytes(step.model))
    return step, step.model, len(step.counts), floor


def self_critical(setting: Setting, device: torch.device) -> tuple[Work, Any, int, 'Floor']:
    """A self-critical step, likewise: decoding twice, then a step on the samples."""
    step = SelfCriticalStep(setting, device)
    decoding = Decoding(setting, device, like=step.workload)
    samples, greedy = decoding.samples(), decoding.greedy()
    parts = [decoding_floor(decoding, samples), decoding_floor(decoding, greedy)]
    operations = counted_operations(decoding.sizes, decoding.counts, words_of(samples))
    floor = Floor(operations + sum(part.operations for part in parts), sum(part.weights for part in parts),
                  update_bytes(step.model))
    return step, step.model, len(decoding.counts), floor


@dataclass(frozen=True)
class Floor:
    """The least that a work asks of a device: operations of matrix products, bytes of weights to read meanwhile, and
    bytes that the update reads and writes."""

    operations: float
    weights: float = 0.0
    update: float = 0.0

    def seconds(self, rate: float, copies: float) -> float:
        """The least time, with so many operations and bytes a second."""
        return max(self.operations / rate, self.weights / copies) + self.update / copies


@dataclass(frozen=True)
class Timing:
    """Times works, and reports them; `copies` and `rates` of products are the device's ceilings."""

    setting: Setting
    device: torch.device
    report: Report
    copies: float
    rates: dict[str, float]

    def work(self, title: str, implementation: str, work: Any, model: Any, images: int, floor: Floor,
             precisions: Sequence[str] = tuple(PRECISIONS)) -> None:
        """Report the time of a work on so many images in each of the precisions."""
        for precision in precisions:
            if precision == 'TF32' and self.device.type == 'cpu':
                continue
            mode, amp = PRECISIONS[precision]
            if hasattr(work, 'amp'):
                work.amp = amp
            if self.device.type == 'cuda':
                torch.cuda.reset_peak_memory_stats(self.device)
            with matmul(mode), chosen(implementation, model):
                seconds = seconds_of(work, self.device, self.setting.repeats)
            least = floor.seconds(self.rates[precision], self.copies)
            memory = torch.cuda.max_memory_allocated(self.device) if self.device.type == 'cuda' else 0
            self.report.number(
                f'{title}, {images} x 5, {implementation}, {precision}',
                f'{milliseconds(seconds)}, {images / seconds:,.0f} images/s, {seconds / least:.1f} times the floor'
                + (f', {memory / 1e9:.2f} GB' if memory else ''),
                seconds=seconds, images=images, floor=least, memory=memory)


def implementations_on(device: torch.device, model: Any) -> list[str]:
    """The implementations of X-linear attention that run here, the best one last."""
    if device.type == 'cpu':
        return ['loop']
    return ['loop', 'pairs'] + ['fused'] * (fused_obstacle(device, model.size) is None)


@contextlib.contextmanager
def chosen(implementation: str, model: Any) -> Iterator[None]:
    """The block in which the model's X-linear attention runs by an implementation."""
    for layer in model.decoder:
        layer.cross.fused = implementation == 'fused'
    is_loop = implementation == 'loop' and next(model.parameters()).device.type != 'cpu'
    with mock.patch.object(kernels, 'XLinearPairs', XLinearMix) if is_loop else contextlib.nullcontext():
        yield


def update_bytes(model: Any) -> int:
    """What a step of the optimiser reads and writes."""
    return UPDATE_BYTES * sum(parameter.numel() for parameter in model.parameters())


def decoding_floor(decoding: Decoding, captions: torch.Tensor) -> Floor:
    """The floor of writing captions (I, n, T): the weights are read once for each word of the longest."""
    words = words_of(captions)
    weights = sum(parameter.nbytes for part in (decoding.model.decoder, decoding.model.output)
                  for parameter in part.parameters())
    return Floor(counted_decoding(decoding.sizes, decoding.counts, words),
                 weights * (1 + max(max(image) for image in words)))


def words_of(captions: torch.Tensor) -> list[list[int]]:
    """The words of each caption of each image."""
    return (captions > 0).sum(2).tolist()
