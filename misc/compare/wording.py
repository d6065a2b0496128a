"""What the captions of runs are like, whatever their scores: length, words, repetitions, endings.

Self-critical training raises the score that it is rewarded with; this is what else it changes.  N images.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from misc.compare.comparison import Difference, Score, Settings, bootstrap, paired_differences, scores_of
from misc.compare.image_statistics import metric_groups
from misc.scoring.bleu import ORDERS, NGram, ngrams
from misc.scoring.endings import BAD_ENDINGS
from misc.scoring.references import ImageId
from misc.scoring.results import Results

MOST_WORDS = 12    # of those that a run uses in more captions than the baseline, and in fewer


@dataclass(frozen=True)
class Measure:
    """A property of captions in each run.

    scores       {name of a run: Score}; with an interval where the property is a mean over captions
    differences  {name of a run: its difference from the baseline}; {} where it is not such a mean
    is_share     whether it is a share of the captions
    """

    name: str
    scores: dict[str, Score]
    differences: dict[str, Difference]
    is_share: bool = False


@dataclass(frozen=True)
class Words:
    """The words whose use changed most: [(word, captions with it less those of the baseline)]."""

    more: list[tuple[str, int]]
    fewer: list[tuple[str, int]]


@dataclass(frozen=True)
class Wording:
    """The properties of the captions of all runs that have one for each image, and the words of each run but the
    baseline."""

    measures: list[Measure]
    words: dict[str, Words]


def compare_wording(runs: Sequence[Results], images: Sequence[ImageId], baseline: str, split: Callable[[str], str],
                    settings: Settings) -> Wording | None:
    """The wording of the captions of `images`; None where the baseline lacks captions.

    `split` gives the tokens of a caption, joined by spaces.
    """
    captions = {run.name: [split(run.captions[image] or '').split() for image in images] for run in runs
                if None not in run.captions.values()}
    if baseline not in captions:
        return None
    counted = {name: [ngrams(words) for words in own] for name, own in captions.items()}
    # Where no caption has one of these words, as in other languages, nothing is known.
    has_endings = any(BAD_ENDINGS & set(words) for own in captions.values() for words in own)
    shares = [name for name in SHARES if name != BAD_ENDING or has_endings]
    means = [_as_results(name, images, captions[name], counted[name], shares) for name in captions]
    groups, _ = metric_groups(means, images)
    resampled = bootstrap(groups, images, settings)
    differences = paired_differences(means, images, baseline, groups, resampled, settings)
    scores = {run.name: scores_of(run, images, groups, resampled, settings) for run in means}
    measures = [Measure(name, {run: own[name] for run, own in scores.items()},
                        {one.run: one for one in differences if one.metric == name}, name in SHARES)
                for name in means[0].overall]
    distinct = {name: _distinct(captions[name], counted[name]) for name in captions}
    measures += [Measure(name, {run: Score(own[name]) for run, own in distinct.items()}, {})
                 for name in distinct[baseline]]
    use = {name: Counter(word for words in own for word in set(words)) for name, own in captions.items()}
    return Wording(measures, {name: _changed(use[baseline], use[name]) for name in captions if name != baseline})


LENGTH, BAD_ENDING = 'words in a caption', 'captions with a bad ending'
SHARES: dict[str, Callable[[list[str], Counter[NGram]], bool]] = {
    'captions with a word twice in a row':
        lambda words, counts: any(first == second for first, second in zip(words, words[1:])),
    'captions with the same two words twice':
        lambda words, counts: any(count > 1 and len(ngram) == 2 for ngram, count in counts.items()),
    BAD_ENDING: lambda words, counts: words[-1:] != [] and words[-1] in BAD_ENDINGS}


def _as_results(name: str, images: Sequence[ImageId], captions: list[list[str]], counted: list[Counter[NGram]],
                shares: list[str]) -> Results:
    """The properties that are means over captions, in the place of metrics."""
    values: dict[str, dict[ImageId, float]] = {LENGTH: dict(zip(images, map(len, captions)))}
    for measure in shares:
        values[measure] = {image: float(SHARES[measure](words, counts))
                           for image, words, counts in zip(images, captions, counted)}
    return Results(name, '', {measure: sum(own.values()) / len(own) for measure, own in values.items()},
                   dict.fromkeys(images), values)


def _distinct(captions: list[list[str]], counted: list[Counter[NGram]]) -> dict[str, int]:
    """How many distinct words, n-grams and captions there are."""
    seen: Counter[int] = Counter(map(len, set().union(*counted)))
    names = ['distinct words', *(f'distinct {order}-grams' for order in range(2, ORDERS + 1))]
    return {**{name: seen[order] for order, name in enumerate(names, 1)},
            'distinct captions': len(set(map(tuple, captions)))}


def _changed(before: Counter[str], after: Counter[str]) -> Words:
    """The words whose use changed most, the largest changes first, equal ones by the alphabet."""
    changes = sorted(((word, after[word] - before[word]) for word in before | after),
                     key=lambda change: (-abs(change[1]), change[0]))
    return Words([change for change in changes if change[1] > 0][:MOST_WORDS],
                 [change for change in changes if change[1] < 0][:MOST_WORDS])
