"""Reference captions of a data set, and the files of its images."""

import re
from typing import Any

from misc import commands
from misc.cli import DataError
from misc.disk.files import read_json

ImageId = int | str

ANNOTATIONS = 'the COCO caption annotations, https://cocodataset.org/#download'
COCO_NAME = re.compile(r'COCO_(train2014|val2014|test2014)_[^/]+$')  # COCO keeps such a file in the named folder


def image_key(value: Any) -> ImageId:
    """An image id as a whole number where it stands for one (391895, '391895', 391895.0), else as text."""
    try:
        number = int(value)
        return number if number == float(value) else str(value)
    except (TypeError, ValueError, OverflowError):
        return str(value)


def load_references(input_json_path: str | None = None, coco_json_path: str | None = None,
                    split: str | None = None) -> dict[ImageId, list[str]]:
    """The reference captions {image id: [caption, ...]}.

    They come from the COCO caption-annotation file `coco_json_path` where it is given, else from the `captions`
    of `cocotalk.json` (`input_json_path`), of one `split` or of all.  Images without captions are left out.
    Raises `DataError`.
    """
    if coco_json_path:
        return coco_references(coco_json_path)
    if input_json_path is None:
        raise ValueError('neither input_json_path nor coco_json_path is given')
    made_by = commands.LABELS.replace('data/cocotalk.json', input_json_path)
    content = read_json(input_json_path, made_by)
    references: dict[ImageId, list[str]] = {}
    try:
        for image in content['images']:
            if image.get('captions') and split in (None, image['split']):
                if image_key(image['id']) in references:
                    raise TypeError(f'image {str(image["id"])[:40]} is there twice')
                references[image_key(image['id'])] = checked_captions(image['captions'])
        splits = {str(image['split']) for image in content['images']}
    except (TypeError, KeyError, AttributeError) as error:
        raise DataError(f'{input_json_path} is not of the form that prepro_labels.py writes ({error!r}); '
                        f'make it with: {made_by}') from None
    if split is not None and split not in splits:
        raise DataError(f'{input_json_path} has no split {split}; there are {", ".join(sorted(splits))}')
    if not references:
        raise DataError(f'{input_json_path} holds no reference captions; name a COCO annotation file '
                        f'with --coco_json,\nor make it again with: {made_by}')
    return references


def coco_references(path: str) -> dict[ImageId, list[str]]:
    """{image id: [caption, ...]} of a COCO caption-annotation file.  Raises `DataError`."""
    references: dict[ImageId, list[str]] = {}
    try:
        for annotation in read_json(path, ANNOTATIONS)['annotations']:
            checked_captions([annotation['caption']])
            references.setdefault(image_key(annotation['image_id']), []).append(annotation['caption'])
    except (TypeError, KeyError) as error:
        raise DataError(f'--coco_json: {path} is not a COCO caption-annotation file ({error!r}); '
                        'it needs "annotations" with image_id and caption each') from None
    if not references:
        raise DataError(f'--coco_json: {path} has no annotations; get {ANNOTATIONS}')
    return references


def checked_captions(captions: Any) -> list[str]:
    """`captions`, if they are a list of strings.  Raises `TypeError`."""
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise TypeError(f'captions are not strings: {str(captions)[:60]}')
    return captions


def image_files(input_json_path: str | None = None, coco_json_path: str | None = None) -> dict[ImageId, str]:
    """{image id: path of its file, relative to the folder of all images}.

    Read from the COCO caption-annotation file `coco_json_path` where it is given, else from `cocotalk.json`
    (`input_json_path`).  Images without a file name are left out.  Raises `DataError`.
    """
    path, key, source = ((coco_json_path, 'file_name', ANNOTATIONS) if coco_json_path
                         else (input_json_path, 'file_path', commands.LABELS))
    if path is None:
        raise ValueError('neither input_json_path nor coco_json_path is given')
    content = read_json(path, source)
    images = content.get('images', []) if isinstance(content, dict) else None
    if not isinstance(images, list):
        raise DataError(f'{path} has no list of images with their file names; it comes from: {source}')
    files = {}
    for image in images:
        if isinstance(image, dict) and isinstance(image.get(key), str) and 'id' in image:
            coco = COCO_NAME.match(image[key])
            files[image_key(image['id'])] = f'{coco[1]}/{image[key]}' if coco else image[key]
    return files
