"""Reading pictures of any colour mode."""

import contextlib
import os
import struct
import warnings
import zlib

import numpy as np
from PIL import Image

from misc.cli import DataError

# What Pillow's decoders are known to raise on broken files.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, AttributeError,
           OverflowError, MemoryError, struct.error, zlib.error, Image.DecompressionBombError)
MOST_PIXELS = 2 * Image.MAX_IMAGE_PIXELS   # from here on Pillow takes a picture for an attack
ORIENTATION = 0x0112                       # EXIF's tag
# EXIF's orientation: what turns the stored pixels upright.
TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
         5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
         8: Image.Transpose.ROTATE_90}
REDUCIBLE = ('L', 'LA', 'RGB', 'RGBA', 'CMYK')   # modes whose pixels can be averaged


def read_rgb(path):
    """The image as uint8 (height, width, 3), red, green, blue.

    Grey, palette, CMYK and other modes are converted; 16-bit greys keep their upper 8 bits;
    transparent images lie on white; of an animation it is the first frame.  The pixels are as stored
    (an EXIF orientation is not applied), since COCO's sizes and boxes refer to them so.
    Raises `DataError`, naming the file, where it is missing or broken.
    """
    try:
        with _opened(path) as image:
            image.load()
            return np.array(_rgb(image), dtype=np.uint8)
    except _BROKEN as error:
        raise DataError(_reason(path, error)) from None


def read_upright(path, longest):
    """(pixels, (width, height)) of a picture as people see it, by its EXIF orientation.

    pixels: uint8 (h, w, 3) as of `read_rgb`, shrunk so that the longer side has `longest` pixels where it
    had more; width and height are those before it was shrunk.  Raises `DataError` as `read_rgb` does.
    """
    try:
        with _opened(path) as image:
            size = image.size
            image.draft(None, (2 * longest, 2 * longest))   # JPEG: read at half, a quarter or an eighth
            image.load()   # before the orientation: of a PNG that loads too, and its errors say nothing
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


def shrunk(size, longest):
    """The (width, height) of the pixels that `read_upright` gives of a picture of `size`."""
    scale = min(1, longest / max(size))
    return tuple(max(1, round(side * scale)) for side in size)


def read_size(path, upright=False):
    """(width, height) of the image in pixels, from its header; `upright` turns it by its EXIF orientation.
    Raises `DataError`."""
    try:
        with _opened(path) as image:
            turn = _turn(image) if upright else None
            return image.size if turn is None or _keeps_sides(turn) else image.size[::-1]
    except _BROKEN as error:
        raise DataError(_reason(path, error)) from None


@contextlib.contextmanager
def _opened(path):
    """The image at `path`, opened without Pillow's warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with Image.open(path) as image:
            yield image


def _turn(image):
    """The `Image.Transpose` that puts an image upright, or None; a broken EXIF block says nothing."""
    try:
        return TURNS.get(image.getexif().get(ORIENTATION))
    except _BROKEN:
        return None


def _keeps_sides(turn):
    """Whether width stays width."""
    return turn in (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM,
                    Image.Transpose.ROTATE_180)


def _rgb(image):
    """`image` in mode RGB."""
    if image.mode.startswith('I'):
        # Greys beyond 8 bits, which Pillow's own conversion would clip instead of scale.
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray(np.clip(values >> 8, 0, 255).astype(np.uint8)).convert('RGB')
    if image.mode == 'F':
        raise ValueError('grey values are floating-point numbers without a known range')
    if image.mode in ('RGBA', 'RGBa', 'LA', 'La', 'PA') or 'transparency' in image.info:
        image = image.convert('RGBA')
        white = Image.new('RGBA', image.size, 'white')
        return Image.alpha_composite(white, image).convert('RGB')
    return image.convert('RGB')


def _reason(path, error):
    """One line about why `path` cannot be read."""
    if isinstance(error, FileNotFoundError):
        return f'{path}: there is no such file'
    if isinstance(error, Image.DecompressionBombError):
        return f'{path}: it has more than the {MOST_PIXELS:,} pixels that are read at most; shrink it'
    with contextlib.suppress(OSError):
        if not os.path.getsize(path):
            return f'{path}: not a readable image (the file is empty)'
    reason = (str(error).splitlines() or ['broken'])[0].replace(f' {path!r}', '')
    return f'{path}: not a readable image ({reason[:120] or "broken"})'
