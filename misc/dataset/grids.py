"""Boxes on an image: how much of each cell of a grid they cover, and their relative coordinates.

Pixels count from the top left corner; a box is x1, y1, x2, y2, its edges as positions on the two
axes (so a box from 0, 0 to width, height is the whole image).
"""

import os

import numpy as np

from misc import commands
from misc.cli import DataError
from misc.dataset.features import packed_sizes
from misc.disk.files import read_json


def grid_vectors(boxes, width, height, side):
    """The fraction of each cell of a side x side grid over the image that each box covers.

    boxes: (regions, 4) in pixels of an image of `width` x `height` (positive numbers); they are
    clipped to the image, and a box without area covers nothing.  Returns float32
    (regions, side * side), entry `row * side + column`, row 0 at the top.
    """
    # Regions come last, where they make long loops.  Ends of the boxes, in cells: (2, 2, 1, regions),
    # first start and end, then across and down.
    ends = np.array(boxes, dtype=np.float64, order='F').T.reshape(2, 2, 1, -1)
    ends *= np.array([side / float(width), side / float(height)]).reshape(2, 1, 1)
    cells = np.arange(side, dtype=np.float64)[:, None]
    across, down = np.maximum(np.minimum(ends[1], cells + 1) - np.maximum(ends[0], cells), 0)
    # A box and a cell are both rectangles, so the share covered is the product of the two shares.
    covered = down[:, None] * across                                    # (side, side, regions)
    return covered.reshape(side * side, -1).T.astype(np.float32, order='C')


def relative_boxes(boxes, width, height):
    """Boxes (regions, 4) in pixels -> float32 (regions, 4) relative to the image, clipped to [0, 1]."""
    size = np.array([width, height, width, height], dtype=np.float64)
    return np.clip(np.asarray(boxes, dtype=np.float64) / size, 0, 1).astype(np.float32)


def checked_boxes(boxes, where):
    """`boxes`, if they are (regions, 4), at least one, finite, and none is upside down.

    `where` names their place in the `DataError` that is raised otherwise.
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise DataError(f'{where}: boxes should be (regions, 4), not {boxes.shape}')
    if not len(boxes):
        raise DataError(f'{where}: there is no box')
    if not np.isfinite(boxes).all():
        raise DataError(f'{where}: a box is not finite')
    upside_down = (boxes[:, 2] < boxes[:, 0]) | (boxes[:, 3] < boxes[:, 1])
    if upside_down.any():
        row = int(np.argmax(upside_down))
        raise DataError(f'{where}: box {row} ends before it starts ({boxes[row].tolist()})')
    return boxes


def extent(boxes):
    """(width, height) that the boxes (regions, 4) reach to: a stand-in for an unknown image size.

    At least one pixel each way, so that it can be divided by.
    """
    return max(float(boxes[:, 2].max()), 1.0), max(float(boxes[:, 3].max()), 1.0)


def sizes_path(box_dir):
    """Where `make_bu_data.py` writes the image sizes that belong to a folder (or packed file) of boxes."""
    base = os.fspath(box_dir).rstrip('/')
    if os.path.isfile(base) and not os.path.exists(f'{base}_sizes.json'):
        base = os.path.splitext(base)[0]
    return f'{base}_sizes.json'


def sizes_place(box_dir):
    """Where the image sizes that belong to `box_dir` are looked for, for messages."""
    return f'{box_dir}, {sizes_path(box_dir)}' if os.path.isfile(box_dir) else sizes_path(box_dir)


def image_sizes(box_dir=None, input_json=None):
    """{image id as a string: (width, height)} of every image whose size is known.

    First come the sizes that a packed file of boxes holds, then `<box_dir>_sizes.json`, where it
    exists, then the `width` and `height` of the images in `input_json` (a path, or the value already
    read).  Either may be None.  Raises `DataError` for a size that is not two positive numbers, or a
    file that is not JSON.
    """
    sizes = {}
    if input_json is not None:
        if isinstance(input_json, (str, os.PathLike)):
            input_json = _object(input_json, commands.LABELS)
        images = input_json.get('images', []) if isinstance(input_json, dict) else None
        if not isinstance(images, list):
            raise DataError('--input_json has no list of images; make it again with:\n'
                            + commands.LABELS)
        for image in images:
            if isinstance(image, dict) and None not in (image.get('width'), image.get('height')):
                # The labels file has `id`; Karpathy's split files have `cocoid` or `imgid`.
                image_id = next((image[key] for key in ('id', 'cocoid', 'imgid') if key in image), None)
                sizes[str(image_id)] = _size((image['width'], image['height']), image_id, '--input_json')
    if box_dir is not None and os.path.exists(sizes_path(box_dir)):
        path = sizes_path(box_dir)
        for image_id, size in _object(path, commands.FEATURES).items():
            sizes[str(image_id)] = _size(size, image_id, path)
    if box_dir is not None and os.path.isfile(box_dir):
        for image_id, size in packed_sizes(box_dir).items():
            sizes[image_id] = _size(size, image_id, box_dir)
    return sizes


def _object(path, made_by):
    """The JSON object in `path`; `DataError` when it holds something else."""
    value = read_json(path, made_by)
    if not isinstance(value, dict):
        raise DataError(f'{path} does not hold a JSON object; make it again with: {made_by}')
    return value


def _size(size, image_id, where):
    """`size` as a pair of floats, if it is two positive finite numbers."""
    try:
        width, height = map(float, size)
        good = not isinstance(size, str) and 0 < width < float('inf') and 0 < height < float('inf')
    except (TypeError, ValueError, OverflowError):
        good = False
    if not good:
        raise DataError(f'{where}: the size of image {image_id} is {size!r}, not a width and a height')
    return width, height
