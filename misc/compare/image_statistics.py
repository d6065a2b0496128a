"""Statistics of single images from whose sums the scores of any set of images are computed.

Bootstrap intervals and p-values need the scores of thousands of sets of images.  A score of a set is either the
mean of the image scores, or, as BLEU and METEOR are, a function of counts summed over the images.

N images, C columns of statistics, M metrics.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from misc.scoring import bleu, meteor
from misc.scoring.checks import TOKENIZERS
from misc.scoring.references import RAW, ImageId
from misc.scoring.results import Results

Scores = Callable[[np.ndarray], np.ndarray]    # sums of statistics (..., C) -> scores (..., M)
BLEU_TOLERANCE = 5e-4    # between BLEU from counts and the file's: tokenizers differ in rare cases
# Between the mean of the image scores and a score that is that mean: files may hold four decimals of it.
MEAN_TOLERANCE = {'rel_tol': 5e-4, 'abs_tol': 6e-5}


@dataclass
class MetricGroup:
    """Metrics computed from the same statistics.

    metrics       their names
    statistics    {name of a run: float64 (N, C)}, of the runs that have them
    scores        from sums over images (..., C) to scores (..., M)
    corpus_level  whether these are the scores of the set; if not, they are means of image scores
    """

    metrics: list[str]
    statistics: dict[str, np.ndarray]
    scores: Scores
    corpus_level: bool


@dataclass
class Counts:
    """Counts of every image's caption, {name of a run: {image: (C,)}}, and the function from their sums to the
    scores of `metrics`."""

    metrics: Sequence[str]
    by_run: dict[str, dict[ImageId, np.ndarray]]
    scores: Scores


def metric_groups(runs: Sequence[Results], images: Sequence[ImageId], counted: Sequence[Counts] = ()
                  ) -> tuple[list[MetricGroup], list[str]]:
    """The groups of all metrics that `runs` have scores of on `images`, and notes about them.

    `counted` is used for its metrics unless the scores from it differ from those in the files, which a note
    then says.  All other metrics are means of image scores.
    """
    groups: list[MetricGroup] = []
    notes = []
    for counts in counted:
        mismatch = next(filter(None, (mismatch_of(run, counts) for run in runs if run.name in counts.by_run)), None)
        if mismatch:
            notes.append(mismatch)
        elif counts.by_run:
            statistics = {run: np.array([table[image] for image in images]) for run, table in counts.by_run.items()}
            groups.append(MetricGroup(list(counts.metrics), statistics, counts.scores, True))
    done = {metric for group in groups for metric in group.metrics}
    groups += [image_means(runs, images, metric) for metric in dict.fromkeys(
        metric for run in runs for metric in run.image_scores) if metric not in done]
    means = [metric for group in groups if not group.corpus_level for metric in group.metrics]
    if means:
        notes.append(f'{", ".join(means)}: the score of a set is not the mean of its image scores; here it is this '
                     'mean that has an interval and is compared, marked "mean over images".')
    return groups, notes


def mismatch_of(run: Results, counts: Counts) -> str | None:
    """A note where the scores from counts are not those of the results file, else None."""
    for metric, score in zip(counts.metrics, counts.scores(np.sum(list(counts.by_run[run.name].values()), axis=0))):
        if abs(run.overall.get(metric, score) - score) > BLEU_TOLERANCE:
            return (f'{metric} was not recomputed: from the captions of {run.name} and these references it is '
                    f'{score:.4f}, the file says {run.overall[metric]:.4f}. Give the references that the files '
                    'were scored with.')
    return None


def image_means(runs: Sequence[Results], images: Sequence[ImageId], metric: str) -> MetricGroup:
    """The group of one metric as the mean of its image scores."""
    having = [run for run in runs if metric in run.image_scores]
    statistics = {run.name: np.array([[run.image_scores[metric][image]] for image in images]) for run in having}
    return MetricGroup([metric], statistics, lambda sums: sums / len(images),
                       all(is_mean(run, metric) for run in having))


def is_mean(run: Results, metric: str) -> bool:
    """Whether the score of the whole file is the mean of its image scores."""
    values = list(run.image_scores[metric].values())
    return metric in run.overall and math.isclose(np.mean(values), run.overall[metric], **MEAN_TOLERANCE)


def bleu_counts(runs: Sequence[Results], references: Mapping[ImageId, Sequence[str]], kind: str = RAW) -> Counts:
    """The counts behind BLEU, of the runs that have a BLEU score; `kind` of the references as in
    `misc.scoring.references`."""
    split = TOKENIZERS[kind]
    limits: dict[ImageId, tuple] = {}
    by_run = {}
    for run in with_captions(runs, bleu.BLEU_NAMES):
        for image in run.captions:
            if image not in limits:
                limits[image] = bleu.reference_limits(map(split, references[image]))
        by_run[run.name] = {image: np.array(bleu.caption_counts(split(caption), *limits[image]), np.float64)
                            for image, caption in run.captions.items() if caption is not None}
    return Counts(bleu.BLEU_NAMES, by_run, bleu.bleu_scores)


def meteor_counts(runs: Sequence[Results], references: Mapping[ImageId, Sequence[str]],
                  count: Callable[[dict, dict], np.ndarray | None]) -> Counts:
    """The counts behind METEOR, of the runs that have a METEOR score.

    `count(captions, references)` takes two dictionaries with the same keys and returns the counts (N, C) of all
    captions in order, or None where they cannot be had.
    """
    captions = {(run.name, image): caption for run in with_captions(runs, meteor.METEOR_NAMES)
                for image, caption in run.captions.items()}
    table = count(captions, {key: references[key[1]] for key in captions}) if captions else None
    by_run: dict[str, dict[ImageId, np.ndarray]] = {}
    if table is not None:
        for (run, image), row in zip(captions, table):
            by_run.setdefault(run, {})[image] = row
    return Counts(meteor.METEOR_NAMES, by_run, meteor.meteor_scores)


def with_captions(runs: Sequence[Results], metrics: Sequence[str]) -> list[Results]:
    """The runs with a score of any of `metrics`; none at all if one of these lacks a caption."""
    having = [run for run in runs if any(metric in run.overall for metric in metrics)]
    return [] if any(None in run.captions.values() for run in having) else having
