"""Karpathy's split files (`dataset_coco.json`, `dataset_flickr8k.json`, `dataset_flickr30k.json`).

Such a file holds `images`, each with `split`, `filename`, `sentences` (`tokens` and `raw`), and an id: `cocoid` in
COCO's file, `imgid` in Flickr's, which have neither `cocoid` nor `filepath`.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypedDict

from misc.cli import DataError
from misc.disk.files import read_json
from misc.disk.numbers import whole_number

SOURCE = "unpacking Karpathy's caption_datasets.zip"


class Sentence(TypedDict):
    """A caption: its words, and the text."""

    tokens: list[str]
    raw: str


class ImageRecord(TypedDict):
    """An image of a split file."""

    id: int
    file_path: str             # 'val2014/COCO_val2014_….jpg', or '' where the file names none
    split: str
    sentences: list[Sentence]


def read_images(path: str, report: Callable[[str], None], captions: bool = True) -> list[ImageRecord]:
    """The image records of the split file at `path`, in its order; without `captions` their sentences are empty.

    A record that is broken, or whose id occurred before, is left out, and `report` is called with a message about it.
    Raises `DataError` where the file is not a split file.
    """
    content = read_json(path, SOURCE, exact=True)
    records = content.get('images') if isinstance(content, dict) else None
    if not isinstance(records, list) or not records:
        raise DataError(f"{path} is not a split file of Karpathy's: it has no list of images; "
                        f'get it by {SOURCE}')
    key = id_key(records)
    images: list[ImageRecord] = []
    seen = set()
    for number, record in enumerate(records):
        try:
            image = _image(record, key, captions, lambda message: report(f'{path}: {message}'))
            if image['id'] in seen:
                raise ValueError(f'the id {image["id"]} is in the file a second time; the first counts')
        except ValueError as error:
            report(f'{path}: images[{number}]: {error}')
            continue
        seen.add(image['id'])
        images.append(image)
    if not images:
        raise DataError(f'{path}: no image record is whole')
    return images


def id_key(records: Iterable[Any]) -> str:
    """The key that holds a data set's image ids: `cocoid`, or `imgid` where no record has a `cocoid`.

    One choice for the whole file: the two kinds of numbers overlap.
    """
    return 'cocoid' if any(isinstance(record, dict) and record.get('cocoid') is not None
                           for record in records) else 'imgid'


def file_path(record: dict[str, Any]) -> str:
    """The path of an image under the folder of images: `filepath/filename`, without `filepath` in Flickr's files,
    '' where the record has no file name."""
    folder, name = record.get('filepath'), record.get('filename')
    if not isinstance(name, str) or not name:
        return ''
    return f'{folder}/{name}' if isinstance(folder, str) and folder else name


def _image(record: Any, key: str, captions: bool, report: Callable[[str], None]) -> ImageRecord:
    """A record as `read_images` returns it.  Raises `ValueError` where it is broken; broken sentences alone are
    left out and reported."""
    if not isinstance(record, dict):
        raise ValueError('not an object')
    image_id = whole_number(record.get(key))
    if image_id is None or not 0 <= image_id < 2 ** 63:
        raise ValueError(f'{key} is {record.get(key)!r}, not an image id')
    split: Any = record.get('split')
    if captions and (not isinstance(split, str) or not split):
        raise ValueError(f'image {image_id} has no split')
    sentences = _sentences(record.get('sentences'), image_id, report) if captions else []
    return {'id': image_id, 'file_path': file_path(record), 'split': split, 'sentences': sentences}


def _sentences(sentences: Any, image_id: int, report: Callable[[str], None]) -> list[Sentence]:
    """The sentences of an image that have tokens; at least one, or a `ValueError`."""
    if not isinstance(sentences, list) or not sentences:
        raise ValueError(f'image {image_id} has no sentences')
    whole: list[Sentence] = []
    for number, sentence in enumerate(sentences):
        tokens = sentence.get('tokens') if isinstance(sentence, dict) else None
        if not (isinstance(tokens, list) and tokens
                and all(isinstance(token, str) and token for token in tokens)):
            report(f'image {image_id}: sentence {number} has no tokens')
            continue
        raw = sentence.get('raw')
        whole.append({'tokens': tokens, 'raw': raw if isinstance(raw, str) and raw else ' '.join(tokens)})
    if not whole:
        raise ValueError(f'image {image_id} has no whole sentence')
    return whole
