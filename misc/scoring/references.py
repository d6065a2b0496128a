"""Captions on disk: the references of a data set, and a captioner's results."""

import re

from misc import commands
from misc.cli import DataError
from misc.disk.files import read_json

ANNOTATIONS = 'the COCO caption annotations, https://cocodataset.org/#download'
SUBFOLDER = re.compile(r'COCO_(train2014|val2014|test2014)_[^/]+$')  # where COCO keeps a picture of that name


def image_key(value):
    """An image id as the whole number it stands for (391895, '391895', 391895.0), else as text."""
    try:
        number = int(value)
        return number if number == float(value) else str(value)
    except (TypeError, ValueError, OverflowError):
        return str(value)


def load_references(input_json_path=None, coco_json_path=None, split=None):
    """The reference captions {image id: [caption, ...]}, ids as whole numbers.

    From a COCO caption-annotation file where `coco_json_path` names one, else from the `captions`
    of `cocotalk.json`, of one `split` or of all.  Images without captions are left out.  Raises
    `DataError`.
    """
    if coco_json_path:
        return coco_references(coco_json_path)
    made_by = commands.LABELS.replace('data/cocotalk.json', input_json_path)
    content = read_json(input_json_path, made_by)
    references = {}
    try:
        for image in content['images']:
            if image.get('captions') and split in (None, image['split']):
                if image_key(image['id']) in references:
                    raise TypeError(f'image {str(image["id"])[:40]} is there twice')
                references[image_key(image['id'])] = captions_of(image['captions'])
        known = {str(image['split']) for image in content['images']}
    except (TypeError, KeyError, AttributeError) as error:
        raise DataError(f'{input_json_path} is not of the form that prepro_labels.py writes ({error!r}); '
                        f'make it with: {made_by}') from None
    if split is not None and split not in known:
        raise DataError(f'{input_json_path} has no split {split}; there are {", ".join(sorted(known))}')
    if not references:
        raise DataError(f'{input_json_path} holds no captions to score against; name a COCO annotation file '
                        f'with --coco_json,\nor make it again with: {made_by}')
    return references


def coco_references(path):
    """{image id: [caption, ...]} of a COCO caption-annotation file.  Raises `DataError`."""
    references = {}
    try:
        for annotation in read_json(path, ANNOTATIONS)['annotations']:
            captions_of([annotation['caption']])
            references.setdefault(image_key(annotation['image_id']), []).append(annotation['caption'])
    except (TypeError, KeyError) as error:
        raise DataError(f'--coco_json: {path} is not a COCO caption-annotation file ({error!r}); '
                        'it needs "annotations" with image_id and caption each') from None
    if not references:
        raise DataError(f'--coco_json: {path} has no annotations')
    return references


def captions_of(captions):
    """`captions`, if they are a list of strings, else a `TypeError`."""
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise TypeError(f'captions are not strings: {str(captions)[:60]}')
    return captions


def load_predictions(path):
    """{image id: caption} of a file in COCO's results form.  Raises `DataError`."""
    form = 'COCO\'s results form is [{"image_id": 391895, "caption": "a man ..."}, ...]'
    entries = read_json(path, 'python eval.py ... (vis/vis.json), or any captioner')
    if not isinstance(entries, list):
        raise DataError(f'{path} does not hold a list; {form}')
    if not entries:
        raise DataError(f'{path} holds no captions')
    predictions, twice = {}, []
    for number, entry in enumerate(entries):
        if not (isinstance(entry, dict) and 'image_id' in entry and isinstance(entry.get('caption'), str)):
            raise DataError(f'{path}: entry {number} ({str(entry)[:60]}) lacks image_id or a caption; {form}')
        key = image_key(entry['image_id'])
        if key in predictions:
            twice.append(key)
        predictions[key] = entry['caption']
    if twice:
        raise DataError(f'{path} has more than one caption for {len(set(twice))} images, {twice[0]} for one; '
                        'keep one each')
    return predictions


def picture_files(input_json_path=None, coco_json_path=None):
    """{image id: its file, relative to the folder of all pictures}, of the images for which a file is named in
    `cocotalk.json`, or in a COCO caption-annotation file where `coco_json_path` names one."""
    path, named = (coco_json_path, 'file_name') if coco_json_path else (input_json_path, 'file_path')
    content, files = read_json(path, ANNOTATIONS), {}
    listed = content.get('images', []) if isinstance(content, dict) else None
    if not isinstance(listed, list):
        raise DataError(f'{path} has no list of images, which says which file an image is; '
                        f'get it by: {ANNOTATIONS}')
    for image in listed:
        if isinstance(image, dict) and isinstance(image.get(named), str) and 'id' in image:
            found = SUBFOLDER.match(image[named])
            files[image_key(image['id'])] = f'{found[1]}/{image[named]}' if found else image[named]
    return files
