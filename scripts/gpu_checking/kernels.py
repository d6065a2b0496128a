"""Section `kernels`: X-linear attention in fused kernels, and all pairs at once, against the plain formula in double
precision on the CPU."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models.kernels import fused_obstacle
from models.kernels.elementwise import keep_mask
from models.kernels.pairs import XLinearPairs
from models.packing import Groups
from scripts.benchmarking.timing import matmul
from scripts.benchmarking.workloads import REGIONS
from scripts.gpu_checking.sections import Report, Setting

RESULTS = ('mixed', 'mean of e', 'weights', 'd query', 'd key', 'd value', 'd weight', 'd bias', 'd spatial')
# Precision: the type, products of float32 matrices, the limit of the distance.
PRECISIONS: dict[str, tuple[torch.dtype, str, float]] = {
    'ieee': (torch.float32, 'highest', 1e-5), 'tf32': (torch.float32, 'high', 3e-3),
    'bf16': (torch.bfloat16, 'highest', 0.15)}
BATCHES, DROPOUT = 5, 0.3

Apply = Callable[..., Any]


def run(setting: Setting, report: Report) -> None:
    """Compare results and all gradients on random batches, every other one with dropout."""
    device = setting.start()
    size = 64 if setting.small else 512
    obstacle = fused_obstacle(device, size)
    implementations: dict[str, tuple[Apply, Callable[[Tensor], Tensor]]] = {'pairs': (XLinearPairs.apply, pairs_mask)}
    if obstacle is None:
        from models.kernels.fused import XLinearFused
        implementations['fused'] = XLinearFused.apply, fused_mask
    else:
        report.number('fused kernels', f'none: {obstacle}')
    worst: dict[tuple[str, str], tuple[float, str]] = {}
    for number in range(BATCHES):
        case = Case(number, size, setting.small)
        for kind, (_, mode, _) in PRECISIONS.items():
            for name, (apply, mask) in implementations.items():
                with matmul(mode):
                    found = case.apart(apply, mask, PRECISIONS[kind][0], device)
                worst[name, kind] = max(worst.get((name, kind), (0.0, '')), found)
    for (name, kind), (apart, result) in worst.items():
        limit = PRECISIONS[kind][2]
        report.check(f'{name}, {kind}', f'{apart:.1e} ({result})', f'at most {limit:g}', apart <= limit, apart=apart)


class Case:
    """Random inputs of `kernels.xlinear_mix`, and what the gradients are taken of."""

    def __init__(self, number: int, size: int, small: bool) -> None:
        random = np.random.default_rng(number)
        images, most_words, most_regions = (3, 9, 12) if small else (15, 80, max(REGIONS))
        self.words = random.integers(0, most_words, images).tolist()   # an image may have none
        # The most regions are those of the other sections: for another number the kernels are compiled again.
        self.regions = [most_regions, *random.integers(1, most_regions, images - 1).tolist()]
        self.dropout = DROPOUT if number % 2 else 0.0
        generator = torch.Generator().manual_seed(number)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)
        N, M, H = sum(self.words), sum(self.regions), size // 2
        self.parts = [draw(N, size), draw(M, size), draw(M, size), draw(H, size) / size ** 0.5, draw(H) * 0.3,
                      draw(H) * 3 / H ** 0.5]
        self.flows = [draw(N, size), draw(N, H)]
        self.pairs = sum(words * regions for words, regions in zip(self.words, self.regions))

    def apart(self, apply: Apply, mask: Callable[[Tensor], Tensor], dtype: torch.dtype,
              device: torch.device) -> tuple[float, str]:
        """(the distance of the result that is furthest from the plain one, relative to its norm; its name)."""
        parts = [part.to(device, dtype) for part in self.parts]
        keep = torch.ones(self.pairs, self.parts[3].shape[0], device=device, dtype=dtype)
        if self.dropout:
            torch.manual_seed(7)
            keep = mask(keep)
        record: list[Tensor] = []
        leaves = [part.requires_grad_() for part in parts]
        torch.manual_seed(7)
        outputs = apply(*leaves, Groups(self.words, device), Groups(self.regions, device), self.dropout, record)
        found = [*outputs, *record, *torch.autograd.grad(
            outputs, leaves, [flow.to(output) for flow, output in zip(self.flows, outputs)])]
        expected = self.plain([part.detach().cpu().double() for part in parts], keep.cpu().double())
        distances = [float((one.detach().cpu().double() - other).norm() / other.norm().clamp(min=1e-12))
                     for one, other in zip(found, expected)]
        return max(zip(distances, RESULTS))

    def plain(self, parts: list[Tensor], keep: Tensor) -> list[Tensor]:
        """The results by the formula, an image at a time; `keep` (pairs, d/2) is 0 for what is dropped."""
        leaves = [part.requires_grad_() for part in parts]
        query, key, value, weight, bias, spatial = leaves
        mixed, means, weights = [], [], []
        rows = keep.split([words * regions for words, regions in zip(self.words, self.regions)])
        for q, k, v, kept in zip(query.split(self.words), key.split(self.regions), value.split(self.regions), rows):
            e = torch.relu((q[:, None] * k) @ weight.T + bias) * kept.view(len(q), len(k), len(bias))
            e = e / (1 - self.dropout)
            a = (e @ spatial).softmax(1)
            mixed.append(a @ v)
            means.append(e.mean(1))
            weights.append(F.pad(a, (0, max(self.regions) - len(k))))
        outputs = [torch.cat(mixed), torch.cat(means)]
        gradients = torch.autograd.grad(outputs, leaves, [flow.double() for flow in self.flows])
        return [*(output.detach() for output in (*outputs, torch.cat(weights))), *gradients]


def pairs_mask(ones: Tensor) -> Tensor:
    """What `XLinearPairs` keeps after the same seed."""
    return (F.dropout(ones, DROPOUT) > 0).to(ones.dtype)


def fused_mask(ones: Tensor) -> Tensor:
    """What `XLinearFused` keeps after the same seed."""
    return keep_mask(ones.shape, DROPOUT, ones.device, torch.uint8)[0].to(ones.dtype)
