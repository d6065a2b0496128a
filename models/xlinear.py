"""X-linear attention of words to regions (Pan et al., CVPR 2020, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from models import kernels
from models.packing import Groups
from models.precision import autocast_dtype, without_autocast


class XLinearCross(nn.Module):
    """X-linear attention of words to the regions of their image, with one head.

    With q1, q2 from the word and k, v from the regions, each by a `BilinearProjection`:

        e = Dropout(ReLU(Wm (q1 * k) + bm))          for each region, (d/2,)
        a = softmax over the regions of (ws . e + b)  spatial attention
        c = sigmoid(Wc m + bc), m the mean of e       channel attention, (d,)
        out = c * sum over the regions of a (q2 * v)

    The last sum is computed as q2 * sum of a v, since q2 does not depend on the region.
    """

    attention_record: list[Tensor] | None = None  # takes the spatial weights (N, P) of each call

    def __init__(self, size: int, dropout: float, fused: bool = True) -> None:
        """`fused` as for `kernels.xlinear_mix`."""
        super().__init__()
        self.dropout, self.fused = dropout, fused
        self.query1, self.key, self.query2, self.value = (
            BilinearProjection(size) for _ in range(4))
        # Names of published weights: `embed` is Wm, `spatial` ws, `squeeze` Wc (which expands d/2 to d).
        self.embed = nn.Linear(size, size // 2)
        # Its bias shifts all logits of a softmax alike: it is part of the published weights, but has no effect.
        self.spatial = nn.Linear(size // 2, 1)
        self.squeeze = nn.Linear(size // 2, size)

    def precompute(self, regions: Tensor, groups: Groups) -> PackedKeyValue:
        """Keys and values of all images: (M, d) -> `PackedKeyValue`."""
        return PackedKeyValue(self.key(regions), self.value(regions), groups)

    def forward(self, words: Tensor, word_groups: Groups, memory: PackedKeyValue | PaddedPairs) -> Tensor:
        """(N, d) words, grouped by image -> (N, d).  With `PaddedPairs`, images have as many words each."""
        query, key, value = self.query1(words), memory.key, memory.value
        dtype = autocast_dtype(words.device)
        if dtype is not None:
            query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
        weights, dropout = (self.embed.weight, self.embed.bias, self.spatial.weight[0]), self.dropout * self.training
        # The hand-written backward pass assumes one dtype; autocast would choose one for each operation.
        with without_autocast(words.device):
            if isinstance(memory, PaddedPairs):
                mixed, mean_e = kernels.xlinear_mix_padded(query, key, value, *weights, memory.padding, memory.shares,
                                                           memory.sizes, dropout, self.fused)
            else:
                mixed, mean_e = kernels.xlinear_mix(query, key, value, *weights, word_groups, memory.groups, dropout,
                                                    self.attention_record, self.fused)
        return torch.sigmoid(self.squeeze(mean_e)) * self.query2(words) * mixed


class BilinearProjection(nn.Module):
    """Linear, CELU, LayerNorm (the paper's GroupNorm with one group, applied to each row): a side of the bilinear
    product."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size, size)
        # One group per row is the same as a layer norm of that row.
        self.norm = nn.LayerNorm(size, eps=1e-5)

    def forward(self, rows: Tensor) -> Tensor:
        """(N, d) -> (N, d)."""
        return self.norm(kernels.celu(self.linear(rows)))


class PackedKeyValue:
    """What `XLinearCross` needs of the images: key and value (M, d), packed by `groups`."""

    def __init__(self, key: Tensor, value: Tensor, groups: Groups) -> None:
        self.key, self.value, self.groups = key, value, groups

    def select(self, images: Sequence[int], rows: Tensor, groups: Groups) -> PackedKeyValue:
        """Those of the chosen images, whose regions are the packed `rows`, in `groups`."""
        return PackedKeyValue(self.key[rows], self.value[rows], groups)

    def padded(self) -> PaddedPairs:
        """The same, for decoding where shapes may not depend on how many regions an image has."""
        dtype = autocast_dtype(self.key.device) or self.key.dtype
        return PaddedPairs(self.groups.pad(self.key.to(dtype)), self.groups.pad(self.value.to(dtype)),
                           self.groups.padding, self.groups.shares.to(dtype), self.groups.sizes.int())


class PaddedPairs:
    """As `PackedKeyValue`, padded: key and value (I, P, d); padding (I, P), True where there is no region; shares
    (I, P), 1 / the number of regions where there is one, else 0; sizes (I,) int32, that number."""

    def __init__(self, key: Tensor, value: Tensor, padding: Tensor, shares: Tensor, sizes: Tensor) -> None:
        self.key, self.value, self.padding, self.shares, self.sizes = key, value, padding, shares, sizes

    def padded(self) -> PaddedPairs:
        """The same."""
        return self

    def map(self, change: Callable[[Tensor], Tensor]) -> PaddedPairs:
        """As `Memory.map`."""
        return PaddedPairs(*map(change, (self.key, self.value, self.padding, self.shares, self.sizes)))
