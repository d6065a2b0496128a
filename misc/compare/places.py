"""Runs compared by kind of image: those whose references name a place against the others.

A model that knows where things are should gain most where people said where things are.  N images, C columns of
statistics, R draws.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from misc.compare import significance
from misc.compare.comparison import (
    MIN_IMAGES,
    Difference,
    Resampled,
    Settings,
    bootstrap,
    paired_differences,
)
from misc.compare.image_statistics import Counts, MetricGroup, metric_groups
from misc.scoring.references import ImageId
from misc.scoring.results import Results
from misc.scoring.scores import sign_of

PLACES = ('left', 'right', 'top', 'behind', 'in front of', 'under', 'on', 'between')
ANY, ANY_BUT_ON = 'any of these', 'any but on'    # nearly every image of a data set has something "on" something
METRICS = ('CIDEr', 'Bleu_4', 'METEOR', 'SPICE')    # those that are compared by kind, the first of them first


@dataclass(frozen=True)
class Kind:
    """Images of one kind: `members`, bool (N,), says which of the compared images are of the kind `name`."""

    name: str
    members: np.ndarray


@dataclass
class Gap:
    """By how much a difference is larger on one kind of images than on the others.

    value            the difference on the images of the kind less that on the others
    low, high        its confidence interval
    p, adjusted_p    how often a division of the same images at random has as large a gap, in either direction; the
                     same corrected
    """

    value: float
    low: float
    high: float
    p: float
    adjusted_p: float = 1.0


@dataclass
class Contrast:
    """The difference of a run from the baseline in one metric, on the images of one kind and on the others.

    images, others  the numbers of the two sorts of images
    inside, outside the differences on them; p-values are corrected for all of the same run and metric
    """

    kind: str
    images: int
    others: int
    inside: Difference
    outside: Difference
    gap: Gap

    def verdict(self, level: float) -> str:
        """'better' or 'worse' where the run gains more, or less, on these images than on the others, '' where that is
        not significant at `level`."""
        if self.gap.adjusted_p > level:
            return ''
        return 'better' if self.gap.value * sign_of(self.inside.metric) > 0 else 'worse'


def place_kinds(references: Mapping[ImageId, Sequence[str]], images: Sequence[ImageId],
                split: Callable[[str], str]) -> tuple[list[Kind], list[str]]:
    """The kinds of `images` by the words for places in their `references`, and notes about those left out, since too
    few images are of the kind, or too few are not.

    `split` gives the tokens of a caption, joined by spaces; an image is of a kind if any of its references names the
    place.
    """
    texts = [[f' {split(caption).lower()} ' for caption in references[image]] for image in images]
    by_place = {place: np.array([any(f' {place} ' in text for text in own) for own in texts], bool)
                for place in PLACES}
    any_but_on = np.any([members for place, members in by_place.items() if place != 'on'], axis=0)
    found = {ANY: any_but_on | by_place['on'], ANY_BUT_ON: any_but_on, **by_place}
    kinds = [Kind(name, members) for name, members in found.items()
             if MIN_IMAGES <= members.sum() <= len(images) - MIN_IMAGES]
    few = [f'{name} ({members.sum()})' for name, members in found.items()
           if name not in {kind.name for kind in kinds}]
    notes = [f'Images by the place that references name: left out are {", ".join(few) if kinds else "all places"}; '
             f'at least {MIN_IMAGES} of the {len(images)} images have to name a place, and as many not.']
    return kinds, notes if few else []


def contrasts_of(kind: Kind, runs: Sequence[Results], images: Sequence[ImageId], baseline: str,
                 counted: Sequence[Counts], settings: Settings) -> list[Contrast]:
    """The contrasts of each run with the baseline in each metric of `METRICS` that both have, on one kind of images.

    Their p-values are not yet corrected: see `corrected`.
    """
    inside = Part.of(kind.members, runs, images, baseline, counted, settings)
    # Another seed: the two sorts of images are resampled independently.
    outside = Part.of(~kind.members, runs, images, baseline, counted, replace(settings, seed=settings.seed + 1))
    found = []
    for one in inside.differences:
        other = next((other for other in outside.differences if (other.run, other.metric) == (one.run, one.metric)),
                     None)
        if one.metric in METRICS and other is not None:
            found.append(Contrast(kind.name, len(inside.images), len(outside.images), one, other,
                                  gap_between(inside, outside, one, other, baseline, settings)))
    return sorted(found, key=lambda one: METRICS.index(one.inside.metric))


@dataclass
class Part:
    """One of the two sorts of images: their statistics, resampled scores and differences."""

    images: list[ImageId]
    groups: list[MetricGroup]
    resampled: Resampled
    differences: list[Difference]

    @classmethod
    def of(cls, members: np.ndarray, runs: Sequence[Results], images: Sequence[ImageId], baseline: str,
           counted: Sequence[Counts], settings: Settings) -> 'Part':
        """The part of `images` that `members`, bool (N,), selects."""
        chosen = [image for image, is_member in zip(images, members) if is_member]
        groups = [group for group in metric_groups(runs, chosen, counted)[0] if set(METRICS) & set(group.metrics)]
        resampled = bootstrap(groups, chosen, settings)
        return cls(chosen, groups, resampled,
                   paired_differences(runs, chosen, baseline, groups, resampled, settings))

    def gains(self, run: str, metric: str, baseline: str) -> np.ndarray:
        """The differences of `run` from the baseline on resampled images (R,)."""
        return self.resampled[run, metric] - self.resampled[baseline, metric]


def gap_between(inside: Part, outside: Part, one: Difference, other: Difference, baseline: str,
                settings: Settings) -> Gap:
    """The gap between the differences `one`, on the images `inside`, and `other`, on those `outside`."""
    groups = [next(group for group in part.groups if one.metric in group.metrics) for part in (inside, outside)]
    place = groups[0].metrics.index(one.metric)
    # The images of both parts, the statistics of the baseline and of the run side by side: (N, 2 C).
    table = np.concatenate([np.concatenate([group.statistics[run] for group in groups])
                            for run in (baseline, one.run)], 1)
    divided = significance.divided_sums(table, len(inside.images), settings.draws, settings.seed)
    (first, second) = (group.scores(after)[:, place] - group.scores(before)[:, place]
                       for group, sums in zip(groups, divided) for before, after in [np.split(sums, 2, axis=1)])
    value = one.value - other.value
    low, high = significance.interval(
        inside.gains(one.run, one.metric, baseline) - outside.gains(one.run, one.metric, baseline),
        settings.confidence)
    return Gap(value, low, high, significance.p_value(value, first - second))


def corrected(contrasts: Sequence[Contrast]) -> dict[tuple[str, str], list[Contrast]]:
    """{(run, metric): its contrasts}, with the p-values of each list corrected for their number in it."""
    tables: dict[tuple[str, str], list[Contrast]] = {}
    for one in contrasts:
        tables.setdefault((one.inside.run, one.inside.metric), []).append(one)
    for table in tables.values():
        tests = [test for one in table for test in (one.inside, one.outside, one.gap)]
        for test, adjusted in zip(tests, significance.holm([test.p for test in tests])):
            test.adjusted_p = adjusted
    return tables
