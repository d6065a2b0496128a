"""Operations with hand-written gradients: the numbers of plain PyTorch in less time or memory.  Read this last.

Networks call the functions below, which choose an implementation by device: what saves memory traffic on the CPU
would launch too many kernels on a GPU, where PyTorch's own are used.  Each docstring gives the plain formula.
tests/models/test_kernels.py checks every gradient numerically.  `dropout` is always a probability, 0 for none.
"""

import functools
import importlib.util

import torch
from torch import Tensor
from torch.nn import functional as F

from models.kernels.attention import DropoutAttention
from models.kernels.elementwise import CELU, AddDropout, ReLUDropout
from models.kernels.elementwise import Dropout as _Dropout
from models.kernels.pairs import XLinearPairs
from models.kernels.xlinear import XLinearMix
from models.packing import Groups


def dropout(rows: Tensor, probability: float) -> Tensor:
    """Each element set to 0 with `probability`, the others scaled up."""
    if not probability:
        return rows
    if rows.device.type != 'cpu':
        return F.dropout(rows, probability, True)
    return _Dropout.apply(rows, probability)


def add_dropout(rows: Tensor, update: Tensor, probability: float) -> Tensor:
    """rows + dropout(update)."""
    if not probability or rows.device.type != 'cpu':
        return rows + dropout(update, probability)
    return AddDropout.apply(rows, update, probability)


def relu_dropout_(rows: Tensor, probability: float) -> Tensor:
    """dropout(ReLU(rows)), in place of `rows`.  On the CPU only the result is kept for the gradient, which the next
    Linear keeps anyway."""
    if rows.device.type != 'cpu':
        return dropout(rows.relu_(), probability)
    return ReLUDropout.apply(rows, probability)


def celu(rows: Tensor) -> Tensor:
    """max(x, 0) + min(exp(x) - 1, 0)."""
    return CELU.apply(rows) if rows.device.type == 'cpu' else F.celu(rows)


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, causal: bool = False,
              dropout: float = 0.0) -> Tensor:
    """dropout(softmax(query key' / sqrt(d / h))) value (Vaswani et al. 2017, equation 1).

    query (G, h, L, d / h), key and value (G, h, K, d / h) -> (G, h, L, d / h).  `mask`, broadcast to
    (G, h, L, K), is True where a query may attend to a key; `causal`: query i attends to the keys up to i.
    """
    if dropout and query.device.type == 'cpu':
        if causal:
            L = query.shape[2]
            mask = torch.ones(L, L, dtype=torch.bool).tril_()
        return DropoutAttention.apply(query, key, value, mask, dropout)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal, dropout_p=dropout)


def xlinear_mix(query: Tensor, key: Tensor, value: Tensor, weight: Tensor, bias: Tensor, spatial: Tensor,
                words: Groups, regions: Groups, dropout: float = 0.0, record: list[Tensor] | None = None,
                fused: bool = True) -> tuple[Tensor, Tensor]:
    """The part of X-linear attention (Pan et al. 2020, section 3.2) where words meet regions.

    For every word q and each region (k, v) of its image: e = dropout(ReLU(weight (q * k) + bias)); spatial
    weights a = softmax over the image's regions of (spatial . e).

    query (N, d) in the groups `words`, key and value (M, d) in the groups `regions`, both by image; weight
    (d/2, d), bias and spatial (d/2,), which may be of higher precision than the query.  `record`, if given,
    takes the weights a as (N, P).  Returns the sum of a v (N, d) and the mean of e (N, d/2) over the regions.

    The CPU goes image by image, a GPU computes all pairs at once: with `fused` in Triton kernels, where
    `fused_obstacle` knows no reason against it.
    """
    mix: type[torch.autograd.Function] = XLinearMix
    if query.device.type != 'cpu':
        mix = XLinearPairs
        if fused and fused_obstacle(query.device, query.shape[1], query.dtype, regions.longest) is None:
            from models.kernels.fused import XLinearFused
            mix = XLinearFused
    return mix.apply(query, key, value, weight, bias, spatial, words, regions, dropout, record)


def xlinear_mix_padded(query: Tensor, key: Tensor, value: Tensor, weight: Tensor, bias: Tensor, spatial: Tensor,
                       padding: Tensor, shares: Tensor, sizes: Tensor, dropout: float = 0.0,
                       fused: bool = True) -> tuple[Tensor, Tensor]:
    """As `xlinear_mix`, for decoding: as many words of each image, and regions padded, so that shapes depend on
    neither.

    query (I * L, d), key and value (I, P, d), padding (I, P), True where there is no region; shares (I, P), the
    weights of a mean over the regions; sizes (I,) int32, the number of regions.
    """
    I, P, d = key.shape
    if fused and not torch.is_grad_enabled() and fused_obstacle(query.device, d, query.dtype, P) is None:
        from models.kernels.fused import padded_mix
        return padded_mix(query, key, value, weight, bias, spatial, sizes, dropout)
    weight, bias, spatial = (part.to(query.dtype) for part in (weight, bias, spatial))
    products = query.view(I, -1, 1, d) * key[:, None]  # (I, L, P, d)
    e = relu_dropout_(F.linear(products.view(-1, d), weight, bias), dropout).view(*products.shape[:3], -1)
    logits = torch.matmul(e, spatial).masked_fill(padding[:, None], -torch.inf)
    a = logits.softmax(-1, dtype=torch.promote_types(query.dtype, torch.float32)).to(query.dtype)  # (I, L, P)
    mixed, mean_e = torch.bmm(a, value), torch.matmul(shares[:, None, None], e)  # (I, L, d), (I, L, 1, d / 2)
    return mixed.view(len(query), d), mean_e.view(len(query), -1)


def fused_obstacle(device: torch.device, size: int, dtype: torch.dtype = torch.float32,
                   most_regions: int = 1) -> str | None:
    """Why the fused kernels of `xlinear_mix` cannot run on `device` for a model of `size` d and images of up to so
    many regions; None where they can."""
    obstacle = triton_obstacle(device)
    if obstacle is None:
        from models.kernels.fused import why_not
        obstacle = why_not(size, most_regions, dtype)
    return obstacle


@functools.cache
def triton_obstacle(device: torch.device) -> str | None:
    """Why Triton's kernels cannot run on `device`, found out by running one; None where they can."""
    if device.type != 'cuda':
        return 'they need a CUDA device'
    if importlib.util.find_spec('triton') is None:
        return 'Triton is not installed'
    if torch.cuda.get_device_capability(device) < (8, 0):
        return f'{torch.cuda.get_device_name(device)} is older than they support'
    try:
        from models.kernels.fused import runs_on
        return None if runs_on(device) else 'a kernel gave wrong numbers'
    except Exception as error:  # of the compiler, of the C compiler that it needs, of the driver
        return f'Triton failed: {type(error).__name__}: {str(error).strip()[:200]}'
