"""METEOR 1.5 of a whole set from the counts of its captions, which its Java program gives.

As with BLEU, the score of a set is not the mean of the scores of its captions, and where images are drawn
again it is the counts that are summed.  Held against the program's own scores in tests/compare/test_comparison.py.
"""

import numpy as np

METEOR_NAMES = ('METEOR',)
STAGES = 4  # ways of matching: exact, stem, synonym, paraphrase
METEOR_COUNTS = 4 + 4 * STAGES + 3
# Of the parameters for English: weight of precision, of fragmentation (power and share), of content words.
ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])


def parse_counts(lines):
    """The program's lines of counts as float64 (N, METEOR_COUNTS): words and function words of caption and
    reference; for each stage matched content and function words of both; chunks; matched words of both.

    In a sum of several, the one chunk of a caption that matches throughout does not count.  Raises
    `ValueError` for lines of something else.
    """
    table = np.array([[float(number) for number in line.split()] for line in lines])
    if table.shape != (len(lines), METEOR_COUNTS) or not (np.isfinite(table) & (table >= 0)).all():
        raise ValueError(f'METEOR counts of shape {table.shape}, or not from 0')
    stages = table[:, 4:-3].reshape(-1, STAGES, 2, 2).sum((1, 2))  # (N, 2): of the caption, of the reference
    table[(stages == table[:, :2]).all(1) & (table[:, -3] == 1), -3] = 0
    return table


def meteor_scores(sums):
    """METEOR, float64 (..., 1), from sums of counts (..., METEOR_COUNTS); 0 where nothing matches."""
    stages = sums[..., 4:-3].reshape(*sums.shape[:-1], STAGES, 2, 2)  # stage, content or function, side
    matched = (WEIGHTS[:, None] * (DELTA * stages[..., 0, :] + (1 - DELTA) * stages[..., 1, :])).sum(-2)
    words, function = sums[..., 0:2], sums[..., 2:4]
    with np.errstate(divide='ignore', invalid='ignore'):
        precision, recall = np.moveaxis(matched / (DELTA * (words - function) + (1 - DELTA) * function), -1, 0)
        mean = 1 / ((1 - ALPHA) / precision + ALPHA / recall)
        scattered = sums[..., -3] / (sums[..., -2:].sum(-1) / 2)
        return np.nan_to_num(mean * (1 - GAMMA * scattered ** BETA)).clip(0)[..., None]
