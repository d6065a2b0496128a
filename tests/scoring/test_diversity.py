"""Diversity of several captions per image."""

import numpy as np
import pytest

from misc.scoring.diversity import diversity
from tests import naive


def test_equal_captions_are_not_diverse_and_captions_without_common_words_are():
    same = diversity({1: ['a dog runs on grass'] * 4})
    assert same['Div-1'] == pytest.approx(5 / 20) and same['Div-2'] == pytest.approx(4 / 20)
    assert same['mBLEU-4'] == pytest.approx(1)
    different = diversity({1: ['a b c d e', 'f g h i j']})
    assert different['Div-1'] == 1 and different['Div-2'] == pytest.approx(8 / 10)
    assert different['mBLEU-4'] == pytest.approx(0, abs=1e-6)


def test_diversity_is_the_mean_over_images_of_the_plain_formulas():
    draw = np.random.default_rng(0)
    captions = {image: [' '.join(draw.choice(list('abc'), draw.integers(0, 9)))
                        for _ in range(draw.integers(2, 6))] for image in range(60)}
    found = diversity(captions)
    bleu, div = [], {1: [], 2: []}
    for several in captions.values():
        words = [tuple(caption.split()) for caption in several]
        bleu.append(np.mean([naive.sentence_bleu(own, words[:i] + words[i + 1:])
                             for i, own in enumerate(words)]))
        for n in div:
            held = {ngram for own in words for ngram in naive.ngram_counts(own, n)}
            div[n].append(len(held) / max(1, sum(map(len, words))))
    assert found['mBLEU-4'] == pytest.approx(np.mean(bleu))
    assert found['Div-1'] == pytest.approx(np.mean(div[1]))
    assert found['Div-2'] == pytest.approx(np.mean(div[2]))


def test_one_caption_has_no_diversity():
    for captions in ({}, {1: ['a']}, {1: ['a', 'b'], 2: ['a']}):
        with pytest.raises(ValueError, match='several captions'):
            diversity(captions)
