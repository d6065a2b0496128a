"""COCO's list of images: which pictures of a folder it selects, their ids, and where captions of them go."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from misc.cli import DataError, note
from misc.disk.files import read_json
from misc.disk.numbers import whole_number
from misc.prepare.broken import Broken
from misc.scoring.results import write_vis

MADE_BY = "the lists of COCO's images, https://cocodataset.org/#download"
SPLIT_NAME = re.compile(r'(?:test|val|train)20\d\d')


def select_listed(coco_json: str, names: Sequence[str], folder: str, broken: Broken) -> tuple[dict[int, str], int]:
    """The pictures `names` of `folder` that the list `coco_json` has.

    Returns ({id: file name} in the order of the list, the number of images in the list).  Listed images that the
    folder lacks go to `broken`.  Raises `DataError` where the file is not such a list, or none of it is there.
    """
    wanted = read_list(coco_json)
    available: dict[str, str] = {}
    for name in names:
        available.setdefault(os.path.basename(name), name)
    files = {image_id: available[name] for name, image_id in wanted.items() if name in available}
    if not files:
        raise DataError(f'--image_folder: {folder} holds none of the {len(wanted)} images of {coco_json}, such as '
                        f'{next(iter(wanted))}')
    for name in wanted:
        if name not in available:
            broken.add(f'{os.path.join(folder, name)}: there is no such file, but {coco_json} lists it')
    if len(available) > len(files):
        note(f'note: {len(available) - len(files)} pictures of {folder} are not in {coco_json}; they are left out')
    return files, len(wanted)


def read_list(coco_json: str) -> dict[str, int]:
    """{file name: id} of the images of a list.  Raises `DataError`."""
    return ids_in(read_json(coco_json, MADE_BY, exact=True), coco_json)


def ids_in(content: Any, coco_json: str) -> dict[str, int]:
    """{file name: id} of the images of a list, the `content` of the file `coco_json`.  Raises `DataError`."""
    try:
        numbers = {image['file_name']: whole_number(image['id']) for image in content['images']}
        wanted = {name: number for name, number in numbers.items() if number is not None}
        if not wanted or len(wanted) < len(numbers):
            raise TypeError('no images with whole numbers as ids')
        if not all(isinstance(name, str) for name in wanted):
            raise TypeError('a file name that is not a string')
        if not len(set(wanted.values())) == len(wanted) == len(content['images']):
            raise TypeError('an id or a file name occurs twice')
    except (TypeError, KeyError) as error:
        raise DataError(f'--coco_json: {coco_json} is not a list of COCO\'s images ({error!r}); it needs '
                        '"images" with id and file_name each') from None
    return wanted


def listed_images(coco_json: str) -> list[dict[str, Any]] | None:
    """The images of a list without captions, as entries of a data set in a split that has the name of the list; None
    if `coco_json` is a file of captions.  Raises `DataError` where it is neither."""
    content = read_json(coco_json, MADE_BY, exact=True)
    if not isinstance(content, dict) or content.get('annotations'):
        return None
    split = list_name(coco_json)
    folder = f'{split}/' if SPLIT_NAME.fullmatch(split) else ''
    ids = ids_in(content, coco_json)
    sizes = [{name: image[name] for name in ('width', 'height') if name in image} for image in content['images']]
    return [{'id': number, 'split': split, 'file_path': folder + name, **size}
            for (name, number), size in zip(ids.items(), sizes)]


def list_name(coco_json: str) -> str:
    """The name of the images that `coco_json` lists: test2014 and the like, else that of the file."""
    split = SPLIT_NAME.search(os.path.basename(coco_json))
    return split.group() if split else os.path.splitext(os.path.basename(coco_json))[0]


@dataclass(frozen=True)
class ServerFile:
    """The captions of the `wanted` images that `coco_json` lists, in the format and under the name that COCO's test
    server expects."""

    coco_json: str
    wanted: int

    def path(self, run_id: str, output_dir: str) -> str:
        """Where the captions of a run go."""
        return os.path.join(output_dir, 'vis', f'captions_{list_name(self.coco_json)}_{run_id}_results.json')

    def write(self, captions: Mapping[int, str], path: str) -> None:
        """Write `captions`, {image id: caption}; a note says whether some are missing."""
        write_vis(path, [{'image_id': image_id, 'caption': caption} for image_id, caption in captions.items()])
        note(f"wrote {path}, in the format of COCO's test server: {len(captions)} captions")
        if len(captions) < self.wanted:
            note(f'note: {self.coco_json} lists {self.wanted} images, and the server expects a caption of each')
