"""Regions of the built-in data set: boxes such as a detector would find, and their features.

A feature is computed from global histograms of the crop.  It encodes which colours and edges the crop contains, but
neither where the crop is in the image nor how its content is arranged: mirroring, flipping or moving the crop leaves
the feature unchanged.
"""

import functools

import numpy as np
from skimage.color import rgb2hsv

from misc.demo.scenes import Scene

FEATURE_SIZE = 2048
HUES, GREYS, ANGLES, STRENGTHS, AREAS = 16, 12, 18, 8, 6    # bins of the histograms
COLOUR_BINS = 4 * HUES + GREYS
WEIGHTS = 1.0, 1.6, 1.0, 1.2    # of the histograms: colours, angles of edges, strengths of edges, areas
EDGE = 0.06     # smaller differences between neighbouring pixels are texture, not an edge
SCALE = 0.407    # makes the mean norm of the features about 25

MIN_BOXES = 10


def region_boxes(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Boxes of a scene, float32 (10 to 20, 4): x1, y1, x2, y2 in pixels, in random order.

    Each shape's own box; jittered copies and halves of it, more for larger shapes; the whole image; and pieces of
    background.  No jittered box reaches the border of the image, because a crop cut off there would reveal its
    position.
    """
    boxes = []
    for rank, shape in enumerate(scene.shapes):
        boxes.append(_around(shape, rng, 0.0, 0.0))
        for _ in range(max(3 - rank, 0)):
            boxes.append(_around(shape, rng, 0.05, 0.06))
        if rank < 2 and rng.random() < 0.5:
            boxes.append(_part(shape, rng))
    boxes.append((0, 0, scene.width - 1, scene.height - 1))
    wanted = max(MIN_BOXES, len(boxes) + int(rng.integers(0, 3)))
    while len(boxes) < wanted:
        boxes.append(_background_box(scene, rng))
    shuffled = np.array(boxes, dtype=np.float32)[rng.permutation(len(boxes))]
    return shuffled.clip(0, np.array([scene.width - 1, scene.height - 1] * 2, dtype=np.float32))


def _around(shape, rng, shift, grow):
    """The box of a shape with a margin of 1.5 pixels, moved and scaled at random by up to these parts of its side."""
    x, y = np.array([shape.x, shape.y]) + shift * shape.side * rng.uniform(-1, 1, size=2)
    half = shape.side / 2 * (1 + grow * rng.uniform(-1, 1)) + 1.5
    return x - half, y - half, x + half, y + half


def _part(shape, rng):
    """One half of a shape's box: left, right, upper or lower."""
    box = list(_around(shape, rng, 0.0, 0.0))
    edge = rng.integers(4)
    box[edge] = shape.x if edge % 2 == 0 else shape.y
    return tuple(box)


def _background_box(scene, rng):
    """A box that touches no shape; it shrinks until there is room for it."""
    size = 0.4
    while True:
        size = max(0.96 * size, 0.06)
        w, h = rng.uniform(0.6, 1, size=2) * size * min(scene.width, scene.height)
        x, y = rng.uniform(0, scene.width - 1 - w), rng.uniform(0, scene.height - 1 - h)
        if all(x + w < x1 - 2 or x2 + 2 < x or y + h < y1 - 2 or y2 + 2 < y
               for x1, y1, x2, y2 in (shape.box for shape in scene.shapes)):
            return x, y, x + w, y + h


def region_features(image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Features of the crops of `image`, uint8 (height, width, 3), at `boxes` (n, 4): float32 (n, 2048), not
    negative, with a mean norm of about 25."""
    maps = _pixel_maps(image)
    histograms = np.stack([_histograms(maps, box) for box in boxes])  # (n, bins)
    matrix, offset = _projection()
    # einsum, not @: BLAS would start threads for so little work, and its order of summation varies.
    features = np.maximum(np.einsum('nb,bf->nf', histograms - offset, matrix), 0) * SCALE
    # Rounded, so that the order of summation does not show, and files compress better.
    return (np.round(features * 64) / 64).astype(np.float32)


def _pixel_maps(image):
    """The colour bin of every pixel, the strength of its edge, and the angle of the edge in bins, folded into a
    quarter turn (0 is vertical, 90 degrees horizontal), so that mirror images are equal."""
    image = image.astype(np.float64) / 255
    hue, saturation, value = np.moveaxis(rgb2hsv(image), -1, 0)
    hue_bin = np.minimum((hue * HUES + 0.5).astype(int) % HUES, HUES - 1)
    coloured = 2 * (saturation > 0.6) + (value > 0.6)
    colour = np.where(saturation > 0.35, coloured * HUES + hue_bin,
                      4 * HUES + np.minimum((value * GREYS).astype(int), GREYS - 1))
    down, across = np.zeros_like(image), np.zeros_like(image)
    down[1:-1] = np.abs(image[2:] - image[:-2]) / 2
    across[:, 1:-1] = np.abs(image[:, 2:] - image[:, :-2]) / 2
    strongest = np.argmax(down ** 2 + across ** 2, axis=-1)[..., None]
    down = np.take_along_axis(down, strongest, axis=-1)[..., 0]
    across = np.take_along_axis(across, strongest, axis=-1)[..., 0]
    angle = np.arctan2(down, across) / (np.pi / 2) * (ANGLES - 1)
    return colour, np.hypot(down, across), angle


def _histograms(maps, box):
    """The histograms of a crop, concatenated: colours, angles of edges, strengths of edges, and the shares of its
    most frequent colours, whichever they are (a ring covers less than a disc).

    Square roots give each histogram the length 1 (or 0) and small shares more weight.  The rim of the crop is left
    out, since its edges depend on pixels outside.
    """
    x1, y1 = int(np.floor(box[0])), int(np.floor(box[1]))
    x2, y2 = int(np.ceil(box[2])), int(np.ceil(box[3]))
    colour, edge, angle = (values[y1 + 1:y2, x1 + 1:x2].ravel() for values in maps)
    colours = np.bincount(colour, minlength=COLOUR_BINS)
    strengths = np.bincount(np.minimum((edge / 0.5 * STRENGTHS).astype(int), STRENGTHS - 1), minlength=STRENGTHS)
    strong = edge > EDGE
    low = np.minimum(angle[strong].astype(int), ANGLES - 2)
    weight = angle[strong] - low
    angles = (np.bincount(low, edge[strong] * (1 - weight), minlength=ANGLES)
              + np.bincount(low + 1, edge[strong] * weight, minlength=ANGLES))
    areas = np.sort(colours)[:-AREAS - 1:-1]
    return np.concatenate([scale * np.sqrt(bins / max(bins.sum(), 1e-9))
                           for scale, bins in zip(WEIGHTS, (colours, angles, strengths, areas))])


@functools.cache
def _projection():
    """The fixed random matrix (bins, 2048), and the histogram that is subtracted before it is applied."""
    sizes = COLOUR_BINS, ANGLES, STRENGTHS, AREAS
    offset = np.concatenate([np.full(size, scale * size ** -0.5) for scale, size in zip(WEIGHTS, sizes)])
    return np.random.default_rng(20140601).normal(size=(sum(sizes), FEATURE_SIZE)), offset
