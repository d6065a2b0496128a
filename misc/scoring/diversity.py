"""How different several captions of one image are."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from misc.scoring.bleu import ORDERS, NGram, closest, ngrams, sentence_bleu


def diversity(captions: Mapping[Any, Sequence[str]]) -> dict[str, float]:
    """The diversity of several captions per image, mean over the images.

    `captions` is {image id: [caption, ...]}, at least two each; words are separated by spaces.

    - `Div-1`, `Div-2`: distinct n-grams of an image's captions, divided by their number of words
      (Shetty et al., ICCV 2017); higher is more diverse.
    - `mBLEU-4`: BLEU-4 of each caption against the image's other captions, mean over captions;
      lower is more diverse.

    Raises `ValueError` where there is no image, or an image has fewer than two captions.
    """
    if not captions or min(map(len, captions.values())) < 2:
        raise ValueError('diversity needs several captions per image')
    images = [[caption.split() for caption in several] for several in captions.values()]
    counted = [[ngrams(words) for words in several] for several in images]
    return {'Div-1': float(np.mean([_distinct(*image, 1) for image in zip(images, counted)])),
            'Div-2': float(np.mean([_distinct(*image, 2) for image in zip(images, counted)])),
            'mBLEU-4': float(np.mean([_mutual_bleu(*image).mean() for image in zip(images, counted)]))}


def _distinct(captions: list[list[str]], counted: list[Counter[NGram]], n: int) -> float:
    """Distinct n-grams of several captions divided by their words; 0 for no words."""
    distinct = {ngram for counts in counted for ngram in counts if len(ngram) == n}
    return len(distinct) / max(1, sum(map(len, captions)))


def _mutual_bleu(captions: list[list[str]], counted: list[Counter[NGram]]) -> np.ndarray:
    """BLEU-4 of each of several captions against the others: float64 (captions,)."""
    # The most that any other caption holds of an n-gram is the largest of all counts, or the second largest.
    largest: dict[NGram, int] = {}
    second: dict[NGram, int] = {}
    for counts in counted:
        for ngram, count in counts.items():
            most = largest.get(ngram, 0)
            if count > most:
                largest[ngram], second[ngram] = count, most
            elif count > second[ngram]:
                second[ngram] = count
    clipped = np.zeros((len(captions), ORDERS))
    for row, counts in zip(clipped, counted):
        for ngram, count in counts.items():
            row[len(ngram) - 1] += min(count, second[ngram] if count == largest[ngram] else largest[ngram])
    lengths = np.array(list(map(len, captions)))
    others = np.stack([np.delete(lengths, place) for place in range(len(captions))])
    return sentence_bleu(clipped, lengths, closest(lengths, others))
