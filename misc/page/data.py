"""What a page shows, as plain values that JSON can hold, and small.

Attention: a byte for each word and region, in 255ths of the word's largest weight, which is stored beside it.
Boxes: 16 bits for each edge, in 65535ths of the image's width or height.  Coverage: a box covers a cell by the
share of its row times the share of its column, so a byte for each row and each column of the grid, in 255ths.
"""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Entry:
    """An image with its captions and scores.

    image_id    number or text, different for each image
    words       the caption, a list of words
    picture     path of the image file
    name        what the page calls the file
    references  reference captions, may be none
    scores      {name: number}, higher is better; may be empty
    others      further captions by the model
    attention   {'mean': (words, P), 'last': (words, P)} as of `word_attention`; may lack 'last', or be None
    """

    image_id: int | str
    words: list[str]
    picture: str
    name: str
    references: list[str] = field(default_factory=list)
    scores: dict[str, float | None] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    attention: dict[str, np.ndarray] | None = None


@dataclass(frozen=True)
class Facts:
    """What a page says about all of its images.

    about      (label, text) pairs
    overall    {name of a score: number}
    attention  a sentence on what the weights are, or why there are none
    places     a sentence on what the model knows about where regions are
    """

    title: str
    about: Sequence[tuple[str, str]]
    overall: Mapping[str, float]
    attention: str
    places: str


def listing(facts: Facts, entries: Sequence[Entry], shown: Sequence[tuple[str, int, int] | None],
            shard: int) -> dict[str, Any]:
    """What the list of images needs, one list per kind.

    shown: (file name, width, height) of each entry's picture, or None; shard: images per file of details.
    """
    names = dict.fromkeys(name for entry in entries for name in entry.scores)
    return {
        'title': facts.title, 'about': [list(pair) for pair in facts.about],
        'overall': {name: number(value) for name, value in facts.overall.items()},
        'attention': facts.attention, 'places': facts.places, 'shard': shard,
        # Ids become part of URLs, which cannot hold unpaired surrogates.
        'ids': [str(entry.image_id).encode('utf-8', 'replace').decode() for entry in entries],
        'captions': [' '.join(entry.words) for entry in entries],
        'names': [entry.name for entry in entries],
        'references': [list(entry.references) for entry in entries],
        'pictures': [one and one[0] for one in shown], 'sizes': [one and list(one[1:]) for one in shown],
        'scores': {name: [number(entry.scores.get(name)) for entry in entries] for name in names}}


def details(entry: Entry, boxes: np.ndarray | None, grids: np.ndarray | None) -> dict[str, Any]:
    """What is loaded when an image is opened; `boxes` (P, 4) from 0 to 1, `grids` (P, g * g)."""
    attention = entry.attention or {}
    content: dict[str, Any] = {
        'words': list(entry.words), 'others': list(entry.others),
        'attention': {name: packed_weights(weights) for name, weights in attention.items()}}
    if boxes is not None:
        content['boxes'] = packed(np.round(np.clip(boxes, 0, 1) * 65535).astype('<u2'))
    if grids is not None:
        content['rows'], content['columns'] = map(packed, covered_shares(grids))
    counts = [len(array) for array in (boxes, grids) if array is not None]
    counts += [weights.shape[1] for weights in attention.values()]
    content['regions'] = min(counts, default=0)
    return content


def packed_weights(weights: np.ndarray) -> dict[str, Any]:
    """Weights (words, P) as the largest of each word, and bytes for the others in 255ths of it."""
    weights = np.asarray(weights, dtype=np.float64)
    top = weights.max(1, initial=0.0)
    share = weights / np.maximum(top, 1e-30)[:, None]
    return {'top': [number(value) for value in top], 'weights': packed(np.round(share * 255).astype(np.uint8))}


def covered_shares(grids: np.ndarray) -> list[np.ndarray]:
    """Grid vectors (P, g * g) -> bytes (P, g) for the rows and (P, g) for the columns of the grid, in 255ths,
    whose products are the cells."""
    side = math.isqrt(grids.shape[1])
    cells = np.asarray(grids, dtype=np.float64).reshape(-1, side, side)
    most = np.maximum(cells.max((1, 2), initial=0.0), 1e-30)[:, None]
    shares = cells.max(2, initial=0.0), cells.max(1, initial=0.0) / most
    return [np.round(np.clip(share, 0, 1) * 255).astype(np.uint8) for share in shares]


def packed(array: np.ndarray) -> str:
    """The bytes of an array in base64."""
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def number(value: float | None) -> float | None:
    """A number rounded to six digits; None where it is not finite, which JSON cannot hold."""
    return float(f'{value:.6g}') if value is not None and math.isfinite(value) else None


def script(beginning: str, value: Any) -> bytes:
    """A JavaScript statement that assigns `value`; in ASCII, since U+2028 and the like would end a line."""
    return f'{beginning}{json.dumps(value, allow_nan=False, separators=(",", ":"))};\n'.encode('ascii')
