"""Reading pictures of any colour mode."""

import struct
import warnings
import zlib

import numpy as np
from PIL import Image

from misc.cli import DataError

# What Pillow's decoders are known to raise on broken files.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, AttributeError,
           OverflowError, MemoryError, struct.error, zlib.error, Image.DecompressionBombError)


def read_rgb(path):
    """The image as uint8 (height, width, 3), red, green, blue.

    Grey, palette, CMYK and other modes are converted; 16-bit greys keep their upper 8 bits;
    transparent images lie on white; of an animation it is the first frame.  The pixels are as stored
    (an EXIF orientation is not applied), since COCO's sizes and boxes refer to them so.
    Raises `DataError`, naming the file, where it is missing or broken.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            with Image.open(path) as image:
                image.load()
                return np.array(_rgb(image), dtype=np.uint8)
    except _BROKEN as error:
        raise DataError(_reason(path, error)) from None


def read_size(path):
    """(width, height) of the image in pixels, from its header.  Raises `DataError`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            with Image.open(path) as image:
                return image.size
    except _BROKEN as error:
        raise DataError(_reason(path, error)) from None


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
    return f'{path}: not a readable image ({str(error).splitlines()[0][:120] if str(error) else "broken"})'
