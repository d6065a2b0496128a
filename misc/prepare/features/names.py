"""Which image a file or a record of features belongs to."""

import os
import re
from collections.abc import Iterable
from typing import Any

from misc.cli import DataError
from misc.dataset.tsv import Size, checked_size
from misc.disk.files import read_json
from misc.prepare.captions.columns import is_picture
from misc.prepare.captions.ids import whole_number

COCO_NAME = re.compile(r'(?:COCO_\w+_)?(\d+)')


class Names:
    """Finds the id of an image by what other programs call it: its id, or the name of its file.

    path    the JSON file that lists the images of the data set; None: every whole number is an id
    ids     theirs
    files   {id: path of the image} as the file has it
    sizes   {id: (width, height)} of those whose size it has
    """

    def __init__(self, path: str | None = None) -> None:
        """path: a split file of Karpathy's, a labels file, or COCO's annotations.  Raises `DataError`."""
        self.path = path
        self.ids: set[str] = set()
        self.files: dict[str, str] = {}
        self.sizes: dict[str, Size] = {}
        self.by_stem: dict[str, str] = {}
        if path is not None:
            self._read(path)

    def _read(self, path: str) -> None:
        content = read_json(path, 'scripts/make_dataset.py')
        records = content.get('images') if isinstance(content, dict) else content
        records = [one for one in records if isinstance(one, dict)] if isinstance(records, list) else []
        key = next((key for key in ('cocoid', 'imgid', 'id', 'image_id') if any(key in one for one in records)), '')
        for record in records:
            number = whole_number(record.get(key))
            if number is None:
                continue
            image_id = str(number)
            self.ids.add(image_id)
            file = _file_of(record)
            if file:
                self.files[image_id] = file
                self.by_stem.setdefault(stem_of(file), image_id)
            size = checked_size(record.get('width'), record.get('height'))
            if size:
                self.sizes[image_id] = size
        if not self.ids:
            raise DataError(f'--input_json: {path} lists no images with ids; give the split file (dataset_NAME.json) '
                            'or the labels file (from prepro_labels.py)')

    def id_of(self, name: str) -> str | None:
        """The id of the image that `name` means, or None: by the name of its file where the JSON file has it, else
        the number that it is, or that a name like COCO's ends in."""
        stem = stem_of(name)
        if stem in self.by_stem:
            return self.by_stem[stem]
        match = COCO_NAME.fullmatch(stem)
        image_id = str(int(match[1])) if match and len(match[1]) < 19 else None
        return image_id if self.path is None or image_id in self.ids else None

    def ids_of(self, names: Iterable[str]) -> tuple[dict[str, str], list[str], list[str]]:
        """({id: name}, the names that mean no image, the names of images that had a name before)."""
        found: dict[str, str] = {}
        unknown, repeated = [], []
        for name in names:
            image_id = self.id_of(name)
            if image_id is None:
                unknown.append(name)
            elif found.setdefault(image_id, name) != name:
                repeated.append(name)
        return found, unknown, repeated


def stem_of(name: str) -> str:
    """The file name of a picture without folders and ending: val2014/a.jpg and a.jpg.npz are both a."""
    name = re.sub(r'\.np[yz]$', '', re.split(r'[/\\]', name)[-1])
    return os.path.splitext(name)[0] if is_picture(name) else name


def _file_of(record: dict[str, Any]) -> str:
    """The path of an image's file in a record of a labels file, a split file or of annotations; '' without one."""
    for key in ('file_path', 'filename', 'file_name'):
        if isinstance(record.get(key), str) and record[key]:
            folder = record.get('filepath') if key == 'filename' else None
            return f'{folder}/{record[key]}' if isinstance(folder, str) and folder else record[key]
    return ''
