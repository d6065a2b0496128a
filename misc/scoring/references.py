"""Reference captions of a data set, and the files of its images.

References are scored as text ('raw'), which the PTB tokenizer splits into words, or by the words that the data set
gives ('tokens'), separated by spaces.  Files of prepro_labels.py hold `tokens` beside `captions` where the text lacks
the words of its tokens, as Chinese does.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from misc import commands
from misc.cli import DataError, UsageError, note
from misc.disk.files import read_json
from misc.disk.kinds import misplaced
from misc.disk.numbers import whole_number

ImageId = int | str

ANNOTATIONS = 'the COCO caption annotations, https://cocodataset.org/#download'
COCO_NAME = re.compile(r'COCO_(train2014|val2014|test2014)_[^/]+$')  # COCO keeps such a file in the named folder
RAW, TOKENS = 'raw', 'tokens'   # what captions are scored against
SCORE_TOKENS = ('auto', RAW, TOKENS)   # the values of --score_tokens
REJECTED = ('is_rejected', 'is_precanned')   # VizWiz's marks of captions that its own evaluation leaves out


@dataclass(frozen=True)
class References:
    """Reference captions.

    captions  {image id: [caption, ...]}, without images that have none
    kind      `RAW`: texts; `TOKENS`: words separated by spaces
    left_out  the images whose captions are all marked as rejected or pre-canned
    """

    captions: dict[ImageId, list[str]]
    kind: str = RAW
    left_out: frozenset[ImageId] = frozenset()


def image_keys(values: Iterable[Any], as_text: bool = False) -> list[ImageId]:
    """The ids of the images of a file: whole numbers where every one stands for a number (391895, '391895',
    391895.0), else texts, as which '7' and '007' differ.

    `as_text` makes them texts in any case, to be looked up in a file whose ids are texts.
    """
    values = list(values)
    numbers = [] if as_text else [number for value in values if (number := whole_number(value)) is not None]
    return [*numbers] if len(numbers) == len(values) else [str(value) for value in values]


def read_references(input_json_path: str | None = None, coco_json_path: str | None = None,
                    score_tokens: str = 'auto') -> References:
    """The reference captions of all images.

    They come from the COCO caption-annotation file `coco_json_path` where it is given, else from `cocotalk.json`
    (`input_json_path`): its `tokens` or its `captions`, by default the former where it has them.  With annotations,
    `score_tokens` 'tokens' says that words are separated by spaces.  Raises `DataError`, and `UsageError` for tokens
    that the file lacks.
    """
    if coco_json_path:
        captions, left_out = _annotated(coco_json_path)
        return References(captions, TOKENS if score_tokens == TOKENS else RAW, left_out)
    if input_json_path is None:
        raise ValueError('neither input_json_path nor coco_json_path is given')
    images = _labelled_images(input_json_path)
    kind = kind_of(images.values(), score_tokens, input_json_path)
    return References({image_id: captions_of(image, kind) for image_id, image in images.items()}, kind)


def load_references(input_json_path: str | None = None, coco_json_path: str | None = None,
                    split: str | None = None) -> dict[ImageId, list[str]]:
    """The texts of the reference captions {image id: [caption, ...]}, of one `split` or of all; arguments and errors
    as for `read_references`."""
    if coco_json_path:
        return coco_references(coco_json_path)
    if input_json_path is None:
        raise ValueError('neither input_json_path nor coco_json_path is given')
    return {image_id: image['captions'] for image_id, image in _labelled_images(input_json_path, split).items()}


def coco_references(path: str) -> dict[ImageId, list[str]]:
    """{image id: [caption, ...]} of a COCO caption-annotation file, without captions that VizWiz marks as rejected
    or pre-canned.  Raises `DataError`."""
    return _annotated(path)[0]


def kind_of(images: Iterable[Mapping[str, Any]], score_tokens: str, source: str) -> str:
    """What captions of `images`, entries of the file `source`, are scored against: `RAW` or `TOKENS`.

    Raises `UsageError` where tokens are asked for and the file lacks them.
    """
    having = Counter('tokens' in image for image in images if image.get('captions'))
    if score_tokens == TOKENS and having[False]:
        raise UsageError(f'--score_tokens tokens: {source} holds no tokens, only texts; make it again with:\n'
                         f'{commands.LABELS.replace("data/cocotalk.json", source)} --score_tokens tokens')
    if score_tokens == RAW or having[False] or not having:
        return RAW
    return TOKENS


def captions_of(image: Mapping[str, Any], kind: str) -> list[str]:
    """The reference captions of an image, an entry of `cocotalk.json` that has some."""
    return image['tokens'] if kind == TOKENS else image['captions']


def _labelled_images(path: str, split: str | None = None) -> dict[ImageId, dict[str, Any]]:
    """{image id: entry} of the images in `cocotalk.json` that have captions.  Raises `DataError`."""
    made_by = commands.LABELS.replace('data/cocotalk.json', path)
    content = read_json(path, made_by, exact=True)
    found: dict[ImageId, dict[str, Any]] = {}
    try:
        for image_id, image in zip(image_keys(image['id'] for image in content['images']), content['images']):
            if image.get('captions') and split in (None, image['split']):
                if image_id in found:
                    raise TypeError(f'image {str(image_id)[:40]} is there twice')
                checked_captions(image['captions'])
                if 'tokens' in image and len(checked_captions(image['tokens'])) != len(image['captions']):
                    raise TypeError(f'image {str(image_id)[:40]} has other tokens than captions')
                found[image_id] = image
        splits = {str(image['split']) for image in content['images']}
    except (TypeError, KeyError, AttributeError) as error:
        said = misplaced(content, path, 'labels')
        if said:
            raise DataError(f'--input_json: {path} {said}') from None
        raise DataError(f'{path} is not of the form that prepro_labels.py writes ({error!r}); '
                        f'make it with: {made_by}') from None
    if split is not None and split not in splits:
        raise DataError(f'{path} has no split {split}; there are {", ".join(sorted(splits))}')
    if not found:
        raise DataError(f'{path} holds no reference captions; name a COCO annotation file '
                        f'with --coco_json,\nor make it again with: {made_by}')
    return found


def _annotated(path: str) -> tuple[dict[ImageId, list[str]], frozenset[ImageId]]:
    """({image id: [caption, ...]}, the images without any left) of a COCO caption-annotation file; a note says how
    many captions are left out.  Raises `DataError`."""
    captions: dict[ImageId, list[str]] = {}
    marked: Counter[ImageId] = Counter()
    content = read_json(path, ANNOTATIONS, exact=True)
    try:
        annotations = content if isinstance(content, list) else content['annotations']   # or the annotations alone
        for image_id, one in zip(image_keys(one['image_id'] for one in annotations), annotations):
            checked_captions([one['caption']])
            if any(one.get(mark) for mark in REJECTED):
                marked[image_id] += 1
            else:
                captions.setdefault(image_id, []).append(one['caption'])
    except (TypeError, KeyError, AttributeError) as error:
        said = misplaced(content, path, 'annotations')
        if said:
            raise DataError(f'--coco_json: {path} {said}') from None
        raise DataError(f'--coco_json: {path} is not a COCO caption-annotation file ({error!r}); '
                        'it needs "annotations" with image_id and caption each') from None
    if not captions:
        raise DataError(f'--coco_json: {path} has no annotations; get {ANNOTATIONS}' if not marked else
                        f'--coco_json: all {marked.total()} captions of {path} are marked as rejected or pre-canned')
    left_out = frozenset(marked) - frozenset(captions)
    if marked:
        note(f'note: {marked.total()} of {marked.total() + sum(map(len, captions.values()))} captions of {path} are '
             'marked as rejected or pre-canned and are no references, as in the evaluation of VizWiz'
             + (f'; {len(left_out)} images have no others and are not scored' if left_out else ''))
    return captions, left_out


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
    content = read_json(path, source, exact=True)
    images = content.get('images', []) if isinstance(content, dict) else None
    if not isinstance(images, list):
        raise DataError(f'{path} has no list of images with their file names; it comes from: {source}')
    known = [image for image in images if isinstance(image, dict) and 'id' in image]
    files = {}
    for image_id, image in zip(image_keys(image['id'] for image in known), known):
        if isinstance(image.get(key), str):
            coco = COCO_NAME.match(image[key])
            files[image_id] = f'{coco[1]}/{image[key]}' if coco else image[key]
    return files
