"""Dot-product attention with dropout, on the CPU."""

from typing import Any

import torch
from torch import Tensor

from models.kernels.elementwise import keep_mask


class DropoutAttention(torch.autograd.Function):
    """`kernels.attention` with dropout, where PyTorch's keeps five arrays of (G, h, L, K).

    This keeps one: the weights, negative where they were dropped.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None,
                probability: float) -> Tensor:
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        wide = torch.promote_types(query.dtype, torch.float32)
        logits = torch.matmul(query, key.transpose(2, 3)).to(wide).mul_(query.shape[3] ** -0.5)  # (G, h, L, K)
        if mask is not None:
            # Adding is several times faster here than filling by a mask.
            logits.add_(torch.zeros(mask.shape, dtype=wide).masked_fill_(~mask, -torch.inf))
        weights = logits.softmax(-1)
        keep, factor = keep_mask(weights.shape, probability, weights.device, weights.dtype)
        signed = weights.mul_(keep.mul_(2).sub_(1)).to(value.dtype)
        ctx.save_for_backward(query, key, value, signed)
        ctx.factor = factor
        return torch.matmul(signed.clamp(min=0).mul_(factor), value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, signed = ctx.saved_tensors
        dropped = signed.clamp(min=0).mul_(ctx.factor)
        d_value = torch.matmul(dropped.transpose(2, 3), gradient)
        # Each weight times its gradient; the softmax's gradient subtracts the weight times their sum.
        flow = torch.matmul(gradient, value.transpose(2, 3)).mul_(dropped)
        d_logits = flow.addcmul_(signed.abs(), flow.sum(-1, keepdim=True), value=-1)
        d_logits.mul_(query.shape[3] ** -0.5)
        return (torch.matmul(d_logits, key), torch.matmul(d_logits.transpose(2, 3), query), d_value,
                None, None)
