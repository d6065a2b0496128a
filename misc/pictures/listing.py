"""Where pictures come from: a folder (or a single file), or the images that a split file lists.

The files of a folder have no ids.  Where all are named like COCO's (COCO_val2014_000000391895.jpg) the number in
the name is the id, else they are numbered from 1 in the order of their names; `OUT_images.json` records the
numbers, so that they stay when files are added, and features are not taken for those of other pictures.
"""

import hashlib
import os
import re
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from misc.cli import DataError, UsageError, counted, note, progress
from misc.dataset.karpathy import read_images
from misc.dataset.origin import given_to_others, read_pictures
from misc.disk.files import open_regular, path_under, read_json, write_json
from misc.pictures.coco_list import select_listed
from misc.pictures.images import read_upright
from misc.prepare.broken import Broken
from misc.prepare.made import Sample, digest
from misc.prepare.outdated import file_states

# Files with these endings are taken for pictures; others in a folder are skipped.
ENDINGS = ('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.gif', '.bmp', '.webp', '.tif', '.tiff', '.avif', '.jp2',
           '.ppm', '.pgm', '.pnm')
COCO_NAME = re.compile(r'(COCO_\w+_)?(\d{12})\.\w+')


class PictureSource(Protocol):
    """Pictures to find regions in.

    paths   {id as a string: path}
    """

    paths: dict[str, str]

    def inputs(self, longest: int) -> dict[str, Sample]:
        """What misc/prepare/made.py is to compare with earlier runs; `longest`: see `read_upright`."""

    def changed(self) -> list[str]:
        """The ids of pictures whose content is not what it was when their regions were found."""

    def save(self) -> None:
        """Record which picture is which."""


class FolderPictures:
    """The pictures of a folder and its subfolders, or a single one.

    root     the folder that file names are relative to
    files    {id: file name}, in the order of the names, or of COCO's list where that gives the ids
    paths    {id as a string: path}
    wanted   how many there should be: more than there are where COCO's list has more
    """

    def __init__(self, place: str, base: str, broken: Broken, coco_json: str | None = None,
                 most: int | None = None) -> None:
        """List the pictures of `place`, a folder or a file.

        base: the prefix of the regions' folders.  coco_json: COCO's list of images, which gives the ids; most:
        take only so many.  Raises `DataError`, and `UsageError` where regions of other pictures lie at `base`.
        """
        self.root, names = list_pictures(place)
        self.record_path = f'{base}_images.json'
        known = self._known()
        by_name = {entry['file']: image_id for image_id, entry in known.items()}
        if coco_json:
            self.files, self.wanted = select_listed(coco_json, names, place, broken)
        else:
            self.files = {number: name for name, number in numbered(names, by_name).items()}
            self.wanted = len(names)
        if most is not None:
            self.files = dict(list(self.files.items())[:most])
        self.paths = {str(number): os.path.join(self.root, name) for number, name in self.files.items()}
        self._check(known, by_name, names)
        self.record = known

    def _known(self) -> dict[int, dict[str, Any]]:
        """{id: {'file', 'looks', 'content'}}: the record of earlier runs."""
        if not os.path.exists(self.record_path):
            return {}
        content = read_json(self.record_path, 'scripts/extract_regions.py')
        try:
            names = [entry['file'] for entry in content.values()]
            if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
                raise TypeError('file names that are not strings, or one twice')
            return {int(number): entry for number, entry in content.items()}
        except (AttributeError, LookupError, TypeError, ValueError):
            raise DataError(f'{self.record_path} does not say which picture is which; name another place '
                            'for the regions, or move it and the folders beside it away') from None

    def _check(self, known: Mapping[int, Mapping[str, Any]], by_name: Mapping[str, int],
               names: Sequence[str]) -> None:
        """Refuse a place that holds the regions of other pictures."""
        if known and not set(by_name) & set(names):
            raise UsageError(f'{self.record_path} lists other pictures ({next(iter(by_name))} …) than those of '
                             f'{self.root}; name another place for the regions')
        for number, name in self.files.items():
            if number in known and known[number]['file'] != name or by_name.get(name, number) != number:
                other = known[number]['file'] if number in known else name
                raise UsageError(f'{self.record_path} has {other} as {by_name[other]}, now {name} would be {number}; '
                                 'name another place for the regions')

    def changed(self) -> list[str]:
        """The ids (as strings) of pictures whose content is not what it was when their regions were found.

        Only files whose `file_state` differs from the recorded one are read.
        """
        changed, states = [], {number: file_state(self.paths[str(number)]) for number in self.files}
        suspects = [number for number in self.files
                    if number not in self.record or self.record[number].get('looks') != states[number]]
        for number in progress(suspects, 'contents'):
            content = digest_of(self.paths[str(number)])
            if number in self.record and self.record[number].get('content') != content:
                changed.append(str(number))
            self.record[number] = {'file': self.files[number], 'looks': states[number], 'content': content}
        if changed:
            note(f'note: {len(changed)} pictures have changed; their regions are found again')
        return changed

    def inputs(self, longest: int) -> dict[str, Sample]:
        """Nothing: `changed` compares the pictures one by one."""
        return {}

    def save(self) -> None:
        """Write the record."""
        write_json(self.record_path, self.record, indent=1)

    def corpus(self, ids: Collection[str], sizes: Mapping[str, tuple[int, int]],
               vocabulary: Mapping[str, str]) -> dict[str, Any]:
        """What prepro_labels.py would write for the pictures `ids`, without captions, all in the split 'test'.

        sizes: {id as a string: (width, height)}; vocabulary: {index as a string: word}.
        """
        return {'ix_to_word': vocabulary, 'images': [
            {'id': number, 'split': 'test', 'file_path': name, 'width': sizes[str(number)][0],
             'height': sizes[str(number)][1]}
            for number, name in self.files.items() if str(number) in ids]}


class SplitPictures:
    """The images that a split file of Karpathy's lists, under the folder that holds train2014/ and val2014/."""

    def __init__(self, input_json: str, root: str, broken: Broken, base: str | None = None) -> None:
        """Broken records go to `broken`; base: the prefix of the regions' folders, beside which `save` records the
        ids.  Raises `DataError` and `UsageError`."""
        if not os.path.isdir(root):
            raise UsageError(f'--images_root: there is no folder {root}')
        self.paths: dict[str, str] = {}
        self.base, self.files = base, dict[int, str]()
        for image in read_images(input_json, broken.add, captions=False):
            if image['file_path']:
                try:
                    self.paths[str(image['id'])] = path_under(root, image['file_path'])
                    self.files[image['id']] = image['file_path']
                except DataError as error:
                    broken.add(f'image {image["id"]}: {error}')
            else:
                broken.add(f'{input_json}: image {image["id"]} has no filename')
        if not any(map(os.path.exists, self.paths.values())):
            example = next(iter(self.paths.values()), 'val2014/….jpg')
            raise DataError(f'--images_root: {root} holds none of the images of {input_json}, such as {example};\n'
                            'name the folder that holds train2014/ and val2014/')

    def inputs(self, longest: int) -> dict[str, Sample]:
        """A sample of the images."""
        return {'images_root': Sample(self.paths, partial(describe, self.paths, longest), file_states(self.paths),
                                      copied=True)}

    def changed(self) -> list[str]:
        """The ids that an earlier run gave to other pictures (`inputs` has the states of all images)."""
        changed = [str(number) for number in given_to_others(self.files, self._known())]
        if changed:
            note(f'note: {len(changed)} ids were those of other pictures; their regions are found again')
        return changed

    def save(self) -> None:
        """Write the record: which picture each id is."""
        if self.base:
            own = set(self.files.values())
            others = {number: name for number, name in self._known().items() if name not in own}
            write_json(f'{self.base}_images.json',
                       {number: {'file': name} for number, name in {**others, **self.files}.items()}, indent=1)

    def _known(self) -> dict[int, str]:
        """{id: file name} as earlier runs recorded them."""
        return read_pictures(f'{self.base}_att') if self.base else {}


def describe(paths: Mapping[str, str], longest: int, image_id: str) -> dict[str, str] | None:
    """What misc/prepare/made.py records about an image; None for one that cannot be read."""
    try:
        read_upright(paths[image_id], longest)
        with open_regular(paths[image_id]) as file:
            return {'pixels': digest(file.read())}
    except (KeyError, DataError, OSError):
        return None


def file_state(path: str) -> list[int] | None:
    """Size, inode and times of a file, which change with its content, but also for an equal copy; None where there
    is no file."""
    try:
        state = os.stat(path)
    except OSError:
        return None
    return [state.st_size, state.st_ino, state.st_mtime_ns, state.st_ctime_ns]


def digest_of(path: str) -> str | None:
    """A digest of a file's content; None where it cannot be read."""
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, 'sha256').hexdigest()[:24]
    except OSError:
        return None


def list_pictures(place: str) -> tuple[str, list[str]]:
    """(folder, file names relative to it, sorted) of the pictures in a folder and its subfolders, or of one file.

    Raises `UsageError` where there is no such place, `DataError` where it holds no picture.
    """
    if os.path.isfile(place):
        return os.path.dirname(place) or '.', [os.path.basename(place)]
    if not os.path.isdir(place):
        raise UsageError(f'there is no folder or file {place}')
    names, others = [], 0
    for folder, subfolders, files in os.walk(place):
        subfolders[:] = [name for name in subfolders if not name.startswith('.')]
        for name in files:
            if name.startswith('.'):
                continue
            if name.lower().endswith(ENDINGS):
                names.append(os.path.relpath(os.path.join(folder, name), place).replace(os.sep, '/'))
            else:
                others += 1
    if not names:
        raise DataError(f'{place} holds no pictures (files that end in {", ".join(ENDINGS[:5])}, …)'
                        + (f', only {others} other files' if others else ''))
    if others:
        note(f'note: {counted(others, "file")} of {place}, by name no picture, skipped')
    return place, sorted(names)


def numbered(names: Sequence[str], known: Mapping[str, int]) -> dict[str, int]:
    """{file name: id}: the numbers in COCO's names where all have one, else from 1.  The ids in `known`, {file
    name: id} of earlier runs, stay."""
    numbers = {name: int(match.group(2)) for name in names
               if (match := COCO_NAME.fullmatch(os.path.basename(name)))}
    agrees = all(numbers.get(name, number) == number for name, number in known.items())
    taken = [number for name, number in known.items() if name not in numbers]
    if len({*numbers.values(), *taken}) == len(names) + len(taken) and agrees:
        return numbers
    found = {name: known[name] for name in names if name in known}
    free = max(known.values(), default=0) + 1
    for name in names:
        if name not in found:
            found[name], free = free, free + 1
    return found
