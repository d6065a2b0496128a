"""Scenes of the built-in data set: where the shapes are, the fact that captions state, the image.

Scenes are drawn at random until one fact holds with a margin, so that no caption is debatable.  Lengths are in
pixels, y grows downwards.
"""

import dataclasses
import functools

import numpy as np
from skimage import draw, filters
from skimage.color import hsv2rgb

from misc.demo.relations import COLOURS, SHAPES

# The share of scenes with each kind of fact; those of 'side' are divided evenly among `SIDES`.
KINDS = {'side': 0.82, 'inside': 0.11, 'between': 0.07}
SIDES = ('left', 'right', 'above', 'below')

SIZE_MARGIN = 1.25    # a shape counts as larger than another if its side is this many times as long
AXIS_MARGIN = 2.5     # "left of" needs the centres this many times as far apart in x as in y
# Minimum distances, as parts of the shorter side of the image:
BORDER = 0.06         # of a shape from the border,
GAP = 0.05            # from another shape,
CLEARANCE = 0.08      # from the box around the centres of two shapes whose relation is stated
# Distances of a shape's centre, as parts of the image: up to the first the place is certain, from the second on it
# is certainly another, in between it is debatable.
CORNER = (0.36, 0.42)    # from the farther of the two nearest borders
MIDDLE = (0.07, 0.12)    # from the centre of the image, along the farther axis

RGB = {'red': (214, 40, 40), 'orange': (247, 127, 0), 'yellow': (250, 218, 50), 'green': (50, 150, 65),
       'blue': (40, 85, 200), 'purple': (125, 50, 155), 'black': (25, 25, 28), 'white': (250, 250, 250)}
CONTAINERS = ('circle', 'square', 'diamond')    # shapes with room for another one inside


@dataclasses.dataclass(frozen=True)
class Shape:
    """A shape whose bounding box is the square of length `side` centred at (x, y)."""

    colour: str
    shape: str
    x: float
    y: float
    side: float

    @property
    def name(self) -> tuple[str, str]:
        """(colour, shape), unique within a scene."""
        return self.colour, self.shape

    @property
    def box(self) -> tuple[float, float, float, float]:
        """(x1, y1, x2, y2)"""
        half = self.side / 2
        return self.x - half, self.y - half, self.x + half, self.y + half


@dataclasses.dataclass(frozen=True)
class Scene:
    """An image of `width` x `height` with `shapes` from the largest to the smallest."""

    width: int
    height: int
    shapes: tuple[Shape, ...]


@dataclasses.dataclass(frozen=True)
class Fact:
    """What the captions of a scene state.

    relation  one of `SIDES`, 'inside' or 'between'
    shapes    the first is left of (right of, ...) or inside the second, or between the second and the third
    place     where in the image the largest shape is ('top left', ..., 'middle'), or None
    """

    relation: str
    shapes: tuple[Shape, ...]
    place: str | None


def side_of(first: Shape, second: Shape, width: int, height: int) -> str | None:
    """On which side of `second` the shape `first` is, one of `SIDES`, or None where that is debatable."""
    dx, dy = second.x - first.x, second.y - first.y
    reach = (first.side + second.side) / 2 + GAP * min(width, height)
    if abs(dx) > AXIS_MARGIN * abs(dy) and abs(dx) > reach:
        return 'left' if dx > 0 else 'right'
    if abs(dy) > AXIS_MARGIN * abs(dx) and abs(dy) > reach:
        return 'above' if dy > 0 else 'below'
    return None


def is_inside(inner: Shape, outer: Shape) -> bool:
    """Whether the box of `inner` is inside `outer`, even if `outer` is a diamond."""
    return abs(inner.x - outer.x) + abs(inner.y - outer.y) + inner.side < outer.side / 2


def is_between(middle: Shape, first: Shape, second: Shape, width: int, height: int) -> bool:
    """Whether `middle` is near the middle of the line from `first` to `second`."""
    off = max(abs(middle.x - (first.x + second.x) / 2), abs(middle.y - (first.y + second.y) / 2))
    return (off < 0.06 * min(width, height)
            and side_of(first, middle, width, height) is not None
            and side_of(first, middle, width, height) == side_of(middle, second, width, height))


def place_of(shape: Shape, width: int, height: int) -> tuple[str | None, bool]:
    """(the place of `shape` in the image or None, whether that is beyond debate)."""
    x, y = shape.x / width, shape.y / height
    from_border = max(min(x, 1 - x), min(y, 1 - y))
    from_middle = max(abs(x - 0.5), abs(y - 0.5))
    if CORNER[0] < from_border < CORNER[1] or MIDDLE[0] < from_middle < MIDDLE[1]:
        return None, False
    if from_border <= CORNER[0]:
        return f'{"top" if y < 0.5 else "bottom"} {"left" if x < 0.5 else "right"}', True
    return ('middle' if from_middle <= MIDDLE[0] else None), True


def fact_of(scene: Scene) -> Fact | None:
    """The fact that captions state about `scene`, None where it is debatable.

    With a, b, c the three largest shapes, which must have three colours: b is inside a, else c is between a and b,
    else a is on one side of b; and the place of a in the image, if it is a corner or the middle.
    """
    size = scene.width, scene.height
    a, b, c = scene.shapes[:3]
    if len({shape.name for shape in scene.shapes}) < len(scene.shapes):
        return None
    if len({a.colour, b.colour, c.colour}) < 3:
        return None
    if a.side < SIZE_MARGIN * b.side or b.side < SIZE_MARGIN * c.side:
        return None
    place, certain = place_of(a, *size)
    if not certain:
        return None
    if is_inside(b, a):
        return Fact('inside', (b, a), place)
    if is_between(c, a, b, *size):
        is_third = all(c.side > SIZE_MARGIN * other.side for other in scene.shapes[3:])
        return Fact('between', (c, a, b), None) if is_third else None
    relation = side_of(a, b, *size)
    clearance = CLEARANCE * min(size)
    if relation is None or any(_obstructs(other, a, b, clearance) for other in scene.shapes[2:]):
        return None
    return Fact(relation, (a, b), place if place != 'middle' else None)


def _obstructs(other, a, b, clearance):
    """Whether `other` is nearer than `clearance` to the box around the centres of a and b."""
    half = other.side / 2 + clearance
    return (min(a.x, b.x) - half < other.x < max(a.x, b.x) + half
            and min(a.y, b.y) - half < other.y < max(a.y, b.y) + half)


def draw_scene(rng: np.random.Generator) -> tuple[Scene, Fact]:
    """A random scene and its fact, of a kind drawn with the probabilities in `KINDS`."""
    kind = rng.choice(list(KINDS), p=list(KINDS.values()))
    wanted = SIDES[rng.integers(4)] if kind == 'side' else kind
    while True:
        scene = _try_scene(rng, kind)
        fact = fact_of(scene) if scene else None
        if fact is not None and fact.relation == wanted:
            return scene, fact


def _try_scene(rng, kind):
    """A random scene that may show a fact of `kind`, or None where there was no room for the shapes."""
    width, height = int(rng.integers(160, 201)), int(rng.integers(128, 151))
    short = min(width, height)
    sides = _sides(rng, kind, int(rng.integers(3, 7)))
    names = rng.choice(len(COLOURS) * len(SHAPES), size=len(sides), replace=False)
    shapes: list[Shape] = []
    for index, (side, name) in enumerate(zip(sides, names)):
        colour, shape = COLOURS[name // len(SHAPES)], SHAPES[name % len(SHAPES)]
        if kind == 'inside' and index == 0:
            shape = CONTAINERS[name % len(CONTAINERS)]
        if index < 3 and colour in [other.colour for other in shapes]:
            return None
        placed = _place(rng, kind, colour, shape, side * short, shapes, width, height)
        if placed is None:
            return None
        shapes.append(placed)
    return Scene(width, height, tuple(sorted(shapes, key=lambda shape: -shape.side)))


def _sides(rng, kind, count):
    """The sides of `count` shapes as parts of the shorter side of the image: the three largest in order, then the
    others in any."""
    largest, second = {'side': ((0.30, 0.42), (0.62, 0.79)), 'inside': ((0.42, 0.55), (0.34, 0.44)),
                       'between': ((0.27, 0.34), (0.66, 0.79))}[kind]
    a = rng.uniform(*largest)
    b = a * rng.uniform(*second)
    c = 0.79 * b * rng.uniform(0.92, 1) if kind == 'between' else rng.uniform(0.10, max(0.11, 0.79 * b))
    most = 0.79 * c if kind == 'between' else c
    return [a, b, c] + [rng.uniform(0.085, max(0.09, most)) for _ in range(count - 3)]


def _place(rng, kind, colour, shape, side, others, width, height):
    """The shape at a random place with enough room around it, or None after some attempts."""
    short = min(width, height)
    low = BORDER * short + side / 2
    for _ in range(20):
        x, y = rng.uniform(low, width - low), rng.uniform(low, height - low)
        if kind == 'inside' and len(others) == 1:
            x, y = others[0].x + rng.uniform(-2, 2), others[0].y + rng.uniform(-2, 2)
            return Shape(colour, shape, x, y, side)
        if kind == 'between' and len(others) == 2:
            x = (others[0].x + others[1].x) / 2 + rng.uniform(-3, 3)
            y = (others[0].y + others[1].y) / 2 + rng.uniform(-3, 3)
        placed = Shape(colour, shape, x, y, side)
        if all(max(abs(x - other.x), abs(y - other.y)) > (side + other.side) / 2 + GAP * short
               for other in others):
            return placed
    return None


def paint(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """The image of a scene, uint8 (height, width, 3)."""
    image = _background(scene.height, scene.width, rng)
    for shape in scene.shapes:
        colour = np.array(RGB[shape.colour], dtype=float) + rng.uniform(-6, 6, size=3) + rng.uniform(-10, 10)
        x1, y1 = int(shape.box[0]) - 1, int(shape.box[1]) - 1
        span = int(shape.side) + 4
        cover = coverage(shape.shape, shape.x - x1, shape.y - y1, shape.side / 2, span)[:, :, None]
        patch = image[y1:y1 + span, x1:x1 + span]
        patch[:] = patch * (1 - cover) + colour * cover
    return np.clip(image + rng.normal(0, 1.5, size=image.shape), 0, 255).round().astype(np.uint8)


def coverage(shape: str, x: float, y: float, half: float, span: int, fine: int = 3) -> np.ndarray:
    """The share of each pixel that a shape covers, (span, span), from `fine` x `fine` samples per pixel.

    The shape is centred at (x, y) and reaches `half` to each side.
    """
    mask = np.zeros((span * fine, span * fine))
    x, y, half = x * fine - 0.5, y * fine - 0.5, half * fine
    if shape in ('circle', 'ring'):
        mask[draw.disk((y, x), half, shape=mask.shape)] = 1
        if shape == 'ring':
            mask[draw.disk((y, x), 0.64 * half, shape=mask.shape)] = 0
    else:
        corners = outlines()[shape]
        mask[draw.polygon(y + half * corners[:, 1], x + half * corners[:, 0], shape=mask.shape)] = 1
    return mask.reshape(span, fine, span, fine).mean(axis=(1, 3))


def _fill_box(points):
    """An outline scaled so that its bounding box is [-1, 1] x [-1, 1]."""
    points = np.array(points, dtype=float)
    low, high = points.min(axis=0), points.max(axis=0)
    return 2 * (points - low) / (high - low) - 1


@functools.cache
def outlines() -> dict[str, np.ndarray]:
    """{shape: its corners (n, 2), x and y in [-1, 1]}, of all shapes but circle and ring."""
    turns = np.pi * np.arange(10) / 5
    star = np.where(np.arange(10) % 2, 0.42, 1)[:, None] * np.stack([np.sin(turns), -np.cos(turns)], 1)
    t = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    heart = np.stack([16 * np.sin(t) ** 3, -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t)
                                             - np.cos(4 * t))], axis=1)
    arm = 0.36
    cross = [(-arm, -1), (arm, -1), (arm, -arm), (1, -arm), (1, arm), (arm, arm),
             (arm, 1), (-arm, 1), (-arm, arm), (-1, arm), (-1, -arm), (-arm, -arm)]
    return {'square': _fill_box([(0, 0), (1, 0), (1, 1), (0, 1)]),
            'diamond': _fill_box([(0, -1), (1, 0), (0, 1), (-1, 0)]),
            'triangle': _fill_box([(0, 0), (1, 2), (-1, 2)]),
            'star': _fill_box(star), 'heart': _fill_box(heart), 'cross': _fill_box(cross)}


def _background(height, width, rng):
    """A quiet background, float (height, width, 3), whose appearance, averaged over images, is the same everywhere:
    nothing in it reveals left from right or top from bottom."""
    y, x = np.mgrid[:height, :width]
    turn = rng.uniform(0, 2 * np.pi)
    along = (x - width / 2) * np.cos(turn) + (y - height / 2) * np.sin(turn)
    kind = rng.choice(['plain', 'gradient', 'stripes', 'checks', 'clouds', 'grain'])
    if kind == 'gradient':
        mix = along / np.hypot(width, height) + 0.5
    elif kind == 'stripes':
        mix = filters.gaussian((np.sin(along * 2 * np.pi / rng.uniform(8, 24)) > 0).astype(float), 0.7)
    elif kind == 'checks':
        pitch, shift = rng.uniform(8, 20), rng.uniform(0, 40, size=2)
        mix = filters.gaussian(((x + shift[0]) // pitch + (y + shift[1]) // pitch) % 2, 0.7)
    elif kind in ('clouds', 'grain'):
        mix = filters.gaussian(rng.normal(size=(height, width)), 9 if kind == 'clouds' else 1.2)
        mix = np.clip(0.5 + mix / (4 * mix.std()), 0, 1)
    else:
        mix = np.zeros((height, width))
    base = 255 * hsv2rgb([rng.random(), rng.uniform(0.08, 0.28), rng.uniform(0.62, 0.82)])
    other = base + rng.choice([-1, 1]) * rng.uniform(12, 24) + rng.uniform(-6, 6, size=3)
    return base + mix[:, :, None] * (other - base)
