"""X-linear attention's meeting of words and regions, all pairs of the batch at once: for a GPU, in plain PyTorch."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from models.packing import Groups, Pairs


class XLinearPairs(torch.autograd.Function):
    """`kernels.xlinear_mix` in some 20 kernels forward and 30 backward, whatever the number of images.

    q * k exists for all pairs at once, and again in the backward pass; in between only e is kept.  Only real words
    meet real regions.  Sums run over segments, not by atomic additions, so the results are the same every time.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, weight: Tensor, bias: Tensor,
                spatial: Tensor, words: Groups, regions: Groups, dropout: float,
                record: list[Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Shapes as for `kernels.xlinear_mix`."""
        weight, bias, spatial = (part.to(query.dtype) for part in (weight, bias, spatial))
        wide = torch.promote_types(query.dtype, torch.float32)
        pairs = words.pairs(regions)
        N, P = words.rows, regions.longest
        product = query.index_select(0, pairs.word).mul_(key.index_select(0, pairs.region))  # (Q, d)
        e = F.dropout(torch.addmm(bias, product, weight.t()).relu_(), dropout)  # (Q, d/2)
        del product
        logits = query.new_full((N * P,), -torch.inf, dtype=wide)
        logits.index_copy_(0, pairs.place, torch.mv(e, spatial).to(wide))
        a = logits.view(N, P).softmax(-1).to(e.dtype)
        values = regions.pad(value)  # (I, P, d)
        mixed = words.pack(torch.bmm(words.pad(a), values))
        mean_e = pairs.sum_over_regions(e) / pairs.regions_of_word[:, None]
        if record is not None:
            record.append(a)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(query, key, values, weight, spatial, e, a)
            ctx.groups, ctx.factor = (words, regions), 1 / (1 - dropout)
        return mixed, mean_e.to(e.dtype)

    @staticmethod
    def backward(ctx: Any, d_mixed: Tensor, d_mean: Tensor) -> tuple[Tensor | None, ...]:
        query, key, values, weight, spatial, e, a = ctx.saved_tensors
        words, regions = ctx.groups
        pairs: Pairs = words.pairs(regions)
        wide = torch.promote_types(query.dtype, torch.float32)
        padded = words.pad(d_mixed)  # (I, L, d)
        d_value = regions.pack(torch.bmm(words.pad(a).transpose(1, 2), padded))
        d_a = words.pack(torch.bmm(padded, values.transpose(1, 2)))  # (N, P)
        d_logits = a * (d_a - (a * d_a).sum(-1, keepdim=True))
        d_logits = d_logits.view(-1).index_select(0, pairs.place)  # (Q,)
        d_spatial = torch.mv(e.t(), d_logits).to(wide)
        shares = d_mean.to(wide).mul(ctx.factor).div_(pairs.regions_of_word[:, None]).to(e.dtype)
        d_e = shares.index_select(0, pairs.word).addcmul_(d_logits[:, None], spatial * ctx.factor)
        # e is positive exactly where neither ReLU nor dropout stopped it.
        d_e = torch.ops.aten.threshold_backward(d_e, e, 0)
        q, k = query.index_select(0, pairs.word), key.index_select(0, pairs.region)
        product = q * k
        d_weight, d_bias = torch.mm(d_e.t(), product).to(wide), d_e.sum(0, dtype=wide)
        d_product = torch.mm(d_e, weight, out=product)
        d_query = pairs.sum_over_regions(k.mul_(d_product))
        d_key = pairs.sum_over_words(q.mul_(d_product))
        return d_query, d_key, d_value, d_weight, d_bias, d_spatial, None, None, None, None
