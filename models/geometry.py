"""How the regions of an image lie to one another: the geometry of `relation_transformer`
(Herdade et al., NeurIPS 2019)."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from models.packing import Groups
from models.precision import without_autocast

FREQUENCIES = 8
LEAST_DISTANCE = 1e-3  # in widths or heights of the first box
LEAST_WEIGHT = 1e-6


def relative_geometry(first, second):
    """Boxes m and n of Q pairs, relative corner coordinates (Q, 4) each -> (Q, 4) double: the logarithms
    of |cx_m - cx_n| / w_m, |cy_m - cy_n| / h_m, w_m / w_n and h_m / h_n.

    Sides are x2 - x1 + 1: written for pixels, kept for relative coordinates by the published models.
    """
    first, second = first.double(), second.double()
    centres = [(boxes[:, :2] + boxes[:, 2:]) / 2 for boxes in (first, second)]
    sides = [boxes[:, 2:] - boxes[:, :2] + 1 for boxes in (first, second)]
    apart = (centres[0] - centres[1]).abs() / sides[0]
    return torch.cat((apart.clamp(min=LEAST_DISTANCE), sides[0] / sides[1]), 1).log()


def waves(numbers, dtype):
    """(Q, 4) double -> (Q, 64) of `dtype`: each number times 100 / 1000^(i/8), i = 0..7, the eight of
    the first number first; the sines of all 32, then the cosines.

    Angles reach 700, where single precision tells 6e-5 apart, and the logarithm of what a head makes of
    the waves enlarges that a hundredfold; so they are doubles until they are within a turn.
    """
    steps = torch.arange(FREQUENCIES, device=numbers.device, dtype=numbers.dtype) / FREQUENCIES
    angles = (numbers[:, :, None] * (100 / 1000 ** steps)).flatten(1)  # (Q, 4 * 8)
    angles = angles.remainder(2 * math.pi).to(dtype)
    return torch.cat((angles.sin(), angles.cos()), 1)


class RelationBias(nn.Module):
    """What the geometry of two regions adds to the logit of one attending to the other:
    log max(ReLU(w . e + b), 1e-6), with w, b of each head in each layer and e the 64 `waves` (or
    with `trigonometric` off the 4 numbers themselves)."""

    needs = 'boxes'

    def __init__(self, layers, heads, trigonometric=True):
        super().__init__()
        self.heads, self.trigonometric = heads, trigonometric
        inputs = 8 * FREQUENCIES if trigonometric else 4
        self.layers = nn.ModuleList(nn.Linear(inputs, heads) for _ in range(layers))

    def start_weights(self):
        """Each head's weights start as a matrix of their own, (1, 64), Xavier uniform."""
        for layer in self.layers:
            for row in layer.weight.data:
                nn.init.xavier_uniform_(row[None])

    def forward(self, boxes, groups):
        """Relative corner boxes (M, 4) in the `groups` of their images -> for each layer a tensor
        (I, h, P, P), finite for every region that looks at a real one, -inf where it would look
        at padding.

        Only pairs of real regions are computed, once for the heads of all layers.
        """
        pairs = Groups([count * count for count in groups.counts], groups.device)
        image, rank = pairs.owners, pairs.ranks  # (Q,)
        width = groups.sizes[image]
        start = (groups.sizes.cumsum(0) - groups.sizes)[image]
        one, other = rank // width, rank % width
        geometry = relative_geometry(boxes[start + one], boxes[start + other])
        geometry = waves(geometry, boxes.dtype) if self.trigonometric else geometry.to(boxes.dtype)
        weight, bias = (torch.cat([getattr(layer, name) for layer in self.layers])
                        for name in ('weight', 'bias'))
        with without_autocast(boxes.device):  # the logarithm enlarges what is rounded
            logits = F.linear(geometry, weight, bias).relu().clamp(min=LEAST_WEIGHT).log()  # (Q, layers * h)
        I, P = len(groups), groups.longest
        blank = logits.new_zeros(I, P, P, logits.shape[1]).masked_fill(
            ~groups.mask[:, None, :, None], -math.inf)
        places = (image * P + one) * P + other
        padded = blank.flatten(0, 2).index_copy(0, places, logits).view(I, P, P, -1)
        return [layer.contiguous() for layer in padded.permute(0, 3, 1, 2).split(self.heads, 1)]
