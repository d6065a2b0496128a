"""The images of `eval.py --images_json`: ids, and what else is known of them, without captions or vocabulary.

Any of these JSON files: COCO's lists and annotations, and what prepro_labels.py writes (`images` with `id` or
`cocoid`); a list of such entries, or of ids alone; OUT_images.json of scripts/extract_regions.py ({id: {file}}).
"""

import os
from typing import Any

from misc.cli import DataError, UsageError
from misc.disk.files import read_json
from misc.disk.numbers import whole_number

ID_NAMES, FILE_NAMES = ('id', 'image_id', 'cocoid'), ('file_path', 'file_name', 'filename', 'file')


def read_image_list(path: str) -> list[dict[str, Any]]:
    """The entries of a list, as those of `--input_json`: id, split, file_path, and width and height where they are
    known.  All are in one split, named after the list.  Raises `DataError`, and `UsageError` for a list
    in place of its file."""
    if path.lstrip().startswith(('[', '{')) and not os.path.exists(path):
        raise UsageError(f'--images_json takes a file that holds {path}, not the list itself')
    content = read_json(path, 'the program that lists your images', exact=True)
    if isinstance(content, dict) and 'images' not in content:
        content = [{**entry, 'id': image_id} if isinstance(entry, dict) else None
                   for image_id, entry in content.items()]
    found = content['images'] if isinstance(content, dict) else content
    if not isinstance(found, list) or not found:
        raise _wrong(path, 'no list of images')
    split = f'images_{os.path.splitext(os.path.basename(path))[0]}'
    images = [{**_entry(path, entry), 'split': split} for entry in found]
    if len({image['id'] for image in images}) < len(images):
        raise _wrong(path, 'an id twice')
    return images


def _entry(path: str, entry: Any) -> dict[str, Any]:
    values = entry if isinstance(entry, dict) else {'id': entry}
    image_id = next((whole_number(values[name]) for name in ID_NAMES if name in values), None)
    if image_id is None or image_id < 0:
        raise _wrong(path, f'an image without a whole number as id ({str(entry)[:60]})')
    name = next((values[name] for name in FILE_NAMES if isinstance(values.get(name), str)), str(image_id))
    sizes = {side: values[side] for side in ('width', 'height') if type(values.get(side)) in (int, float)}
    return {'id': image_id, 'file_path': name, **(sizes if len(sizes) == 2 else {})}


def _wrong(path: str, what: str) -> DataError:
    return DataError(f'--images_json: {path} holds {what}; it needs {{"images": [{{"id": 1, "file_name": "a.jpg"}}, '
                     '...]}, or a list of ids')
