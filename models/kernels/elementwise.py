"""Dropout, alone and joined with addition or ReLU, and CELU.

PyTorch's dropout on the CPU draws one 32-bit number per element, one after the other, which took 17 % of the
demo's training step.  Here one 64-bit draw decides four elements: 16 bits each, so the probability is rounded
to 1/65536, and outputs are scaled by the probability that is really used.  Large masks draw from numpy's SFC64,
which PyTorch's generator seeds: twice as fast as PyTorch's own draws, and as repeatable.

Masks are written straight into numbers (`torch.ge` with `out`): making a bool tensor and multiplying by it
takes six times as long.  A mask kept for the gradient takes one byte per element, and joining dropout with its
neighbour means that the undropped numbers are not kept at all.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

SEEDING = 16384  # 64-bit numbers from which on seeding another generator, 25 microseconds, pays

def keep_mask(shape: torch.Size, probability: float, device: torch.device,
              dtype: torch.dtype = torch.int8) -> tuple[Tensor, float]:
    """A mask of `shape` and `dtype`, 0 with `probability` (on the CPU rounded to 1/65536), else 1; and the
    factor that keeps the expectation."""
    factor = keep_factor(probability, device)
    if device.type != 'cpu':
        return torch.empty(shape, dtype=dtype, device=device).bernoulli_(1 - probability), factor
    elements = shape.numel()
    count = (elements + 3) // 4
    if count < SEEDING:
        bits = torch.empty(count, dtype=torch.int64).random_(-2 ** 63, None)  # all 64 bits, each as likely 0 as 1
    else:
        seed = int(torch.empty((), dtype=torch.int64).random_())
        bits = torch.from_numpy(np.random.SFC64(seed).random_raw(count).view(np.int64))
    draws, least = bits.view(torch.int16)[:elements], _drops(probability) - 32768
    if dtype is torch.int16:
        return draws.ge_(least).view(shape), factor
    return torch.ge(draws, least, out=torch.empty(elements, dtype=dtype)).view(shape), factor


def mask_type(rows: Tensor) -> torch.dtype:
    """The type of mask with which `drop_` is fastest."""
    return torch.int16 if rows.device.type == 'cpu' and rows.element_size() == 2 else rows.dtype


def drop_(rows: Tensor, keep: Tensor) -> Tensor:
    """rows * keep in place, with a mask of the type that `mask_type` names.

    The bits of a 16-bit number times 0 or 1 are those of the product, and integers are multiplied five times as fast.
    """
    (rows.view(torch.int16) if keep.dtype is torch.int16 else rows).mul_(keep)
    return rows


def keep_factor(probability: float, device: torch.device) -> float:
    """The factor of the masks of `keep_mask`, before one is drawn."""
    return 65536 / (65536 - _drops(probability)) if device.type == 'cpu' else 1 / (1 - probability)


def _drops(probability: float) -> int:
    """How many of the 65536 values of a draw drop their element."""
    return min(round(probability * 65536), 65535)


class Dropout(torch.autograd.Function):
    """rows * mask * factor."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, probability: float) -> Tensor:
        keep, ctx.factor = keep_mask(rows.shape, probability, rows.device)
        ctx.save_for_backward(keep)
        return (rows * keep).mul_(ctx.factor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        keep, = ctx.saved_tensors
        return (gradient * keep).mul_(ctx.factor), None


class AddDropout(torch.autograd.Function):
    """rows + update * mask * factor."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, update: Tensor, probability: float) -> Tensor:
        keep, ctx.factor = keep_mask(update.shape, probability, update.device)
        ctx.save_for_backward(keep)
        ctx.dtype = update.dtype
        return torch.add(rows, update * keep, alpha=ctx.factor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        keep, = ctx.saved_tensors
        return gradient, (gradient * keep).mul_(ctx.factor).to(ctx.dtype), None


class ReLUDropout(torch.autograd.Function):
    """max(rows, 0) * mask * factor, in place."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, probability: float) -> Tensor:
        rows.relu_()
        ctx.factor = 1.0
        if probability:
            keep, ctx.factor = keep_mask(rows.shape, probability, rows.device, mask_type(rows))
            drop_(rows, keep).mul_(ctx.factor)
        ctx.mark_dirty(rows)
        ctx.save_for_backward(rows)
        return rows

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        # Positive outputs are exactly those that neither ReLU nor dropout stopped.
        rows, = ctx.saved_tensors
        gradient = torch.ops.aten.threshold_backward(gradient, rows, 0)
        return gradient.mul_(ctx.factor) if ctx.factor != 1 else gradient, None


class CELU(torch.autograd.Function):
    """max(x, 0) + min(exp(x) - 1, 0): CELU with alpha 1.

    PyTorch's own computes expm1, ten times slower on the CPU, and keeps its input; this keeps only the
    output y, whose slope is 1 above 0 and y + 1 below.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        out = rows.clamp(max=0).exp_().sub_(1).add_(rows.clamp(min=0))
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        out, = ctx.saved_tensors
        return out.clamp(max=0).add_(1).mul_(gradient)
