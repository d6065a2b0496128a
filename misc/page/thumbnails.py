"""Small pictures for a page: each made once, and made again only when its source changed."""

import contextlib
import functools
import os
import re

from PIL import Image

from misc.cli import DataError, Progress
from misc.disk.files import TEMPORARY, replacing
from misc.pictures.images import read_rgb, read_size, read_upright
from misc.prepare.made import digest
from misc.prepare.workers import Workers

SIDES = {'thumbs': 384, 'imgs': 1000}  # folder: the longer side of its pictures, at most, in pixels
QUALITY = {'thumbs': 78, 'imgs': 90}
NAME = re.compile(r'[0-9a-f]{24}\.jpg')


def make_pictures(folder, paths, workers=1, read=read_rgb):
    """Make `folder`/thumbs/NAME and `folder`/imgs/NAME of every picture of `paths`, where they are not there.

    `read(path)` gives an array (height, width, 3); pictures stand as it gives them, the way the regions were
    found, and nothing else of their files, such as where a photograph was taken, goes along.  Returns {path:
    (NAME, width, height)}, the size that of the larger one, without the pictures that cannot be read; and a
    list of what is wrong with those.
    """
    for name in SIDES:
        os.makedirs(os.path.join(folder, name), exist_ok=True)
    paths, found, broken = list(dict.fromkeys(paths)), {}, []
    work = functools.partial(make_picture, folder, read)
    with Workers(work, workers, len(paths)) as pool, Progress(len(paths), 'pictures') as display:
        for path, (made, wrong) in zip(paths, pool.map(paths)):
            if wrong:
                broken.append(wrong)
            else:
                found[path] = made
            display.update()
    return found, broken


def as_seen(path):
    """A picture as people see it, for `make_pictures` where regions were found in such: turned by its EXIF
    orientation, (height, width, 3)."""
    return read_upright(path, SIDES['imgs'])[0]


def make_picture(folder, read, path):
    """((name, width, height), '') of one picture, made if need be, or (None, what is wrong with it)."""
    try:
        name = picture_name(path, read)
        places = {kind: os.path.join(folder, kind, name) for kind in SIDES}
        if all(map(os.path.isfile, places.values())):
            with contextlib.suppress(DataError):
                read_size(places['thumbs'])
                return (name, *read_size(places['imgs'])), ''
        image = Image.fromarray(read(path))
    except DataError as error:
        return None, str(error)
    for kind, place in places.items():
        with replacing(place, durable=False) as file:
            scaled(image, SIDES[kind]).save(file, 'JPEG', quality=QUALITY[kind])
    return (name, *read_size(places['imgs'])), ''


def picture_name(path, read):
    """The name of a picture's smaller ones: another one when the file changes, or the way it is made."""
    try:
        state = os.stat(path)
    except OSError as error:
        raise DataError(f'{path}: {error.strerror}') from None
    made = (os.path.abspath(path), state.st_mtime_ns, state.st_size, read.__name__, SIDES, QUALITY)
    return f'{digest(repr(made).encode("utf-8", "surrogateescape"))}.jpg'


def scaled(image, side):
    """`image`, its longer side at most `side` pixels."""
    factor = min(1.0, side / max(image.size))
    size = [max(1, round(length * factor)) for length in image.size]
    return image if factor == 1 else image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)


def remove_others(folder, names):
    """Remove the pictures that `make_pictures` made in `folder` and whose names are not in `names`, and what
    killed writers left there."""
    for kind in SIDES:
        for entry in os.scandir(os.path.join(folder, kind)):
            if entry.name.endswith(TEMPORARY) or NAME.fullmatch(entry.name) and entry.name not in names:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(entry.path)
