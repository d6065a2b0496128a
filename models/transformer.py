"""The transformer captioners: `spatial_pe`, `relation_transformer` and `transformer`.

`spatial_pe` adds to each region where it is, before the encoder; `relation_transformer` weighs the encoder's
attention by the geometry of two regions; `transformer` has neither.  All stacks are pre-norm,
x + Dropout(f(Norm(x))), and end in one more norm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.attention import DotProductCross, PaddedKeyValue, SelfAttention, WordCache
from models.base import Batch, CaptionModel, State, caption_lengths
from models.dropout import Dropout
from models.geometry import RelationBias
from models.norms import NORMS, BatchNorm, feature_norms
from models.packing import Counts, Groups, region_groups
from models.position import PositionEncoding, position_encoding, sinusoid
from models.xlinear import PackedKeyValue, PaddedPairs, XLinearCross

KeyValue = PaddedKeyValue | PackedKeyValue | PaddedPairs


class TransformerMemory:
    """All that depends on the images alone: for every decoder layer, keys and values of the regions.

    `groups` are the regions' `Groups` by image.
    """

    def __init__(self, layers: Sequence[KeyValue], groups: Groups) -> None:
        self.layers, self.groups = layers, groups

    def __len__(self) -> int:
        return len(self.groups)

    def select(self, images: list[int]) -> TransformerMemory:
        """The memory of the chosen images."""
        rows, groups = self.groups.select(images)
        layers: Any = self.layers  # not padded ones, of which no image is dropped
        return TransformerMemory([layer.select(images, rows, groups) for layer in layers], groups)

    def padded(self) -> TransformerMemory:
        """As `Memory.padded`."""
        return TransformerMemory([layer.padded() for layer in self.layers], self.groups)

    def map(self, change: Callable[[Tensor], Tensor]) -> TransformerMemory:
        """As `Memory.map`."""
        layers: Any = self.layers
        return TransformerMemory([layer.map(change) for layer in layers], self.groups)


class TransformerCaptioner(CaptionModel[TransformerMemory]):
    """A transformer from regions to words.

    Sizes: `vocab_size` V, `longest` T, `feature_size` D, `size` d, `hidden` the feed-forward network's.
    `place` is a module of `models/position.py`, or None; `relations` a `RelationBias`, or None; `extra_skip`
    as for `SelfAttention`, in the encoder.  `dropout` acts inside the transformer, `feature_dropout` on the
    embedded features.  `norm` is a key of `NORMS`, `activation` 'relu' or 'gelu', `cross` 'dot-product' or
    'xlinear', `use_bn` as for `feature_norms`, `fused` as for `kernels.xlinear_mix`.
    """

    def __init__(self, vocab_size: int, longest: int, feature_size: int = 2048, size: int = 512,
                 hidden: int = 2048, layers: int = 6, heads: int = 8, dropout: float = 0.1,
                 feature_dropout: float = 0.5, norm: str = 'layer', activation: str = 'relu',
                 cross: str = 'dot-product', place: PositionEncoding | None = None,
                 relations: RelationBias | None = None, extra_skip: bool = False, use_bn: int = 0,
                 fused: bool = True) -> None:
        super().__init__()
        self.vocab_size, self.longest, self.size = vocab_size, longest, size
        self.feature_norm, self.embedded_norm = feature_norms(use_bn, feature_size, size)
        self.feature_embed = nn.Linear(feature_size, size)
        self.feature_dropout = Dropout(feature_dropout)
        self.place, self.relations = place, relations
        self.needs = ('features', *[part.needs for part in (place, relations) if part is not None])
        self.encoder: Sequence[EncoderLayer] = nn.ModuleList(  # type: ignore[assignment]
            EncoderLayer(size, heads, hidden, dropout, norm, activation, extra_skip)
            for _ in range(layers))
        self.encoder_norm = NORMS[norm](size)
        self.word_embed = nn.Embedding(vocab_size, size)
        self.word_positions: Tensor
        self.register_buffer('word_positions', sinusoid(longest + 1, size), persistent=False)
        self.word_dropout = Dropout(dropout)
        self.decoder: Sequence[DecoderLayer] = nn.ModuleList(  # type: ignore[assignment]
            DecoderLayer(size, heads, hidden, dropout, norm, activation, cross, fused)
            for _ in range(layers))
        self.decoder_norm = NORMS[norm](size)
        self.output = nn.Linear(size, vocab_size)
        self.init_weights()
        if relations is not None:
            relations.init_weights()

    def encode(self, batch: Batch) -> TransformerMemory:
        """A batch (`counts`, `features` (M, D), and the others of `needs`) -> the memory of its I images."""
        groups = region_groups(batch.counts, batch.features.device)
        regions = self.feature_embed(self.feature_norm(batch.features))  # (M, d)
        regions = self.embedded_norm(self.feature_dropout.relu_(regions))
        # The residual stream stays in float32 under autocast.
        regions = regions.to(torch.promote_types(regions.dtype, torch.float32))
        if self.place is not None:
            regions = self.place(regions, getattr(batch, self.place.needs))
        biases: Sequence[Tensor | None] = [None] * len(self.encoder)
        if self.relations is not None:
            biases = self.relations(batch.boxes, groups)  # (I, h, P, P) for each layer
        for layer, bias in zip(self.encoder, biases):
            regions = layer(regions, groups, bias)
        regions = self.encoder_norm(regions)
        return TransformerMemory([layer.cross.precompute(regions, groups) for layer in self.decoder], groups)

    def word_states(self, memory: TransformerMemory, captions: Tensor,
                    lengths: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """As `CaptionModel.word_states`: the decoder's last states (N, d), and their positions (N,)."""
        _, S, T = captions.shape
        lengths = caption_lengths(captions) if lengths is None else lengths
        tokens = (lengths if isinstance(lengths, Counts) else Counts(lengths)).plus(1)
        by_caption, by_image = Groups(tokens, captions.device), Groups(tokens.sums(S), captions.device)
        offsets = by_caption.offsets
        positions = by_caption.group_ids * (T + 1) + offsets
        inputs = self.inputs_of(captions).view(-1)[positions]  # (N,)
        words = self._embed(inputs, self.word_positions[offsets])  # (N, d)
        for layer, remembered in zip(self.decoder, memory.layers):
            words = layer(words, by_caption, by_image, remembered)
        return self.decoder_norm(words), positions

    def first_caches(self, memory: TransformerMemory, images: Groups) -> WordCache:
        """No words yet in any layer."""
        return WordCache.empty(len(self.decoder), images.rows, self.longest, self.size, self.output.weight)

    def step(self, words: Tensor, state: State[TransformerMemory]) -> tuple[Tensor, State[TransformerMemory]]:
        """As `CaptionModel.step`, with the keys and values of earlier words cached."""
        rows = self._embed(words, self.word_positions[state.length])  # (R, d)
        cache: WordCache = state.caches.with_word()
        for number, (layer, remembered) in enumerate(zip(self.decoder, state.memory.layers)):
            rows = layer.step(rows, *cache.layer(number), state.images, remembered)
        return self.log_probs(self.decoder_norm(rows)), state.after_word(cache)

    def takes_padding(self) -> bool:
        """As `CaptionModel.takes_padding`: not with `relations`, of which there are as many as pairs of regions."""
        return self.relations is None and not any(isinstance(module, BatchNorm) for module in self.modules())

    def attention_modules(self) -> list[nn.Module]:
        """The cross-attention of each layer."""
        return [layer.cross for layer in self.decoder]

    def _embed(self, words: Tensor, positions: Tensor) -> Tensor:
        return self.word_dropout(self.word_embed(words) * math.sqrt(self.size) + positions)


def transformer(vocab_size: int, longest: int, *, xlinear: str, **others: Any) -> TransformerCaptioner:
    """`transformer`: fused kernels unless `xlinear` is 'plain'; the others as for `TransformerCaptioner`."""
    return TransformerCaptioner(vocab_size, longest, fused=xlinear != 'plain', **others)


def spatial_transformer(vocab_size: int, longest: int, *, kind: str, learned: bool, cells: int, size: int,
                        dropout: float, **others: Any) -> TransformerCaptioner:
    """`spatial_pe`: `kind` and `learned` as for `position_encoding`, on a grid of so many `cells`; the others as for
    `transformer`."""
    place = position_encoding(kind, learned, size, math.isqrt(cells), dropout)
    return transformer(vocab_size, longest, size=size, dropout=dropout, place=place, **others)


def relation_transformer(vocab_size: int, longest: int, *, trigonometric: bool, layers: int, heads: int,
                         **others: Any) -> TransformerCaptioner:
    """`relation_transformer`: `trigonometric` as for `RelationBias`, the others as for `transformer`."""
    relations = RelationBias(layers, heads, trigonometric)
    return transformer(vocab_size, longest, layers=layers, heads=heads, relations=relations, **others)


class EncoderLayer(nn.Module):
    """Self-attention over an image's regions, then the feed-forward network."""

    def __init__(self, size: int, heads: int, hidden: int, dropout: float, norm: str, activation: str,
                 extra_skip: bool = False) -> None:
        super().__init__()
        self.attention = SelfAttention(size, heads, dropout, extra_skip)
        self.feed_forward = FeedForward(size, hidden, dropout, activation)
        self.norms = nn.ModuleList(NORMS[norm](size) for _ in range(2))
        self.dropout = Dropout(dropout)

    def forward(self, regions: Tensor, groups: Groups, bias: Tensor | None = None) -> Tensor:
        """(M, d) -> (M, d); `bias` (I, h, P, P) as for `SelfAttention`."""
        attended = self.attention(self.norms[0](regions), groups, bias=bias)
        regions = self.dropout.add(regions, attended)
        return self.dropout.add(regions, self.feed_forward(self.norms[1](regions)))


class DecoderLayer(nn.Module):
    """Causal self-attention over a caption's words, cross-attention to the regions, feed-forward network."""

    def __init__(self, size: int, heads: int, hidden: int, dropout: float, norm: str, activation: str,
                 cross: str, fused: bool = True) -> None:
        super().__init__()
        self.attention = SelfAttention(size, heads, dropout)
        self.cross = (XLinearCross(size, dropout, fused) if cross == 'xlinear'
                      else DotProductCross(size, heads, dropout))
        self.feed_forward = FeedForward(size, hidden, dropout, activation)
        self.norms = nn.ModuleList(NORMS[norm](size) for _ in range(3))
        self.dropout = Dropout(dropout)

    def forward(self, words: Tensor, captions: Groups, images: Groups, memory: KeyValue) -> Tensor:
        """(N, d) -> (N, d); `captions` and `images` are the words' `Groups`, `memory` holds this layer's keys."""
        attended = self.attention(self.norms[0](words), captions, causal=True)
        return self._attend_to_regions(self.dropout.add(words, attended), images, memory)

    def step(self, words: Tensor, keys: Tensor, values: Tensor, images: Groups, memory: KeyValue) -> Tensor:
        """One word of each row: (R, d) -> (R, d); `keys` and `values` as for `SelfAttention.step`."""
        attended = self.attention.step(self.norms[0](words), keys, values)
        return self._attend_to_regions(self.dropout.add(words, attended), images, memory)

    def _attend_to_regions(self, words: Tensor, images: Groups, memory: KeyValue) -> Tensor:
        words = self.dropout.add(words, self.cross(self.norms[1](words), images, memory))
        return self.dropout.add(words, self.feed_forward(self.norms[2](words)))


class FeedForward(nn.Module):
    """d -> hidden -> d, with an activation and dropout between (Vaswani et al. 2017, equation 2)."""

    def __init__(self, size: int, hidden: int, dropout: float, activation: str) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(size, hidden), nn.Linear(hidden, size)
        self.dropout, self.activation = Dropout(dropout), activation

    def forward(self, rows: Tensor) -> Tensor:
        """(N, d) -> (N, d)."""
        hidden = self.inner(rows)
        if self.activation == 'relu':
            return self.outer(self.dropout.relu_(hidden))
        return self.outer(self.dropout(F.gelu(hidden)))
