"""Runs compared on the same images: scores with intervals, differences from a baseline with p-values.

R resamples, M metrics; see misc/compare/significance.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from misc.cli import UsageError
from misc.compare import significance
from misc.compare.image_statistics import Counts, MetricGroup, metric_groups
from misc.scoring.references import ImageId
from misc.scoring.results import Results
from misc.scoring.scores import in_metric_order, sign_of

MIN_IMAGES = 10    # for an interval; resamples of fewer are too much alike
Resampled = dict[tuple[str, str], np.ndarray]    # (name of a run, metric) -> its scores on resampled images (R,)


@dataclass
class Settings:
    """How runs are compared.

    draws       how often images are resampled, and captions swapped at random, from `seed`
    confidence  of intervals, in per cent
    """

    draws: int = 10000
    seed: int = 1
    confidence: float = 95.0

    @property
    def level(self) -> float:
        """The largest corrected p-value at which a difference is significant."""
        return significance.level_of(self.confidence)


@dataclass
class Score:
    """A score of one run; None where unknown.

    value      the score of the set, as reported in the file
    low, high  its confidence interval; of `mean` where that is given
    mean       the mean of the image scores, where the score of the set is not that mean
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    mean: float | None = None


@dataclass
class Difference:
    """The difference of a run from the baseline in one metric.

    baseline, score  the two scores: of the set where `corpus_level`, else means of image scores
    low, high        the confidence interval of the difference, None with few images
    p, adjusted_p    the p-value, and the same corrected for the number of differences
    wins, losses     images with a better and with a worse score than the baseline's, None without image scores
    """

    run: str
    metric: str
    baseline: float
    score: float
    low: float | None
    high: float | None
    p: float
    wins: int | None
    losses: int | None
    corpus_level: bool
    adjusted_p: float = 1.0

    @property
    def value(self) -> float:
        """The score of the run less that of the baseline."""
        return self.score - self.baseline

    def verdict(self, level: float) -> str:
        """'better' or 'worse', '' where the difference is not significant at `level`."""
        if self.adjusted_p > level:
            return ''
        return 'better' if self.value * sign_of(self.metric) > 0 else 'worse'


@dataclass
class Comparison:
    """The result of comparing runs on the same images.

    names        of the runs
    metrics      in the order of tables
    scores       {name of a run: {metric: Score}}
    differences  of each run but the baseline, by run and metric
    notes        remarks for the reader, a line each
    """

    names: list[str]
    baseline: str
    images: Sequence[ImageId]
    metrics: list[str]
    scores: dict[str, dict[str, Score]]
    differences: list[Difference]
    notes: list[str]

    @property
    def has_intervals(self) -> bool:
        """Whether scores and differences have confidence intervals."""
        return any(score.low is not None for scores in self.scores.values() for score in scores.values())


def compare(runs: Sequence[Results], images: Sequence[ImageId], baseline: str, counted: Sequence[Counts] = (),
            settings: Settings | None = None) -> Comparison:
    """Compare `runs` with the one named `baseline` on `images`, which all of them have.

    Metrics that are not means over images are recomputed from `counted`, if it has them: see `metric_groups`.
    Raises `UsageError` where there are too few draws for any difference to be significant.
    """
    settings = settings or Settings()
    groups, notes = metric_groups(runs, images, counted)
    others = [run.name for run in runs if run.name != baseline]
    check_draws(settings, sum(len(group.metrics) for group in groups for name in others
                              if {baseline, name} <= group.statistics.keys()))
    metrics = in_metric_order([*(metric for run in runs for metric in run.overall),
                               *(metric for group in groups for metric in group.metrics)])
    resampled = bootstrap(groups, images, settings)
    if groups and not resampled:
        notes.append(f'No confidence intervals: {len(images)} image{"s" * (len(images) != 1)} cannot show how much '
                     f'a score would vary on others; at least {MIN_IMAGES} are needed, hundreds are better.')
    differences = paired_differences(runs, images, baseline, groups, resampled, settings)
    differences.sort(key=lambda one: (others.index(one.run), metrics.index(one.metric)))
    scores = {run.name: scores_of(run, images, groups, resampled, settings) for run in runs}
    return Comparison([run.name for run in runs], baseline, images, metrics, scores, differences, notes)


def paired_differences(runs: Sequence[Results], images: Sequence[ImageId], baseline: str,
                       groups: Sequence[MetricGroup], resampled: Resampled, settings: Settings) -> list[Difference]:
    """The differences of all `runs` from the one named `baseline`, their p-values corrected for their number."""
    by_name = {run.name: run for run in runs}
    differences = [difference for run in runs if run.name != baseline for group in groups
                   for difference in differences_of(by_name[baseline], run, images, group, resampled, settings)]
    for difference, adjusted in zip(differences, significance.holm([one.p for one in differences])):
        difference.adjusted_p = adjusted
    return differences


def check_draws(settings: Settings, count: int) -> None:
    """Raise `UsageError` where none of `count` differences could be significant, however large."""
    draws, level = settings.draws, settings.level
    if significance.smallest_p(draws, count) > level:
        raise UsageError(f'--draws {draws} is too few for {count} differences at --confidence '
                         f'{settings.confidence:g}: corrected for their number, no p-value could be as small as '
                         f'{level:g}. Give --draws {significance.draws_for(level, count)}, a lower --confidence, '
                         'or fewer runs')


def bootstrap(groups: Sequence[MetricGroup], images: Sequence[ImageId], settings: Settings) -> Resampled:
    """The scores of every run and metric on resampled `images`, the same resamples for all; {} where the images are
    too few."""
    places = [(group, run) for group in groups for run in group.statistics]
    if not places or len(images) < MIN_IMAGES:
        return {}
    sums = significance.bootstrap_sums(
        np.concatenate([group.statistics[run] for group, run in places], 1), settings.draws, settings.seed)
    resampled, first = {}, 0
    for group, run in places:
        last = first + group.statistics[run].shape[1]
        scores = group.scores(sums[:, first:last])  # (R, M)
        resampled.update({(run, metric): scores[:, place] for place, metric in enumerate(group.metrics)})
        first = last
    return resampled


def scores_of(run: Results, images: Sequence[ImageId], groups: Sequence[MetricGroup], resampled: Resampled,
              settings: Settings) -> dict[str, Score]:
    """{metric: Score} of one run."""
    complete = len(images) == len(run.captions)
    scores = {metric: Score(value) for metric, value in run.overall.items()} if complete else {}
    for group in groups:
        if run.name in group.statistics:
            found = group.scores(group.statistics[run.name].sum(0))  # (M,)
            for metric, value in zip(group.metrics, map(float, found)):
                score = scores.setdefault(metric, Score(value if group.corpus_level else None))
                if resampled:
                    score.low, score.high = significance.interval(resampled[run.name, metric], settings.confidence)
                score.mean = None if group.corpus_level else value
    return scores


def differences_of(baseline: Results, run: Results, images: Sequence[ImageId], group: MetricGroup,
                   resampled: Resampled, settings: Settings) -> list[Difference]:
    """The differences of a run from the baseline in the metrics of one group, none unless both have them."""
    if not {baseline.name, run.name} <= group.statistics.keys():
        return []
    first, second = group.statistics[baseline.name], group.statistics[run.name]
    before, after = group.scores(first.sum(0)), group.scores(second.sum(0))  # (M,) each
    swapped = [group.scores(sums) for sums in significance.swapped_sums(
        first, second, settings.draws, settings.seed)]  # (R, M) each
    differences = []
    for place, metric in enumerate(group.metrics):
        low = high = None
        if resampled:
            low, high = significance.interval(resampled[run.name, metric] - resampled[baseline.name, metric],
                                              settings.confidence)
        p = significance.p_value(after[place] - before[place], swapped[1][:, place] - swapped[0][:, place])
        gains = image_gains(baseline, run, metric, images)
        differences.append(Difference(
            run.name, metric, float(before[place]), float(after[place]), low, high, p,
            sum(gain > 0 for gain in gains) if gains else None,
            sum(gain < 0 for gain in gains) if gains else None, group.corpus_level))
    return differences


def image_gains(baseline: Results, run: Results, metric: str, images: Sequence[ImageId]) -> list[float]:
    """By how much the run is better than the baseline on each image, [] where one has no image scores."""
    if metric not in baseline.image_scores or metric not in run.image_scores:
        return []
    before, after = baseline.image_scores[metric], run.image_scores[metric]
    return [sign_of(metric) * (after[image] - before[image]) for image in images]
