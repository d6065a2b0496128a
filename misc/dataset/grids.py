"""Boxes on an image: the fraction of each grid cell that they cover, and their relative coordinates.

The origin is the top left corner of the image.  A box is x1, y1, x2, y2, its edges as positions on the two axes, so
the box from 0, 0 to width, height is the whole image.
"""

import os
from typing import Any

import numpy as np

from misc import commands
from misc.cli import DataError
from misc.dataset.packed import packed_sizes
from misc.disk.files import read_json
from misc.disk.numbers import whole_number


def grid_vectors(boxes: np.ndarray, width: float, height: float, side: int) -> np.ndarray:
    """The fraction of each cell of a side x side grid over the image that each box covers.

    boxes: (regions, 4) in pixels of an image of `width` x `height` (positive numbers); they are clipped to the
    image, and a box without area covers nothing.  Returns float32 (regions, side * side), entry
    `row * side + column`, row 0 at the top, column 0 at the left.
    """
    # Regions are the last axis, where loops are long.  The edges of the boxes in units of cells, (2, 2, 1, regions):
    # start and end, then across and down.
    edges = np.array(boxes, dtype=np.float64, order='F').T.reshape(2, 2, 1, -1)
    edges *= np.array([side / float(width), side / float(height)]).reshape(2, 1, 1)
    cells = np.arange(side, dtype=np.float64)[:, None]
    across, down = np.maximum(np.minimum(edges[1], cells + 1) - np.maximum(edges[0], cells), 0)
    # A box and a cell are both rectangles, so the fraction covered is the product of the two overlaps.
    covered = down[:, None] * across                                    # (side, side, regions)
    return covered.reshape(side * side, -1).T.astype(np.float32, order='C')


def relative_boxes(boxes: np.ndarray, width: float, height: float) -> np.ndarray:
    """Boxes (regions, 4) in pixels -> float32 (regions, 4) divided by width and height, clipped to [0, 1]."""
    size = np.array([width, height, width, height], dtype=np.float64)
    return np.clip(np.asarray(boxes, dtype=np.float64) / size, 0, 1).astype(np.float32)


def checked_boxes(boxes: np.ndarray, where: str) -> np.ndarray:
    """Return `boxes` if they are (regions, 4), at least one, finite, and all end after they start.

    Otherwise raises a `DataError` that names `where` they come from.
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise DataError(f'{where}: boxes should be (regions, 4), not {boxes.shape}')
    if not len(boxes):
        raise DataError(f'{where}: there is no box')
    if not np.isfinite(boxes).all():
        raise DataError(f'{where}: a box is not finite')
    reversed_boxes = (boxes[:, 2] < boxes[:, 0]) | (boxes[:, 3] < boxes[:, 1])
    if reversed_boxes.any():
        row = int(np.argmax(reversed_boxes))
        raise DataError(f'{where}: box {row} ends before it starts ({boxes[row].tolist()})')
    return boxes


def extent(boxes: np.ndarray) -> tuple[float, float]:
    """(width, height) that the boxes (regions, 4) reach to, a substitute for an unknown image size.

    At least one pixel each way, so that it can be divided by.
    """
    return max(float(boxes[:, 2].max()), 1.0), max(float(boxes[:, 3].max()), 1.0)


def sizes_path(box_dir: str | os.PathLike) -> str:
    """The file of the image sizes that belong to a folder (or packed file) of boxes."""
    base = os.fspath(box_dir).rstrip('/')
    if os.path.isfile(base) and not os.path.exists(f'{base}_sizes.json'):
        base = os.path.splitext(base)[0]
    return f'{base}_sizes.json'


def sizes_location(box_dir: str | os.PathLike) -> str:
    """Where the image sizes that belong to `box_dir` are searched, for messages."""
    return f'{box_dir}, {sizes_path(box_dir)}' if os.path.isfile(box_dir) else sizes_path(box_dir)


def image_sizes(box_dir: str | os.PathLike | None = None,
                input_json: str | os.PathLike | dict[str, Any] | None = None) -> dict[str, tuple[float, float]]:
    """{image id: (width, height) in pixels} of every image whose size is known.

    The sizes in a packed file of boxes come first, then those in `<box_dir>_sizes.json` where it exists, then the
    `width` and `height` of the images in `input_json` (a path, or its content).  Raises `DataError` for a size that
    is not two positive numbers, or a file that is not JSON.
    """
    sizes = {}
    if input_json is not None:
        sizes.update(_sizes_in_records(input_json))
    if box_dir is not None and os.path.exists(sizes_path(box_dir)):
        path = sizes_path(box_dir)
        for image_id, size in _json_object(path, commands.FEATURES).items():
            sizes[str(image_id)] = _checked_size(size, image_id, path)
    if box_dir is not None and os.path.isfile(box_dir):
        for image_id, size in packed_sizes(box_dir).items():
            sizes[image_id] = _checked_size(size, image_id, box_dir)
    return sizes


def _sizes_in_records(input_json: str | os.PathLike | dict[str, Any]) -> dict[str, tuple[float, float]]:
    """{image id: (width, height)} of the image records that have both."""
    content: Any = input_json
    if isinstance(content, (str, os.PathLike)):
        content = _json_object(os.fspath(content), commands.LABELS)
    images = content.get('images', []) if isinstance(content, dict) else None
    if not isinstance(images, list):
        raise DataError('--input_json has no list of images; make it again with:\n'
                        + commands.LABELS)
    sizes = {}
    for image in images:
        if isinstance(image, dict) and None not in (image.get('width'), image.get('height')):
            # The labels file has `id`; Karpathy's split files have `cocoid` or `imgid`.
            given = next((image[key] for key in ('id', 'cocoid', 'imgid') if key in image), None)
            number = whole_number(given)
            image_id = given if number is None else number
            sizes[str(image_id)] = _checked_size((image['width'], image['height']), image_id, '--input_json')
    return sizes


def _json_object(path: str, made_by: str) -> dict[str, Any]:
    """The JSON object in `path`; `DataError` where it holds something else."""
    value = read_json(path, made_by)
    if not isinstance(value, dict):
        raise DataError(f'{path} does not hold a JSON object; make it again with: {made_by}')
    return value


def _checked_size(size: Any, image_id: Any, where: str | os.PathLike) -> tuple[float, float]:
    """`size` as a pair of floats, if it is two positive finite numbers; else a `DataError`."""
    try:
        width, height = map(float, size)
        is_valid = not isinstance(size, str) and 0 < width < float('inf') and 0 < height < float('inf')
    except (TypeError, ValueError, OverflowError):
        is_valid = False
    if not is_valid:
        raise DataError(f'{where}: the size of image {image_id} is {size!r}, not a width and a height')
    return width, height
