"""X-linear attention's meeting of words and regions in Triton kernels, for CUDA.

Only this file imports Triton, and nothing imports this file before it is used.

q * k, by far the largest array of the model, is never written, and e only where a gradient is wanted.  How many words
and regions an image has is read on the device, from `Pairs.layout`: the number of launches and their grids depend on
the longest image alone.  Gradients of query, key and parameters are sums by atomic additions, so their last bits vary
from run to run; `pairs.py` has none.

In the kernels a program works on a block of words of one image, and perhaps of its regions.  Letters as in
`models/__init__.py`; H is d/2, BX the block of X, `part` a block of regions.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.kernels.elementwise import keep_mask
from models.packing import Groups, Pairs

# The most regions of an image: the softmax holds a whole row of weights.
MOST_REGIONS = 512


@triton.jit
def read_layout(Layout, images, image) -> Any:
    """-> the first word of an image and their number, the same of regions, its first pair."""
    return (tl.load(Layout + image), tl.load(Layout + images + image), tl.load(Layout + 2 * images + image),
            tl.load(Layout + 3 * images + image), tl.load(Layout + 4 * images + image))


@triton.jit
def padded_layout(Sizes, words, most_regions, image) -> Any:
    """As `read_layout`, where every image has as many words, and its regions are the first of as many rows."""
    return image * words, words, image * most_regions, tl.load(Sizes + image), image * words * most_regions


@triton.jit
def pairs_forward(Layout, images, words_of_each, most_regions, Q, K, W, Bias, Spatial, Keep, factor, Logits, Sums, E,
                  D: tl.constexpr, H: tl.constexpr, P: tl.constexpr, PARTS: tl.constexpr, BW: tl.constexpr,
                  BR: tl.constexpr, BK: tl.constexpr, BH: tl.constexpr, DROP: tl.constexpr, KEEP_E: tl.constexpr,
                  PADDED: tl.constexpr, PRECISION: tl.constexpr) -> None:
    """For BW words and BR regions: Logits (N, P), Sums (N, PARTS, H) of e over the regions, and E (pairs, H)."""
    image, part = tl.program_id(0), tl.program_id(2)
    if PADDED:
        word0, words, region0, regions, pair0 = padded_layout(Layout, words_of_each, most_regions, image)
    else:
        word0, words, region0, regions, pair0 = read_layout(Layout, images, image)
    i0, j0 = tl.program_id(1) * BW, part * BR
    if (i0 < words) & (j0 < regions):
        pair = tl.arange(0, BW * BR)
        i, j = i0 + pair // BR, j0 + pair % BR
        real = (i < words) & (j < regions)
        at = (pair0 + i * regions + j).to(tl.int64)
        rows = i0 + tl.arange(0, BW)
        logits = tl.zeros((BW * BR,), tl.float32)
        for h0 in range(0, H, BH):
            h = h0 + tl.arange(0, BH)
            acc = tl.zeros((BW * BR, BH), tl.float32)
            for c in range(0, D, BK):
                d = c + tl.arange(0, BK)
                q = tl.load(Q + (word0 + i)[:, None] * D + d[None, :], mask=real[:, None], other=0.0)
                k = tl.load(K + (region0 + j)[:, None] * D + d[None, :], mask=real[:, None], other=0.0)
                w = tl.load(W + h[None, :] * D + d[:, None])  # (BK, BH)
                acc = tl.dot(q * k, w, acc, input_precision=PRECISION)
            e = tl.maximum(acc + tl.load(Bias + h).to(tl.float32)[None, :], 0.0) * factor
            if DROP:
                e = e * tl.load(Keep + at[:, None] * H + h[None, :], mask=real[:, None], other=0).to(tl.float32)
            e = tl.where(real[:, None], e, 0.0)
            if KEEP_E:
                tl.store(E + at[:, None] * H + h[None, :], e.to(E.dtype.element_ty), mask=real[:, None])
            logits += tl.sum(e * tl.load(Spatial + h).to(tl.float32)[None, :], 1)
            total = tl.sum(tl.reshape(e, (BW, BR, BH)), 1)
            tl.store(Sums + ((word0 + rows) * PARTS + part)[:, None] * H + h[None, :], total,
                     mask=(rows < words)[:, None])
        tl.store(Logits + (word0 + i) * P + j, logits, mask=real)


@triton.jit
def mix_forward(Layout, images, words_of_each, most_regions, V, Logits, Sums, A, Mixed, Mean,
                D: tl.constexpr, H: tl.constexpr, P: tl.constexpr, PARTS: tl.constexpr, BW: tl.constexpr,
                BR: tl.constexpr, BD: tl.constexpr, BH: tl.constexpr, PADDED: tl.constexpr,
                PRECISION: tl.constexpr) -> None:
    """For BW words: A (N, P), the softmax of the logits; Mixed (N, D), the values' sum; Mean (N, H) of e."""
    image, i0 = tl.program_id(0), tl.program_id(1) * BW
    if PADDED:
        word0, words, region0, regions, _ = padded_layout(Layout, words_of_each, most_regions, image)
    else:
        word0, words, region0, regions, _ = read_layout(Layout, images, image)
    if i0 < words:
        i, p = i0 + tl.arange(0, BW), tl.arange(0, P)
        is_word, is_region = i < words, p < regions
        rows = word0 + i
        real = is_word[:, None] & is_region[None, :]
        logits = tl.load(Logits + rows[:, None] * P + p[None, :], mask=real, other=-float('inf'))
        top = tl.max(logits, 1)
        a = tl.exp(logits - tl.where(top == -float('inf'), 0.0, top)[:, None])
        total = tl.sum(a, 1)
        a = a / tl.where(total == 0.0, 1.0, total)[:, None]
        tl.store(A + rows[:, None] * P + p[None, :], a, mask=is_word[:, None])
        for c in range(0, D, BD):
            d = c + tl.arange(0, BD)
            v = tl.load(V + (region0 + p)[:, None] * D + d[None, :], mask=is_region[:, None], other=0.0)
            mixed = tl.dot(a.to(v.dtype), v, input_precision=PRECISION)
            tl.store(Mixed + rows[:, None] * D + d[None, :], mixed.to(Mixed.dtype.element_ty), mask=is_word[:, None])
        for h0 in range(0, H, BH):
            h = h0 + tl.arange(0, BH)
            total_e = tl.zeros((BW, BH), tl.float32)
            for part in range(tl.cdiv(regions, BR)):
                total_e += tl.load(Sums + (rows * PARTS + part)[:, None] * H + h[None, :], mask=is_word[:, None],
                                   other=0.0)
            tl.store(Mean + rows[:, None] * H + h[None, :], (total_e / regions).to(Mean.dtype.element_ty),
                     mask=is_word[:, None])


@triton.jit
def value_backward(Layout, images, A, DMixed, DV, D: tl.constexpr, P: tl.constexpr, BP: tl.constexpr,
                   BW: tl.constexpr, BD: tl.constexpr, PRECISION: tl.constexpr) -> None:
    """The gradient of BD channels of the values of BP regions: A' DMixed."""
    image, j0, d = tl.program_id(0), tl.program_id(1) * BP, tl.program_id(2) * BD + tl.arange(0, BD)
    word0, words, region0, regions, _ = read_layout(Layout, images, image)
    if j0 < regions:
        j = j0 + tl.arange(0, BP)
        acc = tl.zeros((BP, BD), tl.float32)
        for i0 in range(0, words, BW):
            i = i0 + tl.arange(0, BW)
            a = tl.load(A + (word0 + i)[None, :] * P + j[:, None], mask=(i < words)[None, :] & (j < P)[:, None],
                        other=0.0)
            g = tl.load(DMixed + (word0 + i)[:, None] * D + d[None, :], mask=(i < words)[:, None], other=0.0)
            acc = tl.dot(a.to(g.dtype), g, acc, input_precision=PRECISION)
        tl.store(DV + (region0 + j)[:, None] * D + d[None, :], acc.to(DV.dtype.element_ty),
                 mask=(j < regions)[:, None])


@triton.jit
def logits_backward(Layout, images, A, V, DMixed, DLogits, D: tl.constexpr, P: tl.constexpr, BW: tl.constexpr,
                    BD: tl.constexpr, PRECISION: tl.constexpr) -> None:
    """For BW words the gradient of the logits, through the softmax."""
    image, i0 = tl.program_id(0), tl.program_id(1) * BW
    word0, words, region0, regions, _ = read_layout(Layout, images, image)
    if i0 < words:
        i, p = i0 + tl.arange(0, BW), tl.arange(0, P)
        is_word, is_region = i < words, p < regions
        rows = word0 + i
        d_a = tl.zeros((BW, P), tl.float32)
        for c in range(0, D, BD):
            d = c + tl.arange(0, BD)
            g = tl.load(DMixed + rows[:, None] * D + d[None, :], mask=is_word[:, None], other=0.0)
            v = tl.load(V + (region0 + p)[None, :] * D + d[:, None], mask=is_region[None, :], other=0.0)  # (BD, P)
            d_a = tl.dot(g, v, d_a, input_precision=PRECISION)
        a = tl.load(A + rows[:, None] * P + p[None, :], mask=is_word[:, None], other=0.0)
        tl.store(DLogits + rows[:, None] * P + p[None, :], a * (d_a - tl.sum(a * d_a, 1)[:, None]),
                 mask=is_word[:, None])


@triton.jit
def pairs_backward(Layout, images, Q, K, W, Spatial, E, DMean, DLogits, factor, DQ, DK,
                   D: tl.constexpr, H: tl.constexpr, P: tl.constexpr, BW: tl.constexpr, BR: tl.constexpr,
                   BH: tl.constexpr, BD: tl.constexpr, PRECISION: tl.constexpr) -> None:
    """What BW words and BR regions add to the gradients of query and key: that of e times W, times the other."""
    image = tl.program_id(0)
    word0, words, region0, regions, pair0 = read_layout(Layout, images, image)
    i0, j0 = tl.program_id(1) * BW, tl.program_id(2) * BR
    if (i0 < words) & (j0 < regions):
        pair = tl.arange(0, BW * BR)
        i, j = i0 + pair // BR, j0 + pair % BR
        real = (i < words) & (j < regions)
        at = (pair0 + i * regions + j).to(tl.int64)
        d_logit = tl.load(DLogits + (word0 + i) * P + j, mask=real, other=0.0) * factor
        share = factor / regions
        rows, columns = i0 + tl.arange(0, BW), j0 + tl.arange(0, BR)
        for c in range(0, D, BD):
            d = c + tl.arange(0, BD)
            acc = tl.zeros((BW * BR, BD), tl.float32)
            for h0 in range(0, H, BH):
                h = h0 + tl.arange(0, BH)
                # e is positive exactly where neither ReLU nor dropout stopped it.
                e = tl.load(E + at[:, None] * H + h[None, :], mask=real[:, None], other=0.0)
                d_mean = tl.load(DMean + (word0 + i)[:, None] * H + h[None, :], mask=real[:, None], other=0.0)
                s = tl.load(Spatial + h).to(tl.float32)
                d_e = tl.where(e > 0, d_mean * share + d_logit[:, None] * s[None, :], 0.0)
                w = tl.load(W + h[:, None] * D + d[None, :])  # (BH, BD)
                acc = tl.dot(d_e.to(w.dtype), w, acc, input_precision=PRECISION)
            k = tl.load(K + (region0 + j)[:, None] * D + d[None, :], mask=real[:, None], other=0.0)
            d_query = tl.sum(tl.reshape(acc * k, (BW, BR, BD)), 1)
            tl.atomic_add(DQ + (word0 + rows)[:, None] * D + d[None, :], d_query, mask=(rows < words)[:, None],
                          sem='relaxed')
            q = tl.load(Q + (word0 + i)[:, None] * D + d[None, :], mask=real[:, None], other=0.0)
            d_key = tl.sum(tl.reshape(acc * q, (BW, BR, BD)), 0)
            tl.atomic_add(DK + (region0 + columns)[:, None] * D + d[None, :], d_key,
                          mask=(columns < regions)[:, None], sem='relaxed')


@triton.jit
def weight_backward(Layout, images, Q, K, Spatial, E, DMean, DLogits, factor, DW, DBias, DSpatial,
                    D: tl.constexpr, H: tl.constexpr, P: tl.constexpr, BW: tl.constexpr, BP: tl.constexpr,
                    BH: tl.constexpr, BD: tl.constexpr, PRECISION: tl.constexpr) -> None:
    """What the pairs of BW words add to a (BH, BD) block of the gradient of W, and to those of bias and spatial."""
    tile, image, i0 = tl.program_id(0), tl.program_id(1), tl.program_id(2) * BW
    h = (tile % (H // BH)) * BH + tl.arange(0, BH)
    d = (tile // (H // BH)) * BD + tl.arange(0, BD)
    word0, words, region0, regions, pair0 = read_layout(Layout, images, image)
    if i0 < words:
        pairs = tl.minimum(BW, words - i0) * regions
        s = tl.load(Spatial + h).to(tl.float32)
        share = factor / regions
        d_w = tl.zeros((BH, BD), tl.float32)
        d_bias, d_spatial = tl.zeros((BH,), tl.float32), tl.zeros((BH,), tl.float32)
        for start in range(0, pairs, BP):
            pair = start + tl.arange(0, BP)
            real = pair < pairs
            word, region = word0 + i0 + pair // regions, region0 + pair % regions
            at = (pair0 + i0 * regions + pair).to(tl.int64)
            d_logit = tl.load(DLogits + word * P + pair % regions, mask=real, other=0.0)
            e = tl.load(E + at[:, None] * H + h[None, :], mask=real[:, None], other=0.0).to(tl.float32)
            d_mean = tl.load(DMean + word[:, None] * H + h[None, :], mask=real[:, None], other=0.0)
            d_e = tl.where(e > 0, d_mean * share + (d_logit * factor)[:, None] * s[None, :], 0.0)  # (BP, BH)
            q = tl.load(Q + word[:, None] * D + d[None, :], mask=real[:, None], other=0.0)
            k = tl.load(K + region[:, None] * D + d[None, :], mask=real[:, None], other=0.0)
            d_w = tl.dot(tl.trans(d_e).to(q.dtype), q * k, d_w, input_precision=PRECISION)
            d_bias += tl.sum(d_e, 0)
            d_spatial += tl.sum(e * d_logit[:, None], 0)
        tl.atomic_add(DW + h[:, None] * D + d[None, :], d_w, sem='relaxed')
        if tile < H // BH:
            tl.atomic_add(DBias + h, d_bias, sem='relaxed')
            tl.atomic_add(DSpatial + h, d_spatial, sem='relaxed')


@triton.jit
def count_up(Out, N: tl.constexpr) -> None:
    """Out (N,): 0, 1, 2, ..."""
    i = tl.arange(0, N)
    tl.store(Out + i, i)


def runs_on(device: torch.device) -> bool:
    """Whether a small kernel does its work on `device`; raises what its compiler or the driver raises."""
    found = torch.empty(16, dtype=torch.int32, device=device)
    count_up[(1,)](found, 16)
    return found.tolist() == list(range(16))


class XLinearFused(torch.autograd.Function):
    """`kernels.xlinear_mix` in two kernels forward and four backward."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, weight: Tensor, bias: Tensor,
                spatial: Tensor, words: Groups, regions: Groups, dropout: float,
                record: list[Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Shapes as for `kernels.xlinear_mix`."""
        parts = [part.to(query.dtype).contiguous() for part in (query, key, value, weight, bias, spatial)]
        query, key, value, weight, _, spatial = parts
        pairs, wants_gradient = words.pairs(regions), any(ctx.needs_input_grad)
        blocks = Blocks(query, len(words), words.longest, regions.longest)
        mixed, mean_e, a, e, factor = launch_forward(
            parts, blocks, pairs.layout, pairs.count, dropout, wants_gradient)
        if record is not None:
            record.append(a[:, :regions.longest].to(query.dtype))
        if wants_gradient:
            ctx.save_for_backward(query, key, value, weight, spatial, e, a)
            ctx.groups, ctx.factor = (words, regions), factor
        return mixed, mean_e

    @staticmethod
    def backward(ctx: Any, d_mixed: Tensor, d_mean: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, weight, spatial, e, a = ctx.saved_tensors
        words, regions = ctx.groups
        pairs: Pairs = words.pairs(regions)
        blocks, factor = Blocks(query, len(words), words.longest, regions.longest), ctx.factor
        d_mixed, d_mean = d_mixed.contiguous(), d_mean.contiguous()
        (_, d), H = query.shape, weight.shape[0]
        layout, sizes = (pairs.layout, len(words)), (d, H, blocks.P)
        # All sums that start at 0 in one piece of memory, so that one kernel sets them.
        parts = [query.numel(), key.numel(), H * d, H, H]
        d_query, d_key, d_weight, d_bias, d_spatial = query.new_zeros(
            sum(parts), dtype=torch.float32).split(parts)
        d_value, d_logits = torch.empty_like(value), torch.empty_like(a)
        value_backward[blocks.grid_of_values](*layout, a, d_mixed, d_value, d, blocks.P, **blocks.value_backward)
        logits_backward[blocks.grid_of_words(blocks.logits_backward['BW'])](
            *layout, a, value, d_mixed, d_logits, d, blocks.P, **blocks.logits_backward)
        pairs_backward[blocks.grid_of_pairs](
            *layout, query, key, weight, spatial, e, d_mean, d_logits, factor, d_query, d_key, *sizes,
            **blocks.pairs_backward)
        weight_backward[blocks.grid_of_weights](
            *layout, query, key, spatial, e, d_mean, d_logits, factor, d_weight, d_bias, d_spatial, *sizes,
            **blocks.weight_backward)
        return (d_query.view_as(query), d_key.view_as(key), d_value, d_weight.view_as(weight), d_bias, d_spatial,
                None, None, None, None)


def padded_mix(query: Tensor, key: Tensor, value: Tensor, weight: Tensor, bias: Tensor, spatial: Tensor,
               sizes: Tensor, dropout: float = 0.0) -> tuple[Tensor, Tensor]:
    """`kernels.xlinear_mix_padded` without a gradient, in two kernels; `sizes` (I,) int32, the regions of each."""
    I, P, _ = key.shape
    parts = [part.to(query.dtype).contiguous() for part in (query, key, value, weight, bias, spatial)]
    blocks = Blocks(query, I, len(query) // I, P)
    return launch_forward(parts, blocks, sizes, len(query) * P, dropout, False, True)[:2]


def launch_forward(parts: Sequence[Tensor], blocks: 'Blocks', layout: Tensor, pairs: int, dropout: float,
                   wants_gradient: bool, padded: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
    """The forward kernels -> mixed values (N, d), means of e (N, H), weights (N, P') in float32, e (pairs, H) or
    empty, and the factor of dropout.

    `parts`: query, key, value, weight, bias, spatial, of one type.  `layout`: `Pairs.layout`, or with `padded` the
    sizes of `padded_mix`.
    """
    query, key, value, weight, bias, spatial = parts
    (N, d), H = query.shape, weight.shape[0]
    keep, factor = None, 1.0
    if dropout:
        keep, factor = keep_mask(torch.Size((pairs, H)), dropout, query.device, torch.uint8)
    e = query.new_empty(pairs if wants_gradient else 0, H)
    sums = query.new_empty(N, blocks.parts, H, dtype=torch.float32)
    logits, a = query.new_empty(2, N, blocks.P, dtype=torch.float32)
    mixed, mean_e = torch.empty_like(query), query.new_empty(N, H)
    where = layout, blocks.images, blocks.most_words, blocks.most_regions
    sizes = d, H, blocks.P, blocks.parts
    pairs_forward[blocks.grid_of_pairs](
        *where, query, key, weight, bias, spatial, e if keep is None else keep, factor, logits, sums, e, *sizes,
        DROP=keep is not None, KEEP_E=wants_gradient, PADDED=padded, **blocks.pairs_forward)
    mix_forward[blocks.grid_of_words(blocks.mix_forward['BW'])](
        *where, value, logits, sums, a, mixed, mean_e, *sizes, PADDED=padded, **blocks.mix_forward)
    return mixed, mean_e, a, e, factor


class Blocks:
    """The sizes of all blocks and grids, of float32 or bfloat16 queries (N, d) of so many images, which have up to so
    many words and regions each."""

    def __init__(self, query: Tensor, images: int, most_words: int, most_regions: int) -> None:
        d = query.shape[1]
        H, is_wide = d // 2, query.element_size() == 4
        self.images, self.most_words, self.most_regions, self.d, self.H = images, most_words, most_regions, d, H
        self.P = max(16, triton.next_power_of_2(most_regions))
        precise: Any = {'PRECISION': 'ieee' if torch.get_float32_matmul_precision() == 'highest' else 'tf32'}
        eight, four = ({'num_warps': warps, 'num_stages': 2, **precise} for warps in (8, 4))
        self.BW, self.BR = 8, 16
        self.parts = -(-most_regions // self.BR)
        self.pairs_forward = {'BW': self.BW, 'BR': self.BR, 'BK': block_of(d, 32 if is_wide else 64),
                              'BH': block_of(H, 64 if is_wide else 128), **eight}
        self.mix_forward = {'BW': 16, 'BR': self.BR, 'BD': block_of(d, 64), 'BH': block_of(H, 64), **four}
        self.value_backward = {'BP': 32, 'BW': 32, 'BD': block_of(d, 64), **four}
        self.logits_backward = {'BW': 16, 'BD': block_of(d, 64), **four}
        self.pairs_backward = {'BW': self.BW, 'BR': self.BR, 'BH': block_of(H, 32), 'BD': block_of(d, 64), **eight}
        self.weight_backward = {'BW': 32, 'BP': 64, 'BH': block_of(H, 64), 'BD': block_of(d, 128), **eight}

    def grid_of_words(self, block: int) -> tuple[int, int]:
        """A program for each block of words of each image."""
        return self.images, -(-self.most_words // block)

    @property
    def grid_of_pairs(self) -> tuple[int, int, int]:
        """A program for each block of words and each block of regions of each image."""
        return *self.grid_of_words(self.BW), self.parts

    @property
    def grid_of_values(self) -> tuple[int, int, int]:
        """A program for each block of regions of each image and each block of channels."""
        return (self.images, -(-self.parts * self.BR // self.value_backward['BP']),
                self.d // self.value_backward['BD'])

    @property
    def grid_of_weights(self) -> tuple[int, int, int]:
        """A program for each block of the weight and each block of words of each image."""
        tiles = self.H // self.weight_backward['BH'] * (self.d // self.weight_backward['BD'])
        return tiles, *self.grid_of_words(self.weight_backward['BW'])


def block_of(size: int, most: int) -> int:
    """The largest power of two up to `most`, itself one, that divides `size`."""
    return min(size & -size, most)


def why_not(size: int, most_regions: int, dtype: torch.dtype) -> str | None:
    """Why the kernels cannot work on a model of `size` d and images with so many regions, or None if they can."""
    if dtype not in (torch.float32, torch.bfloat16):
        return f'they compute in float32 or bfloat16, not in {dtype}'
    if size % 32:
        return f'the size of the model, {size}, is no multiple of 32'
    if most_regions > MOST_REGIONS:
        return f'an image has {most_regions} regions, more than {MOST_REGIONS}'
    return None
