"""Several models that speak with one voice: the mean of their probabilities at each step."""

import math

import torch
from torch import nn

from models.attention_weights import mean_over_models


class Ensemble(nn.Module):
    """Behaves as one model: `encode`, `word_log_probs`, `word_attention`, `start`, `step`.

    The members share a vocabulary and the longest length; otherwise they may differ.
    """

    def __init__(self, members):
        super().__init__()
        self.members = nn.ModuleList(members)

    @property
    def needs(self):
        """What any member wants of a batch."""
        return tuple(dict.fromkeys(need for member in self.members for need in member.needs))

    def encode(self, batch):
        """A batch -> the members' memories of its images."""
        return Memories([member.encode(batch) for member in self.members])

    def word_log_probs(self, memories, captions, lengths=None):
        """Log-probabilities (N, V) of real words and ends, and their places (N,)."""
        parts = [member.word_log_probs(memory, captions, lengths)
                 for member, memory in zip(self.members, memories.parts)]
        return mean_probability([log_probs for log_probs, _ in parts]), parts[0][1]

    def word_attention(self, memories, captions, lengths=None):
        """As `CaptionModel.word_attention`: the mean over the members that look at regions, or None."""
        return mean_over_models([member.word_attention(memory, captions, lengths)
                            for member, memory in zip(self.members, memories.parts)])

    def start(self, memories, copies=1):
        """A state of `copies` empty captions for each image."""
        return States([member.start(memory, copies)
                       for member, memory in zip(self.members, memories.parts)])

    def step(self, words, states):
        """The last words (R,) -> log-probabilities (R, V) of the next, and the new state."""
        parts = [member.step(words, state) for member, state in zip(self.members, states.parts)]
        return (mean_probability([log_probs for log_probs, _ in parts]),
                States([state for _, state in parts]))


class Memories:
    """The members' memories of the same images."""

    def __init__(self, parts):
        self.parts = parts

    def __len__(self):
        return len(self.parts[0])


class States:
    """The members' states of the same rows."""

    def __init__(self, parts):
        self.parts = parts

    @property
    def device(self):
        """Where the states live."""
        return self.parts[0].device

    def select(self, rows):
        """The states of the chosen rows, in every member."""
        return States([part.select(rows) for part in self.parts])


def mean_probability(log_probs):
    """A list of log-probabilities (..., V) -> the log of their mean probability."""
    return torch.stack(log_probs).logsumexp(0) - math.log(len(log_probs))
