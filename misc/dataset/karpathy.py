"""Karpathy's split files (`dataset_coco.json`, `dataset_flickr8k.json`, `dataset_flickr30k.json`).

Such a file holds `images`, each with `split`, `filename`, `sentences` (`tokens` and `raw`), and an id:
`cocoid` in COCO's file, `imgid` in Flickr's, where `cocoid` and `filepath` do not exist.
"""

from misc.cli import DataError
from misc.disk.files import read_json

SOURCE = "unpacking Karpathy's caption_datasets.zip"


def read_images(path, broken, captions=True):
    """The whole image records of the split file at `path`, in its order.

    Each is a dict: `id` (int), `file_path` ('val2014/COCO_val2014_….jpg', or '' where the file names
    none), `split`, and `sentences`, a list of {'tokens': [str], 'raw': str}, empty where `captions`
    is false.  A record that is broken, or whose id came before, goes to `broken` (`add(message)`) and
    is left out.  Raises `DataError` when the file is not a split file.
    """
    content = read_json(path, SOURCE)
    records = content.get('images') if isinstance(content, dict) else None
    if not isinstance(records, list) or not records:
        raise DataError(f"{path} is not a split file of Karpathy's: it has no list of images; "
                        f'get it by {SOURCE}')
    key = id_key(records)
    images, seen = [], set()
    for number, record in enumerate(records):
        try:
            image = _image(record, key, captions, lambda text: broken.add(f'{path}: {text}'))
            if image['id'] in seen:
                raise ValueError(f'the id {image["id"]} is in the file a second time; the first counts')
        except ValueError as error:
            broken.add(f'{path}: images[{number}]: {error}')
            continue
        seen.add(image['id'])
        images.append(image)
    if not images:
        raise DataError(f'{path}: no image record is whole')
    return images


def id_key(records):
    """The key that holds a data set's image ids: `cocoid`, or `imgid` where no record has a `cocoid`.

    One choice for the whole file: the two kinds of number overlap.
    """
    return 'cocoid' if any(isinstance(record, dict) and record.get('cocoid') is not None
                           for record in records) else 'imgid'


def _image(record, key, captions, name_broken):
    """One record as `read_images` returns it.  Raises `ValueError`; broken sentences are only named."""
    if not isinstance(record, dict):
        raise ValueError('not an object')
    image_id = record.get(key)
    if isinstance(image_id, str) and image_id.isascii() and image_id.isdigit():
        image_id = int(image_id)
    if not isinstance(image_id, int) or isinstance(image_id, bool) or not 0 <= image_id < 2 ** 63:
        raise ValueError(f'{key} is {image_id!r}, not an image id')
    image = {'id': image_id, 'file_path': file_path(record), 'split': record.get('split'), 'sentences': []}
    if not captions:
        return image
    if not isinstance(image['split'], str) or not image['split']:
        raise ValueError(f'image {image_id} has no split')
    sentences = record.get('sentences')
    if not isinstance(sentences, list) or not sentences:
        raise ValueError(f'image {image_id} has no sentences')
    for number, sentence in enumerate(sentences):
        tokens = sentence.get('tokens') if isinstance(sentence, dict) else None
        if not (isinstance(tokens, list) and tokens
                and all(isinstance(token, str) and token for token in tokens)):
            name_broken(f'image {image_id}: sentence {number} has no tokens')
            continue
        raw = sentence.get('raw')
        image['sentences'].append({'tokens': tokens,
                                   'raw': raw if isinstance(raw, str) and raw else ' '.join(tokens)})
    if not image['sentences']:
        raise ValueError(f'image {image_id} has no whole sentence')
    return image


def file_path(record):
    """Where an image lies under the folder of images: `filepath/filename`, without `filepath` in
    Flickr's files, '' where the record has no file name."""
    folder, name = record.get('filepath'), record.get('filename')
    if not isinstance(name, str) or not name:
        return ''
    return f'{folder}/{name}' if isinstance(folder, str) and folder else name
