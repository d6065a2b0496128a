"""METEOR 1.5 (Denkowski and Lavie 2014): its Java program, and scores of a set from the counts of its captions.

As with BLEU, the score of a set is not the mean of the scores of its captions, and where a set is resampled the
counts are summed again.  tests/compare/test_comparison.py compares these scores with those of the program.

The program answers 'SCORE ||| reference ||| ... ||| caption' with the counts of that caption, and
'EVAL ||| counts ||| ...' with a score for each caption and then one for all.
"""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from misc.scoring import java

JAR = 'meteor-1.5.jar'
PARAPHRASES = os.path.join('data', 'paraphrase-en.gz')   # in the program's folder
METEOR_NAMES = ('METEOR',)
STAGES = 4  # kinds of match: exact, stem, synonym, paraphrase
METEOR_COUNTS = 4 + 4 * STAGES + 3  # of a caption
# The parameters for English: of precision, of fragmentation (exponent and weight), of content words, of the stages.
ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])

Tokens = Mapping[Any, Sequence[str]]  # {image id: captions, tokens joined by spaces}


def meteor(hypotheses: Tokens, references: Tokens, seconds: float) -> tuple[float, list[float]]:
    """METEOR of the whole set, and of each caption.  `hypotheses` has one caption for each image.

    Raises `JavaFailed` where the program does not answer as it should, or is silent for longer than `seconds`.
    """
    requests = _requests(hypotheses, references)
    with _program(seconds) as program:
        counts = program.ask(requests, len(requests))
        for line in counts:
            if not _numbers(line):
                raise java.JavaFailed(f'answered {line[:100]!r} where counts were expected')
        answers = program.ask([' ||| '.join(['EVAL'] + counts)], len(requests) + 1)
    scores = []
    for line in answers:
        numbers = _numbers(line)
        if len(numbers) != 1 or not -1e-6 <= numbers[0] <= 1 + 1e-6:
            raise java.JavaFailed(f'answered {line[:100]!r} where scores were expected')
        scores.append(min(max(numbers[0], 0.0), 1.0))
    return scores[-1], scores[:-1]


def count_lines(hypotheses: Tokens, references: Tokens, seconds: float) -> list[str]:
    """The program's line of counts for each caption, for `parse_counts`.  Raises `JavaFailed`."""
    requests = _requests(hypotheses, references)
    with _program(seconds) as program:
        return program.ask(requests, len(requests))


def parse_counts(lines: Sequence[str]) -> np.ndarray:
    """The program's lines of counts as float64 (N, METEOR_COUNTS).

    The columns: words and function words of caption and reference; for each stage the matched content and function
    words of both; chunks; matched words of both.  The chunk count of a caption whose words all match in one chunk
    becomes 0, as the program has it when it adds counts up.  Raises `ValueError` for other lines.
    """
    table = np.array([[float(number) for number in line.split()] for line in lines])
    if table.shape != (len(lines), METEOR_COUNTS) or not (np.isfinite(table) & (table >= 0)).all():
        raise ValueError(f'METEOR counts of shape {table.shape}, or negative ones')
    matched = table[:, 4:-3].reshape(-1, STAGES, 2, 2).sum((1, 2))  # (N, 2): of the caption, of the reference
    table[(matched == table[:, :2]).all(1) & (table[:, -3] == 1), -3] = 0
    return table


def meteor_scores(sums: np.ndarray) -> np.ndarray:
    """METEOR, float64 (..., 1), from sums of counts (..., METEOR_COUNTS); 0 where nothing matches."""
    stages = sums[..., 4:-3].reshape(*sums.shape[:-1], STAGES, 2, 2)  # stage; content or function words; side
    matched = (WEIGHTS[:, None] * (DELTA * stages[..., 0, :] + (1 - DELTA) * stages[..., 1, :])).sum(-2)
    words, function = sums[..., 0:2], sums[..., 2:4]
    with np.errstate(divide='ignore', invalid='ignore'):
        precision, recall = np.moveaxis(matched / (DELTA * (words - function) + (1 - DELTA) * function), -1, 0)
        mean = 1 / ((1 - ALPHA) / precision + ALPHA / recall)
        fragmentation = sums[..., -3] / (sums[..., -2:].sum(-1) / 2)
        return np.nan_to_num(mean * (1 - GAMMA * fragmentation ** BETA)).clip(0)[..., None]


def _requests(hypotheses: Tokens, references: Tokens) -> list[str]:
    """The line that asks for the counts of each image's caption."""
    return [' ||| '.join(['SCORE'] + [text.replace('|||', ' ') for text in [*references[image_id], *texts]])
            for image_id, texts in hypotheses.items()]


def _program(seconds: float) -> java.Java:
    # Without -a the program looks for its paraphrases beside the jar, under a name in which a space has become %20.
    return java.Java(['-Xmx2G', '-jar', JAR, '-', '-', '-stdio', '-l', 'en', '-norm', '-a', PARAPHRASES],
                     java.toolkit_folder('meteor'), seconds)


def _numbers(line: str) -> list[float]:
    """The numbers of a line, [] where it holds anything else."""
    try:
        numbers = [float(word) for word in line.split()]
    except ValueError:
        return []
    return numbers if all(map(math.isfinite, numbers)) else []
