"""How far a score would move on other images, and whether two captioners differ by more than chance.

N images, R draws, C columns of statistics: a score is a function of the sums of some columns over the
images (of the image scores, or of BLEU's counts), so that drawing images again is one product of matrices.
"""

import math

import numpy as np

BLOCK = 1 << 21  # numbers that are drawn at a time: some tens of MB


def bootstrap_sums(statistics, draws, seed):
    """Sums (R, C) of `statistics` (N, C) over N images drawn with replacement, float64, `draws` = R times.

    All columns share the draws.  Those of several captioners side by side are therefore paired, and the
    difference of two scores has its interval too.
    """
    images, columns = statistics.shape
    random, sums = np.random.default_rng(seed), np.empty((draws, columns))
    for first, rows in _blocks(draws, images):
        drawn = random.integers(images, size=(rows, images)) + np.arange(rows)[:, None] * images
        times = np.bincount(drawn.ravel(), minlength=rows * images).reshape(rows, images)
        sums[first:first + rows] = times.astype(np.float64) @ statistics  # (rows, N) @ (N, C)
    return sums


def swapped_sums(first, second, draws, seed):
    """Sums of two captioners' statistics (N, C) where a coin decides, for each image anew, whose is whose:
    two of float64 (R, C)."""
    middle, half = (first.sum(0) + second.sum(0)) / 2, (first - second) / 2
    random, moved = np.random.default_rng(seed), np.empty((draws, half.shape[1]))
    for start, rows in _blocks(draws, len(half)):
        coins = random.integers(2, size=(rows, len(half)), dtype=np.int8)
        moved[start:start + rows] = (2.0 * coins - 1) @ half
    return middle + moved, middle - moved


def _blocks(draws, images):
    """(first, number) of the draws that are made together."""
    step = max(1, BLOCK // max(images, 1))
    return [(first, min(step, draws - first)) for first in range(0, draws, step)]


def interval(values, confidence):
    """The percentile interval of bootstrapped `values` (R,): low and high, with `confidence` per cent of the
    values between them."""
    outside = (100 - confidence) / 200
    low, high = np.quantile(values, [outside, 1 - outside])
    return float(low), float(high)


def p_value(observed, drawn):
    """How often chance alone gives a difference as large as `observed`, in either direction.

    `drawn` (R,) are the differences under chance; the observed one counts as one of them, so that the answer
    is never 0.  What differs from the observed by rounding alone is as large.
    """
    threshold = abs(observed) * (1 - 1e-9) - 1e-12
    return float((1 + np.count_nonzero(np.abs(drawn) >= threshold)) / (1 + len(drawn)))


def level_of(confidence):
    """Up to which p a difference counts at a `confidence` in per cent."""
    return max(round(1 - confidence / 100, 10), 1e-10)


def smallest_p(draws, count):
    """What `p_value` of `draws` coins gives at least, corrected by `holm` for `count` differences."""
    return count / (1 + draws)


def draws_for(level, count):
    """How many draws make the `smallest_p` of `count` differences less than a level."""
    return math.ceil(count / level)


def holm(p_values):
    """The p-values, each raised for having looked at all of them (Holm 1979): with these, the chance of
    calling any difference real that is none stays under the level that they are held against."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted
