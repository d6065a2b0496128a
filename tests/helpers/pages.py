"""Pages for tests: made-up entries, and untrusted text."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from misc.dataset.grids import grid_vectors
from misc.page.data import Entry, Facts
from misc.page.page import write_page

WORDS = ['a', 'dog', 'cat', 'horse', 'kite', 'boat', 'runs', 'sleeps', 'stands', 'on', 'under', 'beside',
         'the', 'grass', 'water', 'table']
SIDE = 6
Places = Callable[[int], tuple[np.ndarray, np.ndarray]]
FACTS = Facts('A made-up run, test split', [('model', 'none'), ('decoding', 'made up')], {'CIDEr': 1.5},
              'The weights are made up.', 'The boxes too.')
HOSTILE = ['<script>window.hacked = 1</script>', '"><img src=x onerror="window.hacked=2">', '</script>', '&amp;',
           '\u2028', '\u202eesrever', "'+alert(1)+'", '\\', '${1}', 'w' * 400, '\ud800', '\0', 'é']


def draw_picture(path: Path, seed: int, size: tuple[int, int] = (320, 240)) -> Path:
    """Write a JPEG of a coloured box on another colour; returns its path."""
    random = np.random.default_rng(seed)
    pixels = np.empty((size[1], size[0], 3), np.uint8)
    pixels[:], (y, x) = random.integers(0, 256, 3), random.integers(0, [size[1] // 2, size[0] // 2])
    pixels[y:y + size[1] // 3, x:x + size[0] // 3] = random.integers(0, 256, 3)
    Image.fromarray(pixels).save(path, 'JPEG', quality=80)
    return path


def made_up(folder: Path, count: int, seed: int = 0, regions: int = 8, pictures: Sequence[str] | None = None,
            layers: Sequence[str] = ('mean', 'last')) -> tuple[list[Entry], Places]:
    """`count` entries with ids from 1, and a function that returns the boxes and grid vectors of each.

    The pictures are drawn into `folder`, or are those of `pictures` in turn.
    """
    random, entries, places = np.random.default_rng(seed), [], []
    for number in range(count):
        words = [str(word) for word in random.choice(WORDS, random.integers(5, 15))]
        corners = np.sort(random.random((regions, 2, 2)), axis=1).reshape(regions, 4)
        attention = {layer: random.dirichlet([0.2] * regions, len(words)) for layer in layers}
        path = pictures[number % len(pictures)] if pictures else draw_picture(folder / f'{number}.jpg', number)
        entries.append(Entry(
            number + 1, words, str(path), f'val2014/{number}.jpg',
            references=[' '.join(random.choice(WORDS, 9)) for _ in range(5)],
            scores={'CIDEr': float(random.gamma(2, 0.5)), 'Bleu_4': float(random.random()),
                    'log_prob': float(-random.gamma(9))}, attention=attention or None))
        places.append((corners, grid_vectors(corners, 1, 1, SIDE)))
    return entries, places.__getitem__


def read_page(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The data of a page: (the listing, the details of all images)."""
    data, = (folder / 'data').iterdir()
    assert data.name in (folder / 'index.html').read_text()

    def value(name):
        return json.loads((data / name).read_text().partition(' = ')[2].rstrip().removesuffix(';'))
    listing, shards = value('entries.js'), []
    while (data / f'{len(shards)}.js').exists():
        shards.append(value(f'{len(shards)}.js'))
    return listing, [image for shard in shards for image in shard]


def write_sample(root: Path, count: int = 12, **more: Any) -> tuple[Path, list[Entry], Places]:
    """Write a page of made-up entries under `root`; returns (its folder, the entries, the function of `made_up`)."""
    (root / 'pictures').mkdir(parents=True, exist_ok=True)
    entries, places = made_up(root / 'pictures', count, **more)
    write_page(root / 'vis', FACTS, entries, places)
    return root / 'vis', entries, places
