"""A page to look at captions with: index.html and what it loads, written from plain data.

Beside index.html lie `thumbs/` and `imgs/`, the pictures (see `misc/page/thumbnails.py`), and one folder
`data/KEY/` with the files of `misc/page/files/` and the data as scripts, since a page that is opened from
disk may not fetch anything else: `entries.js`, what the list shows of all images, and `0.js`, `1.js`, ..., the
details of `SHARD` images each, loaded when one is looked at.  KEY is a digest of all of it.  index.html names
it and is replaced last, so that a page is whole at any moment.

Numbers are kept small.  Attention: a byte for each word and region, in 255ths of the word's largest weight,
which stands beside it.  Boxes: 16 bits for each edge, in 65535ths of the image's width or height.  Coverage:
since a box covers of a cell the share of its row times the share of its column, a byte for each row and each
column of the grid, in 255ths.
"""

import base64
import hashlib
import json
import math
import os
import re
import shutil
from dataclasses import dataclass, field

import numpy as np

from misc.disk.files import TEMPORARY, replacing
from misc.page.thumbnails import make_pictures, remove_others
from misc.pictures.images import read_rgb

FILES = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'files')
SHARD = 50  # images
# Folders of data that earlier pages left: whole ones, and what killed writers of one left behind.
STALE = re.compile(rf'[0-9a-f]{{16}}|new\.[0-9]+{re.escape(TEMPORARY)}')


@dataclass
class Entry:
    """An image, what was said of it, and what it is worth.

    image_id    number or text, another one for each image
    words       the caption, a list of words
    picture     path of the image file
    name        what the file is called on the page
    references  captions of people, may be none
    scores      {name: number}, higher is better; may be empty
    others      further captions of the model's
    attention   {'mean': (words, P), 'last': (words, P)} as of `word_attention`; may lack 'last', or be None
    """

    image_id: object
    words: list
    picture: str
    name: str
    references: list = field(default_factory=list)
    scores: dict = field(default_factory=dict)
    others: list = field(default_factory=list)
    attention: dict | None = None


def write_page(folder, facts, entries, regions, workers=1, read=read_rgb):
    """Write `folder`/index.html, with all it needs, on `entries` (a list of `Entry`).

    `facts` is a dict of `title`; `about`, a list of (what, text); `overall`, {name of a score: number};
    `attention`, a sentence on what the weights are, or why there are none; and `places`, one on what the
    model knows of where regions are.  `regions(place)` gives boxes (P, 4), relative to the image, and grid
    vectors (P, g * g) of the entry at a place, or None for what is not known.  `workers` processes make the
    pictures, as `read` reads them.  Returns what is wrong with pictures that cannot be read; the page has
    blanks in their places.
    """
    pictures, broken = make_pictures(folder, [entry.picture for entry in entries], workers, read)
    shown = [pictures.get(entry.picture) for entry in entries]
    key = write_data(os.path.join(folder, 'data'), listing(facts, entries, shown),
                     (details(entry, *regions(place)) for place, entry in enumerate(entries)))
    with open(os.path.join(FILES, 'index.html'), encoding='utf-8') as file:
        page = file.read().replace('KEY', key)
    with replacing(os.path.join(folder, 'index.html'), 'w') as file:
        file.write(page)
    remove_others(folder, {one[0] for one in shown if one})
    for entry in os.scandir(os.path.join(folder, 'data')):
        if entry.is_dir(follow_symlinks=False) and STALE.fullmatch(entry.name) and entry.name != key:
            shutil.rmtree(entry.path, ignore_errors=True)
    return broken


def listing(facts, entries, shown):
    """What the list needs to know of all images: plain values, a list for each kind."""
    names = dict.fromkeys(name for entry in entries for name in entry.scores)
    return {
        'title': facts['title'], 'about': [list(pair) for pair in facts['about']],
        'overall': {name: number(value) for name, value in facts['overall'].items()},
        'attention': facts['attention'], 'places': facts['places'], 'shard': SHARD,
        # Ids become addresses, which half a surrogate pair cannot.
        'ids': [str(entry.image_id).encode('utf-8', 'replace').decode() for entry in entries],
        'captions': [' '.join(entry.words) for entry in entries],
        'names': [entry.name for entry in entries],
        'references': [list(entry.references) for entry in entries],
        'pictures': [one and one[0] for one in shown], 'sizes': [one and list(one[1:]) for one in shown],
        'scores': {name: [number(entry.scores.get(name)) for entry in entries] for name in names}}


def details(entry, boxes, grids):
    """What is shown of an image that is looked at: plain values."""
    content = {'words': list(entry.words), 'others': list(entry.others), 'attention': {}}
    for name, weights in (entry.attention or {}).items():
        content['attention'][name] = packed_weights(weights)
    if boxes is not None:
        content['boxes'] = packed(np.round(np.clip(boxes, 0, 1) * 65535).astype('<u2'))
    if grids is not None:
        content['rows'], content['columns'] = map(packed, covered_shares(grids))
    counts = [len(array) for array in (boxes, grids) if array is not None]
    counts += [weights.shape[1] for weights in (entry.attention or {}).values()]
    content['regions'] = min(counts, default=0)
    return content


def packed_weights(weights):
    """Weights (words, P) as the largest of each word, and bytes of how many 255ths of that the others are."""
    weights = np.asarray(weights, dtype=np.float64)
    top = weights.max(1, initial=0.0)
    share = weights / np.maximum(top, 1e-30)[:, None]
    return {'top': [number(value) for value in top], 'weights': packed(np.round(share * 255).astype(np.uint8))}


def covered_shares(grids):
    """Grid vectors (P, g * g) -> bytes (P, g) for the rows and (P, g) for the columns of the grid, whose
    products are the cells, in 255ths."""
    side = math.isqrt(grids.shape[1])
    cells = np.asarray(grids, dtype=np.float64).reshape(-1, side, side)
    most = np.maximum(cells.max((1, 2), initial=0.0), 1e-30)[:, None]
    shares = cells.max(2, initial=0.0), cells.max(1, initial=0.0) / most
    return [np.round(np.clip(share, 0, 1) * 255).astype(np.uint8) for share in shares]


def packed(array):
    """The bytes of an array as text."""
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def number(value):
    """A number as JSON can have it, to six digits, or None."""
    return float(f'{value:.6g}') if value is not None and math.isfinite(value) else None


def write_data(folder, shared, images):
    """Write `folder`/KEY/, whole or not at all, and return KEY: the page's own files, `shared` for the list,
    and the details that `images` yields, image by image."""
    part = os.path.join(folder, f'new.{os.getpid()}{TEMPORARY}')
    os.makedirs(part)
    try:
        key = fill(part, shared, images)
        if not os.path.isdir(os.path.join(folder, key)):
            os.rename(part, os.path.join(folder, key))
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return key


def fill(folder, shared, images):
    """Write the files of `write_data` into `folder`; returns the digest of all of them."""
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
    for place, image in enumerate(images):
        shard.append(image)
        if len(shard) == SHARD or place + 1 == len(shared['ids']):
            write(f'{place // SHARD}.js', script(f'PAGE.details[{place // SHARD}] = ', shard))
            shard = []
    return seen.hexdigest()[:16]


def script(beginning, value):
    """A statement of JavaScript; all that is not ASCII is escaped, so that no sign can end a line of it."""
    return f'{beginning}{json.dumps(value, allow_nan=False, separators=(",", ":"))};\n'.encode('ascii')
