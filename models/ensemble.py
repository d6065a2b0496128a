"""Ensembles: at each step, the mean of several models' probabilities."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.attention_weights import mean_over_models
from models.base import Batch, CaptionModel, Memory, State


class Ensemble(nn.Module):
    """Several models with the interface of one: `encode`, `word_log_probs`, `word_attention`, `start`, `step`.

    The members share a vocabulary and the longest length; otherwise they may differ.
    """

    def __init__(self, members: Sequence[CaptionModel]) -> None:
        super().__init__()
        self.members: Sequence[CaptionModel] = nn.ModuleList(members)  # type: ignore[assignment]
        self.needs = tuple(dict.fromkeys(need for member in members for need in member.needs))

    def encode(self, batch: Batch) -> EnsembleMemory:
        """A batch -> the members' memories of its images."""
        return EnsembleMemory([member.encode(batch) for member in self.members])

    def word_log_probs(self, memory: EnsembleMemory, captions: Tensor,
                       lengths: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """As `CaptionModel.word_log_probs`: (N, V), and the positions (N,)."""
        parts = [member.word_log_probs(part, captions, lengths)
                 for member, part in zip(self.members, memory.parts)]
        return mean_probability([log_probs for log_probs, _ in parts]), parts[0][1]

    def word_attention(self, memory: EnsembleMemory, captions: Tensor,
                       lengths: Sequence[int] | None = None) -> dict[str, Tensor] | None:
        """As `CaptionModel.word_attention`: the mean over the members that have attention, or None."""
        return mean_over_models([member.word_attention(part, captions, lengths)
                                 for member, part in zip(self.members, memory.parts)])

    def start(self, memory: EnsembleMemory, copies: int = 1) -> EnsembleState:
        """A state of `copies` empty captions for each image."""
        return EnsembleState([member.start(part, copies) for member, part in zip(self.members, memory.parts)])

    def step(self, words: Tensor, state: EnsembleState) -> tuple[Tensor, EnsembleState]:
        """The last words (R,) -> log-probabilities (R, V) of the next, and the new state."""
        parts = [member.step(words, part) for member, part in zip(self.members, state.parts)]
        return (mean_probability([log_probs for log_probs, _ in parts]),
                EnsembleState([part for _, part in parts]))


class EnsembleMemory:
    """The members' memories of the same images."""

    def __init__(self, parts: Sequence[Memory]) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return len(self.parts[0])

    def padded(self) -> EnsembleMemory:
        """As `Memory.padded`, of every member."""
        return EnsembleMemory([part.padded() for part in self.parts])

    def map(self, change: Callable[[Tensor], Tensor]) -> EnsembleMemory:
        """As `Memory.map`, of every member."""
        return EnsembleMemory([part.map(change) for part in self.parts])


class EnsembleState:
    """The members' states of the same rows."""

    def __init__(self, parts: Sequence[State[Any]]) -> None:
        self.parts, self.compacts = parts, parts[0].compacts

    @property
    def device(self) -> torch.device | str:
        """The device of the states' tensors."""
        return self.parts[0].device

    def select(self, rows: Tensor, copies: int | None = None) -> EnsembleState:
        """The states of the chosen rows, in every member; `copies` as for `State.select`."""
        return EnsembleState([part.select(rows, copies) for part in self.parts])


def mean_probability(log_probs: Sequence[Tensor]) -> Tensor:
    """Log-probabilities (..., V) of each member -> the log of their mean probability."""
    return torch.stack(list(log_probs)).logsumexp(0) - math.log(len(log_probs))
