"""BLEU as coco-caption computes it, from counts that can be summed.

The BLEU of a set is not the mean of the BLEU of its captions: matches and lengths are summed first.  So where a set
is resampled, the counts of its captions are summed again.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

ORDERS = 4
BLEU_NAMES = tuple(f'Bleu_{order}' for order in range(1, ORDERS + 1))
BLEU_COUNTS = 2 * ORDERS + 2  # of a caption: matches and n-grams of each order, its length, the closest reference's

NGram = tuple[str, ...]


def ngrams(words: Sequence[str]) -> Counter[NGram]:
    """How often each n-gram of 1 to 4 words occurs in a list of words."""
    return Counter(tuple(words[place:place + order]) for order in range(1, ORDERS + 1)
                   for place in range(len(words) - order + 1))


def reference_limits(references: Iterable[str]) -> tuple[dict[NGram, int], list[int]]:
    """({n-gram: the most times that one reference holds it}, the references' lengths), from tokens joined by
    spaces."""
    limits: dict[NGram, int] = {}
    lengths = []
    for reference in references:
        words = reference.split()
        lengths.append(len(words))
        for ngram, count in ngrams(words).items():
            limits[ngram] = max(count, limits.get(ngram, 0))
    return limits, lengths


def caption_counts(caption: str, limits: dict[NGram, int], lengths: Sequence[int]) -> list[int]:
    """The `BLEU_COUNTS` numbers of one caption (tokens joined by spaces) against the `reference_limits`."""
    words, matches = caption.split(), [0] * ORDERS
    for ngram, count in ngrams(words).items():
        matches[len(ngram) - 1] += min(count, limits.get(ngram, 0))
    guesses = [max(len(words) - order, 0) for order in range(ORDERS)]
    return [*matches, *guesses, len(words), min(lengths, key=lambda length: (abs(length - len(words)), length))]


def bleu_scores(sums: np.ndarray) -> np.ndarray:
    """BLEU-1 to 4, float64 (..., 4), from sums of `caption_counts` (..., BLEU_COUNTS)."""
    return _bleu(sums[..., :ORDERS], sums[..., ORDERS:2 * ORDERS], sums[..., -2], sums[..., -1])


def sentence_bleu(clipped: np.ndarray, lengths: np.ndarray, closest_lengths: np.ndarray) -> np.ndarray:
    """BLEU of sentences, float64 (B,), from their clipped n-gram matches (B, orders), their lengths (B,) and the
    lengths (B,) of their closest references."""
    guesses = np.maximum(lengths[:, None] - np.arange(clipped.shape[1]), 0)
    return _bleu(clipped, guesses, lengths, closest_lengths)[:, -1]


def closest(lengths: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Of each row of reference lengths (B, R), the one closest to `lengths` (B,), the shorter of two: (B,)."""
    apart = np.abs(references - lengths[:, None])
    nearest = apart == apart.min(1, keepdims=True)
    return np.where(nearest, references, references.max(initial=0) + 1).min(1)


def _bleu(matches: np.ndarray, guesses: np.ndarray, lengths: np.ndarray, closest_lengths: np.ndarray) -> np.ndarray:
    """BLEU-1 to 4, float64 (..., orders), from clipped matches and n-grams (..., orders), and the lengths of
    captions and of their closest references (...) (Papineni et al. 2002).

    The tiny numbers are coco-caption's: a caption with no match gets almost 0, not 0.
    """
    precision = ((matches + 1e-15) / (guesses + 1e-9)).cumprod(-1) ** (1 / np.arange(1, matches.shape[-1] + 1))
    ratio = (lengths + 1e-15) / (closest_lengths + 1e-9)
    return precision * np.exp(np.minimum(0, 1 - 1 / ratio))[..., None]
