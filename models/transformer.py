"""The transformer captioner: regions in, words out.

`spatial_pe` gives each region its place before the encoder, `relation_transformer` weighs the
encoder's attention by where two regions lie to one another, `transformer` knows no places.  All
stacks are pre-norm, x + Dropout(f(Norm(x))), and end in one more norm.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from models.attention import NORMS, DotProductCross, SelfAttention, XLinearCross
from models.base import CaptionModel, State, batch_norms
from models.dropout import Dropout, dropout, relu_dropout_
from models.packing import Groups
from models.position import sinusoid


class FeedForward(nn.Module):
    """d -> ff_size -> d, with an activation and dropout between."""

    def __init__(self, size, hidden, dropout, activation):
        super().__init__()
        self.inner, self.outer = nn.Linear(size, hidden), nn.Linear(hidden, size)
        self.dropout, self.activation = dropout, activation

    def forward(self, rows):
        """(N, d) -> (N, d)."""
        hidden = self.inner(rows)
        if self.activation == 'relu':
            return self.outer(relu_dropout_(hidden, self.dropout, self.training))
        return self.outer(dropout(F.gelu(hidden), self.dropout, self.training))


class EncoderLayer(nn.Module):
    """Self-attention over an image's regions, then the FFN."""

    def __init__(self, size, heads, hidden, dropout, norm, activation, extra_skip=False):
        super().__init__()
        self.attention = SelfAttention(size, heads, dropout, extra_skip)
        self.feed_forward = FeedForward(size, hidden, dropout, activation)
        self.norms = nn.ModuleList(NORMS[norm](size) for _ in range(2))
        self.dropout = Dropout(dropout)

    def forward(self, regions, groups, bias=None):
        """(M, d) -> (M, d); `bias` (I, h, P, P) as for `SelfAttention`."""
        attended = self.attention(self.norms[0](regions), groups, bias=bias)
        regions = self.dropout.add(regions, attended)
        return self.dropout.add(regions, self.feed_forward(self.norms[1](regions)))


class DecoderLayer(nn.Module):
    """Causal self-attention over a caption's words, cross-attention to the regions, FFN."""

    def __init__(self, size, heads, hidden, dropout, norm, activation, cross):
        super().__init__()
        self.attention = SelfAttention(size, heads, dropout)
        self.cross = (XLinearCross(size, dropout) if cross == 'xlinear'
                      else DotProductCross(size, heads, dropout))
        self.feed_forward = FeedForward(size, hidden, dropout, activation)
        self.norms = nn.ModuleList(NORMS[norm](size) for _ in range(3))
        self.dropout = Dropout(dropout)

    def forward(self, words, captions, images, memory):
        """(N, d) -> (N, d); `captions` and `images` are the `Groups` of the words."""
        attended = self.attention(self.norms[0](words), captions, causal=True)
        return self._to_regions(self.dropout.add(words, attended), images, memory)

    def step(self, words, cache, images, memory):
        """One word of each row: (R, d), cache -> (R, d), cache."""
        attended, cache = self.attention.step(self.norms[0](words), cache)
        return self._to_regions(self.dropout.add(words, attended), images, memory), cache

    def _to_regions(self, words, images, memory):
        words = self.dropout.add(words, self.cross(self.norms[1](words), images, memory))
        return self.dropout.add(words, self.feed_forward(self.norms[2](words)))


class TransformerMemory:
    """All that depends on the images alone: for every decoder layer, keys and values of the regions.

    `groups` are the regions' `Groups` by image.
    """

    def __init__(self, layers, groups):
        self.layers, self.groups = layers, groups

    def __len__(self):
        return len(self.groups)

    def select(self, images):
        """The memory of some images (a list of row numbers)."""
        rows, groups = self.groups.select(images)
        return TransformerMemory([layer.select(images, rows, groups) for layer in self.layers], groups)


class TransformerCaptioner(CaptionModel):
    """A transformer captioner.

    Sizes: `vocab_size` V (words + 1; index 0 starts and ends a sentence), `feature_size` D,
    `size` d, `hidden` the FFN's.  `place` is a module of `models/position.py`, or None; `relations`
    a `RelationBias`, or None; `extra_skip` as for `SelfAttention`, in the encoder.  `dropout` acts
    inside the transformer, `feature_dropout` on the embedded features.
    `longest` is the number of words at which a caption is cut (T).
    """

    def __init__(self, vocab_size, longest, feature_size=2048, size=512, hidden=2048, layers=6,
                 heads=8, dropout=0.1, feature_dropout=0.5, norm='layer', activation='relu',
                 cross='dot-product', place=None, relations=None, extra_skip=False,
                 use_bn=0):
        super().__init__()
        self.vocab_size, self.longest, self.size = vocab_size, longest, size
        self.feature_norm, self.embedded_norm = batch_norms(use_bn, feature_size, size)
        self.feature_embed = nn.Linear(feature_size, size)
        self.feature_dropout = feature_dropout
        self.place, self.relations = place, relations
        self.encoder = nn.ModuleList(
            EncoderLayer(size, heads, hidden, dropout, norm, activation, extra_skip)
            for _ in range(layers))
        self.encoder_norm = NORMS[norm](size)
        self.word_embed = nn.Embedding(vocab_size, size)
        self.register_buffer('positions', sinusoid(longest + 1, size), persistent=False)
        self.word_dropout = Dropout(dropout)
        self.decoder = nn.ModuleList(
            DecoderLayer(size, heads, hidden, dropout, norm, activation, cross)
            for _ in range(layers))
        self.decoder_norm = NORMS[norm](size)
        self.output = nn.Linear(size, vocab_size)
        self.start_weights()
        if relations is not None:
            relations.start_weights()

    @property
    def needs(self):
        """What the model wants of a batch: 'features', and 'grids' or 'boxes'."""
        parts = [part.needs for part in (self.place, self.relations) if part is not None]
        return ('features', *dict.fromkeys(parts))

    def encode(self, batch):
        """A batch (`features` (M, D), `counts`, and what `needs` says) -> `TransformerMemory` of I images."""
        groups = Groups(batch.counts, batch.features.device)
        regions = self.feature_embed(self.feature_norm(batch.features))  # (M, d)
        regions = relu_dropout_(regions, self.feature_dropout, self.training)
        regions = self.embedded_norm(regions)
        # What layers add to stays in float32 under autocast.
        regions = regions.to(torch.promote_types(regions.dtype, torch.float32))
        if self.place is not None:
            regions = self.place(regions, getattr(batch, self.place.needs))
        biases = [None] * len(self.encoder)
        if self.relations is not None:
            biases = self.relations(batch.boxes, groups)
        for layer, bias in zip(self.encoder, biases):
            regions = layer(regions, groups, bias)
        regions = self.encoder_norm(regions)
        return TransformerMemory([layer.cross.remember(regions, groups) for layer in self.decoder], groups)

    def word_states(self, memory, captions, lengths=None):
        """The decoder's last states (N, d) of real words and ends, and their places (N,); `lengths` as
        for `CaptionModel.word_log_probs`."""
        I, S, T = captions.shape
        if lengths is None:
            lengths = (captions.view(I * S, T) > 0).sum(1).tolist()
        tokens = [words + 1 for words in lengths]
        by_caption = Groups(tokens, captions.device)
        by_image = Groups([sum(tokens[i * S:(i + 1) * S]) for i in range(I)], captions.device)
        ranks = by_caption.ranks
        places = by_caption.owners * (T + 1) + ranks
        inputs = F.pad(captions, (1, 0)).view(-1)[places]  # (N,), the start token 0 first
        words = self._embed(inputs, self.positions[ranks])
        for layer, remembered in zip(self.decoder, memory.layers):
            words = layer(words, by_caption, by_image, remembered)
        return self.decoder_norm(words), places

    def attention_modules(self):
        """The cross-attention of each layer."""
        return [layer.cross for layer in self.decoder]

    def _embed(self, words, positions):
        return self.word_dropout(self.word_embed(words) * math.sqrt(self.size) + positions)

    def start(self, memory, copies=1):
        """A `State` of `copies` empty captions for each image of the memory."""
        images = Groups([copies] * len(memory), memory.groups.device)
        return State(memory, images, [None] * len(self.decoder), 0)

    def step(self, words, state):
        """The last words (R,) long of every row (0 at the start) -> log-probabilities (R, V) of the
        next word, and the new state."""
        rows = self._embed(words, self.positions[state.length])
        caches = []
        for layer, cache, remembered in zip(self.decoder, state.caches, state.memory.layers):
            rows, cache = layer.step(rows, cache, state.images, remembered)
            caches.append(cache)
        log_probs = self.log_probs(self.decoder_norm(rows))
        return log_probs, State(state.memory, state.images, caches, state.length + 1)
