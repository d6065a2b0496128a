"""Attention and norms, on packed rows (see `models/packing.py`)."""

import torch
from torch import nn
from torch.nn import functional as F

from models.attention_weights import pad_regions
from models.dropout import keep_factor, keep_mask
from models.packing import numbers_on
from models.precision import autocast_type, without_autocast


class RMSNorm(nn.Module):
    """x / (root mean square of x over its channels + 1e-8), times a learned scale."""

    def __init__(self, size):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(size))

    def forward(self, rows):
        """(..., size) -> the same shape."""
        return self.scale * rows / (rows.pow(2).mean(-1, keepdim=True).sqrt() + 1e-8)


class DeviationNorm(nn.Module):
    """(x - mean) / (standard deviation of x over its channels + 1e-6), times a learned gain, plus a shift.

    The deviation is the unbiased one, as in the published weights of Herdade et al. 2019; with few
    channels that is not the layer norm of `nn.LayerNorm`.
    """

    def __init__(self, size):
        super().__init__()
        self.gain, self.shift = nn.Parameter(torch.ones(size)), nn.Parameter(torch.zeros(size))

    def forward(self, rows):
        """(..., size) -> the same shape."""
        deviation, mean = torch.std_mean(rows, -1, keepdim=True)
        return self.gain * (rows - mean) / (deviation + 1e-6) + self.shift


# Pairs of a word and a region whose products exist at a time, 17 MB of them for d = 512: more than the
# captions of one image of COCO ever have, so it only bounds the unusual.
PAIRS = 8192

NORMS = {'layer': nn.LayerNorm, 'rms': RMSNorm, 'deviation': DeviationNorm}


def split_heads(rows, heads):
    """(G, L, d) -> (G, h, L, d / h)."""
    G, L, d = rows.shape
    return rows.view(G, L, heads, d // heads).transpose(1, 2)


def join_heads(rows):
    """(G, h, L, d / h) -> (G, L, d)."""
    G, h, L, size = rows.shape
    return rows.transpose(1, 2).reshape(G, L, h * size)


def attend(query, key, value, mask=None, causal=False, dropout=0.0):
    """softmax(query key' / sqrt(d / h)) value, with dropout of the weights.

    (G, h, L, d / h), twice (G, h, K, d / h) -> (G, h, L, d / h).  `mask`, broadcast to (G, h, L, K), is
    True where a query sees a key; `causal`: query i sees the keys up to i.
    """
    if dropout and query.device.type == 'cpu':
        if causal:
            L = query.shape[2]
            mask = torch.ones(L, L, dtype=torch.bool).tril_()
        return DroppedAttention.apply(query, key, value, mask, dropout)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal,
                                          dropout_p=dropout)


class DroppedAttention(torch.autograd.Function):
    """`attend` with dropout, on the CPU, where PyTorch's keeps five arrays of (G, h, L, K).

    This keeps one: the weights, negative where they were dropped.
    """

    @staticmethod
    def forward(ctx, query, key, value, mask, probability):
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        wide = torch.promote_types(query.dtype, torch.float32)
        logits = torch.matmul(query, key.transpose(2, 3)).to(wide).mul_(query.shape[3] ** -0.5)
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
    def backward(ctx, gradient):
        query, key, value, signed = ctx.saved_tensors
        dropped = signed.clamp(min=0).mul_(ctx.factor)
        d_value = torch.matmul(dropped.transpose(2, 3), gradient)
        flow = torch.matmul(gradient, value.transpose(2, 3)).mul_(dropped)  # weight times its gradient
        d_logits = flow.addcmul_(signed.abs(), flow.sum(-1, keepdim=True), value=-1)
        d_logits.mul_(query.shape[3] ** -0.5)
        return (torch.matmul(d_logits, key), torch.matmul(d_logits.transpose(2, 3), query), d_value,
                None, None)


class SelfAttention(nn.Module):
    """Multi-head dot-product attention of rows to the rows of their own group (Vaswani et al. 2017).

    `extra_skip` adds the rows themselves to what was attended to, before the output projection, as
    some of the published relation transformers do.
    """

    def __init__(self, size, heads, dropout, extra_skip=False):
        super().__init__()
        self.heads, self.dropout, self.extra_skip = heads, dropout, extra_skip
        self.query, self.key, self.value, self.output = (nn.Linear(size, size) for _ in range(4))

    def forward(self, rows, groups, causal=False, bias=None):
        """(N, d) -> (N, d).  `causal`: a row sees itself and the earlier rows of its group only.
        `bias` (G, h, L, L) is added to the logits, -inf where a row would look at padding.

        Padding stands behind the real rows of a group, so the causal mask hides it by itself.
        """
        query, key, value = (split_heads(groups.pad(project(rows)), self.heads)
                             for project in (self.query, self.key, self.value))
        dropout = self.dropout if self.training else 0.0
        if bias is not None:
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)
        else:
            mask = None if causal or groups.even else groups.mask[:, None, None]  # (G, 1, 1, L)
            mixed = attend(query, key, value, mask, causal, dropout)
        mixed = groups.pack(join_heads(mixed))
        return self.output(mixed + rows if self.extra_skip else mixed)

    def step(self, rows, cache):
        """One more word for each of R rows: (R, d), cache -> (R, d), cache.

        `cache` is None before the first word, else (keys, values), each (R, h, t, d / h).
        """
        R, d = rows.shape
        query, key, value = (project(rows).view(R, self.heads, 1, d // self.heads)
                             for project in (self.query, self.key, self.value))
        if cache is not None:
            key, value = torch.cat((cache[0], key), 2), torch.cat((cache[1], value), 2)
        mixed = attend(query, key, value, dropout=self.dropout if self.training else 0.0)
        return self.output(mixed.reshape(R, d)), (key, value)


class DotProductCross(nn.Module):
    """Multi-head dot-product attention of words to the regions of their image."""

    attention_record = None  # a list takes the weights (N, P) of each call, their mean over the heads

    def __init__(self, size, heads, dropout):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value, self.output = (nn.Linear(size, size) for _ in range(4))

    def remember(self, regions, groups):
        """Keys and values of all images, computed once: (M, d) -> `PaddedMemory`."""
        key, value = (split_heads(groups.pad(project(regions)), self.heads)
                      for project in (self.key, self.value))
        return PaddedMemory(key, value, groups.mask[:, None, None])

    def forward(self, words, word_groups, memory):
        """(N, d) words, grouped by image -> (N, d)."""
        query = split_heads(word_groups.pad(self.query(words)), self.heads)  # (I, h, L, d / h)
        mixed = attend(query, memory.key, memory.value, memory.mask,
                       dropout=self.dropout if self.training else 0.0)
        if self.attention_record is not None:
            logits = query @ memory.key.transpose(2, 3) * query.shape[3] ** -0.5  # (I, h, L, P)
            weights = logits.masked_fill(~memory.mask, -torch.inf).softmax(-1).mean(1)
            self.attention_record.append(word_groups.pack(weights))
        return self.output(word_groups.pack(join_heads(mixed)))


class PaddedMemory:
    """What `DotProductCross` keeps of the images: key and value (I, h, P, d / h), mask (I, 1, 1, P)
    with True for real regions."""

    def __init__(self, key, value, mask):
        self.key, self.value, self.mask = key, value, mask

    def select(self, images, rows, groups):
        """The memory of the chosen images (a list)."""
        index = numbers_on(self.key.device, images)
        return PaddedMemory(self.key[index], self.value[index], self.mask[index])


class XLinearCross(nn.Module):
    """X-linear attention of words to the regions of their image (Pan et al., CVPR 2020), one head.

    With q1, q2 from the word and k, v from the regions (each Linear, CELU, norm over channels):
    e = Dropout(ReLU(Wm (q1 * k) + bm)); spatial weights a = softmax over regions of (ws . e + b);
    channel weights c = sigmoid(Wc mean(e) + bc); output c * q2 * sum over regions of a v.
    (The paper's sum of a (q2 * v) is q2 * sum of a v, since q2 does not depend on the region.)
    """

    attention_record = None  # a list takes the spatial weights (N, P) of each call

    def __init__(self, size, dropout):
        super().__init__()
        self.dropout = dropout
        self.query1, self.key, self.query2, self.value = (
            BilinearProjection(size) for _ in range(4))
        self.embed = nn.Linear(size, size // 2)
        self.spatial = nn.Linear(size // 2, 1)
        self.squeeze = nn.Linear(size // 2, size)

    def remember(self, regions, groups):
        """Keys and values of all images, computed once: (M, d) -> `PackedMemory`."""
        return PackedMemory(self.key(regions), self.value(regions), groups)

    def forward(self, words, word_groups, memory):
        """(N, d) words, grouped by image -> (N, d)."""
        # The bias of `spatial` shifts all logits of a softmax alike: it is part of the published
        # models' weights, and has no effect on the numbers.
        parts = self.query1(words), memory.key, memory.value
        kind = autocast_type(words.device)
        parts = parts if kind is None else [part.to(kind) for part in parts]
        # Autocast would choose a type for each operation inside; the whole is made for one.
        with without_autocast(words.device):
            mixed, mean_e = XLinearMix.apply(
                *parts, self.embed.weight, self.embed.bias, self.spatial.weight[0], word_groups,
                memory.groups, self.dropout if self.training else 0.0, self.attention_record)
        return torch.sigmoid(self.squeeze(mean_e)) * self.query2(words) * mixed


class BilinearProjection(nn.Module):
    """Linear -> CELU -> GroupNorm with one group over the channels of each row alone."""

    def __init__(self, size):
        super().__init__()
        self.linear = nn.Linear(size, size)
        # One group per row is the same as a layer norm of that row.
        self.norm = nn.LayerNorm(size, eps=1e-5)

    def forward(self, rows):
        """(N, d) -> (N, d)."""
        return self.norm(CELU.apply(self.linear(rows)))


class CELU(torch.autograd.Function):
    """max(x, 0) + min(exp(x) - 1, 0), which is CELU with alpha 1.

    PyTorch's own takes expm1, ten times slower on the CPU, and keeps its input; this keeps the
    output alone, whose slope is 1 above 0 and y + 1 below.
    """

    @staticmethod
    def forward(ctx, x):
        y = x.clamp(max=0).exp_().sub_(1).add_(x.clamp(min=0))
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, gradient):
        y, = ctx.saved_tensors
        return y.clamp(max=0).add_(1).mul_(gradient)


class PackedMemory:
    """What `XLinearCross` keeps of the images: key and value (M, d), packed by `groups`."""

    def __init__(self, key, value, groups):
        self.key, self.value, self.groups = key, value, groups

    def select(self, images, rows, groups):
        """The memory of the chosen images: `rows` of the packed regions, in `groups`."""
        return PackedMemory(self.key[rows], self.value[rows], groups)


class XLinearMix(torch.autograd.Function):
    """The part of X-linear attention where words meet regions, image by image.

    The product q1 * k has words x regions x d entries, by far the largest thing in the model.
    Here it exists for one image (and `PAIRS` pairs) at a time, and is made again in the backward pass;
    only e (half as wide) is kept.  Only real words meet real regions.
    """

    @staticmethod
    def forward(ctx, query, key, value, weight, bias, spatial, word_groups, region_groups, dropout,
                attention_record=None):
        """query (N, d), key and value (M, d); weight (d/2, d), bias and spatial (d/2,), which may be of
        more precision than those; so is what adds up over the images.  `attention_record` is None, or a list
        that takes the weights a as (N, P).

        Returns the sum of a v (N, d) and the mean of e over the regions (N, d/2).
        """
        weight, bias, spatial = (part.to(query.dtype) for part in (weight, bias, spatial))
        wide = torch.promote_types(query.dtype, torch.float32)
        mixed = query.new_empty(query.shape)
        mean_e = query.new_empty(query.shape[0], weight.shape[0])
        kept_a = []
        products = Products(query, key, word_groups, region_groups)
        # One large array: it goes back to the system when it is let go, where many small ones would
        # leave holes.
        all_e = query.new_empty(products.pairs, weight.shape[0])
        factor = keep_factor(dropout, query.device) if dropout else 1.0
        for ((n0, n1), (m0, m1)), e in zip(products.spans, products.split(all_e)):
            words, regions = n1 - n0, m1 - m0
            # ReLU(x) times a factor is ReLU of x times the factor, which costs a product nothing.
            torch.addmm(bias, products(n0, n1, m0, m1), weight.t(), beta=factor, alpha=factor, out=e).relu_()
            if dropout:  # (words * regions, d/2)
                e.mul_(keep_mask(e.shape, dropout, e.device, e.dtype)[0])
            a = torch.mv(e, spatial).view(words, regions).softmax(-1, dtype=wide).to(e.dtype)
            torch.mm(a, value[m0:m1], out=mixed[n0:n1])
            torch.mean(e.view(words, regions, -1), 1, out=mean_e[n0:n1])
            kept_a.append(a)
        if attention_record is not None:
            attention_record.append(torch.cat([pad_regions(a, region_groups.longest) for a in kept_a]))
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(query, key, value, weight, spatial, all_e, *kept_a)
            ctx.groups, ctx.factor = (word_groups, region_groups), factor
        return mixed, mean_e

    @staticmethod
    def backward(ctx, d_mixed, d_mean):
        query, key, value, weight, spatial, all_e, *kept_a = ctx.saved_tensors
        d_query, d_key, d_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        wide = torch.promote_types(query.dtype, torch.float32)
        d_weight = torch.zeros_like(weight, dtype=wide)
        d_bias, d_spatial = torch.zeros_like(spatial, dtype=wide), torch.zeros_like(spatial, dtype=wide)
        factored = spatial * ctx.factor
        products = Products(query, key, *ctx.groups)
        for ((n0, n1), (m0, m1)), e, a in zip(products.spans, products.split(all_e), kept_a):
            words, regions, half = n1 - n0, m1 - m0, weight.shape[0]
            d_value[m0:m1].addmm_(a.t(), d_mixed[n0:n1])
            d_a = d_mixed[n0:n1] @ value[m0:m1].t()
            d_logits = a * (d_a - (a * d_a).sum(-1, keepdim=True))  # (words, regions)
            d_spatial += torch.mv(e.t(), d_logits.reshape(-1))
            d_e = torch.addcmul(d_mean[n0:n1, None] * (ctx.factor / regions), d_logits[..., None], factored)
            # e is positive exactly where neither ReLU nor dropout stopped it.
            d_e = torch.ops.aten.threshold_backward(d_e.view(words * regions, half), e, 0)
            product = products(n0, n1, m0, m1)
            d_weight += d_e.t() @ product
            d_bias += d_e.sum(0, dtype=wide)
            d_product = torch.mm(d_e, weight, out=product).view(words, regions, -1)
            # d_query sums d_product * k over regions, d_key sums d_product * q1 over words.
            torch.sum(d_product * key[m0:m1], 1, out=d_query[n0:n1])
            d_key[m0:m1] += d_product.mul_(query[n0:n1, None]).sum(0)
        return d_query, d_key, d_value, d_weight, d_bias, d_spatial, None, None, None, None


class Products:
    """q1 * k of a part after the other, in memory that is made once."""

    def __init__(self, query, key, word_groups, region_groups):
        """query (N, d) and key (M, d); `spans` pairs rows of words with the rows of their image's regions."""
        self.query, self.key = query, key
        self.spans = []
        for (n0, n1), (m0, m1) in zip(word_groups.spans(), region_groups.spans()):
            words = max(1, PAIRS // max(m1 - m0, 1))
            self.spans += [((n, min(n + words, n1)), (m0, m1)) for n in range(n0, n1, words)]
        self.counts = [(n1 - n0) * (m1 - m0) for (n0, n1), (m0, m1) in self.spans]
        self.pairs = sum(self.counts)
        self.memory = query.new_empty(max(self.counts, default=0), query.shape[1])

    def split(self, rows):
        """(pairs, ...) -> the rows of the pairs of each of `spans`."""
        return rows.split(self.counts)

    def __call__(self, n0, n1, m0, m1):
        """(words * regions, d) of these rows; stands until the next call."""
        words, regions = n1 - n0, m1 - m0
        product = self.memory[:words * regions].view(words, regions, -1)
        torch.mul(self.query[n0:n1, None], self.key[m0:m1], out=product)
        return product.view(words * regions, -1)
