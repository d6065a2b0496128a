"""Length, variety and repetitions of captions, against plain versions."""

import itertools

import numpy as np
import pytest

from misc.compare.comparison import Settings
from misc.compare.wording import BAD_ENDING, LENGTH, compare_wording
from misc.scoring.results import Results
from misc.scoring.tokenizer import tokenize

TWICE, PAIR = 'captions with a word twice in a row', 'captions with the same two words twice'


def results(name, captions):
    return Results(name, f'{name}.json', {}, dict(enumerate(captions)), {})


def wording_of(*runs, draws=200):
    return compare_wording(runs, list(runs[0].captions), runs[0].name, tokenize, Settings(draws=draws))


def values(wording, run):
    return {measure.name: measure.scores[run].value for measure in wording.measures}


def test_every_property_is_that_of_a_plain_count():
    random = np.random.default_rng(0)
    captions = [' '.join(random.choice(list('abcd'), random.integers(0, 9))) for _ in range(80)]
    found = values(wording_of(results('one', captions)), 'one')
    assert found.pop(LENGTH) == pytest.approx(sum(len(caption.split()) for caption in captions) / 80)
    twice = [caption for caption in captions if any(f'{word} {word}' in caption for word in 'abcd')]
    pairs = [caption for caption in captions if any(
        sum(caption[place:].startswith(pair) for place in range(len(caption))) > 1
        for pair in map(' '.join, itertools.product('abcd', repeat=2)))]
    assert 0 < len(twice) < 80 and 0 < len(pairs) < 80
    assert found.pop(BAD_ENDING) == sum(caption.endswith('a') for caption in captions) / 80
    assert found.pop(TWICE) == len(twice) / 80 and found.pop(PAIR) == len(pairs) / 80
    for name, order in (('distinct words', 1), *((f'distinct {order}-grams', order) for order in (2, 3, 4))):
        assert found.pop(name) == sum(any(' '.join(ngram) in caption for caption in captions)
                                      for ngram in itertools.product('abcd', repeat=order)), name
    assert found == {'distinct captions': len(set(captions))}


def test_means_over_captions_have_paired_tests_and_counts_of_distinct_things_have_none():
    captions = [f'a dog number {number} runs in the park' for number in range(30)]
    longer = [caption + (' and a cat' if number % 3 else ' and') for number, caption in enumerate(captions)]
    wording = wording_of(results('short', captions), results('long', longer), results('same', captions))
    length = wording.measures[0]
    ending = next(measure for measure in wording.measures if measure.name == BAD_ENDING)
    assert ending.differences['long'].value == pytest.approx(1 / 3) and ending.scores['short'].value == 0
    difference = length.differences['long']
    assert difference.value == pytest.approx(1 + 2 * 20 / 30) and difference.p == 1 / 201
    assert 1 < difference.low < difference.value < difference.high < 3
    assert length.differences['same'].p == 1 and length.scores['long'].low > length.scores['short'].high
    assert {measure.name for measure in wording.measures if not measure.differences} == {
        'distinct words', 'distinct 2-grams', 'distinct 3-grams', 'distinct 4-grams', 'distinct captions'}
    assert {measure.name for measure in wording.measures if measure.is_share} == {TWICE, PAIR, BAD_ENDING}


def test_the_words_whose_use_changed_most_are_counted_by_captions():
    before = ['A man, in red.', 'a man in blue', 'a dog']
    after = ['a a woman in red', 'the woman in blue', 'the dog']
    words = wording_of(results('one', before), results('two', after)).words
    assert list(words) == ['two']
    assert words['two'].more == [('the', 2), ('woman', 2)] and words['two'].fewer == [('a', -2), ('man', -2)]


def test_endings_are_not_counted_where_no_caption_has_such_words():
    assert BAD_ENDING not in values(wording_of(results('one', ['een hond loopt', 'twee katten'])), 'one')


def test_a_run_without_captions_is_left_out_and_without_those_of_the_baseline_there_is_nothing():
    whole, partly = results('whole', ['a b', 'c d']), results('partly', ['a b', None])
    assert list(wording_of(whole, partly).measures[0].scores) == ['whole']
    assert wording_of(partly, whole) is None
