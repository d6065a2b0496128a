"""What changes while a model trains: learning rates and scheduled sampling as functions of step and epoch, and
what validations decide."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from misc.cli import note


@dataclass(frozen=True)
class Schedule:
    """The learning rate of every step, and the probability of scheduled sampling in every epoch.

    `decay_start` and `sampling_start` are epochs, -1 for never; `size` is the model size d of the warm-up
    schedule.  With `noam` the step decay does not apply, nor with `reduce_on_plateau`, which scales the rate by
    what `Plateau` has seen, nor with `cosine`, whose warm-up takes the share `cosine_warmup` of the steps of each
    phase: `phase_steps` of cross-entropy and of self-critical training.
    """

    learning_rate: float
    decay_start: int
    decay_every: int
    decay_rate: float
    noam: bool
    noam_warmup: int
    noam_factor: float
    size: int
    reduce_on_plateau: bool
    sampling_start: int
    sampling_every: int
    sampling_increase: float
    sampling_max: float
    cosine: bool = False
    cosine_warmup: float = 0.0
    phase_steps: tuple[int, int] = (0, 0)

    def rate(self, step: int, epoch: int, scale: float = 1.0, before: int | None = None) -> float:
        """The learning rate of `step` (from 1) in `epoch` (from 0).

        `scale` is that of the plateaus so far, `before` the number of steps before the self-critical phase, None if
        the step belongs to the first phase.
        """
        if self.cosine:
            steps = self.phase_steps[before is not None]
            return cosine_rate(step - (before or 0), self.learning_rate, round(self.cosine_warmup * steps), steps)
        if not self.reduce_on_plateau:
            scale = 1.0
        if self.noam:
            return scale * noam_rate(step, self.size, self.noam_warmup, self.noam_factor)
        if self.reduce_on_plateau:
            return scale * self.learning_rate
        return decayed_rate(self.learning_rate, epoch, self.decay_start, self.decay_every, self.decay_rate)

    def sampling_probability(self, epoch: int) -> float:
        """The probability with which scheduled sampling replaces a caption's word in `epoch`."""
        return sampling_probability(epoch, self.sampling_start, self.sampling_every, self.sampling_increase,
                                    self.sampling_max)

    def describe(self) -> str:
        """How the learning rate changes, in a few words."""
        if self.noam:
            return 'warm-up schedule'
        if self.cosine:
            return 'cosine with warm-up'
        if self.reduce_on_plateau:
            return 'halved on plateaus'
        if self.decay_start < 0:
            return 'constant'
        return f'times {self.decay_rate:g} every {self.decay_every} epochs from epoch {self.decay_start}'


@dataclass(frozen=True)
class Plan:
    """What happens when.

    max_epochs      epochs of training in all; -1: without end
    accumulate      parts that a batch is worked through in
    log_every, save_every   steps between lines of the log, and between checkpoints
    validate_every  steps between validations; None: at the end of each epoch
    language_eval   whether validations score captions in the cross-entropy phase too
    patience        validations in a row without a new best after which training stops; 0: never
    keep            checkpoints that are kept beside the last and the best one
    save_minutes    minutes after which a checkpoint is saved, whatever the steps; 0: only by steps
    """

    max_epochs: int
    accumulate: int
    log_every: int
    save_every: int
    validate_every: int | None
    language_eval: bool
    patience: int = 0
    keep: int = 0
    save_minutes: float = 0.0

    def is_over(self, epoch: int) -> bool:
        """Whether `epoch` is past the last one."""
        return 0 <= self.max_epochs <= epoch

    def validates(self, iteration: int, ends_epoch: bool) -> bool:
        """Whether there is a validation after step `iteration`, which may be the last one of its epoch."""
        return ends_epoch if self.validate_every is None else iteration % self.validate_every == 0

    def has_lost_patience(self, validations: int) -> bool:
        """Whether so many `validations` in a row without a new best are enough."""
        return 0 < self.patience <= validations


def noam_rate(step: int, size: int, warmup: int, factor: float = 1.0) -> float:
    """factor * size^-0.5 * min(step^-0.5, step * warmup^-1.5), for steps from 1 (Vaswani et al. 2017, equation 3)."""
    return factor * size ** -0.5 * min(step ** -0.5, step * warmup ** -1.5)


def cosine_rate(step: int, rate: float, warmup: int, steps: int) -> float:
    """`rate` in `step` (from 1) of `steps`: it rises to it linearly over the first `warmup` steps, then falls along
    half a cosine to 0, which it would reach one step after the last (Loshchilov and Hutter 2017, equation 5)."""
    if step <= warmup:
        return rate * step / warmup
    progress = min((step - warmup) / max(steps + 1 - warmup, 1), 1.0)
    return rate * 0.5 * (1 + math.cos(math.pi * progress))


def decayed_rate(rate: float, epoch: int, start: int, every: int, factor: float) -> float:
    """`rate` times `factor` once for every `every` epochs since epoch `start`; a `start` of -1 means never."""
    if start < 0 or epoch < start:
        return rate
    return rate * factor ** ((epoch - start) // every)


def sampling_probability(epoch: int, start: int, every: int, increase: float, maximum: float) -> float:
    """The probability of scheduled sampling (Bengio et al. 2015): 0 up to epoch `start` (-1: always), then
    `increase` more with every `every` epochs, up to `maximum`."""
    if start < 0 or epoch < start:
        return 0.0
    return min(increase * ((epoch - start) // every), maximum)


class Plateau:
    """Halves the learning rate when the validation score has stopped improving.

    After more than `patience` validations in a row without a new best, `scale` is multiplied by `factor` and
    the count starts again.
    """

    def __init__(self, state: tuple | None = None, factor: float = 0.5, patience: int = 3) -> None:
        """`state`: that of an earlier `Plateau` to continue."""
        self.factor, self.patience = factor, patience
        self.best, self.bad, self.scale, self.measure = state or (None, 0, 1.0, None)

    def update(self, score: float, measure: str | None = None) -> None:
        """Take a validation `score` (higher is better) into account.  When the `measure` changes, scores cannot be
        compared with those before, and everything starts again."""
        if measure != self.measure:
            self.best, self.bad, self.scale, self.measure = None, 0, 1.0, measure
        if self.best is None or score > self.best:
            self.best, self.bad = score, 0
            return
        self.bad += 1
        if self.bad > self.patience:
            self.scale, self.bad = self.scale * self.factor, 0

    def state(self) -> tuple:
        """What a resumed run needs, as plain values."""
        return (self.best, self.bad, self.scale, self.measure)


@dataclass
class Best:
    """The best validation score so far, and what it measures: 'CIDEr', or 'loss' (negated, so that higher is
    better).  None before the first validation."""

    score: float | None = None
    measure: str | None = None

    def update(self, scores: Mapping[str, float]) -> bool:
        """Take the `scores` of a validation into account; returns whether they are the best so far.

        Scores of different measures cannot be compared: when the measure changes, the best starts again.
        """
        measure, score = measure_of(scores)
        is_best = self.score is None or self.measure != measure or score > self.score
        if is_best:
            self.score, self.measure = score, measure
        return is_best


def measure_of(scores: Mapping[str, float]) -> tuple[str, float]:
    """What decides which model is best, and its value, higher is better: CIDEr where there are language scores,
    else the negated loss."""
    return ('CIDEr', scores['CIDEr']) if 'CIDEr' in scores else ('loss', -scores['loss'])


@dataclass
class CollapseWatch:
    """Watches the validation CIDEr of self-critical training; `first` is the CIDEr it started with, or None."""

    first: float | None = None

    def update(self, cider: float) -> None:
        """Remember the first `cider`; warn when a later one has fallen below half of it."""
        if self.first is None:
            self.first = cider
        elif cider < self.first / 2:
            note(f'warning: validation CIDEr {cider:.3f} is less than half of the {self.first:.3f} that '
                 'self-critical training started with; training has become unstable.  Go back to model-best.pth '
                 'and try a lower --learning_rate, a smaller --grad_clip, or --sc_baseline mean')
