"""Training losses, as named terms."""

import math

import torch
from torch.nn import functional as F


def caption_targets(captions, places):
    """The word each position should say: (I, S, T) zero padded captions and the `places` (N,) of
    their real positions -> (N,), the words and then the end token 0."""
    return F.pad(captions, (0, 1)).reshape(-1)[places]


def cross_entropy(log_probs, targets, smoothing=0.0):
    """Mean over N tokens of -log p(word), the end token included.

    log_probs (N, V), targets (N,).  With `smoothing` s: the KL divergence to the distribution
    with 1 - s on the word and s / (V - 1) on every other entry.
    """
    said = log_probs.gather(1, targets[:, None])[:, 0]
    if not smoothing:
        return -said.mean()
    other = smoothing / (log_probs.shape[1] - 1)
    entropy = -smoothing * math.log(other) - (1 - smoothing) * math.log(1 - smoothing)
    expected = (1 - smoothing - other) * said + other * log_probs.sum(1)
    return -expected.mean() - entropy


def caption_loss(model, batch, smoothing=0.0):
    """Cross-entropy of a model on a batch's captions -> {'loss': scalar, 'tokens': int}."""
    memory = model.encode(batch)
    log_probs, places = model.word_log_probs(memory, batch.captions, batch.lengths)
    targets = caption_targets(batch.captions, places)
    return {'loss': cross_entropy(log_probs, targets, smoothing), 'tokens': len(targets)}


def self_critical_loss(model, batch, samples, advantage):
    """- sum of log p(word) * advantage over the sampled tokens, divided by their number.

    samples (I, S, T) zero padded, advantage (I, S).  The end token of a caption is one of its
    tokens; a caption that was cut at the longest length T has none.  The gradient takes one
    teacher-forced pass; with dropout off it is that of sampling with the graph kept (Rennie et al.
    2017, equation 8).  Returns {'loss': scalar, 'tokens': scalar}.
    """
    T = samples.shape[2]
    log_probs, places = model.word_log_probs(model.encode(batch), samples)
    said = log_probs.gather(1, caption_targets(samples, places)[:, None])[:, 0]
    sampled = places % (T + 1) < T  # the place behind a cut caption was never drawn
    weight = advantage.reshape(-1)[places // (T + 1)] * sampled
    tokens = sampled.sum()
    return {'loss': -(said * weight).sum() / tokens, 'tokens': tokens}


def all_finite(loss, parameters):
    """Whether the loss and every gradient are finite: a bool tensor, where they are."""
    sums = [loss.detach().double()] + [p.grad.sum().double() for p in parameters if p.grad is not None]
    return torch.isfinite(torch.stack(sums)).all()
