"""TSV files of region features, an image per line, as detectors write them.

Those of the bottom-up-attention archive have no header, and the columns image_id, image_w, image_h, num_boxes, boxes,
features; the last two are base64 of little-endian float32, (num_boxes, 4), x1 y1 x2 y2 in pixels from the top left
corner, and (num_boxes, D).  `LAYOUTS` has those of others; with a header, columns may be in any order.
"""

import base64
import binascii
import codecs
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from misc.cli import DataError
from misc.dataset.grids import checked_boxes
from misc.disk.known import KnownFile

LOOKED_AT = 20   # lines that decide about the layout, and about the width of features

Size = tuple[float, float]   # width and height in pixels


@dataclass(frozen=True)
class Layout:
    """The columns of a TSV file.

    name    of the form, for messages
    fields  what each column holds: id, width, height, count, boxes, features, json (an object with these), or ''
    """

    name: str
    fields: tuple[str, ...]
    has_header: bool = False

    def of(self, field: str, cells: Sequence[bytes]) -> bytes | None:
        """The cell of a field; None where the file has no such column."""
        return cells[self.fields.index(field)] if field in self.fields else None

    @property
    def is_archive(self) -> bool:
        """Whether it has all that the bottom-up-attention archive has."""
        return set(ARCHIVE.fields) <= set(self.fields)


ARCHIVE = Layout('the TSV files of the bottom-up-attention archive',
                 ('id', 'width', 'height', 'count', 'boxes', 'features'))
# Files without a header, by the number of their columns.
LAYOUTS = {len(layout.fields): layout for layout in (
    ARCHIVE,
    Layout("ViLBERT's TSV files (the archive's columns and cls_prob)", (*ARCHIVE.fields, '')),
    Layout("LXMERT's TSV files (img_id, img_h, img_w, ..., num_boxes, boxes, features)",
           ('id', 'height', 'width', '', '', '', '', 'count', 'boxes', 'features')),
    Layout("VinVL's TSV files (id, num_boxes, features)", ('id', 'count', 'features')),
    Layout("VinVL's TSV files (id, and an object with num_boxes and features)", ('id', 'json')))}
HEADERS = {'image_id': 'id', 'img_id': 'id', 'imageid': 'id', 'id': 'id', 'image': 'id', 'key': 'id',
           'image_w': 'width', 'img_w': 'width', 'image_width': 'width', 'width': 'width',
           'image_h': 'height', 'img_h': 'height', 'image_height': 'height', 'height': 'height',
           'num_boxes': 'count', 'num_bbox': 'count', 'num_regions': 'count',
           'boxes': 'boxes', 'bbox': 'boxes', 'bboxes': 'boxes',
           'features': 'features', 'feature': 'features', 'feats': 'features', 'feat': 'features'}


@dataclass(frozen=True)
class TsvRecord:
    """One image of a TSV file, with P regions: boxes (P, 4) and features (P, D), both float32; what the file does
    not have is None."""

    name: str
    size: Size | None
    boxes: np.ndarray | None
    features: np.ndarray


class TsvFile(KnownFile):
    """A TSV file and its layout: that of its header, or of most of its first lines; None where none has any."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.layout: Layout | None = None
        lines = [line for _, line in itertools.islice(read_lines(self), LOOKED_AT)]
        header = layout_of(lines[0]) if lines else None
        if header and header.has_header:
            self.layout = header
        else:
            found = Counter(layout for line in lines if (layout := layout_of(line, may_be_header=False)))
            self.layout = found.most_common(1)[0][0] if found else None


def read_lines(file: KnownFile) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, line) for the lines of a TSV file that are not empty, its header left out."""
    is_header = isinstance(file, TsvFile) and file.layout is not None and file.layout.has_header
    with file.opened() as lines:
        offset = 0
        for line in lines:
            if line.strip() and not is_header:
                yield offset, line
            is_header = is_header and not line.strip()
            offset += len(line)


def read_line(file: KnownFile, offset: int) -> bytes:
    """The line of a TSV file that begins at `offset`.  Raises `ChangedError` where the file was replaced since."""
    with file.opened() as lines:
        lines.seek(offset)
        return lines.readline()


def layout_of(line: bytes, may_be_header: bool = True) -> Layout | None:
    """The layout that a line shows, a valid record or a header if it may be one; else None."""
    cells = cells_of(line)
    names = tuple(HEADERS.get(cell[:40].decode('ascii', 'replace').strip().lower(), '') for cell in cells)
    if may_be_header and names.count('id') == names.count('features') == names.count('count') == 1:
        return Layout('TSV files with a header', names, has_header=True)
    layout = LAYOUTS.get(len(cells))
    try:
        return layout if layout and decode_record(line, layout, checks_boxes=False) else None
    except DataError:
        return None


def cells_of(line: bytes, most: int = -1) -> list[bytes]:
    """The cells of a line; further ones than `most` stay together in the last."""
    return line.removeprefix(codecs.BOM_UTF8).rstrip(b'\r\n').split(b'\t', most)


def decode_head(line: bytes, layout: Layout = ARCHIVE) -> tuple[str, Size | None]:
    """The name of an image and its size, None where the file does not have it; whole numbers of pixels are ints.
    Raises `DataError`."""
    fields = layout.fields
    last = max(fields.index(field) for field in ('id', 'width', 'height') if field in fields)
    cells = cells_of(line, last + 1)
    if len(cells) <= last:
        raise DataError('does not begin with an image id, a width and a height')
    name = (layout.of('id', cells) or b'').decode('utf-8', 'replace').strip()
    if not name or len(name) > 300:
        raise DataError('does not begin with an image id')
    if 'width' not in fields or 'height' not in fields:
        return name, None
    size = checked_size(layout.of('width', cells), layout.of('height', cells))
    if size is None:
        raise DataError('does not begin with an image id, a width and a height')
    return name, size


def checked_size(width: Any, height: Any) -> Size | None:
    """A size in pixels from two numbers or texts of numbers, ints where they are whole; None where they are none."""
    try:
        width, height = (float(side.decode('ascii') if isinstance(side, bytes) else side) for side in (width, height))
        if not (0 < width < float('inf') and 0 < height < float('inf')):
            return None
    except (TypeError, ValueError, OverflowError):
        return None
    return (int(width), int(height)) if width.is_integer() and height.is_integer() else (width, height)


def decode_record(line: bytes, layout: Layout = ARCHIVE, width: int | None = None,
                  checks_boxes: bool = True) -> TsvRecord:
    """The record in a line; `width`: the numbers that its features have to have.  Raises `DataError` saying what is
    wrong with it, also with its boxes if it `checks_boxes`."""
    name, size = decode_head(line, layout)
    cells = cells_of(line)
    if len(cells) != len(layout.fields):
        raise DataError(f'image {name}: the line has {len(cells)} columns, not {len(layout.fields)} (is it cut off?)')
    if 'json' in layout.fields:
        return _checked(_record_in_object(name, layout.of('json', cells) or b'', width), checks_boxes)
    count = (layout.of('count', cells) or b'').decode('ascii', 'replace')
    if not count.isdigit() or len(count) > 9 or int(count) == 0:
        raise DataError(f'image {name}: num_boxes is {count[:20]!r}')
    text = layout.of('boxes', cells)
    boxes = None if text is None else decode_array(text, int(count), 4, f'image {name}: boxes')
    features = decode_array(layout.of('features', cells) or b'', int(count), width, f'image {name}: features')
    return _checked(TsvRecord(name, size, boxes, features), checks_boxes)


def _record_in_object(name: str, text: bytes, width: int | None) -> TsvRecord:
    """A record whose boxes and features are in a JSON object: {"num_boxes", "features"} for all regions, or
    {"objects": [{"rect", "feature"}]} with one object each."""
    try:
        content = json.loads(text)
        objects = content.get('objects')
        if isinstance(objects, list):
            rows = [decode_array(one['feature'], 1, width, f'image {name}: a feature')[0] for one in objects]
            boxes = np.array([one['rect'] for one in objects], np.float32).reshape(-1, 4)
            features = np.stack(rows)
        else:
            boxes = None
            features = decode_array(content['features'], int(content['num_boxes']), width, f'image {name}: features')
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError):
        raise DataError(f'image {name}: its second column is no object with num_boxes and features') from None
    return TsvRecord(name, checked_size(content.get('image_w'), content.get('image_h')), boxes, features)


def _checked(record: TsvRecord, checks_boxes: bool) -> TsvRecord:
    """Return a record with finite features and valid boxes; raises `DataError` for another."""
    if record.boxes is not None and checks_boxes:
        checked_boxes(record.boxes, f'image {record.name}')
    if not np.isfinite(record.features).all():
        raise DataError(f'image {record.name}: features are not finite')
    return record


def decode_array(text: bytes | str, rows: int, width: int | None, name: str) -> np.ndarray:
    """float32 (rows, width) from base64; a `width` of None is that of the content.  Raises `DataError`."""
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f'{name} are not base64 ({error})') from None
    if rows < 1 or not content or len(content) % (4 * rows) or width not in (None, len(content) // (4 * rows)):
        raise DataError(f'{name} take {len(content)} bytes, not {rows} x {width or "D"} x 4')
    return np.frombuffer(content, dtype='<f4').reshape(rows, -1).astype(np.float32)


def usual_width(files: Sequence[TsvFile]) -> int | None:
    """The numbers of a region's feature that most of the first records have; None where no record is valid."""
    widths: Counter[int] = Counter()
    for file in files:
        for number, (_, line) in enumerate(read_lines(file)):
            if number == LOOKED_AT or widths.total() == LOOKED_AT:
                break
            try:
                record = decode_record(line, file.layout or ARCHIVE, checks_boxes=False)
                widths[record.features.shape[1]] += 1
            except DataError:
                continue
    return widths.most_common(1)[0][0] if widths else None
