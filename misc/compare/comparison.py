"""Runs held against one another: scores with intervals, differences with p-values, wins and losses.

N images, R draws, C columns of statistics (see misc/compare/significance.py).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from misc.cli import UsageError, plain_text
from misc.compare import significance
from misc.scoring import bleu, meteor
from misc.scoring.scores import in_metric_order, sign_of
from misc.scoring.tokenizer import tokenize

AS_SCORED = 5e-4    # how far BLEU from captions may lie from the file's: tokenizers differ in rare cases
# How far the mean of image scores may lie from a score that is that mean: files may hold four decimals of it.
AS_MEAN = {'rel_tol': 5e-4, 'abs_tol': 6e-5}
FEWEST = 10         # images that an interval is made from: of fewer, draws are too much alike


@dataclass
class Family:
    """Scores that depend on the same sums over images.

    names       of the scores
    statistics  {name of a run: float64 (N, C)}, of the runs that have them
    scores      a function from sums (..., C) to scores (..., names)
    whole       whether they are the scores of the whole set; if not, the means of image scores
    """

    names: list
    statistics: dict
    scores: Callable
    whole: bool


@dataclass
class Cell:
    """A score of a run: `score` as it was reported, the interval `low` to `high`, and where that is of the
    mean of image scores and the score is not, this `mean`.  What is not known is None."""

    score: float = None
    low: float = None
    high: float = None
    mean: float = None


@dataclass
class Contrast:
    """A run against the baseline by one score.

    `before`, `after`: the scores of the baseline and of the run (`whole`, or else the means of image scores);
    `low`, `high`: the interval of their difference, None of few images; `p`, and `adjusted` for all the
    contrasts of the report; `better`, `worse`: images with a better, a worse score than the baseline's, None
    where they have none.
    """

    run: str
    measure: str
    before: float
    after: float
    low: float
    high: float
    p: float
    better: int
    worse: int
    whole: bool
    adjusted: float = None

    @property
    def difference(self):
        return self.after - self.before

    @property
    def gain(self):
        """By how much the run is better, negative where it is worse."""
        return self.difference * sign_of(self.measure)


@dataclass
class Example:
    """An image that one run captions better than the other, by their scores of it; the `gain` is negative
    where it is the baseline that does better."""

    image: object
    before: float
    after: float
    gain: float


@dataclass
class Comparison:
    """All that is known of several runs on the same images.

    measures   the names of the scores, in the field's order
    cells      {name of a run: {measure: Cell}}
    contrasts  those of each run but the baseline, by run and measure
    notes      what to know beside, a line each
    """

    names: list
    baseline: str
    images: list
    measures: list
    cells: dict
    contrasts: list
    notes: list


def compare(several, images, baseline, counted=(), draws=10000, seed=1, confidence=95.0):
    """The `Comparison` of `Results` on `images`, all of which they have, against the one named `baseline`.

    Scores that are not means over images come from counts, if `counted` has them: see `families_of`.  For
    intervals images are drawn, and for p-values coins are tossed, `draws` times from `seed`.  Raises
    `UsageError` where so few `draws` could tell no difference from chance.
    """
    families, notes = families_of(several, images, counted)
    check_draws(draws, confidence, sum(
        len(family.names) for family in families for results in several
        if results.name != baseline and {baseline, results.name} <= family.statistics.keys()))
    met = dict.fromkeys(name for results in several for name in results.overall)
    met.update(dict.fromkeys(name for family in families for name in family.names))
    measures = in_metric_order(met)
    drawn = bootstrap(families, draws, seed) if len(images) >= FEWEST else {}
    if families and not drawn:
        notes.append(f'Intervals are left out: {len(images)} image{"s" * (len(images) != 1)} cannot show how far '
                     f'a score would move on others; it takes {FEWEST} at least, and better hundreds.')
    cells = {results.name: cells_of(results, images, families, drawn, confidence) for results in several}
    contrasts = []
    for results in several:
        if results.name != baseline:
            other = next(one for one in several if one.name == baseline)
            contrasts += contrasts_of(other, results, images, families, drawn, draws, seed, confidence)
    contrasts.sort(key=lambda contrast: ([one.name for one in several].index(contrast.run),
                                         measures.index(contrast.measure)))
    for contrast, adjusted in zip(contrasts, significance.holm([contrast.p for contrast in contrasts])):
        contrast.adjusted = adjusted
    return Comparison([results.name for results in several], baseline, images, measures, cells, contrasts, notes)


def check_draws(draws, confidence, count):
    """Raise `UsageError` where none of `count` differences could be told from chance, however large."""
    level = significance.level_of(confidence)
    if significance.smallest_p(draws, count) > level:
        raise UsageError(f'--draws {draws} is too few for {count} differences at --confidence {confidence:g}: '
                         f'corrected for their number, no p could be as small as {level:g}. Give --draws '
                         f'{significance.draws_for(level, count)}, a lower --confidence, or fewer runs')


def families_of(several, images, counted=()):
    """The `Family` list of what the runs have, and notes on it.

    `counted` is a list of (names of scores, {name of a run: {image: counts}}, function from sums of counts to
    those scores).  Where this does not give what the files say, there is a note, and the scores are means of
    image scores like those that were not counted.
    """
    families, notes = [], []
    for names, tables, scores in counted:
        wrong = next(filter(None, (unlike(results, names, scores(sum(tables[results.name].values())))
                                   for results in several if results.name in tables)), None)
        if wrong:
            notes.append(wrong)
        elif tables:
            families.append(Family(list(names), {run: np.array([table[image] for image in images])
                                                 for run, table in tables.items()}, scores, True))
    done = {name for family in families for name in family.names}
    for name in dict.fromkeys(name for results in several for name in results.image_scores):
        if name not in done:
            having = [results for results in several if name in results.image_scores]
            families.append(Family(
                [name], {results.name: np.array([[results.image_scores[name][image]] for image in images])
                         for results in having},
                lambda sums: sums / len(images), all(is_mean(results, name) for results in having)))
    means = [name for family in families if not family.whole for name in family.names]
    if means:
        notes.append(f'{", ".join(means)} of a whole set: not the mean of the image scores, but here it is this '
                     'mean that has an interval and is compared, and it is named where it is shown.')
    return families, notes


def unlike(results, names, found):
    """A note where the scores that were `found` from counts are not those of the file, else None."""
    for name, score in zip(names, found):
        if abs(results.overall.get(name, score) - score) > AS_SCORED:
            return (f'{name} was not computed anew: from the captions of {results.name} and these references it '
                    f'is {score:.4f}, the file says {results.overall[name]:.4f}. Give the references that the '
                    'files were scored with.')
    return None


def bleu_counts(several, references):
    """BLEU as `families_of` takes it, from the captions of those that have it; `references` {image: captions}."""
    allowed, tables = {}, {}
    for results in captioned(several, bleu.BLEU_NAMES):
        for image in results.captions:
            if image not in allowed:
                allowed[image] = bleu.reference_limits(map(tokenize, references[image]))
        tables[results.name] = {image: np.array(bleu.caption_counts(tokenize(caption), *allowed[image]), np.float64)
                                for image, caption in results.captions.items()}
    return bleu.BLEU_NAMES, tables, bleu.bleu_scores


def meteor_counts(several, references, count):
    """METEOR as `families_of` takes it; `count(captions, references)` gives the counts (N, C) of all captions,
    by any keys, or None."""
    keyed = {(results.name, image): caption for results in captioned(several, meteor.METEOR_NAMES)
             for image, caption in results.captions.items()}
    table, tables = count(keyed, {key: references[key[1]] for key in keyed}) if keyed else None, {}
    if table is not None:
        for (run, image), row in zip(keyed, table):
            tables.setdefault(run, {})[image] = row
    return meteor.METEOR_NAMES, tables, meteor.meteor_scores


def captioned(several, names):
    """The results that have any of some scores: all of them, or none if one of them lacks a caption."""
    having = [results for results in several if any(name in results.overall for name in names)]
    return [] if any(None in results.captions.values() for results in having) else having


def is_mean(results, name):
    """Whether a score of the whole file is the mean of its images' scores."""
    values = list(results.image_scores[name].values())
    return name in results.overall and math.isclose(np.mean(values), results.overall[name], **AS_MEAN)


def bootstrap(families, draws, seed):
    """{(name of a run, measure): scores (R,) on images drawn again}, all on the same draws."""
    places = [(family, run) for family in families for run in family.statistics]
    if not places:
        return {}
    sums = significance.bootstrap_sums(
        np.concatenate([family.statistics[run] for family, run in places], 1), draws, seed)
    drawn, first = {}, 0
    for family, run in places:
        last = first + family.statistics[run].shape[1]
        scores = family.scores(sums[:, first:last])
        drawn.update({(run, name): scores[:, place] for place, name in enumerate(family.names)})
        first = last
    return drawn


def cells_of(results, images, families, drawn, confidence):
    """{measure: Cell} of a run."""
    complete = len(images) == len(results.captions)
    cells = {name: Cell(score) for name, score in results.overall.items()} if complete else {}
    for family in families:
        if results.name in family.statistics:
            found = family.scores(family.statistics[results.name].sum(0))
            for name, score in zip(family.names, map(float, found)):
                cell = cells.setdefault(name, Cell(score if family.whole else None))
                if drawn:
                    cell.low, cell.high = significance.interval(drawn[results.name, name], confidence)
                cell.mean = None if family.whole else score
    return cells


def contrasts_of(baseline, results, images, families, drawn, draws, seed, confidence):
    """The `Contrast`s of a run, by all that both have."""
    contrasts = []
    for family in families:
        if {baseline.name, results.name} <= family.statistics.keys():
            pair = [family.statistics[name] for name in (baseline.name, results.name)]
            before, after = (family.scores(statistics.sum(0)) for statistics in pair)
            swapped = [family.scores(sums) for sums in significance.swapped_sums(*pair, draws, seed)]
            for place, name in enumerate(family.names):
                low, high = significance.interval(
                    drawn[results.name, name] - drawn[baseline.name, name], confidence) if drawn else (None, None)
                moved = [sign_of(name) * (after - before)
                         for before, after in image_scores(baseline, results, name, images)]
                chance = swapped[1][:, place] - swapped[0][:, place]
                contrasts.append(Contrast(
                    results.name, name, float(before[place]), float(after[place]), low, high,
                    significance.p_value(after[place] - before[place], chance),
                    sum(move > 0 for move in moved) if moved else None,
                    sum(move < 0 for move in moved) if moved else None, family.whole))
    return contrasts


def image_scores(baseline, results, name, images):
    """[(score of the baseline, of the run)] of the images, [] where one has no score of them."""
    if name not in baseline.image_scores or name not in results.image_scores:
        return []
    return [(baseline.image_scores[name][image], results.image_scores[name][image]) for image in images]


def examples(baseline, results, name, images, number):
    """The `number` largest wins and the largest losses of a run by one score, two lists of `Example`."""
    every = [Example(image, before, after, sign_of(name) * (after - before)) for image, (before, after) in zip(
        images, image_scores(baseline, results, name, images))]
    every.sort(key=lambda example: -example.gain)
    wins = [example for example in every[:number] if example.gain > 0]
    losses = [example for example in every[::-1][:number] if example.gain < 0]
    return wins, losses


def differing(several):
    """{option: [its value in each run, as text]} of the options that are not the same in all."""
    names = dict.fromkeys(name for results in several for name in results.options)
    values = {name: [told(results.options.get(name)) for results in several]
              for name in names if name not in ('id', 'infos_path')}
    return {name: row for name, row in values.items() if len(set(row)) > 1}


def told(value):
    """The value of an option as text."""
    if isinstance(value, list):
        return ', '.join(map(told, value))
    return '' if value is None else plain_text(value)
