"""The captions of a data set as word indices, and the vocabulary file that belongs to them."""

import os
from typing import Any

import numpy as np

from misc import commands
from misc.cli import DataError
from misc.disk import hdf5
from misc.disk.files import path_under, read_json
from misc.disk.numbers import whole_number

UNKNOWN = 'UNK'   # stands for every word outside the vocabulary


VOCABULARY, IMAGES = 'vocabulary_digest', 'images_digest'  # attributes of the file, see misc/dataset/pairing.py


class Labels:
    """The label file (`--input_label_h5`), read whole.

    labels      (M, max_length) word indices from 1, zero padded; M captions, those of an image consecutive
    start, end  (N,) first and last row of each image's captions, counted from 1, last included
    longest     max_length
    digests     {attribute: digest of the vocabulary, or of the images, that the file was made with, None if unknown}
    """

    def __init__(self, path: str, images: int, words: int):
        """Read `path` and check it against the number of `images` and of `words` in the vocabulary.

        Raises `DataError` where the file is missing, damaged, or does not fit.
        """
        if not os.path.exists(path):
            raise DataError(f'--input_label_h5: there is no file {path}; make it with:\n{commands.LABELS}')
        with hdf5.reading(path, f'--input_label_h5: {path} is not a label file',
                          f'make it again with:\n{commands.LABELS}') as file:
            self.labels, self.start, self.end = (
                hdf5.array(file, name) for name in ('labels', 'label_start_ix', 'label_end_ix'))
            self.digests = {name: hdf5.text_attribute(file, name) for name in (VOCABULARY, IMAGES)}
        problem = self._problem(images, words)
        if problem:
            raise DataError(f'--input_label_h5: {path} does not fit: {problem}; make both again with:\n'
                            f'{commands.LABELS}')
        self.path, self.longest = path, self.labels.shape[1]

    def _problem(self, images: int, words: int) -> str:
        """What does not fit, or ''."""
        labels = self.labels
        kinds = [(array.ndim, array.dtype.kind in 'iu') for array in (labels, self.start, self.end)]
        if kinds != [(2, True), (1, True), (1, True)]:
            return 'it holds no table of word indices with the rows of each image'
        if len(self.start) != images or len(self.end) != images:
            return f'it has captions of {len(self.start)} images, --input_json has {images} images'
        if not labels.size:
            return 'it holds no captions'
        if labels.max() > words or labels.min() < 0:
            word = labels.max() if labels.max() > words else labels.min()
            return f'word {word} is not in the vocabulary of {words} words'
        if images and (self.start.min() < 1 or self.end.max() > len(labels)):
            return f'an image points at captions outside rows 1 to {len(labels)}'
        # Words after the first 0 would be dropped silently; an empty caption would teach the model to say nothing.
        is_word = labels > 0
        broken = ~is_word[:, 0] | (is_word[:, 1:] & ~is_word[:, :-1]).any(1)
        if broken.any():
            return f'caption {int(np.argmax(broken)) + 1} has no words, or words after its end'
        return ''

    def of(self, image: int) -> np.ndarray:
        """(captions, max_length) of the image with the row number `image`."""
        return self.labels[int(self.start[image]) - 1:int(self.end[image])]


def caption_width(path: str) -> int | None:
    """The number of words that a label file has room for in a caption; None without a readable file."""
    try:
        with hdf5.reading(path, path, '') as file:
            return hdf5.dataset(file, 'labels').shape[1]
    except DataError:
        return None


def read_labels_file(path: str, made_by: str) -> Any:
    """The content of `--input_json`, a JSON value of any kind; where the ids of all images stand for whole numbers
    ('100', 100.0), they are that.  Raises `DataError`."""
    info = read_json(path, made_by, exact=True)
    images = info.get('images') if isinstance(info, dict) else None
    if isinstance(images, list) and all(isinstance(image, dict) for image in images):
        ids = [whole_number(image.get('id')) for image in images]
        if None not in ids:
            for image, image_id in zip(images, ids):
                image['id'] = image_id
    return info


def labels_file_problem(info: Any) -> str:
    """What is wrong with the content of `--input_json` (any JSON value), or ''."""
    images, words = (info.get('images'), info.get('ix_to_word')) if isinstance(info, dict) else (None, None)
    if not isinstance(images, list) or not isinstance(words, dict):
        return 'it has no list of images with ix_to_word'
    if not all(isinstance(words.get(str(index)), str) for index in range(1, len(words) + 1)):
        return 'its ix_to_word does not count words from 1'
    seen: dict[int, int] = {}
    for number, image in enumerate(images):
        if not isinstance(image, dict) or type(image.get('id')) is not int or abs(image['id']) >= 2 ** 63 \
                or not isinstance(image.get('split'), str):
            return f'images[{number}] has no whole number as id, or no split'
        if seen.setdefault(image['id'], number) != number:
            return f'images[{number}] has the id {image["id"]} of images[{seen[image["id"]]}]'
        if not _are_captions(image.get('captions')):
            return f'the captions of images[{number}] are not a list of texts'
        if 'tokens' in image and (not isinstance(image['tokens'], list) or not _are_captions(image['tokens'])
                                  or len(image['tokens']) != len(image.get('captions') or ())):
            return f'the tokens of images[{number}] are not a list of texts, one for each caption'
    return ''


def _are_captions(captions: Any) -> bool:
    """Whether the captions of an image are a list of texts, or absent."""
    return captions is None or isinstance(captions, list) and all(isinstance(text, str) for text in captions)


def image_path(image_root: str, image: dict[str, Any]) -> str:
    """The path under `image_root` of an image, an entry of `images` in `--input_json`."""
    if not isinstance(image.get('file_path'), str) or not image['file_path']:
        raise DataError(f'--input_json names no file_path for image {image["id"]}; make it again with:\n'
                        f'{commands.LABELS}')
    return path_under(image_root, image['file_path'])
