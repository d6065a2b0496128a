"""What all captioners share: teacher forcing, the state of captions being written, how weights start."""

import torch
from torch import nn
from torch.nn import functional as F

from models.attention_weights import mean_and_last, recording
from models.packing import Groups


class State:
    """R captions being written: their images' memory, what the model keeps of each row, words so far.

    `images` are the rows' `Groups` by image: rows of one image lie side by side.  `caches` is a list
    of tuples of tensors with R rows (keys and values of a layer, the cells of a recurrent network),
    or None before the first word.
    """

    def __init__(self, memory, images, caches, length):
        self.memory, self.images, self.caches, self.length = memory, images, caches, length

    @property
    def device(self):
        """Where the state lives."""
        return self.images.device

    def select(self, rows):
        """The state of the chosen rows, (R',) long; rows may repeat or be left out, and those of
        an earlier image stand before those of a later one.  Images without rows are let go."""
        caches = [cache and tuple(part.index_select(0, rows) for part in cache)
                  for cache in self.caches]
        counts = torch.bincount(self.images.owners[rows], minlength=len(self.images)).tolist()
        memory = self.memory
        if 0 in counts:
            live = [image for image, count in enumerate(counts) if count]
            memory, counts = memory.select(live), [counts[image] for image in live]
        return State(memory, Groups(counts, rows.device), caches, self.length)


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation of rows (N, size) that remembers what gradients were taken of: passes without a
    graph, such as the drawing of samples, do not count.  A single row, which has no deviation, is
    normalised by what is remembered."""

    def forward(self, rows):
        """(N, size) -> the same shape."""
        if not self.training or torch.is_grad_enabled() and len(rows) > 1:
            return super().forward(rows)
        if len(rows) > 1:
            return F.batch_norm(rows, None, None, self.weight, self.bias, True, eps=self.eps)
        return F.batch_norm(rows, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


def batch_norms(count, feature_size, size):
    """Batch normalisation of the regions' features before (`count` 1) and also after (2) they are
    embedded; none with 0.  Padding never counts: the rows are packed."""
    return (BatchNorm(feature_size) if count else nn.Identity(),
            BatchNorm(size) if count == 2 else nn.Identity())


class CaptionModel(nn.Module):
    """The part of a captioner that follows from its `word_states` and `output`.

    A captioner has `vocab_size` V (words + 1; index 0 starts and ends a sentence), `longest` (the
    number of words at which a caption is cut, T), `needs` (what it wants of a batch: a tuple of
    'features', 'fc', 'grids' and 'boxes'), `encode`, `word_states`, `start`, `step`, and `output`,
    the last linear layer.
    """

    def forward(self, memory, captions):
        """Teacher forcing: log-probabilities (I, S, T + 1, V) of each caption's words and its end.

        `captions` (I, S, T) long, zero padded, without the start token.  Position t is the
        distribution of word t given the words before it; behind a caption's end all is zero.
        """
        I, S, T = captions.shape
        log_probs, places = self.word_log_probs(memory, captions)
        out = log_probs.new_zeros(I * S * (T + 1), self.vocab_size)
        return out.index_copy(0, places, log_probs).view(I, S, T + 1, self.vocab_size)

    def word_log_probs(self, memory, captions, lengths=None):
        """As `forward`, for real words and ends alone: log-probabilities (N, V), and (N,) long,
        their places in the flattened (I * S * (T + 1)) positions.

        `lengths`: list of I * S, the words of each caption, where the host knows them; to lay out the
        words it would else have to wait until the device has counted them.
        """
        hidden, places = self.word_states(memory, captions, lengths)
        return self.log_probs(hidden), places

    def word_attention(self, memory, captions, lengths=None):
        """How much each word looked at each region of its image, as it was chosen: a dict of 'mean', over the
        layers, and 'last', the last layer alone, where there are several; or None for a model that looks
        at no regions.

        Both are (I, S, T + 1, P), at the positions of `forward`, zero where there is no word or no region;
        a word's weights add up to 1.  X-linear attention's are its spatial weights, of attention with
        several heads it is their mean.
        """
        I, S, T = captions.shape
        parts = self.attention_modules()
        if not parts:
            return None
        with recording(parts) as kept:
            _, places = self.word_states(memory, captions, lengths)
        places = self.attention_order(places, I * S, T + 1)
        layers = [torch.cat(weights) for weights in kept]  # (N, P) each
        blank = layers[0].new_zeros(I * S * (T + 1), layers[0].shape[1])
        return mean_and_last([blank.index_copy(0, places, layer).view(I, S, T + 1, -1) for layer in layers])

    def attention_modules(self):
        """The modules that look at regions, of the first layer to the last; none where there is none."""
        return []

    def attention_order(self, places, captions, length):
        """The places (N,) of words in so many `captions` of `length` positions, in the order in which the
        words look."""
        return places

    def log_probs(self, hidden):
        """States (N, d) -> log-probabilities (N, V), in float32 or better: in bfloat16 rare words would be
        drawn from as if most of them were not there."""
        logits = self.output(hidden)
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)

    def start_weights(self):
        """Every matrix starts as Xavier uniform."""
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
