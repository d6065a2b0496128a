"""Intervals, p-values and the counts behind BLEU and METEOR, compared with plain implementations of each."""

import itertools

import numpy as np
import pytest

from misc.cli import UsageError
from misc.compare import comparison, significance
from misc.compare.comparison import Settings, compare
from misc.compare.examples import largest_gains
from misc.compare.image_statistics import bleu_counts, meteor_counts, metric_groups
from misc.scoring import bleu, meteor, metrics
from misc.scoring.results import Results
from misc.scoring.tokenizer import tokenize

REFERENCES = {1: ['a red dog runs left of a cat', 'the dog is red'],
              2: ['two blue cats sit', 'blue cats sit there'],
              3: ['a bus in the street', 'a big bus parked in a street'], 4: ['birds fly', 'a flock of birds']}
# As the Java program answered: counts, and the score of each caption and of all four.
METEOR_LINES = [
    '6 6 2 2 4 4 2 2 0 0 0 0 0 0 0 0 0 0 0 0 1 6 6', '6 2 3 0 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0 1 2 2',
    '2 5 1 2 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0', '8 8 3 2 2 2 1 1 1 1 0 0 2 2 0 0 0 0 0 0 2 6 6']
METEOR_SCORES, METEOR_OF_ALL = [1.0, 0.3738284311479069, 0.0, 0.3578491805094679], 0.3649846059885552


def of_means(name, scores, captions=None):
    """`Results` with one score, M, that is the mean of `scores` {image: number}."""
    return Results(name, f'{name}.json', {'M': float(np.mean(list(scores.values())))},
                   captions or dict.fromkeys(scores, 'a'), {'M': scores})


def test_resampled_images_are_summed_as_a_plain_loop_would(monkeypatch):
    monkeypatch.setattr(significance, 'BLOCK', 50)
    statistics = np.random.default_rng(0).normal(size=(11, 3))
    random = np.random.default_rng(5)
    plain = []
    for _ in range(40):
        chosen = [int(random.integers(11)) for _ in range(11)]
        plain.append(sum(statistics[image] for image in chosen))
    np.testing.assert_allclose(significance.bootstrap_sums(statistics, 40, 5), plain, atol=1e-12)
    values = sorted(sums[0] for sums in plain)
    low, high = significance.interval(np.array(values), 50)
    assert sum(low <= value <= high for value in values) == 20


def test_the_interval_of_a_mean_covers_it_as_often_as_its_confidence_says():
    random, covered = np.random.default_rng(1), 0
    for seed in range(300):
        sample = random.exponential(2.0, size=(80, 1))
        drawn = significance.bootstrap_sums(sample, 300, seed)[:, 0] / 80
        low, high = significance.interval(drawn, 90)
        covered += low <= 2.0 <= high
    assert 0.84 <= covered / 300 <= 0.93  # slightly under 0.9, as expected for a distribution this skewed


def test_the_p_value_is_the_share_of_all_swaps_with_as_large_a_difference():
    random = np.random.default_rng(3)
    first, second = random.normal(size=(9, 1)), random.normal(0.7, size=(9, 1))
    difference = second.mean() - first.mean()
    every = [abs(np.mean([sign * (b - a) for sign, a, b in zip(signs, first[:, 0], second[:, 0])]))
             for signs in itertools.product((-1, 1), repeat=9)]
    exact = np.mean([one >= abs(difference) - 1e-12 for one in every])
    swapped = significance.swapped_sums(first, second, 20000, 1)
    p = significance.p_value(difference, (swapped[1] - swapped[0])[:, 0] / 9)
    assert p == pytest.approx(exact, abs=0.01)


def test_without_a_difference_a_p_value_is_below_a_level_about_as_often_as_the_level_says():
    random, small = np.random.default_rng(2), 0
    for seed in range(300):
        first, second = random.normal(size=(2, 60, 1))
        swapped = significance.swapped_sums(first, second, 200, seed)
        small += significance.p_value((second - first).sum(), (swapped[1] - swapped[0])[:, 0]) <= 0.1
    assert 0.06 <= small / 300 <= 0.14


def test_equal_runs_have_p_1_a_better_run_a_small_p_and_swapping_them_flips_the_sign():
    random = np.random.default_rng(4)
    scores = {image: float(value) for image, value in enumerate(random.random(200))}
    better = {image: value + 0.1 + 0.1 * float(random.normal()) for image, value in scores.items()}
    a, b, same = of_means('a', scores), of_means('b', better), of_means('same', scores)
    images = list(scores)
    compared = compare([a, b, same], images, 'a', settings=Settings(draws=1000))
    found = {one.run: one for one in compared.differences}
    assert found['same'].p == found['same'].adjusted_p == 1
    assert found['same'].low == found['same'].high == found['same'].value == 0
    assert found['b'].p == 1 / 1001 and found['b'].adjusted_p == 2 / 1001
    assert found['b'].low > 0.08 and found['b'].high < 0.12
    assert found['b'].wins > found['b'].losses > 0
    back, = compare([a, b], images, 'b', settings=Settings(draws=1000)).differences
    assert back.p == found['b'].p and back.value == -found['b'].value
    assert (back.low, back.high) == pytest.approx((-found['b'].high, -found['b'].low))
    worse = of_means('worse', {image: value - 0.004 * (image % 7) for image, value in scores.items()})
    weak = [compare([one, other], images, one.name, settings=Settings(draws=1000)).differences[0]
            for one, other in ((a, worse), (worse, a))]
    assert weak[0].p == weak[1].p and weak[0].value < 0


def test_p_values_are_corrected_by_holms_procedure():
    assert significance.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert significance.holm([0.5, 0.9]) == [1.0, 1.0] and significance.holm([]) == []


def bleu_sums(captions, keys):
    counts = [bleu.caption_counts(tokenize(captions[key]), *bleu.reference_limits(map(tokenize, REFERENCES[key])))
              for key in keys]
    return np.array(counts, np.float64).sum(0)


@pytest.mark.parametrize('keys', [[1, 2, 3, 4], [2, 2, 4, 1], [3], [4, 4]])
def test_bleu_from_counts_equals_coco_caption_for_any_sample_of_images(keys):
    captions = {1: 'A red dog, a red dog.', 2: 'blue cats sit there now', 3: 'a bus parked in the street', 4: ''}
    drawn = list(enumerate(keys))
    scored, _, _ = metrics.score({key: captions[key[1]] for key in drawn},
                                 {key: REFERENCES[key[1]] for key in drawn}, use_java=False)
    found = bleu.bleu_scores(bleu_sums(captions, keys))
    np.testing.assert_allclose(found, [scored[name] for name in bleu.BLEU_NAMES], rtol=1e-9)


def test_meteor_from_counts_equals_that_of_its_program():
    table = meteor.parse_counts(METEOR_LINES)
    np.testing.assert_allclose(meteor.meteor_scores(table)[:, 0], METEOR_SCORES, rtol=1e-9)
    assert meteor.meteor_scores(table.sum(0))[0] == pytest.approx(METEOR_OF_ALL, rel=1e-9)
    with pytest.raises(ValueError, match='shape'):
        meteor.parse_counts(['1 2 3'])


def scored(name, captions):
    """`Results` of captions, scored without Java."""
    overall, each, _ = metrics.score(captions, REFERENCES, use_java=False)
    return Results(name, f'{name}.json', overall, captions,
                   {score: {image: row[score] for image, row in each.items()} for score in overall})


def test_corpus_bleu_has_an_interval_with_references_and_the_mean_over_images_without(monkeypatch):
    monkeypatch.setattr(comparison, 'MIN_IMAGES', 4)
    a = scored('a', {1: 'a red dog', 2: 'two cats sit', 3: 'a bus', 4: 'birds fly'})
    b = scored('b', {1: 'a red dog runs', 2: 'blue cats sit', 3: 'a big bus parked', 4: 'a flock of birds'})
    images = [1, 2, 3, 4]
    compared = compare([a, b], images, 'a', [bleu_counts([a, b], REFERENCES)], settings=Settings(draws=500))
    assert not compared.notes and all(one.corpus_level for one in compared.differences)
    score = compared.scores['b']['Bleu_2']
    assert score.value == b.overall['Bleu_2'] and score.mean is None and score.low <= score.value <= score.high
    difference = next(one for one in compared.differences if one.metric == 'Bleu_2')
    assert difference.value == pytest.approx(b.overall['Bleu_2'] - a.overall['Bleu_2'], abs=1e-9)
    assert (difference.wins, difference.losses) == (4, 0)

    compared = compare([a, b], images, 'a', settings=Settings(draws=500))
    assert 'Bleu_1, Bleu_2' in compared.notes[0] and 'CIDEr' not in compared.notes[0] and 'mean' in compared.notes[0]
    score = compared.scores['b']['Bleu_2']
    mean = np.mean(list(b.image_scores['Bleu_2'].values()))
    assert score.value == b.overall['Bleu_2'] != score.mean == pytest.approx(mean)
    assert score.low <= score.mean <= score.high
    assert [one.metric for one in compared.differences if one.corpus_level] == ['ROUGE_L', 'CIDEr']
    assert compared.metrics == ['Bleu_1', 'Bleu_2', 'Bleu_3', 'Bleu_4', 'ROUGE_L', 'CIDEr']

    other = {**REFERENCES, 1: ['something else entirely']}
    compared = compare([a, b], images, 'a', [bleu_counts([a, b], other)], settings=Settings(draws=200))
    assert 'Give the references that the files were scored with' in compared.notes[0]
    assert compared.scores['b']['Bleu_2'].mean is not None


def test_corpus_meteor_has_an_interval_where_its_counts_are_known(monkeypatch):
    monkeypatch.setattr(comparison, 'MIN_IMAGES', 4)
    table = meteor.parse_counts(METEOR_LINES)
    each = dict(zip(REFERENCES, METEOR_SCORES))
    runs = [Results(name, f'{name}.json', {'METEOR': METEOR_OF_ALL}, dict.fromkeys(REFERENCES, 'a'),
                    {'METEOR': each}) for name in 'ab']
    asked = []

    def count(captions, references):
        asked.append((captions, references))
        return np.concatenate([table, table])

    for counts, mean in ((count, None), (lambda *_: None, pytest.approx(np.mean(METEOR_SCORES)))):
        compared = compare(runs, list(each), 'a', [meteor_counts(runs, REFERENCES, counts)], Settings(draws=200))
        score = compared.scores['b']['METEOR']
        assert score.value == METEOR_OF_ALL and score.mean == mean and compared.differences[0].p == 1
    assert list(asked[0][0]) == [(run, image) for run in 'ab' for image in each]
    assert asked[0][1]['b', 3] == REFERENCES[3]


@pytest.mark.parametrize('off, computed', [(4e-4, True), (0.01, False), (-0.01, False)])
def test_counts_are_used_only_where_they_reproduce_the_scores_of_the_file(off, computed):
    a = scored('a', {1: 'a red dog', 2: 'two cats sit', 3: 'a bus', 4: 'birds fly'})
    a.overall['Bleu_2'] += off
    groups, notes = metric_groups([a], [1, 2, 3, 4], [bleu_counts([a], REFERENCES)])
    assert (groups[0].metrics == list(bleu.BLEU_NAMES)) == computed
    assert any('Bleu_2 was not recomputed' in line for line in notes) != computed


def test_bleu_is_not_counted_where_a_caption_is_missing():
    a, b = (scored(name, {1: 'a red dog', 2: 'two cats sit', 3: 'a bus', 4: 'birds fly'}) for name in 'ab')
    b.captions[3] = None
    counts = bleu_counts([a, b], REFERENCES)
    assert counts.metrics == bleu.BLEU_NAMES and counts.by_run == {}
    groups, _ = metric_groups([a, b], [1, 2, 3, 4], [bleu_counts([a, b], REFERENCES)])
    assert all(len(group.metrics) == 1 for group in groups)


@pytest.mark.parametrize('scores, overall, whole', [
    ([0.12345, 0.2], 0.1617, True), ([1.23456, 1.3], 1.267, True), ([123.456, 130.0], 126.7, True),
    ([0.01234, 0.01236], 0.0123, True),
    ([0.12345, 0.2], 0.1620, False), ([0.0001, 0.0002], 0.0003, False)])
def test_a_rounded_mean_is_recognised_as_a_mean_and_another_number_is_not(scores, overall, whole):
    run = Results('a', 'a.json', {'M': overall}, {1: 'a', 2: 'a'}, {'M': dict(zip([1, 2], scores))})
    (group,), notes = metric_groups([run], [1, 2])
    assert group.corpus_level == whole == (not notes)
    other = of_means('b', {1: 0.5, 2: 0.7})
    (group,), _ = metric_groups([run, other], [1, 2])
    assert group.corpus_level == whole  # it must be the mean in every file


def test_where_lower_is_better_a_lower_score_is_a_win():
    a, b = (Results(name, name, {'loss': 0.3}, dict.fromkeys(range(4), 'a'), {'loss': dict(enumerate(losses))})
            for name, losses in (('a', [0.2, 0.3, 0.3, 0.4]), ('b', [0.1, 0.3, 0.5, 0.1])))
    wins, losses = largest_gains(a, b, 'loss', range(4), 5)
    assert [example.image for example in wins] == [3, 0] and [example.image for example in losses] == [2]
    difference, = compare([a, b], list(range(4)), 'a', settings=Settings(draws=100)).differences
    assert (difference.wins, difference.losses) == (2, 1)
    assert difference.value < 0 and difference.verdict(1) == 'better'


def test_the_fewest_draws_that_can_show_a_difference_are_accepted():
    scores = {image: image / 9 for image in range(30)}
    runs = [of_means('a', scores), *(of_means(name, {image: score + 1 for image, score in scores.items()})
                                     for name in 'bc')]
    compared = compare(runs, list(scores), 'a', settings=Settings(draws=39))
    assert [one.adjusted_p for one in compared.differences] == [0.05, 0.05]
    with pytest.raises(UsageError, match='--draws 38 is too few for 2 .* --draws 40,'):
        compare(runs, list(scores), 'a', settings=Settings(draws=38))


def test_differences_that_only_rounding_separates_count_as_equal():
    assert 0.1 + 0.2 > 0.3
    assert significance.p_value(0.1 + 0.2, np.array([0.3, -0.3, 0.29, 0.31])) == 4 / 5
    assert significance.p_value(1e-17, np.array([0.0, -1e-18, 0.5])) == 1


def test_wins_and_losses_are_the_largest_and_never_ties():
    a = of_means('a', {1: 0.1, 2: 0.5, 3: 0.2, 4: 0.3, 5: 0.9})
    b = of_means('b', {1: 0.3, 2: 0.5, 3: 0.9, 4: 0.2, 5: 0.1})
    wins, losses = largest_gains(a, b, 'M', [1, 2, 3, 4, 5], 5)
    assert [example.image for example in wins] == [3, 1] and [example.image for example in losses] == [5, 4]
    fewest = largest_gains(a, b, 'M', [1, 2, 3, 4, 5], 1)
    assert [[one.image for one in side] for side in fewest] == [[3], [5]]


def test_resampling_five_thousand_images_takes_bounded_memory():
    statistics = np.random.default_rng(0).random((5000, 2))
    import tracemalloc
    tracemalloc.start()
    significance.bootstrap_sums(statistics, 1500, 1)
    significance.swapped_sums(statistics, statistics + 1, 1500, 1)
    assert tracemalloc.get_traced_memory()[1] < 150e6
    tracemalloc.stop()
