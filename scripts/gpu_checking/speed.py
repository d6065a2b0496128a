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
from scripts.gpu_checking.works import CrossEntropy, Decoding, SelfCriticalStep, Work, graphs_on

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
        timing.work('cross-entropy', name, step, step, len(step.counts), floor)
    del step
    timing.work('cross-entropy', best, *large_step(setting, device))
    timing.work('self-critical', best, *self_critical(setting, device))
    decoding = Decoding(setting, device)
    images = len(decoding.counts)
    for title, decode, captions in (('samples', decoding.samples, decoding.samples()),
                                    ('beams', decoding.beams, decoding.all_beams())):
        timing.work(title, best, decode, decoding, images, decoding_floor(*decoding.known, words_of(captions)),
                    ('fp32', 'TF32'))


def large_step(setting: Setting, device: torch.device) -> tuple[Work, CrossEntropy, int, Floor]:
    """A cross-entropy step on 60 images: what `Timing.work` takes."""
    step = CrossEntropy(setting, device, images=60)
    floor = step_floor(step.model, step.sizes, step.counts, step.lengths)
    return step, step, len(step.counts), floor


def self_critical(setting: Setting, device: torch.device) -> tuple[Work, SelfCriticalStep, int, Floor]:
    """A self-critical step, likewise: decoding twice, then a step on the samples."""
    step = SelfCriticalStep(setting, device)
    decoding = Decoding(setting, device, like=step.workload)
    samples, greedy = words_of(decoding.samples()), words_of(decoding.greedy())
    floor = (decoding_floor(*decoding.known, samples) + decoding_floor(*decoding.known, greedy)
             + step_floor(*decoding.known, samples))
    return step, step, len(decoding.counts), floor


@dataclass(frozen=True)
class Timing:
    """Times works, and reports them; `copies` and `rates` of products are the device's ceilings."""

    setting: Setting
    device: torch.device
    report: Report
    copies: float
    rates: dict[str, float]

    def work(self, title: str, implementation: str, work: Any, works: Any, images: int, floor: Floor,
             precisions: Sequence[str] = tuple(PRECISIONS)) -> None:
        """Report the time of a work of `works` (see works.py) on so many images in each of the precisions: kernel by
        kernel, and by CUDA graphs where the device has them; the loop over images has no fixed shapes."""
        for precision in precisions:
            if precision == 'TF32' and self.device.type == 'cpu':
                continue
            mode, amp = PRECISIONS[precision]
            if hasattr(work, 'amp'):
                work.amp = amp
            least = floor.seconds(self.rates[precision], self.copies)
            columns: dict[str, dict[str, float]] = {}
            for graphs in graphs_on(self.device)[:1 if implementation == 'loop' else None]:
                works.use_graphs(graphs)
                with matmul(mode), chosen(implementation, works.model):
                    columns['graph' if graphs else 'eager'] = self._measured(work)
            works.use_graphs(False)
            self.report.number(
                f'{title}, {images} x 5, {implementation}, {precision}',
                '; '.join(f'{name} {milliseconds(found["seconds"])}, {images / found["seconds"]:,.0f} images/s, '
                          f'{found["seconds"] / least:.1f} times the floor'
                          + (f', {found["memory"] / 1e9:.2f} GB' if found['memory'] else '')
                          for name, found in columns.items()),
                images=images, floor=least, **columns)

    def _measured(self, work: Work) -> dict[str, float]:
        """The median of the seconds of a work, and the most memory that PyTorch had from the device."""
        is_cuda = self.device.type == 'cuda'
        if is_cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        seconds = seconds_of(work, self.device, self.setting.repeats)
        # Graphs keep memory that is free between their kernels, so what is reserved counts, not what is allocated.
        return {'seconds': seconds, 'memory': torch.cuda.max_memory_reserved(self.device) if is_cuda else 0}


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
