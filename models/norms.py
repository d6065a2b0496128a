"""Normalisation layers: `NORMS` for the transformers (`--norm`), batch normalisation for features."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RMSNorm(nn.Module):
    """x / (root mean square of x over its channels + 1e-8), times a learned scale."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(size))

    def forward(self, rows: Tensor) -> Tensor:
        """(..., size) -> the same shape."""
        return self.scale * rows / (rows.pow(2).mean(-1, keepdim=True).sqrt() + 1e-8)


class DeviationNorm(nn.Module):
    """(x - mean) / (standard deviation of x over its channels + 1e-6), times a learned gain, plus a shift.

    The standard deviation is the unbiased one, as in the published weights of Herdade et al. 2019; with few
    channels the result differs from `nn.LayerNorm`.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.gain, self.shift = nn.Parameter(torch.ones(size)), nn.Parameter(torch.zeros(size))

    def forward(self, rows: Tensor) -> Tensor:
        """(..., size) -> the same shape."""
        deviation, mean = torch.std_mean(rows, -1, keepdim=True)
        return self.gain * (rows - mean) / (deviation + 1e-6) + self.shift


NORMS: dict[str, Callable[[int], nn.Module]] = {
    'layer': nn.LayerNorm, 'rms': RMSNorm, 'deviation': DeviationNorm}


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation of rows (N, size) whose running statistics come only from passes with a gradient.

    Passes without a graph, such as those that sample captions, normalise by their own batch and leave the
    running statistics alone.  A single row, which has no variance, is normalised by the running statistics.
    """

    def forward(self, rows: Tensor) -> Tensor:
        """(N, size) -> the same shape."""
        if not self.training or torch.is_grad_enabled() and len(rows) > 1:
            return super().forward(rows)
        if len(rows) > 1:
            return F.batch_norm(rows, None, None, self.weight, self.bias, True, eps=self.eps)
        return F.batch_norm(rows, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


def feature_norms(count: int, feature_size: int, size: int) -> tuple[nn.Module, nn.Module]:
    """Batch normalisation (`--use_bn`) of the regions' features before they are embedded (`count` 1) and
    also after (2); identities otherwise.  Rows are packed, so padding has no part in the statistics."""
    return (BatchNorm(feature_size) if count else nn.Identity(),
            BatchNorm(size) if count == 2 else nn.Identity())
