"""Inputs of the preparation scripts in their real formats: split files and lines of the archive."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def record(image_id: int, split: str, *captions: str, key: str = 'cocoid', **more: Any) -> dict[str, Any]:
    """An image record of a split file."""
    return {key: image_id, 'split': split, 'filepath': 'val2014', 'filename': f'{image_id}.jpg',
            'sentences': [{'tokens': caption.split(), 'raw': caption.capitalize() + '.'}
                          for caption in captions], **more}


def write_split(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    """Write a split file; returns its path."""
    path.write_text(json.dumps({'images': records, 'dataset': 'coco'}))
    return path


def line(image_id: int, boxes: np.ndarray, features: np.ndarray, width: float = 640, height: float = 480,
         count: int | None = None) -> bytes:
    """A line of the archive; `count` in place of the true number of boxes."""
    columns = [str(image_id), str(width), str(height), str(len(boxes) if count is None else count)]
    columns += [base64.b64encode(np.asarray(array, dtype='<f4').tobytes()).decode()
                for array in (boxes, features)]
    return '\t'.join(columns).encode() + b'\r\n'


def random_line(image_id: int, seed: int | None = None, regions: int = 3, **more: Any) -> bytes:
    """A valid line of random regions."""
    random = np.random.default_rng(image_id if seed is None else seed)
    corners = np.sort(random.uniform(0, 400, (regions, 2, 2)), axis=1)
    return line(image_id, corners.reshape(regions, 4), random.uniform(0, 1, (regions, 2048)), **more)
