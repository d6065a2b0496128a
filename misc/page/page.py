"""The HTML page of captions: index.html and the files that it loads, written from plain data.

Beside index.html lie `thumbs/` and `imgs/` with the pictures (see misc/page/thumbnails.py), and one folder
`data/KEY/` with the files of misc/page/files/ and the data.  The data are scripts, since a page that is opened
from disk may not fetch anything else: `entries.js` with what the list shows of all images, and `0.js`, `1.js`, ...
with the details of `SHARD` images each, loaded when one of them is opened.  KEY is a digest of the folder's
content.  index.html names it and is replaced last, so that the page is complete at any moment.  Of two programs that
write a page into one folder, the last one's page is complete: each holds a lock while it puts its files in place,
and remakes the pictures that the other has removed.
"""

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from misc.disk.files import TEMPORARY, is_abandoned, replacing
from misc.disk.locks import held_folder
from misc.page.data import Entry, Facts, details, listing, script
from misc.page.thumbnails import complete, make_pictures, remove_others
from misc.pictures.images import read_rgb

FILES = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'files')
SHARD = 50  # images
DATA = re.compile('[0-9a-f]{16}')  # names of the folders in data/
UNFINISHED = re.compile(rf'new\.[0-9]+{re.escape(TEMPORARY)}')


def write_page(folder: str | os.PathLike[str], facts: Facts, entries: Sequence[Entry],
               regions: Callable[[int], tuple[np.ndarray | None, np.ndarray | None]], workers: int = 1,
               read: Callable[[str], np.ndarray] = read_rgb) -> list[str]:
    """Write `folder`/index.html and all that it loads.

    `regions(index)` returns the boxes (P, 4), relative to the image, and the grid vectors (P, g * g) of the entry
    at `index`, None for what is unknown.  `workers` processes scale the pictures, which `read(path)` reads.
    Returns a message for each picture that cannot be read; the page shows a blank instead.
    """
    pictures, broken = make_pictures(folder, [entry.picture for entry in entries], workers, read)
    shown = [pictures.get(entry.picture) for entry in entries]
    images = (details(entry, *regions(index)) for index, entry in enumerate(entries))
    with open(os.path.join(FILES, 'index.html'), encoding='utf-8') as file:
        page = file.read()
    with new_data(os.path.join(folder, 'data'), listing(facts, entries, shown, SHARD), images) as (part, key), \
            held_folder(folder, f'another program is writing a page into {folder}; this one was not written'):
        complete(folder, pictures, read)
        if not os.path.isdir(os.path.join(folder, 'data', key)):
            os.rename(part, os.path.join(folder, 'data', key))
        with replacing(os.path.join(folder, 'index.html'), 'w') as file:
            file.write(page.replace('KEY', key))
        remove_others(folder, {one[0] for one in shown if one})
        remove_other_data(os.path.join(folder, 'data'), key)
    return broken


@contextlib.contextmanager
def new_data(folder: str, shared: dict[str, Any], images: Iterable[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """The data in a temporary folder in `folder`, which the block may move, and their KEY.

    shared: the listing of all images; images: the details of each.
    """
    part = os.path.join(folder, f'new.{os.getpid()}{TEMPORARY}')
    os.makedirs(part)
    try:
        yield part, fill(part, shared, images)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def remove_other_data(folder: str, key: str) -> None:
    """Remove the data of other pages than that of `key` from `folder`, and what killed writers left; not what
    another program is writing."""
    for entry in os.scandir(folder):
        is_left = UNFINISHED.fullmatch(entry.name) and is_abandoned(entry.name)
        is_other = is_left or DATA.fullmatch(entry.name) and entry.name != key
        if is_other and entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)


def fill(folder: str, shared: dict[str, Any], images: Iterable[dict[str, Any]]) -> str:
    """Write the files of `new_data` into `folder`; returns the digest of all of them."""
    seen = hashlib.sha256()

    def write(name, content):
        seen.update(f'{name} {len(content)} '.encode() + content)
        with open(os.path.join(folder, name), 'wb') as file:
            file.write(content)

    for name in sorted(set(os.listdir(FILES)) - {'index.html'}):
        with open(os.path.join(FILES, name), 'rb') as file:
            write(name, file.read())
    write('entries.js', script('window.PAGE = ', shared))
    shard = []
    for index, image in enumerate(images):
        shard.append(image)
        if len(shard) == SHARD or index + 1 == len(shared['ids']):
            write(f'{index // SHARD}.js', script(f'PAGE.details[{index // SHARD}] = ', shard))
            shard = []
    return seen.hexdigest()[:16]
