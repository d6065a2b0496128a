"""Training losses, as named terms.

Letters: I images, S captions per image, T words, N tokens in all (words and end tokens), V vocabulary + 1, d size of
the hidden states.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Tokens whose logits exist at a time.  With COCO's vocabulary those of 512 take 19 MB: on the CPU smaller blocks make
# the matrix products slower and save little.  On a GPU every block costs some 15 kernels, and 300 MB are little.
TOKENS_AT_ONCE, TOKENS_AT_ONCE_ON_A_GPU = 512, 8192


class WordModel(Protocol):
    """What the losses use of a captioning model: `encode`, `word_states` and its last layer, `output`."""

    @property
    def output(self) -> nn.Linear:
        """From hidden states (d) to logits (V)."""

    def encode(self, batch: Any) -> Any:
        """What depends on the images alone."""

    def word_states(self, memory: Any, captions: Tensor,
                    lengths: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """Hidden states (N, d), and the positions (N,) of their tokens in the flattened (I * S * (T + 1))."""


def caption_loss(model: WordModel, batch: Any, smoothing: float = 0.0) -> dict[str, Any]:
    """Cross-entropy of a batch's captions -> {'loss': scalar tensor, 'tokens': int}.

    The mean of -log p over all words and end tokens; of a batch that is padded by images without weight, over its
    first `tokens`, a number on the device.  With `smoothing` s, the mean of the KL divergence from p to
    the distribution with 1 - s on the token and s / (V - 1) on every other entry.
    """
    states, places = model.word_states(model.encode(batch), batch.captions, batch.lengths)
    targets = caption_targets(batch.captions, places)
    tokens = getattr(batch, 'tokens', None)
    if tokens is None:
        weights = torch.full(targets.shape, 1 / len(targets), device=states.device)
    else:
        weights = (torch.arange(len(targets), device=states.device) < tokens) / tokens
    return {'loss': word_loss(states, model.output, targets, weights, smoothing), 'tokens': len(targets)}


def self_critical_loss(model: WordModel, memory: Any, samples: Tensor, advantage: Callable[[], Tensor],
                       lengths: Sequence[int] | None = None) -> dict[str, Any]:
    """The mean over the sampled tokens of -log p times the caption's advantage.

    Shapes: samples (I, S, T) long, zero padded, of the images that the model encoded to `memory`; `lengths`: their
    I * S numbers of words, where the host knows them.  A caption's end token is one of its tokens; a caption that
    was cut at the longest length T has none.  The gradient comes from one teacher-forced pass; with dropout off it
    is that of sampling with the graph kept (Rennie et al. 2017, equation 8).

    `advantage()` returns the advantages (I, S).  It is called when the pass has been queued, so the host computes
    rewards while a GPU computes the pass.

    Returns {'loss': scalar tensor, 'tokens': scalar tensor}.
    """
    T = samples.shape[2]
    states, places = model.word_states(memory, samples, lengths)
    sampled = places % (T + 1) < T  # the position after a cut caption was never drawn
    tokens = sampled.sum()
    weights = advantage().reshape(-1)[places // (T + 1)] * sampled / tokens
    loss = word_loss(states, model.output, caption_targets(samples, places), weights)
    return {'loss': loss, 'tokens': tokens}


def caption_targets(captions: Tensor, places: Tensor) -> Tensor:
    """The tokens (N,) to predict at `places` (N,) of captions (I, S, T), zero padded: words, then the end token 0."""
    return F.pad(captions, (0, 1)).reshape(-1)[places]


def mean_negative_log_likelihood(log_probs: Tensor, targets: Tensor) -> Tensor:
    """The mean over N tokens of -log p(token): log_probs (N, V), targets (N,) -> scalar."""
    return -log_probs.gather(1, targets[:, None]).mean()


def all_finite(loss: Tensor, parameters: Iterable[nn.Parameter]) -> Tensor:
    """Whether the loss and every gradient are finite: a bool tensor on their device."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if loss.device.type == 'cpu':
        sums = [loss.detach().double(), *(gradient.sum().double() for gradient in gradients)]
        return torch.isfinite(torch.stack(sums)).all()
    # Few kernels for all gradients; in double precision the sum of two finite numbers is finite.
    largest = torch.nn.utils.get_total_norm(gradients, math.inf)
    return torch.isfinite(largest.double() + loss.detach().double())


def word_loss(states: Tensor, output: nn.Linear, targets: Tensor, weights: Tensor, smoothing: float = 0.0) -> Tensor:
    """The sum over N tokens of weight * -log p(target), where p is the softmax of `output` of the states.

    states (N, d), targets (N,) long, weights (N,) -> scalar.  `smoothing` as in `caption_loss`.
    """
    return WordLoss.apply(states, output.weight, output.bias, targets, weights, smoothing)


class WordLoss(torch.autograd.Function):
    """`word_loss`, without ever holding all N x V logits.

    A token's loss needs its own row of logits alone, and the gradient of those logits is the weight times p minus the
    wanted distribution.  So the forward pass computes the gradients of states and weights too, a block of
    tokens at a time, and keeps these in place of the logits: as much memory as states and weights take.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, weights: Tensor,
                smoothing: float) -> Tensor:
        """Shapes as for `word_loss`; weight (V, d), bias (V,)."""
        needs_gradient = any(ctx.needs_input_grad)
        other = smoothing / (weight.shape[0] - 1)  # the wanted probability of each wrong entry
        wide = torch.promote_types(states.dtype, torch.float32)
        total = torch.zeros((), dtype=wide, device=states.device)
        d_states: list[Tensor] = []
        d_weight: Any = 0.0
        d_bias: Any = 0.0
        at_once = TOKENS_AT_ONCE if states.device.type == 'cpu' else TOKENS_AT_ONCE_ON_A_GPU
        blocks = max(1, -(-len(states) // at_once))
        for rows, target, share in zip(states.chunk(blocks), targets.chunk(blocks), weights.chunk(blocks)):
            log_probs = _log_softmax(F.linear(rows, weight, bias).to(wide))  # (B, V)
            log_prob = log_probs.gather(1, target[:, None])[:, 0]
            if smoothing:
                log_prob *= 1 - smoothing - other
                log_prob += other * log_probs.sum(1) + _entropy(smoothing, other)
            total -= torch.dot(log_prob, share)
            if not needs_gradient:
                continue
            gradient = log_probs.exp_()  # p
            if smoothing:
                gradient.sub_(other)
            gradient.scatter_add_(1, target[:, None], gradient.new_full((len(target), 1), smoothing + other - 1))
            gradient.mul_(share[:, None])
            d_states.append(gradient @ weight)
            d_weight = d_weight + (gradient.t() @ rows).to(wide)
            d_bias += gradient.sum(0)
        if needs_gradient:
            ctx.save_for_backward(torch.cat(d_states), d_weight, d_bias)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The saved gradients, times that of the loss."""
        return (*(gradient * saved for saved in ctx.saved_tensors), None, None, None)


def _log_softmax(logits: Tensor) -> Tensor:
    """(B, V) -> the same shape; on the CPU in place of the logits, on a GPU in one kernel."""
    if logits.device.type != 'cpu':
        return logits.log_softmax(1)
    return logits.sub_(logits.logsumexp(1)[:, None])


def _entropy(smoothing: float, other: float) -> float:
    """-sum q log q of the smoothed distribution q, whose wrong entries have the probability `other` each."""
    return -smoothing * math.log(other) - (1 - smoothing) * math.log(1 - smoothing)
