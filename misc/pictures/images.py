"""Read image files of the common formats, in any colour mode, as RGB arrays.

Pillow goes by the content of a file, not by its name, and knows formats (PostScript) for which it starts another
program.  So only `FORMATS` are tried.
"""

import contextlib
import functools
import os
import struct
import warnings
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, UnidentifiedImageError

from misc.cli import DataError
from misc.disk.files import open_regular

# Exceptions that Pillow's decoders raise on broken files.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, AttributeError,
           OverflowError, MemoryError, struct.error, zlib.error, Image.DecompressionBombError)
FORMATS = ('JPEG', 'MPO', 'PNG', 'WEBP', 'BMP', 'GIF', 'TIFF', 'AVIF', 'JPEG2000', 'PPM')
# Bytes of memory that decoding and converting an image may take; per pixel, plain and with transparency or more bits.
MOST_BYTES, PLAIN_BYTES, OTHER_BYTES = 2 << 30, 8, 20
PLAIN = ('1', 'L', 'P', 'RGB', 'RGBX', 'CMYK', 'YCbCr', 'LAB', 'HSV')
# Beyond this Pillow raises DecompressionBombError.
MOST_PIXELS = 2 * Image.MAX_IMAGE_PIXELS   # type: ignore[operator]  # None only where a program sets it
ORIENTATION = 0x0112   # the tag in EXIF
# EXIF orientation: the transposition that turns the stored pixels upright.
TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
         5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
         8: Image.Transpose.ROTATE_90}
REDUCIBLE = ('L', 'LA', 'RGB', 'RGBA', 'CMYK')   # modes whose pixels can be averaged


def read_rgb(path: str) -> np.ndarray:
    """Read an image as uint8 (height, width, 3), red, green, blue.

    Grey, palette, CMYK and other modes are converted; 16-bit grey keeps its upper 8 bits; transparent images
    are composited on white; of an animation the first frame is read.  The EXIF orientation is not applied,
    since COCO's sizes and boxes refer to the pixels as stored.  Raises `DataError`, naming the file, where it
    is missing or broken.
    """
    try:
        with _opened(path) as image:
            _load(image)
            return np.array(_rgb(image), dtype=np.uint8)
    except _BROKEN as error:
        raise DataError(_reason(path, error)) from None


def read_upright(path: str | Image.Image, longest: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Read a picture with its EXIF orientation applied, its longer side scaled down to `longest` pixels.

    An image that is open in Pillow is taken too; it stays open and as it is.

    Returns (pixels, (width, height)): uint8 (h, w, 3) as from `read_rgb`, and the size before scaling.
    Raises `DataError` as `read_rgb` does.
    """
    try:
        with _opened(path) as image:
            size = image.size
            if image is not path:
                image.draft(None, (2 * longest, 2 * longest))   # JPEG: decode at 1/2, 1/4 or 1/8
            _load(image)   # now, since reading a PNG's EXIF loads it too, and `_turn` hides errors
            turn = _turn(image)
            size = size if turn is None or _keeps_sides(turn) else size[::-1]
            if image.mode in REDUCIBLE and max(image.size) >= 4 * longest:
                image = image.reduce(max(image.size) // (2 * longest))
            image = image if turn is None else image.transpose(turn)
            image = _rgb(image)
            if max(size) > longest:
                image = image.resize(shrunk(size, longest), Image.Resampling.LANCZOS)
            return np.array(image, dtype=np.uint8), size
    except _BROKEN as error:
        raise DataError(_reason(path, error)) from None


def picture_name(picture: str | Image.Image) -> str:
    """What messages call a picture: its file, where it has one."""
    return getattr(picture, 'filename', '') or 'the PIL image' if isinstance(picture, Image.Image) else picture


def shrunk(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """The (width, height) of the pixels that `read_upright` returns for a picture of `size`."""
    scale = min(1, longest / max(size))
    width, height = (max(1, round(side * scale)) for side in size)
    return width, height


def read_size(path: str, upright: bool = False) -> tuple[int, int]:
    """The (width, height) in an image's header, in pixels; `upright`: with its EXIF orientation applied.
    Raises `DataError`."""
    try:
        with _opened(path) as image:
            turn = _turn(image) if upright else None
            return image.size if turn is None or _keeps_sides(turn) else image.size[::-1]
    except _BROKEN as error:
        raise DataError(_reason(path, error)) from None


@contextlib.contextmanager
def _opened(path: str | Image.Image) -> Iterator[Image.Image]:
    """Open the image at `path`, a file of one of `FORMATS`, without Pillow's warnings; or take one that is open."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        if isinstance(path, Image.Image):
            yield path
            return
        with open_regular(path) as file, Image.open(file, formats=_formats()) as image:
            yield image


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _load(image: Image.Image) -> None:
    """Decode the pixels, unless that and converting them would take too much memory."""
    is_plain = image.mode in PLAIN and 'transparency' not in image.info
    width, height = image.size
    if width * height * (PLAIN_BYTES if is_plain else OTHER_BYTES) > MOST_BYTES:
        raise ValueError(f'{width} x {height} pixels of mode {image.mode} take more than {MOST_BYTES >> 30} GB; '
                         'shrink it')
    image.load()


def _turn(image):
    """The `Image.Transpose` that turns an image upright, or None; a broken EXIF block is ignored."""
    try:
        return TURNS.get(image.getexif().get(ORIENTATION))
    except _BROKEN:
        return None


def _keeps_sides(turn):
    """Whether the turned image has the same width."""
    return turn in (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM,
                    Image.Transpose.ROTATE_180)


def _rgb(image):
    """`image` in mode RGB."""
    if image.mode.startswith('I'):
        # Grey of more than 8 bits, which Pillow's conversion would clip instead of scale.
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray(np.clip(values >> 8, 0, 255).astype(np.uint8)).convert('RGB')
    if image.mode == 'F':
        raise ValueError('its grey values are floating-point numbers without a known range')
    if image.mode in ('RGBA', 'RGBa', 'LA', 'La', 'PA') or 'transparency' in image.info:
        image = image.convert('RGBA')
        white = Image.new('RGBA', image.size, 'white')
        return Image.alpha_composite(white, image).convert('RGB')
    return image.convert('RGB')


def _reason(path, error):
    """One line about why `path`, or an image of Pillow's, cannot be read."""
    path = picture_name(path)
    if isinstance(error, FileNotFoundError):
        return f'{path}: there is no such file'
    if isinstance(error, Image.DecompressionBombError):
        return f'{path}: it has more than {MOST_PIXELS:,} pixels, the most that are read; shrink it'
    with contextlib.suppress(OSError):
        if not os.path.getsize(path):
            return f'{path}: not a readable image (the file is empty)'
    if isinstance(error, UnidentifiedImageError):
        return f'{path}: not a readable image (of none of the formats {", ".join(_formats())})'
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    reason = (text.splitlines() or ['broken'])[0]
    return f'{path}: not a readable image ({reason[:120] or "broken"})'
