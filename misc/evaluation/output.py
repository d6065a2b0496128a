"""Captions as lines of text and as entries of vis/vis.json, and the names of files."""

import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from misc.cli import plain_text
from misc.evaluation.captioning import Caption, ImageCaptions

LONGEST_NAME = 200  # bytes of ID in ID_SPLIT.json: file systems allow 255, and a file being written has a suffix


def caption_lines(results: Sequence[ImageCaptions], every_beam: bool = False, by_file: bool = False) -> Iterator[str]:
    """One line for each image, or with `every_beam` one for each of its captions, with the log-probability.

    Lines begin with the image's id, or with its file if `by_file`.
    """
    for image in results:
        name = image.file_path if by_file else image.image_id
        if every_beam:
            for caption in image.captions:
                yield plain_text(f'{name}: {caption.text}  ({caption.log_prob:.3f})')
        else:
            yield plain_text(f'{name}: {image.first.text}')


def vis_entries(results: Sequence[ImageCaptions], captions: int = 1, with_path: bool = True) -> list[dict[str, Any]]:
    """The entries of vis/vis.json: COCO's results form, with log-probabilities.

    Several `captions` for each image add them as `beams`; `with_path` adds the image's `file_path`.
    """
    def entry(image: ImageCaptions) -> dict[str, Any]:
        found = {'image_id': image.image_id, **as_dict(image.first)}
        if with_path:
            found['file_path'] = image.file_path
        if captions > 1:
            found['beams'] = [as_dict(caption) for caption in image.captions[:captions]]
        return found

    def as_dict(caption: Caption) -> dict[str, Any]:
        return {'caption': caption.text, 'log_prob': caption.log_prob}
    return [entry(image) for image in results]


def scored_caption(is_best: bool, is_decoded: bool) -> str:
    """Which of several captions of an image is scored, in words; `is_decoded`: by beam search, not sampled."""
    if is_best:
        return 'the one with the highest log-probability'
    return 'the best beam' if is_decoded else \
        'the first that was drawn (--score_caption best takes the one with the highest log-probability)'


def file_name(run_id: Any) -> str:
    """A run's id as part of a file name; ids come from checkpoints, which anyone may have written."""
    return re.sub(r'[^\w.+-]+', '_', str(run_id or '')).strip('.')[:80] or 'captioner'


def joined_name(names: Iterable[str]) -> str:
    """One name for the models of an ensemble, fit for a file name: a long one is cut and ends in a checksum that
    distinguishes it from others with the same beginning."""
    name = '+'.join(names).encode()
    if len(name) > LONGEST_NAME:
        end = f'+{zlib.crc32(name):08x}'.encode()
        name = name[:LONGEST_NAME - len(end)] + end
    return name.decode(errors='ignore')
