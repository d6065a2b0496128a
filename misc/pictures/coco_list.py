"""COCO's list of images: which pictures of a folder it selects, their ids, and where captions of them go."""

import os
import re
from collections.abc import Sequence

from misc.cli import DataError, note
from misc.disk.files import read_json
from misc.disk.numbers import whole_number
from misc.prepare.broken import Broken

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
    content = read_json(coco_json, 'the lists of COCO\'s images, https://cocodataset.org/#download', exact=True)
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


def list_name(coco_json: str) -> str:
    """The name of the images that `coco_json` lists: test2014 and the like, else that of the file."""
    split = SPLIT_NAME.search(os.path.basename(coco_json))
    return split.group() if split else os.path.splitext(os.path.basename(coco_json))[0]


def results_path(coco_json: str, run_id: str) -> str:
    """The path of the captions that COCO's test server takes, under the name that it expects."""
    return os.path.join('vis', f'captions_{list_name(coco_json)}_{run_id}_results.json')
