"""Scenes of the built-in data set: where the shapes lie, which fact is told, how they are drawn.

A scene is drawn at random until one fact about it holds with a margin, so that no caption is a
close call.  Lengths inside a scene are pixels, y grows downwards.
"""

import dataclasses
import functools

import numpy as np
from skimage import draw, filters
from skimage.color import hsv2rgb

from misc.demo.relations import COLOURS, SHAPES

# Share of the scenes of each kind; a side word stands for a quarter of the first.
KINDS = {'side': 0.82, 'inside': 0.11, 'between': 0.07}
SIDES = ('left', 'right', 'above', 'below')

SIZE_MARGIN = 1.25   # a shape counts as larger than another if its side is this many times as long
AXIS_MARGIN = 2.5    # "left of" needs the centres this many times as far apart in x as in y
BORDER = 0.06        # no shape comes nearer to the border; parts of the shorter side of the picture
GAP = 0.05           # nor to another shape,
WAY = 0.08           # nor to the way between two whose sides are told
CORNER = (0.36, 0.42)  # a centre nearer than the first to two borders is in a corner, one beyond
MIDDLE = (0.07, 0.12)  # the second is not, one between the two is a close call.  MIDDLE: from the centre

RGB = {'red': (214, 40, 40), 'orange': (247, 127, 0), 'yellow': (250, 218, 50), 'green': (50, 150, 65),
       'blue': (40, 85, 200), 'purple': (125, 50, 155), 'black': (25, 25, 28), 'white': (250, 250, 250)}
HOLDERS = ('circle', 'square', 'diamond')  # shapes roomy enough for another one inside


@dataclasses.dataclass(frozen=True)
class Shape:
    """A shape whose bounding box is a square of `side` around (x, y)."""
    colour: str
    shape: str
    x: float
    y: float
    side: float

    @property
    def name(self):
        """(colour, shape), unique in its scene."""
        return self.colour, self.shape

    @property
    def box(self):
        """(x1, y1, x2, y2)"""
        half = self.side / 2
        return self.x - half, self.y - half, self.x + half, self.y + half


@dataclasses.dataclass(frozen=True)
class Scene:
    """A picture of `width` x `height` with `shapes` from the largest to the smallest."""
    width: int
    height: int
    shapes: tuple


@dataclasses.dataclass(frozen=True)
class Fact:
    """What the captions tell: `relation` holds between `shapes` (the first is left of the second;
    inside the second; between the second and the third); `place` is where in the picture the
    largest shape is ('top left', ..., 'middle'), or None."""
    relation: str
    shapes: tuple
    place: str | None


def side_of(first, second, width, height):
    """Where `first` is from `second` ('left', ...), or None where it is a close call."""
    dx, dy = second.x - first.x, second.y - first.y
    reach = (first.side + second.side) / 2 + GAP * min(width, height)
    if abs(dx) > AXIS_MARGIN * abs(dy) and abs(dx) > reach:
        return 'left' if dx > 0 else 'right'
    if abs(dy) > AXIS_MARGIN * abs(dx) and abs(dy) > reach:
        return 'above' if dy > 0 else 'below'
    return None


def is_inside(inner, outer):
    """Whether the box of `inner` lies inside `outer`, even if that is a diamond."""
    return abs(inner.x - outer.x) + abs(inner.y - outer.y) + inner.side < outer.side / 2


def is_between(middle, first, second, width, height):
    """Whether `middle` lies on the line from `first` to `second`, near its middle."""
    off = max(abs(middle.x - (first.x + second.x) / 2), abs(middle.y - (first.y + second.y) / 2))
    return (off < 0.06 * min(width, height)
            and side_of(first, middle, width, height) is not None
            and side_of(first, middle, width, height) == side_of(middle, second, width, height))


def place_of(shape, width, height):
    """(where in the picture `shape` is or None, whether that is clear)."""
    x, y = shape.x / width, shape.y / height
    from_border = max(min(x, 1 - x), min(y, 1 - y))
    from_middle = max(abs(x - 0.5), abs(y - 0.5))
    if CORNER[0] < from_border < CORNER[1] or MIDDLE[0] < from_middle < MIDDLE[1]:
        return None, False
    if from_border <= CORNER[0]:
        return f'{"top" if y < 0.5 else "bottom"} {"left" if x < 0.5 else "right"}', True
    return ('middle' if from_middle <= MIDDLE[0] else None), True


def fact_of(scene):
    """The fact that captions tell about `scene`, by a fixed rule; None where it is a close call.

    With a, b, c the three largest shapes, of three colours: that b is inside a, else that c is
    between a and b, else on which side of b lies a; and where a lies in the picture, if that is a
    corner or the middle.
    """
    size = scene.width, scene.height
    a, b, c = scene.shapes[:3]
    if len({shape.name for shape in scene.shapes}) < len(scene.shapes):
        return None
    if len({a.colour, b.colour, c.colour}) < 3:
        return None
    if a.side < SIZE_MARGIN * b.side or b.side < SIZE_MARGIN * c.side:
        return None
    place, clear = place_of(a, *size)
    if not clear:
        return None
    if is_inside(b, a):
        return Fact('inside', (b, a), place)
    if is_between(c, a, b, *size):
        is_third = all(c.side > SIZE_MARGIN * other.side for other in scene.shapes[3:])
        return Fact('between', (c, a, b), None) if is_third else None
    relation = side_of(a, b, *size)
    room = WAY * min(size)
    if relation is None or any(_in_the_way(other, a, b, room) for other in scene.shapes[2:]):
        return None
    return Fact(relation, (a, b), place if place != 'middle' else None)


def _in_the_way(other, a, b, room):
    """Whether `other` comes nearer than `room` to the box that holds the centres of a and b."""
    half = other.side / 2 + room
    return (min(a.x, b.x) - half < other.x < max(a.x, b.x) + half
            and min(a.y, b.y) - half < other.y < max(a.y, b.y) + half)


def draw_scene(rng):
    """(scene, fact): a random scene whose kind of fact has the share that `KINDS` gives it."""
    kind = rng.choice(list(KINDS), p=list(KINDS.values()))
    wanted = SIDES[rng.integers(4)] if kind == 'side' else kind
    while True:
        scene = _try_scene(rng, kind)
        fact = fact_of(scene) if scene else None
        if fact is not None and fact.relation == wanted:
            return scene, fact


def _try_scene(rng, kind):
    """A random scene that may show a fact of `kind`, or None where the shapes found no room."""
    width, height = int(rng.integers(160, 201)), int(rng.integers(128, 151))
    short = min(width, height)
    sides = _sides(rng, kind, int(rng.integers(3, 7)))
    names = rng.choice(len(COLOURS) * len(SHAPES), size=len(sides), replace=False)
    shapes = []
    for index, (side, name) in enumerate(zip(sides, names)):
        colour, shape = COLOURS[name // len(SHAPES)], SHAPES[name % len(SHAPES)]
        if kind == 'inside' and index == 0:
            shape = HOLDERS[name % len(HOLDERS)]
        if index < 3 and colour in [other.colour for other in shapes]:
            return None
        placed = _place(rng, kind, colour, shape, side * short, shapes, width, height)
        if placed is None:
            return None
        shapes.append(placed)
    return Scene(width, height, tuple(sorted(shapes, key=lambda shape: -shape.side)))


def _sides(rng, kind, count):
    """The sides of `count` shapes, as parts of the shorter side of the picture, largest first (but
    for the least)."""
    largest, second = {'side': ((0.30, 0.42), (0.62, 0.79)), 'inside': ((0.42, 0.55), (0.34, 0.44)),
                       'between': ((0.27, 0.34), (0.66, 0.79))}[kind]
    a = rng.uniform(*largest)
    b = a * rng.uniform(*second)
    c = 0.79 * b * rng.uniform(0.92, 1) if kind == 'between' else rng.uniform(0.10, max(0.11, 0.79 * b))
    most = 0.79 * c if kind == 'between' else c
    return [a, b, c] + [rng.uniform(0.085, max(0.09, most)) for _ in range(count - 3)]


def _place(rng, kind, colour, shape, side, others, width, height):
    """The shape at a random place with room around it, or None after some tries."""
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


def paint(scene, rng):
    """The picture of a scene: uint8 (height, width, 3)."""
    picture = _background(scene.height, scene.width, rng)
    for shape in scene.shapes:
        colour = np.array(RGB[shape.colour], dtype=float) + rng.uniform(-6, 6, size=3) + rng.uniform(-10, 10)
        x1, y1 = int(shape.box[0]) - 1, int(shape.box[1]) - 1
        span = int(shape.side) + 4
        cover = coverage(shape.shape, shape.x - x1, shape.y - y1, shape.side / 2, span)[:, :, None]
        patch = picture[y1:y1 + span, x1:x1 + span]
        patch[:] = patch * (1 - cover) + colour * cover
    return np.clip(picture + rng.normal(0, 1.5, size=picture.shape), 0, 255).round().astype(np.uint8)


def coverage(shape, x, y, half, span, fine=3):
    """The part of each pixel that a shape covers, (span, span), by `fine` x `fine` samples each."""
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
    """Scale an outline so that its bounding box is [-1, 1] x [-1, 1]."""
    points = np.array(points, dtype=float)
    low, high = points.min(axis=0), points.max(axis=0)
    return 2 * (points - low) / (high - low) - 1


@functools.cache
def outlines():
    """{shape: its corners (n, 2), x and y in [-1, 1]}, for those that are neither circle nor ring."""
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
    """A quiet background, float (height, width, 3), that looks alike (on average over pictures)
    wherever one looks: nothing about it tells left from right or top from bottom."""
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
