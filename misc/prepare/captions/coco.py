"""COCO's caption annotations, as VizWiz, nocaps and others have them too."""

import re
from typing import Any

from misc.cli import DataError
from misc.prepare.captions.ids import whole_number
from misc.prepare.captions.pictures import Caption, LeftOut, Picture

# COCO keeps such a file in the folder of that name.
FOLDER = re.compile(r'COCO_((?:train|val|test)20\d\d)_[^/]+')


def read_coco(content: Any, left_out: LeftOut) -> list[Picture]:
    """The images of an annotation file, {'images': [{'id', 'file_name'}], 'annotations': [{'image_id', 'caption'}]}.

    Captions that VizWiz marks as rejected or pre-canned are left out, as its own evaluation does.  An image may have
    a `split`.  Raises `DataError` where `content` is not such a file.
    """
    _check(content)
    pictures: dict[Any, Picture] = {}
    for position, image in enumerate(content['images']):
        image_id, name = _image_key(image, 'id'), image.get('file_name') if isinstance(image, dict) else None
        if image_id is None or not isinstance(name, str) or not name:
            left_out.add('images without id and file_name', f'images[{position}]', broken=True)
            continue
        split = image.get('split')
        pictures[image_id] = Picture(_with_folder(name), [], split if isinstance(split, str) and split else None,
                                     image['id'], *map(whole_number, (image.get('width'), image.get('height'))))
    for position, annotation in enumerate(content['annotations']):
        image_id = _image_key(annotation, 'image_id')
        caption = annotation.get('caption') if isinstance(annotation, dict) else None
        if image_id is None or not isinstance(caption, str):
            left_out.add('annotations without image_id and caption', f'annotations[{position}]', broken=True)
        elif image_id not in pictures:
            left_out.add('captions of images that are not in the list of images', f'image {image_id}', broken=True)
        elif annotation.get('is_rejected') or annotation.get('is_precanned'):
            left_out.add('captions that are marked as rejected or pre-canned', repr(caption))
        else:
            pictures[image_id].captions.append(Caption(caption.strip()))
    return list(pictures.values())


def _check(content: Any) -> None:
    """Raise `DataError` where `content` has not the lists of an annotation file."""
    if not isinstance(content, dict) or not isinstance(content.get('images'), list):
        raise DataError('it is not an annotation file of COCO\'s form: it has no list of "images" with id and '
                        'file_name; a list of pictures and captions is read with --table')
    if not isinstance(content.get('annotations'), list):
        if any(isinstance(image, dict) and 'sentences' in image for image in content['images'][:10]):
            raise DataError("it is a split file of Karpathy's already, for prepro_labels.py --input_json; to have "
                            'its ids, splits or words made anew, give it with --table')
        raise DataError('it has images but no "annotations", so no captions (COCO publishes none of its test images)')
    if content['annotations'] and not any(isinstance(one, dict) and 'caption' in one
                                          for one in content['annotations'][:1000]):
        raise DataError('its annotations have no "caption" (boxes of instances?); captions are in the files named '
                        'captions_*.json')


def _image_key(record: Any, key: str) -> Any:
    """The id under `key`, as a whole number where it stands for one, so that 5 and '5' are the same image."""
    value = record.get(key) if isinstance(record, dict) else None
    if isinstance(value, str) and value or isinstance(value, int) or whole_number(value) is not None:
        number = whole_number(value)
        return value if number is None else number
    return None


def _with_folder(name: str) -> str:
    """The path of an image under the folder of all images."""
    match = FOLDER.fullmatch(name)
    return f'{match[1]}/{name}' if match else name
