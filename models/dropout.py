"""Dropout whose mask costs little on the CPU.

PyTorch draws one 32-bit number per element, one after the other, which took 17 % of the demo's
training step.  Here one 64-bit draw decides four elements: 16 bits each, so the probability is
exact to 1/65536, and outputs are scaled by the probability that is really used.
"""

import torch
from torch import nn
from torch.nn import functional as F


def keep_mask(shape, probability, device):
    """A bool mask of `shape`, False with `probability` (rounded to 1/65536), and the factor that
    keeps the expectation."""
    elements = shape.numel()
    bits = torch.empty((elements + 3) // 4, dtype=torch.int64, device=device)
    limit = min(round(probability * 65536), 65535)
    bits.random_(-2 ** 63, None)  # all 64 bits, each as likely 0 as 1
    keep = bits.view(torch.int16)[:elements] >= limit - 32768
    return keep.view(shape), 65536 / (65536 - limit)


def drop_(rows, probability):
    """Dropout in place, outside the graph; returns the factor that kept elements were scaled by."""
    if rows.device.type != 'cpu':
        F.dropout(rows, probability, True, inplace=True)
        return 1 / (1 - probability)
    keep, factor = keep_mask(rows.shape, probability, rows.device)
    rows.mul_(keep).mul_(factor)
    return factor


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


def dropout(rows, probability, training):
    """`rows` with each element set to 0 with `probability` and the others scaled up, in training."""
    if not training or not probability:
        return rows
    if rows.device.type != 'cpu':
        return F.dropout(rows, probability, True)
    return _Dropped.apply(rows, probability)


class Dropout(nn.Module):
    """`dropout` as a module."""

    def __init__(self, probability):
        super().__init__()
        self.probability = probability

    def forward(self, rows):
        """Any shape -> the same shape."""
        return dropout(rows, self.probability, self.training)

    def extra_repr(self):
        """What `print(model)` shows."""
        return f'{self.probability:g}'
