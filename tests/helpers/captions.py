"""Captions as rows of word indices."""

import numpy as np


def odd_rows(draw: np.random.Generator, count: int, width: int, words: int) -> np.ndarray:
    """Edge cases of captions, (count, width): empty, of one word, of one word repeated, as long as the width."""
    rows = np.zeros((count, width), dtype=np.int64)
    for row in rows:
        length = draw.choice([0, 1, 2, 3, width // 2, width - 1, width]).clip(0, width)
        row[:length] = draw.integers(1, words + 1, length)
        if draw.random() < 0.3:
            row[:length] = draw.integers(1, words + 1)
    return rows
