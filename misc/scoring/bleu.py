"""BLEU of a whole set from the counts of its captions, as coco-caption computes it.

The score of a set is not the mean of the scores of its captions: matches and lengths are summed first.  So
where images are drawn again, it is these counts that are summed.
"""

from collections import Counter

import numpy as np

ORDERS = 4
BLEU_NAMES = tuple(f'Bleu_{order}' for order in range(1, ORDERS + 1))
BLEU_COUNTS = 2 * ORDERS + 2  # of an image: matches and n-grams of each order, length, closest reference's length


def ngrams(words):
    """How often each n-gram of 1 to 4 words occurs in a list of words, a `Counter` of tuples."""
    return Counter(tuple(words[place:place + order]) for order in range(1, ORDERS + 1)
                   for place in range(len(words) - order + 1))


def reference_limits(references):
    """What an image's tokenised references, strings, allow: ({n-gram: the most that any of them has},
    their lengths)."""
    allowed, lengths = {}, []
    for reference in references:
        words = reference.split()
        lengths.append(len(words))
        for ngram, count in ngrams(words).items():
            allowed[ngram] = max(count, allowed.get(ngram, 0))
    return allowed, lengths


def caption_counts(caption, allowed, lengths):
    """The `BLEU_COUNTS` numbers of one tokenised caption against the `reference_limits` of its references."""
    words, matches = caption.split(), [0] * ORDERS
    for ngram, count in ngrams(words).items():
        matches[len(ngram) - 1] += min(count, allowed.get(ngram, 0))
    guesses = [max(len(words) - order, 0) for order in range(ORDERS)]
    return [*matches, *guesses, len(words), min(lengths, key=lambda length: (abs(length - len(words)), length))]


def bleu_scores(sums):
    """BLEU-1 to 4, float64 (..., 4), from sums of counts (..., BLEU_COUNTS)."""
    return of_counts(sums[..., :ORDERS], sums[..., ORDERS:2 * ORDERS], sums[..., -2], sums[..., -1])


def of_counts(matches, guesses, lengths, closest_lengths):
    """BLEU-1 to 4 from clipped matches and n-grams (..., orders), lengths and those of the closest
    references (...): float64 (..., orders).

    The tiny numbers are coco-caption's: with no match at all it gives almost, but not quite, 0.
    """
    precision = ((matches + 1e-15) / (guesses + 1e-9)).cumprod(-1) ** (1 / np.arange(1, matches.shape[-1] + 1))
    ratio = (lengths + 1e-15) / (closest_lengths + 1e-9)
    return precision * np.exp(np.minimum(0, 1 - 1 / ratio))[..., None]


def sentence_bleu(clipped, lengths, closest_lengths):
    """BLEU of sentences from their clipped n-gram matches (B, orders), their lengths (B,) and the
    lengths (B,) of their closest references: float64 (B,)."""
    guesses = np.maximum(lengths[:, None] - np.arange(clipped.shape[1]), 0)
    return of_counts(clipped, guesses, lengths, closest_lengths)[:, -1]


def closest(lengths, references):
    """The length (B,) among references (B, R) that is closest to lengths (B,); the shorter of two."""
    apart = np.abs(references - lengths[:, None])
    nearest = apart == apart.min(1, keepdims=True)
    return np.where(nearest, references, references.max(initial=0) + 1).min(1)
