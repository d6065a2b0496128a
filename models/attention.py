"""Attention on packed rows: multi-head dot-product attention, and additive attention for the recurrent models."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import kernels
from models.packing import Groups, index_tensor
from models.precision import autocast_dtype


class SelfAttention(nn.Module):
    """Multi-head attention of rows to the rows of their own group (Vaswani et al. 2017, section 3.2).

    `extra_skip` adds the rows themselves to the attended values, before the output projection, as some of the
    published relation transformers do.
    """

    def __init__(self, size: int, heads: int, dropout: float, extra_skip: bool = False) -> None:
        super().__init__()
        self.heads, self.dropout, self.extra_skip = heads, dropout, extra_skip
        self.query, self.key, self.value, self.output = (nn.Linear(size, size) for _ in range(4))

    def forward(self, rows: Tensor, groups: Groups, causal: bool = False, bias: Tensor | None = None) -> Tensor:
        """(N, d) -> (N, d).

        `causal`: a row attends to itself and to the earlier rows of its group only.  `bias` (G, h, L, L) is
        added to the logits and must be -inf where a row would attend to padding.
        """
        query, key, value = (split_heads(groups.pad(project(rows)), self.heads)  # (G, h, L, d / h)
                             for project in (self.query, self.key, self.value))
        dropout = self.dropout if self.training else 0.0
        if bias is not None:
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)
        else:
            # Padding follows the real rows of a group, so the causal mask hides it too.
            mask = None if causal or groups.is_even else groups.mask[:, None, None]  # (G, 1, 1, L)
            mixed = kernels.attention(query, key, value, mask, causal, dropout)
        mixed = groups.pack(join_heads(mixed))  # (N, d)
        return self.output(mixed + rows if self.extra_skip else mixed)

    def step(self, rows: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """One more word for each of R rows: (R, d) -> (R, d).

        keys and values (R, t, d): those of the words so far; the last ones are written here, without a graph.
        """
        R, d = rows.shape
        keys[:, -1], values[:, -1] = self.key(rows).detach(), self.value(rows).detach()
        query, key, value = (split_heads(one, self.heads) for one in (self.query(rows)[:, None], keys, values))
        mixed = kernels.attention(query, key, value, dropout=self.dropout if self.training else 0.0)
        return self.output(mixed.reshape(R, d))


class WordCache:
    """Keys and values of the words so far in every layer, in memory that is allocated once for all words.

    `keys_values` (layers, 2, R, T, d), of which the first `length` words are filled.
    """

    def __init__(self, keys_values: Tensor, length: int) -> None:
        self.keys_values, self.length = keys_values, length

    @classmethod
    def empty(cls, layers: int, rows: int, words: int, size: int, like: Tensor) -> WordCache:
        """A cache for captions of up to so many words, on the device of `like`, in the type of its products."""
        dtype = autocast_dtype(like.device) or like.dtype
        return cls(like.new_empty(layers, 2, rows, words, size, dtype=dtype), 0)

    def with_word(self) -> WordCache:
        """The cache with room for one more word, which each layer must fill."""
        return WordCache(self.keys_values, self.length + 1)

    def layer(self, number: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer, (R, length, d) each."""
        keys, values = (self.keys_values[number, part, :, :self.length] for part in (0, 1))
        return keys, values

    def select(self, rows: Tensor) -> WordCache:
        """The cache of the chosen rows, (R',) long, which may repeat."""
        layers, _, _, T, d = self.keys_values.shape
        chosen = self.keys_values.new_empty(layers, 2, len(rows), T, d)
        filled = self.keys_values[:, :, :, :self.length]
        torch.index_select(filled, 2, rows, out=chosen[:, :, :, :self.length])
        return WordCache(chosen, self.length)


class DotProductCross(nn.Module):
    """Multi-head attention of words to the regions of their image (Vaswani et al. 2017, section 3.2)."""

    attention_record: list[Tensor] | None = None  # takes the weights (N, P) of each call, averaged over the heads

    def __init__(self, size: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value, self.output = (nn.Linear(size, size) for _ in range(4))

    def precompute(self, regions: Tensor, groups: Groups) -> PaddedKeyValue:
        """Keys and values of all images: (M, d) -> `PaddedKeyValue`."""
        key, value = (split_heads(groups.pad(project(regions)), self.heads)
                      for project in (self.key, self.value))
        return PaddedKeyValue(key, value, groups.mask[:, None, None])

    def forward(self, words: Tensor, word_groups: Groups, memory: PaddedKeyValue) -> Tensor:
        """(N, d) words, grouped by image -> (N, d)."""
        query = split_heads(word_groups.pad(self.query(words)), self.heads)  # (I, h, L, d / h)
        mixed = kernels.attention(query, memory.key, memory.value, memory.mask,
                                  dropout=self.dropout if self.training else 0.0)
        if self.attention_record is not None:
            logits = query @ memory.key.transpose(2, 3) * query.shape[3] ** -0.5  # (I, h, L, P)
            weights = logits.masked_fill(~memory.mask, -torch.inf).softmax(-1).mean(1)  # (I, L, P)
            self.attention_record.append(word_groups.pack(weights))
        return self.output(word_groups.pack(join_heads(mixed)))


class PaddedKeyValue:
    """What `DotProductCross` needs of the images: key and value (I, h, P, d / h), and mask (I, 1, 1, P), True
    for real regions."""

    def __init__(self, key: Tensor, value: Tensor, mask: Tensor) -> None:
        self.key, self.value, self.mask = key, value, mask

    def select(self, images: Sequence[int], rows: Tensor, groups: Groups) -> PaddedKeyValue:
        """Those of the chosen images; `rows` and `groups` as for `PackedKeyValue.select`, not needed here."""
        index = index_tensor(images, self.key.device)
        return PaddedKeyValue(self.key[index], self.value[index], self.mask[index])

    def padded(self) -> PaddedKeyValue:
        """The same."""
        return self

    def map(self, change: Callable[[Tensor], Tensor]) -> PaddedKeyValue:
        """As `Memory.map`."""
        return PaddedKeyValue(change(self.key), change(self.value), change(self.mask))


class AdditiveAttention(nn.Module):
    """A weighted mean of an image's regions: the softmax of w . tanh(Wk region + Wq query) over them
    (Bahdanau et al. 2015; Xu et al. 2015)."""

    attention_record: list[Tensor] | None = None  # takes the weights (R, P) of each call

    def __init__(self, size: int, inner: int) -> None:
        super().__init__()
        self.key, self.query = nn.Linear(size, inner), nn.Linear(size, inner)
        self.score = nn.Linear(inner, 1)

    def precompute(self, regions: Tensor, groups: Groups) -> tuple[Tensor, Tensor, Tensor]:
        """Regions (M, r) in `groups` by image -> regions (I, P, r), keys (I, P, a), and the mask (I, P), True
        for real regions."""
        return groups.pad(regions), groups.pad(self.key(regions)), groups.mask

    def forward(self, rows: Tensor, images: Groups, regions: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """Queries (R, r), grouped by image, and what `precompute` returned -> (R, r)."""
        queries = images.pad(self.query(rows))  # (I, L, a)
        logits = self.score(torch.tanh(keys[:, None] + queries[:, :, None]))[..., 0]  # (I, L, P)
        weights = logits.masked_fill(~mask[:, None], -torch.inf).softmax(-1)
        if self.attention_record is not None:
            self.attention_record.append(images.pack(weights))
        return images.pack(weights @ regions)


def split_heads(rows: Tensor, heads: int) -> Tensor:
    """(G, L, d) -> (G, h, L, d / h)."""
    G, L, d = rows.shape
    return rows.view(G, L, heads, d // heads).transpose(1, 2)


def join_heads(rows: Tensor) -> Tensor:
    """(G, h, L, d / h) -> (G, L, d)."""
    G, h, L, size = rows.shape
    return rows.transpose(1, 2).reshape(G, L, h * size)
