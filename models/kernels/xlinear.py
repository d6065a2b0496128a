"""X-linear attention's meeting of words and regions, image by image: the fastest form found on the CPU."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from models.kernels.elementwise import drop_, keep_factor, keep_mask, mask_type
from models.packing import Groups

# Pairs of a word and a region whose products exist at a time, 17 MB for d = 512: more than the captions of
# one image of COCO ever have, so this bounds only unusual batches.
PAIRS = 8192


class XLinearMix(torch.autograd.Function):
    """`kernels.xlinear_mix`.

    The product q * k has words x regions x d entries, by far the largest array of the model.  Here it exists
    for one image (and `PAIRS` pairs) at a time and is computed again in the backward pass; only e, half as
    wide, is kept.  Only real words meet real regions.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, weight: Tensor, bias: Tensor,
                spatial: Tensor, word_groups: Groups, region_groups: Groups, dropout: float,
                record: list[Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Shapes as for `kernels.xlinear_mix`."""
        weight, bias, spatial = (part.to(query.dtype) for part in (weight, bias, spatial))
        wide = torch.promote_types(query.dtype, torch.float32)
        mixed = query.new_empty(query.shape)  # (N, d)
        mean_e = query.new_empty(query.shape[0], weight.shape[0])  # (N, d/2)
        all_weights = []
        products = PairProducts(query, key, word_groups, region_groups)
        # One large array is returned to the system when it is freed; many small ones would leave holes.
        all_e = query.new_empty(products.pairs, weight.shape[0])
        factor = keep_factor(dropout, query.device) if dropout else 1.0
        for ((n0, n1), (m0, m1)), e in zip(products.spans, products.split(all_e)):
            words, regions = n1 - n0, m1 - m0
            # factor * ReLU(x) = ReLU(factor * x), which costs the matrix product nothing.
            torch.addmm(bias, products(n0, n1, m0, m1), weight.t(), beta=factor, alpha=factor, out=e).relu_()
            if dropout:
                drop_(e, keep_mask(e.shape, dropout, e.device, mask_type(e))[0])  # (words * regions, d/2)
            a = torch.mv(e, spatial).view(words, regions).softmax(-1, dtype=wide).to(e.dtype)
            torch.mm(a, value[m0:m1], out=mixed[n0:n1])
            # Sums and products take a third of the time of mean, mv and sums to another dtype in bfloat16.
            torch.sum(e.view(words, regions, -1), 1, out=mean_e[n0:n1]).div_(regions)
            all_weights.append(a)
        if record is not None:
            P = region_groups.longest
            record.append(torch.cat([F.pad(a, (0, P - a.shape[1])) for a in all_weights]))  # (N, P)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(query, key, value, weight, spatial, all_e, *all_weights)
            ctx.groups, ctx.factor = (word_groups, region_groups), factor
        return mixed, mean_e

    @staticmethod
    def backward(ctx: Any, d_mixed: Tensor, d_mean: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, weight, spatial, all_e, *all_weights = ctx.saved_tensors
        d_query, d_key, d_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        # Sums over the images are of float32 or more.
        wide = torch.promote_types(query.dtype, torch.float32)
        d_weight = torch.zeros_like(weight, dtype=wide)
        d_bias, d_spatial = torch.zeros_like(spatial, dtype=wide), torch.zeros_like(spatial, dtype=wide)
        scaled_spatial = spatial * ctx.factor
        products = PairProducts(query, key, *ctx.groups)
        for ((n0, n1), (m0, m1)), e, a in zip(products.spans, products.split(all_e), all_weights):
            words, regions, half = n1 - n0, m1 - m0, weight.shape[0]
            d_value[m0:m1].addmm_(a.t(), d_mixed[n0:n1])
            d_a = d_mixed[n0:n1] @ value[m0:m1].t()
            d_logits = a * (d_a - (a * d_a).sum(-1, keepdim=True))  # (words, regions)
            d_spatial += torch.mm(d_logits.view(1, -1), e)[0]
            d_e = torch.addcmul(d_mean[n0:n1, None] * (ctx.factor / regions), d_logits[..., None], scaled_spatial)
            # e is positive exactly where neither ReLU nor dropout stopped it.
            d_e = torch.ops.aten.threshold_backward(d_e.view(words * regions, half), e, 0)
            product = products(n0, n1, m0, m1)
            d_weight += d_e.t() @ product
            d_bias += d_e.sum(0)
            d_product = torch.mm(d_e, weight, out=product).view(words, regions, -1)
            torch.sum(d_product * key[m0:m1], 1, out=d_query[n0:n1])
            d_key[m0:m1].add_(d_product.mul_(query[n0:n1, None]).sum(0))
        return d_query, d_key, d_value, d_weight, d_bias, d_spatial, None, None, None, None


class PairProducts:
    """query * key for the pairs of one part of the batch at a time, in memory that is allocated once."""

    def __init__(self, query: Tensor, key: Tensor, word_groups: Groups, region_groups: Groups) -> None:
        """query (N, d) and key (M, d).  `spans` pairs rows of words with the rows of their image's regions,
        ((n0, n1), (m0, m1)); an image with more than `PAIRS` pairs has several."""
        self.query, self.key = query, key
        self.spans: list[tuple[tuple[int, int], tuple[int, int]]] = []
        for (n0, n1), (m0, m1) in zip(word_groups.spans(), region_groups.spans()):
            words = max(1, PAIRS // max(m1 - m0, 1))
            self.spans += [((n, min(n + words, n1)), (m0, m1)) for n in range(n0, n1, words)]
        self.counts = [(n1 - n0) * (m1 - m0) for (n0, n1), (m0, m1) in self.spans]
        self.pairs = sum(self.counts)
        self.memory = query.new_empty(max(self.counts, default=0), query.shape[1])

    def split(self, rows: Tensor) -> Sequence[Tensor]:
        """(pairs, ...) -> the rows of the pairs of each of `spans`."""
        return rows.split(self.counts)

    def __call__(self, n0: int, n1: int, m0: int, m1: int) -> Tensor:
        """(words * regions, d) for these rows; valid until the next call."""
        words, regions = n1 - n0, m1 - m0
        product = self.memory[:words * regions].view(words, regions, -1)
        torch.mul(self.query[n0:n1, None], self.key[m0:m1], out=product)
        return product.view(words * regions, -1)
