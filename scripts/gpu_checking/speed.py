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
from scripts.benchmarking.floors import Floor, copy_rate, decoding_floor, product_rate, step_floor, words_of
from scripts.benchmarking.timing import matmul, seconds_of
from scripts.gpu_checking.sections import Report, Setting, milliseconds
from scripts.gpu_checking.works import CrossEntropy, Decoding, SelfCriticalStep, Work

# Precision: (products of float32 matrices, --amp).
PRECISIONS = {'fp32': ('highest', 'off'), 'TF32': ('high', 'off'), 'bf16': ('high', 'bf16')}


def run(setting: Setting, report: Report) -> None:
    """Time cross-entropy steps by all implementations, and the other works by the best one; in all of them there are
    five captions, samples or beams of each image."""
    device = setting.start()
    copies = copy_rate(device, setting.small)
    rates = {name: product_rate(device, name, setting.small) for name in PRECISIONS}
    timing = Timing(setting, device, report, copies, rates)
    step = CrossEntropy(setting, device)
    floor = step_floor(step.model, step.sizes, step.counts, step.lengths)
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
                decoding_floor(*decoding.known, words_of(decoding.all_beams())), ('fp32', 'TF32'))


def large_step(setting: Setting, device: torch.device) -> tuple[Work, Any, int, Floor]:
    """A cross-entropy step on 60 images: what `Timing.work` takes."""
    step = CrossEntropy(setting, device, images=60)
    floor = step_floor(step.model, step.sizes, step.counts, step.lengths)
    return step, step.model, len(step.counts), floor


def self_critical(setting: Setting, device: torch.device) -> tuple[Work, Any, int, Floor]:
    """A self-critical step, likewise: decoding twice, then a step on the samples."""
    step = SelfCriticalStep(setting, device)
    decoding = Decoding(setting, device, like=step.workload)
    samples, greedy = words_of(decoding.samples()), words_of(decoding.greedy())
    floor = (decoding_floor(*decoding.known, samples) + decoding_floor(*decoding.known, greedy)
             + step_floor(*decoding.known, samples))
    return step, step.model, len(decoding.counts), floor


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
