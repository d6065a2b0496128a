"""Arrays as other programs store them -> features and boxes of the project: (P, D), and (P, 4) in pixels.

How they are to be understood is decided once, from some of the images, and then holds for all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mode

import numpy as np

from misc.cli import DataError, UsageError
from misc.dataset.array_files import checked
from misc.dataset.grids import checked_boxes
from misc.dataset.packing import Shape
from misc.dataset.tsv import Size
from misc.prepare.features.sources import Source, Stored

LOOKED_AT = 100     # images that decide
POSITION = 6        # numbers that VinVL appends to a feature: x1 y1 x2 y2 relative to the image, and two sides
CLOSE = 5e-3        # how exactly they agree with one another
BEYOND = 1.1        # times the size of the image that boxes may reach to: detectors do not always clip them


@dataclass(frozen=True)
class Understanding:
    """How the arrays of a source are to be understood.

    width        numbers of a region's feature, as stored
    boxes        whether there are boxes, of their own or at the end of the features
    positions    whether the last `POSITION` numbers of a feature are its box
    relative     whether boxes are relative to the image
    sides        whether the last two numbers of a box are its width and height
    swapped      whether sizes are stored in the other order than expected
    """

    width: int
    boxes: bool = False
    positions: bool = False
    relative: bool = False
    sides: bool = False
    swapped: bool = False

    def size(self, size: Size | None) -> Size | None:
        """The (width, height) that a stored size means."""
        return size[::-1] if size and self.swapped else size


def understood(source: Source, names: Sequence[str], sides: bool) -> Understanding:
    """How the arrays of the images `names` of a source are to be understood; `sides`: the user says that boxes are x,
    y, width, height.  Raises `DataError` where no image can be read, `UsageError` where boxes end before they start.
    """
    read: list[tuple[np.ndarray, np.ndarray | None, Size | None]] = []
    problem = ''
    for name in names[::max(1, len(names) // LOOKED_AT)]:
        try:
            stored = source.arrays(name)
            read.append((*arranged(stored, source.where(name)), stored.size))
        except DataError as error:
            problem = problem or str(error)
    if not read:
        raise DataError(f'none of {len(names)} images can be read; the first: {problem}')
    found = Understanding(mode(features.shape[-1] for features, _, _ in read))
    boxes = [boxes for _, boxes, _ in read if boxes is not None]
    if not boxes:
        flat = [features.reshape(-1, features.shape[-1]) for features, _, _ in read]
        has_positions = all(one.shape[1] > POSITION and position_of(one) is not None for one in flat)
        return replace(found, boxes=has_positions, positions=has_positions, relative=has_positions)
    relative = all(float(one.max(initial=0)) <= 1 + 1e-3 for one in boxes)
    found = replace(found, boxes=True, sides=sides, relative=relative)
    wrong = sum(bool((one[:, 2:] < one[:, :2]).any()) for one in boxes)
    if not sides and wrong > len(boxes) / 2:
        raise UsageError(f'--input: boxes end before they start in {wrong} of {len(boxes)} images; if their numbers '
                         'are x, y, width and height, add --boxes xywh')
    sized = [(corners(one, sides), size) for _, one, size in read if one is not None and size]
    if found.relative or not sized:
        return found
    fits = [sum(is_inside(one, size) for one, size in sized), sum(is_inside(one, size[::-1]) for one, size in sized)]
    return replace(found, swapped=fits[1] > fits[0])


def arranged(stored: Stored, where: str) -> tuple[np.ndarray, np.ndarray | None]:
    """(features, boxes) of an image, a region in each row, without rows that pad them; features may be a map
    (h, w, D).  Raises `DataError`."""
    features, boxes = checked(stored.features, where), stored.boxes
    boxes = None if boxes is None else checked(boxes, f'{where}, boxes')
    if boxes is not None and (boxes.ndim != 2 or boxes.shape[1] != 4):
        raise DataError(f'{where}: boxes should be (regions, 4), not {boxes.shape}')
    box_shape = None if boxes is None else boxes.shape
    squeezed, transposed, rows = arrangement(features.shape, box_shape, stored.count, where)
    features = features[0] if squeezed else features
    features = features.T if transposed else features
    return (features[:rows] if features.ndim == 2 else features), boxes if boxes is None else boxes[:rows]


def arrangement(features: Shape, boxes: Shape | None, count: int | None, where: str) -> tuple[bool, bool, int]:
    """(whether features have a first axis of length 1, whether the regions are columns, the number of regions) of
    arrays of these shapes.  Raises `DataError` for shapes that do not belong together."""
    squeezed = len(features) == 3 and features[0] == 1
    shape = features[1:] if squeezed else features
    if len(shape) not in (2, 3) or 0 in shape:
        raise DataError(f'{where}: an array of shape {features} holds no features of regions')
    if len(shape) == 3:
        rows = shape[0] * shape[1]
        if boxes is not None and boxes[0] != rows:
            raise DataError(f'{where}: a map of shape {features}, and {boxes[0]} boxes')
        return squeezed, False, rows
    known = boxes[0] if boxes is not None else count
    transposed = known is not None and shape[0] != known and shape[1] == known
    rows = shape[1] if transposed else shape[0]
    if boxes is not None and boxes[0] != rows:
        raise DataError(f'{where}: features of shape {features}, and {boxes[0]} boxes')
    if count is not None and not 0 < count <= rows:
        raise DataError(f'{where}: features of shape {features}, and {count} regions')
    return squeezed, transposed, rows if count is None else count


def position_of(features: np.ndarray) -> np.ndarray | None:
    """The boxes (P, 4), relative to the image, in the last `POSITION` numbers of features (P, D); None where these
    are no boxes with their sides."""
    last = features[:, -POSITION:]
    boxes, sides = last[:, :4], last[:, 2:4] - last[:, :2]
    is_box = (boxes >= -CLOSE).all() and (boxes <= 1 + CLOSE).all() and (sides >= -CLOSE).all()
    agrees = any(np.allclose(last[:, 4:], one, atol=CLOSE, rtol=0) for one in (sides, sides[:, ::-1]))
    return boxes.clip(0, 1) if is_box and agrees else None


def corners(boxes: np.ndarray, sides: bool) -> np.ndarray:
    """Boxes as x1, y1, x2, y2; with `sides` they are x, y, width, height."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1) if sides else boxes


def is_inside(boxes: np.ndarray, size: Size) -> bool:
    """Whether boxes lie in an image of a size, about."""
    return bool(boxes[:, 2].max() <= BEYOND * size[0] and boxes[:, 3].max() <= BEYOND * size[1])


class LastKept:
    """A source that keeps the arrays of the image that was read last: they are read once for each kind."""

    def __init__(self, source: Source) -> None:
        self.source, self.path, self.broken = source, source.path, source.broken
        self.names, self.where, self.states, self.shapes = source.names, source.where, source.states, source.shapes
        self.last: tuple[str, Stored] | None = None

    def arrays(self, name: str) -> Stored:
        """See `Source`."""
        if self.last is None or self.last[0] != name:
            self.last = name, self.source.arrays(name)
        return self.last[1]


class ForeignReader:
    """Reads the arrays of one kind, 'att', 'box' or 'rel', from a source (see `misc.dataset.features.ArrayReader`).

    path  of the source
    """

    def __init__(self, source: Source, names: Mapping[str, str], found: Understanding, kind: str,
                 sizes: Mapping[str, Size]) -> None:
        """names: {image id: its name in the source}; sizes: {image id: size}, of boxes in pixels."""
        self.source, self.named, self.found, self.kind, self.sizes = source, names, found, kind, sizes
        self.path = source.path

    def ids(self) -> set[str]:
        """The ids of the images."""
        return set(self.named)

    def states(self) -> dict[str, str]:
        """{image id: what changes with its arrays}."""
        states = self.source.states()
        return {image_id: states[name] for image_id, name in self.named.items() if name in states}

    def where(self, image_id: str | int) -> str:
        """Where an image is, for messages."""
        return self.source.where(self._name(image_id))

    def _name(self, image_id: str | int) -> str:
        """The name of an image in the source.  Raises `DataError` where it is not there."""
        if str(image_id) not in self.named:
            raise DataError(f'{self.path} has no image {image_id}')
        return self.named[str(image_id)]

    def made_by(self, command: str) -> str:
        """Another program makes them."""
        return 'the program that wrote the others'

    def shape(self, image_id: str | int) -> Shape:
        """The shape of an image's array, without reading all of it.  Raises `DataError`."""
        where, stored = self.where(image_id), self.source.shapes(self._name(image_id))
        squeezed, transposed, rows = arrangement(stored.features, stored.boxes, stored.count, where)
        if self.kind != 'att':
            return rows, 4
        shape = stored.features[squeezed:]
        width = shape[0] if transposed else shape[-1]
        self._check_width(width, where)
        return *(shape[:2] if len(shape) == 3 else (rows,)), width - POSITION * self.found.positions

    def read(self, image_id: str | int) -> np.ndarray:
        """The float32 array of an image.  Raises `DataError`."""
        image_id, where = str(image_id), self.where(image_id)
        features, boxes = arranged(self.source.arrays(self._name(image_id)), where)
        self._check_width(features.shape[-1], where)
        if self.kind == 'att':
            return np.ascontiguousarray(features[..., :-POSITION] if self.found.positions else features)
        if self.found.positions:
            boxes = position_of(features.reshape(-1, features.shape[-1]))
        if boxes is None:
            raise DataError(f'{where}: it has no boxes, as others have')
        return self._in_pixels(checked_boxes(corners(boxes, self.found.sides), where), image_id, where)

    def _in_pixels(self, boxes: np.ndarray, image_id: str, where: str) -> np.ndarray:
        """Valid boxes (P, 4) in pixels of the image; relative to it for the kind 'rel'."""
        size = self.sizes.get(image_id)
        if self.found.relative and float(boxes.max()) > 1 + 1e-3:
            raise DataError(f'{where}: boxes up to {float(boxes.max()):g}, where others are relative to the image')
        if self.kind == 'rel':
            return boxes.clip(0, 1)
        if self.found.relative:
            assert size is not None, 'relative boxes without sizes are of the kind rel'
            return (boxes * np.array([*size, *size])).astype(np.float32)
        if size and not is_inside(boxes, size):
            raise DataError(f'{where}: boxes reach to {boxes[:, 2].max():g} x {boxes[:, 3].max():g} in an image of '
                            f'{size[0]:g} x {size[1]:g}; are they of a scaled image, or x, y, width and height?')
        return boxes

    def _check_width(self, width: int, where: str) -> None:
        """Raise `DataError` for features of another width than others have."""
        if width != self.found.width:
            raise DataError(f'{where}: features have {width} numbers, others {self.found.width}')
