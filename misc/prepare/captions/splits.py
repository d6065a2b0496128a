"""Splits: their names, lists of the images of each, and splits drawn by a seed."""

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from misc.cli import DataError, UsageError
from misc.dataset.splits import split_named
from misc.prepare.captions.pictures import LeftOut, Picture, some

# A word of a file name that names the split of what the file holds: captions_train2014.json, dev.csv.
IN_FILE_NAME = re.compile(r'(?<![a-z])(train(?:ing)?|val(?:id(?:ation)?)?|dev(?:elopment)?|test(?:ing)?)(?![a-z])',
                          re.IGNORECASE)


def split_in_file_name(name: str) -> str | None:
    """The split that a file name tells, or None where it names none or several."""
    found = {split_named(match) for match in IN_FILE_NAME.findall(name)}
    return found.pop() if len(found) == 1 else None


def name_splits(pictures: Sequence[Picture], renamed: Mapping[str, str]) -> bool:
    """Replace the names of splits by train, restval, val and test; returns whether the pictures have splits.

    Raises `DataError` for names that are not known, and where only some of the pictures have a split.
    """
    given = Counter(picture.split for picture in pictures if picture.split is not None)
    unknown = [name for name in given if split_named(name, renamed) is None]
    if unknown:
        counts = ', '.join(f'{name!r} ({given[name]} images)' for name in unknown[:5])
        raise DataError(f'unknown splits: {counts}; known are train, val, test and restval.  Say what they are with '
                        f'--split_names {unknown[0]}=train, or leave the split out with --split_column none')
    bare = [picture.name for picture in pictures if picture.split is None]
    if given and bare:
        raise DataError(f'{len(bare)} of {len(pictures)} images have no split, such as {some(bare)}; give each its '
                        'split (SPLIT=FILE gives one to a whole file), or ignore all with --split_column none')
    for picture in pictures:
        if picture.split is not None:
            picture.split = split_named(picture.split, renamed)
    return bool(given)


def by_lists(pictures: Sequence[Picture], lists: Mapping[str, Iterable[str]], left_out: LeftOut) -> list[Picture]:
    """The pictures that `lists`, {split: file names}, name, in the order of the lists.

    The names of Flickr30k's lists lack the ending .jpg.  Raises `DataError` for a name that is there twice.
    """
    named: dict[str, Picture] = {}
    for picture in pictures:
        named.setdefault(picture.name.rpartition('/')[2].removesuffix('.jpg'), picture)
        named[picture.name] = picture
    chosen: dict[int, Picture] = {}
    repeated = []
    for split, names in lists.items():
        for name in names:
            picture = named.get(name) or named.get(name.removesuffix('.jpg'))  # type: ignore[assignment]
            if picture is None:
                left_out.add(f'images of the {split} list that have no captions', name)
            elif id(picture) in chosen:
                repeated.append(f'{name} ({picture.split} and {split})')
            else:
                picture.split = split
                chosen[id(picture)] = picture
    if repeated:
        raise DataError(f'{len(repeated)} names are in the lists twice: {some(repeated)}; an image belongs to one '
                        'split, so take each out of one list')
    for picture in pictures:
        if id(picture) not in chosen:
            left_out.add('captions of images that are in no list', picture.name, len(picture.captions))
    return list(chosen.values())


def draw(pictures: Sequence[Picture], sizes: Mapping[str, float], seed: int, among: Collection[str | None]) -> None:
    """Give each split of `sizes` its number of the pictures whose split is in `among`; those left are train.

    sizes: {split: a share below 1, or a count}.  The draw depends on the seed and the pictures' names alone, not on
    their order, and changes little when pictures are added.  Raises `UsageError` where none is left for training.
    """
    pool = [picture for picture in pictures if picture.split in among]
    pool.sort(key=lambda picture: hashlib.sha256(f'{seed} {picture.name}'.encode()).digest())
    counts = {split: _count(size, len(pool)) for split, size in sizes.items()}
    if sum(counts.values()) >= len(pool):
        wanted = ' and '.join(f'--{split} {sizes[split]:g} ({count} images)' for split, count in counts.items())
        raise UsageError(f'{wanted} would leave none of {len(pool)} images for training; give smaller numbers')
    for split, count in counts.items():
        for picture in pool[:count]:
            picture.split = split
        pool = pool[count:]
    for picture in pool:
        picture.split = picture.split or 'train'


def _count(size: float, total: int) -> int:
    """The number of images that a share or a count means; a share is at least one image."""
    return max(1, round(size * total)) if 0 < size < 1 else int(size)
