"""How the regions of an image lie relative to each other: geometric attention of `relation_transformer`
(Herdade et al. 2019, after the relation networks of Hu et al. 2018)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.packing import Groups
from models.precision import without_autocast

FREQUENCIES = 8
LEAST_DISTANCE = 1e-3  # in widths or heights of the first box
LEAST_WEIGHT = 1e-6


class RelationBias(nn.Module):
    """What the geometry of two regions adds to the logit of one attending to the other.

    Hu et al. 2018, equations 3 and 5: attention weights are proportional to w_G exp(logit) with
    w_G = max(ReLU(w . e + b), 1e-6), so log w_G is added to the logit.  w, b belong to a head of a layer; e are
    the 64 `waves` of the pair's geometry, or with `trigonometric` off its 4 numbers themselves.
    """

    needs = 'boxes'

    def __init__(self, layers: int, heads: int, trigonometric: bool = True) -> None:
        super().__init__()
        self.heads, self.trigonometric = heads, trigonometric
        inputs = 8 * FREQUENCIES if trigonometric else 4
        self.layers: Sequence[nn.Linear] = nn.ModuleList(  # type: ignore[assignment]
            nn.Linear(inputs, heads) for _ in range(layers))

    def init_weights(self) -> None:
        """Initialise each head's weights as a matrix of its own, (1, 64), Xavier uniform."""
        for layer in self.layers:
            for row in layer.weight.data:
                nn.init.xavier_uniform_(row[None])

    def forward(self, boxes: Tensor, groups: Groups) -> list[Tensor]:
        """Boxes (M, 4) x1 y1 x2 y2, relative to the image, in `groups` by image -> for each layer a bias
        (I, h, P, P): finite where a query attends to a real region, -inf where it would attend to padding.

        Only pairs of real regions are computed, once for the heads of all layers.
        """
        I, P = len(groups), groups.longest
        pairs = Groups([count * count for count in groups.counts], groups.device)
        image = pairs.group_ids  # (Q,)
        width, start = groups.sizes[image], groups.starts[image]
        query, key = pairs.offsets // width, pairs.offsets % width  # (Q,) regions within the image
        geometry = relative_geometry(boxes[start + query], boxes[start + key])
        geometry = waves(geometry, boxes.dtype) if self.trigonometric else geometry.to(boxes.dtype)
        logits = self._log_weights(geometry)  # (Q, layers * h)
        blank = logits.new_zeros(I, P, P, logits.shape[1]).masked_fill(
            ~groups.mask[:, None, :, None], -math.inf)
        index = (image * P + query) * P + key
        padded = blank.flatten(0, 2).index_copy(0, index, logits).view(I, P, P, -1)
        return [layer.contiguous() for layer in padded.permute(0, 3, 1, 2).split(self.heads, 1)]

    def _log_weights(self, geometry: Tensor) -> Tensor:
        """(Q, 64) -> log w_G of the heads of all layers, (Q, layers * h)."""
        weight, bias = (torch.cat([getattr(layer, name) for layer in self.layers])
                        for name in ('weight', 'bias'))
        with without_autocast(geometry.device):  # the logarithm amplifies rounding
            return F.linear(geometry, weight, bias).relu().clamp(min=LEAST_WEIGHT).log()


def relative_geometry(first: Tensor, second: Tensor) -> Tensor:
    """Boxes m and n of Q pairs, x1 y1 x2 y2 relative to the image (Q, 4) each -> (Q, 4) double: the logarithms
    of |cx_m - cx_n| / w_m, |cy_m - cy_n| / h_m, w_m / w_n and h_m / h_n.

    Sides are x2 - x1 + 1: a formula for pixels, which the published models apply to relative coordinates.
    """
    first, second = first.double(), second.double()
    centres = [(boxes[:, :2] + boxes[:, 2:]) / 2 for boxes in (first, second)]
    sides = [boxes[:, 2:] - boxes[:, :2] + 1 for boxes in (first, second)]
    apart = (centres[0] - centres[1]).abs() / sides[0]
    return torch.cat((apart.clamp(min=LEAST_DISTANCE), sides[0] / sides[1]), 1).log()


def waves(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """(Q, 4) double -> (Q, 64) of `dtype`: each number times 100 / 1000^(i/8), i = 0..7, the eight of the first
    number first; the sines of all 32, then the cosines.

    Angles reach 700, where single precision resolves only 6e-5, and the logarithm of a head's weight amplifies
    that a hundredfold; so they stay doubles until they are reduced to one turn.
    """
    steps = torch.arange(FREQUENCIES, device=numbers.device, dtype=numbers.dtype) / FREQUENCIES
    angles = (numbers[:, :, None] * (100 / 1000 ** steps)).flatten(1)  # (Q, 4 * 8)
    angles = angles.remainder(2 * math.pi).to(dtype)
    return torch.cat((angles.sin(), angles.cos()), 1)
