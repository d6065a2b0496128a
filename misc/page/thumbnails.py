"""Scaled-down pictures for a page: each is made once, and again only when its source changes."""

import contextlib
import functools
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping

import numpy as np
from PIL import Image

from misc.cli import DataError, Progress
from misc.disk.files import TEMPORARY, is_abandoned, replacing
from misc.pictures.images import read_rgb, read_size, read_upright
from misc.prepare.made import digest
from misc.prepare.workers import Workers

SIDES = {'thumbs': 384, 'imgs': 1000}  # folder: the most pixels of the longer side of its pictures
QUALITY = {'thumbs': 78, 'imgs': 90}   # of JPEG
NAME = re.compile(r'[0-9a-f]{24}\.jpg')
UNFINISHED = re.compile(rf'{NAME.pattern}\.[0-9]+{re.escape(TEMPORARY)}')

Read = Callable[[str], np.ndarray]     # path -> uint8 (height, width, 3)
Made = tuple[str, int, int]            # file name in both folders; width and height of the larger picture


def make_pictures(folder: str | os.PathLike[str], paths: Iterable[str], workers: int = 1,
                  read: Read = read_rgb) -> tuple[dict[str, Made], list[str]]:
    """Make `folder`/thumbs/NAME and `folder`/imgs/NAME of the pictures at `paths`, unless they are there.

    The pictures hold the pixels that `read(path)` returns, so that they match the regions, and no metadata, such as
    where a photo was taken.  Returns {path: (NAME, width, height)} of those that can be read, and a message for
    each that cannot.
    """
    for kind in SIDES:
        os.makedirs(os.path.join(folder, kind), exist_ok=True)
    paths = list(dict.fromkeys(paths))
    found: dict[str, Made] = {}
    broken: list[str] = []
    work = functools.partial(make_picture, folder, read)
    with Workers(work, workers, len(paths)) as pool, Progress(len(paths), 'pictures') as display:
        for path, made in zip(paths, pool.map(paths)):
            if isinstance(made, str):
                broken.append(made)
            else:
                found[path] = made
            display.update()
    return found, broken


def as_seen(path: str) -> np.ndarray:
    """Read a picture with its EXIF orientation applied: `read` where the regions were found in such pictures."""
    return read_upright(path, SIDES['imgs'])[0]


def make_picture(folder: str | os.PathLike[str], read: Read, path: str) -> Made | str:
    """Make the pictures of `path` unless they are there; a message where it cannot be read."""
    try:
        name = picture_name(path, read)
        places = {kind: os.path.join(folder, kind, name) for kind in SIDES}
        if all(map(os.path.isfile, places.values())):
            with contextlib.suppress(DataError):   # broken ones are made again
                read_size(places['thumbs'])
                return (name, *read_size(places['imgs']))
        image = Image.fromarray(read(path))
    except DataError as error:
        return str(error)
    made = {kind: scaled(image, side) for kind, side in SIDES.items()}
    for kind, place in places.items():
        with replacing(place, durable=False) as file:
            made[kind].save(file, 'JPEG', quality=QUALITY[kind])
    return (name, *made['imgs'].size)


def picture_name(path: str, read: Read) -> str:
    """The name of the pictures of `path`, which changes with the file and with how they are made."""
    try:
        state = os.stat(path)
    except OSError as error:
        raise DataError(f'{path}: {error.strerror}') from None
    made = (os.path.abspath(path), state.st_mtime_ns, state.st_size, read.__name__, SIDES, QUALITY)
    return f'{digest(repr(made).encode("utf-8", "surrogateescape"))}.jpg'


def scaled(image: Image.Image, side: int) -> Image.Image:
    """`image`, its longer side scaled down to `side` pixels if it has more."""
    factor = min(1.0, side / max(image.size))
    width, height = (max(1, round(length * factor)) for length in image.size)
    return image if factor == 1 else image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=2.0)


def complete(folder: str | os.PathLike[str], made: Mapping[str, Made], read: Read) -> None:
    """Make those of the pictures `made` {path: as from `make_picture`} again that another page's writer removed."""
    for path, (name, *_) in made.items():
        if not all(os.path.isfile(os.path.join(folder, kind, name)) for kind in SIDES):
            make_picture(folder, read, path)


def remove_others(folder: str | os.PathLike[str], names: Collection[str]) -> None:
    """Remove the pictures of `make_pictures` whose names are not in `names`, and the temporary files of writers
    that were killed."""
    for kind in SIDES:
        for entry in os.scandir(os.path.join(folder, kind)):
            is_left = UNFINISHED.fullmatch(entry.name) and is_abandoned(entry.name)
            if is_left or NAME.fullmatch(entry.name) and entry.name not in names:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(entry.path)
