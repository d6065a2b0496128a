"""Training losses, as named terms."""

import math

import torch
from torch.nn import functional as F

# Rows whose logits exist at a time: with COCO's vocabulary, 512 of them take 19 MB.  Fewer make the
# products slower, which pays off for no one.
BLOCK = 512


def caption_targets(captions, places):
    """The word each position should say: (I, S, T) zero padded captions and the `places` (N,) of
    their real positions -> (N,), the words and then the end token 0."""
    return F.pad(captions, (0, 1)).reshape(-1)[places]


def caption_loss(model, batch, smoothing=0.0):
    """Cross-entropy of a model on a batch's captions -> {'loss': scalar, 'tokens': int}.

    The mean over the words and end tokens of -log p(word).  With `smoothing` s: of the KL divergence
    to the distribution with 1 - s on the word and s / (V - 1) on every other entry.
    """
    states, places = model.word_states(model.encode(batch), batch.captions, batch.lengths)
    targets = caption_targets(batch.captions, places)
    weights = torch.full(targets.shape, 1 / len(targets), device=states.device)
    return {'loss': word_loss(states, model.output, targets, weights, smoothing), 'tokens': len(targets)}


def self_critical_loss(model, batch, samples, advantage):
    """- sum of log p(word) * advantage over the sampled tokens, divided by their number.

    samples (I, S, T) zero padded, advantage (I, S).  The end token of a caption is one of its
    tokens; a caption that was cut at the longest length T has none.  The gradient takes one
    teacher-forced pass; with dropout off it is that of sampling with the graph kept (Rennie et al.
    2017, equation 8).  Returns {'loss': scalar, 'tokens': scalar}.
    """
    T = samples.shape[2]
    states, places = model.word_states(model.encode(batch), samples)
    sampled = places % (T + 1) < T  # the place behind a cut caption was never drawn
    tokens = sampled.sum()
    weights = advantage.reshape(-1)[places // (T + 1)] * sampled / tokens
    loss = word_loss(states, model.output, caption_targets(samples, places), weights)
    return {'loss': loss, 'tokens': tokens}


def word_loss(states, output, targets, weights, smoothing=0.0):
    """The sum over N tokens of weight * -log p(target), p the softmax of `output` (a Linear to V) of the
    states: (N, d), (N,) long, (N,) -> scalar.  `smoothing` as in `caption_loss`."""
    return WordLoss.apply(states, output.weight, output.bias, targets, weights, smoothing)


class WordLoss(torch.autograd.Function):
    """`word_loss`, without ever holding the N x V logits.

    A token's loss needs its own row of logits alone, and the gradient of the logits is p minus the
    wanted distribution, times the weight.  So a block of rows is carried to the gradients of states and weights
    at once, and its logits are let go.  What is kept are gradients as large as states and weights.
    """

    @staticmethod
    def forward(ctx, states, weight, bias, targets, weights, smoothing):
        """Shapes as in `word_loss`; weight (V, d), bias (V,)."""
        wants = any(ctx.needs_input_grad)
        other = smoothing / (weight.shape[0] - 1)
        wide = torch.promote_types(states.dtype, torch.float32)
        total = torch.zeros((), dtype=wide, device=states.device)
        d_states, d_weight, d_bias = [], 0.0, 0.0
        blocks = max(1, -(-len(states) // BLOCK))
        for rows, said, share in zip(states.chunk(blocks), targets.chunk(blocks), weights.chunk(blocks)):
            logits = F.linear(rows, weight, bias).to(wide)  # (B, V)
            log_sum = logits.logsumexp(1)
            log_said = logits.gather(1, said[:, None])[:, 0] - log_sum
            if smoothing:
                log_said *= 1 - smoothing - other
                log_said += other * (logits.sum(1) - logits.shape[1] * log_sum) + entropy(smoothing, other)
            total -= torch.dot(log_said, share)
            if not wants:
                continue
            gradient = logits.sub_(log_sum[:, None]).exp_()
            if smoothing:
                gradient.sub_(other)
            gradient.scatter_add_(1, said[:, None], gradient.new_full((len(said), 1), smoothing + other - 1))
            gradient.mul_(share[:, None])
            d_states.append(gradient @ weight)
            d_weight = d_weight + (gradient.t() @ rows).to(wide)
            d_bias += gradient.sum(0)
        if wants:
            ctx.save_for_backward(torch.cat(d_states), d_weight, d_bias)
        return total

    @staticmethod
    def backward(ctx, gradient):
        return (*(gradient * saved for saved in ctx.saved_tensors), None, None, None)


def entropy(smoothing, other):
    """- sum of q log q of the smoothed distribution q."""
    return -smoothing * math.log(other) - (1 - smoothing) * math.log(1 - smoothing)


def mean_surprise(log_probs, targets):
    """The mean over N tokens of -log p(word): log_probs (N, V), targets (N,) -> scalar."""
    return -log_probs.gather(1, targets[:, None]).mean()


def all_finite(loss, parameters):
    """Whether the loss and every gradient are finite: a bool tensor, where they are."""
    sums = [loss.detach().double()] + [p.grad.sum().double() for p in parameters if p.grad is not None]
    return torch.isfinite(torch.stack(sums)).all()
