"""Dropout whose mask costs little on the CPU.

PyTorch draws one 32-bit number per element, one after the other, which took 17 % of the demo's
training step.  Here one 64-bit draw decides four elements: 16 bits each, so the probability is
exact to 1/65536, and outputs are scaled by the probability that is really used.

Masks are written straight into numbers (`torch.ge` into a given tensor): making a tensor of bools and
multiplying by that takes six times as long.  Every mask that is kept for the gradient takes a
byte an element, and dropout is joined with what comes before or after it, so that the undropped
numbers are kept nowhere.
"""

import torch
from torch import nn
from torch.nn import functional as F


def keep_mask(shape, probability, device, dtype=torch.int8):
    """A mask of `shape` and `dtype`, 0 with `probability` (rounded to 1/65536), else 1; and the factor
    that keeps the expectation."""
    if device.type != 'cpu':
        return torch.empty(shape, dtype=dtype, device=device).bernoulli_(1 - probability), 1 / (1 - probability)
    elements = shape.numel()
    bits = torch.empty((elements + 3) // 4, dtype=torch.int64)
    bits.random_(-2 ** 63, None)  # all 64 bits, each as likely 0 as 1
    limit, factor = _rounded(probability)
    mask = torch.ge(bits.view(torch.int16)[:elements], limit - 32768, out=torch.empty(elements, dtype=dtype))
    return mask.view(shape), factor


def keep_factor(probability, device):
    """The factor that goes with the masks of `keep_mask`, before one is drawn."""
    return _rounded(probability)[1] if device.type == 'cpu' else 1 / (1 - probability)


def _rounded(probability):
    """Of 65536 draws, how many drop; and the factor that goes with it."""
    limit = min(round(probability * 65536), 65535)
    return limit, 65536 / (65536 - limit)


class _Dropped(torch.autograd.Function):

    @staticmethod
    def forward(ctx, rows, probability):
        keep, ctx.factor = keep_mask(rows.shape, probability, rows.device)
        ctx.save_for_backward(keep)
        return (rows * keep).mul_(ctx.factor)

    @staticmethod
    def backward(ctx, gradient):
        keep, = ctx.saved_tensors
        return (gradient * keep).mul_(ctx.factor), None


class _AddDropped(torch.autograd.Function):

    @staticmethod
    def forward(ctx, rows, update, probability):
        keep, ctx.factor = keep_mask(update.shape, probability, update.device)
        ctx.save_for_backward(keep)
        ctx.dtype = update.dtype
        return torch.add(rows, update * keep, alpha=ctx.factor)

    @staticmethod
    def backward(ctx, gradient):
        keep, = ctx.saved_tensors
        return gradient, (gradient * keep).mul_(ctx.factor).to(ctx.dtype), None


class _ReluDropped(torch.autograd.Function):

    @staticmethod
    def forward(ctx, rows, probability):
        rows.relu_()
        ctx.factor = 1.0
        if probability:
            keep, ctx.factor = keep_mask(rows.shape, probability, rows.device, rows.dtype)
            rows.mul_(keep).mul_(ctx.factor)
        ctx.mark_dirty(rows)
        ctx.save_for_backward(rows)
        return rows

    @staticmethod
    def backward(ctx, gradient):
        # What is positive was stopped neither by ReLU nor by dropout.
        rows, = ctx.saved_tensors
        gradient = torch.ops.aten.threshold_backward(gradient, rows, 0)
        return gradient.mul_(ctx.factor) if ctx.factor != 1 else gradient, None


def dropout(rows, probability, training):
    """`rows` with each element set to 0 with `probability` and the others scaled up, in training."""
    if not training or not probability:
        return rows
    if rows.device.type != 'cpu':
        return F.dropout(rows, probability, True)
    return _Dropped.apply(rows, probability)


def relu_dropout_(rows, probability, training):
    """Dropout(ReLU(rows)), in place of rows that nothing else needs, such as a Linear's output.

    Only its result is kept for the gradient, which the next Linear keeps anyway.
    """
    return _ReluDropped.apply(rows, probability if training else 0.0)


class Dropout(nn.Module):
    """`dropout` as a module."""

    def __init__(self, probability):
        super().__init__()
        self.probability = probability

    def forward(self, rows):
        """Any shape -> the same shape."""
        return dropout(rows, self.probability, self.training)

    def add(self, rows, update):
        """rows + Dropout(update): the end of every residual block."""
        if not self.training or not self.probability:
            return rows + update
        return _AddDropped.apply(rows, update, self.probability)

    def extra_repr(self):
        """What `print(model)` shows."""
        return f'{self.probability:g}'
