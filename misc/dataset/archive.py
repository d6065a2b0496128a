"""The bottom-up-attention archive: TSV files without a header, one image per line.

Columns: image_id, image_w, image_h, num_boxes, boxes, features.  The last two are base64 of little-endian float32,
(num_boxes, 4), x1 y1 x2 y2 in pixels from the top left corner, and (num_boxes, 2048).
"""

import base64
import binascii
import glob
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from misc.cli import DataError
from misc.dataset.grids import checked_boxes
from misc.disk.known import KnownFile

WIDTH = 2048   # numbers per region feature
COLUMNS = 6

Size = tuple[float, float]   # width and height in pixels


@dataclass(frozen=True)
class ArchiveRecord:
    """One image of the archive, with P regions: boxes (P, 4) and features (P, 2048), both float32."""

    image_id: str
    size: Size
    boxes: np.ndarray
    features: np.ndarray


def find_archive(folder: str) -> list[str]:
    """The paths of the TSV files in `folder`, its `trainval/` or its `trainval_36/`, the first that has any.

    Raises `DataError` where there are none.
    """
    for place in (folder, os.path.join(folder, 'trainval'), os.path.join(folder, 'trainval_36')):
        paths = sorted(path for path in glob.glob(os.path.join(glob.escape(place), '*.tsv*'))
                       if re.search(r'\.tsv(\.\d+)?$', path) and os.path.isfile(path))
        if paths:
            return paths
    raise DataError(f'--downloaded_feats: there is no .tsv file in {folder}, its trainval/ or trainval_36/;\n'
                    f'unpack the bottom-up-attention archive there, so that it holds trainval/')


def read_lines(file: KnownFile) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, line) for the lines of a TSV file that are not empty."""
    with file.opened() as lines:
        offset = 0
        for line in lines:
            if line.strip():
                yield offset, line
            offset += len(line)


def read_line(file: KnownFile, offset: int) -> bytes:
    """The line of a TSV file that begins at `offset`.  Raises `ChangedError` where the file was replaced since."""
    with file.opened() as lines:
        lines.seek(offset)
        return lines.readline()


def decode_head(line: bytes) -> tuple[str, Size]:
    """The image id and the size of a line; whole numbers of pixels are ints.  Raises `DataError`."""
    columns = line.rstrip(b'\r\n').split(b'\t', 3)
    try:
        image_id, *sides = (column.decode('ascii') for column in columns[:3])
        width, height = map(float, sides)
        is_valid = (image_id.isdigit() and len(image_id) < 19
                    and 0 < width < float('inf') and 0 < height < float('inf'))
    except ValueError:
        is_valid = False
    if not is_valid:
        raise DataError('does not begin with an image id, a width and a height')
    is_whole = width.is_integer() and height.is_integer()
    return str(int(image_id)), (int(width), int(height)) if is_whole else (width, height)


def decode_record(line: bytes) -> ArchiveRecord:
    """The record in a line.  Raises `DataError` saying what is wrong with it."""
    image_id, size = decode_head(line)
    columns = line.rstrip(b'\r\n').split(b'\t')
    if len(columns) != COLUMNS:
        raise DataError(f'image {image_id}: the line has {len(columns)} columns, not {COLUMNS} (is it cut off?)')
    count = columns[3].decode('ascii', 'replace')
    if not count.isdigit() or len(count) > 9 or int(count) == 0:
        raise DataError(f'image {image_id}: num_boxes is {count[:20]!r}')
    boxes = _decode_array(columns[4], int(count), 4, f'image {image_id}: boxes')
    features = _decode_array(columns[5], int(count), WIDTH, f'image {image_id}: features')
    checked_boxes(boxes, f'image {image_id}')
    if not np.isfinite(features).all():
        raise DataError(f'image {image_id}: features are not finite')
    return ArchiveRecord(image_id, size, boxes, features)


def _decode_array(text: bytes, rows: int, width: int, name: str) -> np.ndarray:
    """float32 (rows, width) from base64."""
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f'{name} are not base64 ({error})') from None
    if len(content) != rows * width * 4:
        raise DataError(f'{name} take {len(content)} bytes, not {rows} x {width} x 4')
    return np.frombuffer(content, dtype='<f4').reshape(-1, width).astype(np.float32)
