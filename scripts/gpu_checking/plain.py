"""The README's model as it is usually written: a peer to measure the project against.

Regions and captions are padded, features are repeated once per caption, X-linear attention is einsums over all pairs,
all logits exist, and beam search goes image by image without a cache.  The weights are the project's.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.position import GridProfiles
from models.transformer import TransformerCaptioner


class PlainCaptioner(nn.Module):
    """`spatial_pe` with learned profiles and X-linear attention.

    Shapes: B captions, P regions, T words, D feature size, d model size, V vocabulary + 1.
    """

    def __init__(self, model: TransformerCaptioner, dropout: float, feature_dropout: float) -> None:
        """The layers and weights of `model`."""
        super().__init__()
        self.size = model.size
        self.embed, place = linear(model.feature_embed), model.place
        assert isinstance(place, GridProfiles)
        self.rows, self.columns, self.features = map(linear, (place.rows, place.columns, place.features))
        self.encoder = nn.ModuleList(PlainEncoderLayer(layer, dropout) for layer in model.encoder)
        self.encoder_norm, self.decoder_norm = norm(model.encoder_norm), norm(model.decoder_norm)
        self.words = nn.Embedding.from_pretrained(model.word_embed.weight.detach().clone(), freeze=False)
        self.positions: Tensor
        self.register_buffer('positions', model.word_positions.clone())
        self.decoder = nn.ModuleList(PlainDecoderLayer(layer, dropout) for layer in model.decoder)
        self.output = linear(model.output)
        self.dropout, self.feature_dropout = nn.Dropout(dropout), nn.Dropout(feature_dropout)

    def encode(self, features: Tensor, grids: Tensor, padding: Tensor) -> Tensor:
        """Features (B, P, D), grid vectors (B, P, g*g) and padding (B, P), True for no region -> (B, P, d)."""
        x = self.feature_dropout(F.relu(self.embed(features)))
        side = math.isqrt(grids.shape[2])
        cells = grids.view(*grids.shape[:2], side, side)
        x = self.dropout(self.features(x) + self.rows(cells.sum(3)) + self.columns(cells.sum(2)))
        for layer in self.encoder:
            x = layer(x, padding)
        return self.encoder_norm(x)

    def forward(self, memory: Tensor, padding: Tensor, words: Tensor) -> Tensor:
        """Memory (B, P, d), its padding (B, P), words (B, T) with the start token -> log-probabilities (B, T, V)."""
        T = words.shape[1]
        x = self.dropout(self.words(words) * math.sqrt(self.size) + self.positions[:T])
        later = torch.ones(T, T, dtype=torch.bool, device=words.device).triu(1)
        for layer in self.decoder:
            x = layer(x, later, memory, padding)
        return self.output(self.decoder_norm(x)).log_softmax(-1)

    def loss(self, features: Tensor, grids: Tensor, padding: Tensor, captions: Tensor) -> Tensor:
        """The cross-entropy of captions (B, T), zero padded, a row of everything for each caption."""
        words = F.pad(captions, (1, 0))
        targets = F.pad(captions, (0, 1))
        log_probs = self(self.encode(features, grids, padding), padding, words)
        real = torch.cat((torch.ones_like(captions[:, :1]), captions), 1) > 0   # a word, or the end of a caption
        return -(log_probs.gather(2, targets[:, :, None])[:, :, 0] * real).sum() / real.sum()

    @torch.no_grad()
    def beam_search(self, features: Tensor, grids: Tensor, longest: int, width: int) -> list[int]:
        """The best caption of one image, features (1, P, D), by beam search."""
        padding = torch.zeros(features.shape[:2], dtype=torch.bool, device=features.device)
        memory = self.encode(features, grids, padding)
        beams: list[tuple[list[int], float]] = [([], 0.0)]
        finished: list[tuple[list[int], float]] = []
        for position in range(longest):
            words = torch.tensor([[0, *beam] for beam, _ in beams], device=features.device)
            count = len(beams)
            log_probs = self(memory.expand(count, -1, -1), padding.expand(count, -1), words)[:, -1]
            values, indices = log_probs.topk(width, 1)
            offers = [(beam + [word], total + value) for (beam, total), row, numbers in zip(
                beams, indices.tolist(), values.tolist()) for word, value in zip(row, numbers)]
            offers.sort(key=lambda offer: -offer[1])
            beams = []
            for caption, total in offers[:width]:
                if caption[-1] == 0 or position + 1 == longest:
                    finished.append((caption, total))
                else:
                    beams.append((caption, total))
            if not beams:
                break
        return max(finished, key=lambda offer: offer[1])[0]


class PlainEncoderLayer(nn.Module):
    """Pre-norm self-attention and feed-forward network."""

    def __init__(self, layer: Any, dropout: float) -> None:
        super().__init__()
        self.attention = attention(layer.attention, dropout)
        self.feed_forward = feed_forward(layer.feed_forward, dropout)
        self.norms = nn.ModuleList(norm(one) for one in layer.norms)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        """(B, P, d) -> (B, P, d)."""
        y = self.norms[0](x)
        x = x + self.dropout(self.attention(y, y, y, key_padding_mask=padding, need_weights=False)[0])
        return x + self.dropout(self.feed_forward(self.norms[1](x)))


class PlainDecoderLayer(nn.Module):
    """Pre-norm causal self-attention, X-linear attention to the regions, feed-forward network."""

    def __init__(self, layer: Any, dropout: float) -> None:
        super().__init__()
        self.attention, self.cross = attention(layer.attention, dropout), PlainXLinear(layer.cross, dropout)
        self.feed_forward = feed_forward(layer.feed_forward, dropout)
        self.norms = nn.ModuleList(norm(one) for one in layer.norms)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, later: Tensor, memory: Tensor, padding: Tensor) -> Tensor:
        """(B, T, d) -> (B, T, d); `later` (T, T) is True where a word may not attend."""
        y = self.norms[0](x)
        x = x + self.dropout(self.attention(y, y, y, attn_mask=later, need_weights=False)[0])
        x = x + self.dropout(self.cross(self.norms[1](x), memory, padding))
        return x + self.dropout(self.feed_forward(self.norms[2](x)))


class PlainXLinear(nn.Module):
    """X-linear attention with one head (Pan et al. 2020)."""

    def __init__(self, cross: Any, dropout: float) -> None:
        super().__init__()
        self.query1, self.query2, self.key, self.value = (nn.Sequential(
            linear(part.linear), nn.CELU(), norm(part.norm))
            for part in (cross.query1, cross.query2, cross.key, cross.value))
        self.embed, self.spatial, self.squeeze = (
            linear(part) for part in (cross.embed, cross.spatial, cross.squeeze))
        self.dropout = nn.Dropout(dropout)

    def forward(self, words: Tensor, regions: Tensor, padding: Tensor) -> Tensor:
        """(B, T, d) words, (B, P, d) regions -> (B, T, d)."""
        joint = torch.einsum('btd,bpd->btpd', self.query1(words), self.key(regions))
        e = self.dropout(F.relu(self.embed(joint)))                                   # (B, T, P, d / 2)
        logits = self.spatial(e)[..., 0].masked_fill(padding[:, None], -torch.inf)    # (B, T, P)
        real = (~padding).to(e.dtype)
        mean = torch.einsum('btpe,bp->bte', e, real) / real.sum(1)[:, None, None]
        mixed = torch.einsum('btp,btd,bpd->btd', logits.softmax(-1), self.query2(words), self.value(regions))
        return torch.sigmoid(self.squeeze(mean)) * mixed


def linear(part: nn.Linear) -> nn.Linear:
    """A layer of its own with the weights of `part`."""
    made = nn.Linear(part.in_features, part.out_features, device=part.weight.device)
    made.load_state_dict(part.state_dict())
    return made


def norm(part: Any) -> nn.LayerNorm:
    """The layer norm `part`, as one of its own."""
    made = nn.LayerNorm(part.weight.shape[0], eps=part.eps, device=part.weight.device)
    made.load_state_dict(part.state_dict())
    return made


def attention(part: Any, dropout: float) -> nn.MultiheadAttention:
    """The library's multi-head attention with the weights of a `SelfAttention`."""
    made = nn.MultiheadAttention(part.query.in_features, part.heads, dropout, batch_first=True,
                                 device=part.query.weight.device)
    projections = (part.query, part.key, part.value)
    made.load_state_dict({
        'in_proj_weight': torch.cat([one.weight.detach() for one in projections]),
        'in_proj_bias': torch.cat([one.bias.detach() for one in projections]),
        'out_proj.weight': part.output.weight.detach(), 'out_proj.bias': part.output.bias.detach()})
    return made


def feed_forward(part: Any, dropout: float) -> nn.Sequential:
    """The feed-forward network `part`, of library layers."""
    return nn.Sequential(linear(part.inner), nn.ReLU(), nn.Dropout(dropout), linear(part.outer))
