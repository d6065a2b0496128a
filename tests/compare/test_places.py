"""Runs compared on images whose references name a place, and on the others, against plain versions."""

import itertools

import numpy as np
import pytest

from misc.compare import comparison, significance
from misc.compare.comparison import Settings, compare
from misc.compare.image_statistics import bleu_counts
from misc.compare.places import ANY, ANY_BUT_ON, Kind, contrasts_of, corrected, place_kinds
from misc.scoring import metrics
from misc.scoring.results import Results
from misc.scoring.tokenizer import tokenize


def results(name, scores):
    """`Results` with the image scores `scores` as CIDEr, which is their mean."""
    own = dict(enumerate(map(float, scores)))
    return Results(name, f'{name}.json', {'CIDEr': float(np.mean(scores))}, dict.fromkeys(own, 'a'), {'CIDEr': own})


def first(count, total):
    """The kind of the first `count` of `total` images."""
    return Kind('first', np.arange(total) < count)


def test_an_image_is_of_a_kind_if_a_reference_names_the_place_as_words():
    names = ['A dog sits on grass.', 'A dog, in front of a cat', 'the man to the LEFT, running', 'leftover bread',
             'in the front of it, a topping', 'one between two', 'a dog', 'the dog on the left']
    # Ten of each, since fewer would be left out.
    references = {(number, text): ['a plain caption', text] for text in names for number in range(10)}
    kinds, notes = place_kinds(references, list(references), tokenize)
    found = {kind.name: {text for (_, text), member in zip(references, kind.members) if member} for kind in kinds}
    on, front, left, between, both = names[0], names[1], names[2], names[5], names[7]
    assert found == {ANY: {on, front, left, between, both}, ANY_BUT_ON: {front, left, between, both},
                     'left': {left, both}, 'in front of': {front}, 'on': {on, both}, 'between': {between}}
    assert list(found)[:2] == [ANY, ANY_BUT_ON]
    assert len(notes) == 1 and 'left out are right (0), top (0), behind (0), under (0); at least 10' in notes[0]
    kinds, notes = place_kinds(references, list(references)[:15], tokenize)
    assert not kinds and 'left out are all places; at least 10 of the 15 images' in notes[0]


def test_the_differences_of_a_kind_are_those_of_a_report_on_its_images_alone():
    random = np.random.default_rng(0)
    words = ['a', 'red', 'dog', 'on', 'grass', 'cat']
    references = {image: [' '.join(random.choice(words, 6)) for _ in range(3)] for image in range(40)}
    runs = []
    for name in 'ab':
        captions = {image: ' '.join(random.choice(words, 6)) for image in references}
        overall, each, _ = metrics.score(captions, references, use_java=False)
        runs.append(Results(name, f'{name}.json', overall, captions,
                            {score: {image: row[score] for image, row in each.items()} for score in overall}))
    images, settings, counted = list(references), Settings(draws=300), [bleu_counts(runs, references)]
    found = contrasts_of(first(15, 40), runs, images, 'a', counted, settings)
    assert [one.inside.metric for one in found] == ['CIDEr', 'Bleu_4'] and found[0].kind == 'first'
    alone = {one.metric: one for one in compare(runs, images[:15], 'a', counted, settings).differences}
    rest = {one.metric: one for one in compare(runs, images[15:], 'a', counted, settings).differences}
    for one in found:
        own, other = alone[one.inside.metric], rest[one.inside.metric]
        assert (one.images, one.others) == (15, 25)
        assert (one.inside.value, one.inside.p, one.inside.low, one.inside.high) == (
            own.value, own.p, own.low, own.high)
        assert one.outside.value == other.value and one.outside.p == pytest.approx(other.p, abs=0.1)
        assert one.gap.value == pytest.approx(own.value - other.value)
    parts = [metrics.score({image: run.captions[image] for image in images[:15]},
                           {image: references[image] for image in images[:15]}, use_java=False)[0]
             for run in runs]
    assert found[1].inside.baseline == pytest.approx(parts[0]['Bleu_4'], rel=1e-6)
    assert found[1].inside.score == pytest.approx(parts[1]['Bleu_4'], rel=1e-6)


def test_the_p_value_of_a_gap_is_the_share_of_all_divisions_with_as_large_a_gap(monkeypatch):
    monkeypatch.setattr(comparison, 'MIN_IMAGES', 4)
    random = np.random.default_rng(1)
    before, gains = random.random(11), random.normal(size=11) + 0.5 * (np.arange(11) < 4)
    gap = gains[:4].mean() - gains[4:].mean()
    every = []
    for chosen in itertools.combinations(range(11), 4):
        rest = [image for image in range(11) if image not in chosen]
        every.append(abs(gains[list(chosen)].mean() - gains[rest].mean()) >= abs(gap) - 1e-12)
    one, = contrasts_of(first(4, 11), [results('a', before), results('b', before + gains)], list(range(11)), 'a', (),
                        Settings(draws=20000))
    assert one.gap.value == pytest.approx(gap) and one.gap.p == pytest.approx(np.mean(every), abs=0.012)
    assert one.gap.low < gap < one.gap.high


def test_divided_sums_are_over_the_wanted_number_of_distinct_images_and_over_all_others(monkeypatch):
    monkeypatch.setattr(significance, 'BLOCK', 40)
    powers = np.stack([2.0 ** np.arange(13), np.ones(13)], 1)    # a sum of powers tells which images are in it
    chosen, others = significance.divided_sums(powers, 5, 100, 3)
    assert (chosen[:, 1] == 5).all() and (others[:, 1] == 8).all()
    assert (chosen.sum(0) + others.sum(0) == 100 * powers.sum(0)).all()
    assert [bin(int(total)).count('1') for total in chosen[:, 0]] == [5] * 100
    assert len(set(chosen[:, 0])) > 90


def test_a_run_that_gains_on_one_kind_is_told_from_one_that_gains_everywhere():
    random = np.random.default_rng(2)
    before, noise = random.random(120), 0.1 * random.normal(size=120)
    kind, settings = first(60, 120), Settings(draws=1000)
    runs = [results('a', before), results('even', before + noise + 0.1),
            results('places', before + noise + 0.2 * kind.members)]
    tables = corrected(contrasts_of(kind, runs, list(range(120)), 'a', (), settings))
    (even,), (places,) = tables['even', 'CIDEr'], tables['places', 'CIDEr']
    assert even.inside.verdict(0.05) == even.outside.verdict(0.05) == 'better' and even.verdict(0.05) == ''
    assert places.inside.verdict(0.05) == places.verdict(0.05) == 'better' and places.outside.verdict(0.05) == ''
    assert places.gap.p == places.inside.p == 1 / 1001
    assert places.gap.adjusted_p == 3 / 1001    # corrected for the three tests of its table, not for both tables'
    back, = corrected(contrasts_of(kind, runs[::2], list(range(120)), 'places', (), settings))['a', 'CIDEr']
    assert back.verdict(0.05) == 'worse' and back.gap.value == pytest.approx(-places.gap.value)
