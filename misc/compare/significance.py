"""How much a score would vary on other images, and whether two runs differ by more than chance.

A score is a function of the sums of some statistics over the images (the image scores, or the counts behind
BLEU), so resampling images is one product of matrices.  N images, R draws, C columns of statistics.
"""

import math
from collections.abc import Sequence

import numpy as np

BLOCK = 1 << 21    # random numbers drawn at a time: some tens of MB


def bootstrap_sums(statistics: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Sums (R, C) of `statistics` (N, C) over N images drawn with replacement, float64, R = `draws`.

    All columns share the draws: with the statistics of several runs side by side, their scores are paired, so
    their differences have intervals too.
    """
    images, columns = statistics.shape
    random, sums = np.random.default_rng(seed), np.empty((draws, columns))
    for first, rows in _blocks(draws, images):
        drawn = random.integers(images, size=(rows, images)) + np.arange(rows)[:, None] * images
        times = np.bincount(drawn.ravel(), minlength=rows * images).reshape(rows, images)
        sums[first:first + rows] = times.astype(np.float64) @ statistics  # (rows, N) @ (N, C)
    return sums


def swapped_sums(first: np.ndarray, second: np.ndarray, draws: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums of two runs' statistics (N, C) after swapping the two at random, image by image: float64 (R, C) each."""
    middle, half = (first.sum(0) + second.sum(0)) / 2, (first - second) / 2
    random, moved = np.random.default_rng(seed), np.empty((draws, half.shape[1]))
    for start, rows in _blocks(draws, len(half)):
        coins = random.integers(2, size=(rows, len(half)), dtype=np.int8)
        moved[start:start + rows] = (2.0 * coins - 1) @ half
    return middle + moved, middle - moved


def divided_sums(statistics: np.ndarray, size: int, draws: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums of `statistics` (N, C) over `size` of the N images, drawn without replacement, and over the others:
    float64 (R, C) each."""
    random, drawn = np.random.default_rng(seed), np.empty((draws, statistics.shape[1]))
    first_ones = np.arange(len(statistics)) < size
    for start, rows in _blocks(draws, len(statistics)):
        chosen = random.permuted(np.tile(first_ones, (rows, 1)), axis=1)  # (rows, N)
        drawn[start:start + rows] = chosen.astype(np.float64) @ statistics
    return drawn, statistics.sum(0) - drawn


def _blocks(draws, images):
    """(first, number) of the draws that are made together."""
    step = max(1, BLOCK // max(images, 1))
    return [(first, min(step, draws - first)) for first in range(0, draws, step)]


def interval(values: np.ndarray, confidence: float) -> tuple[float, float]:
    """The percentile interval (low, high) of resampled `values` (R,), with `confidence` per cent of them inside."""
    outside = (100 - confidence) / 200
    low, high = np.quantile(values, [outside, 1 - outside])
    return float(low), float(high)


def p_value(observed: float, drawn: np.ndarray) -> float:
    """The share of differences at least as large as `observed`, in either direction, among those under chance.

    `drawn` (R,) are the differences after swapping at random; the observed one counts as one of them, so the
    result is never 0.  A difference that falls short of the observed one by rounding alone counts as equal.
    """
    threshold = abs(observed) * (1 - 1e-9) - 1e-12
    return float((1 + np.count_nonzero(np.abs(drawn) >= threshold)) / (1 + len(drawn)))


def level_of(confidence: float) -> float:
    """The significance level that belongs to a `confidence` in per cent: 0.05 to 95."""
    return max(round(1 - confidence / 100, 10), 1e-10)


def smallest_p(draws: int, count: int) -> float:
    """The smallest p-value possible with `draws`, corrected for `count` differences."""
    return count / (1 + draws)


def draws_for(level: float, count: int) -> int:
    """The number of draws with which `smallest_p` of `count` differences is below `level`."""
    return math.ceil(count / level)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for their number (Holm 1979).

    The chance of calling any difference significant where none is real stays below the level they are compared
    with.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted
