"""A split file and its pictures -> the same with copies of the training pictures, cropped at random and every second
one mirrored."""

import argparse
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np
from PIL import Image

from misc.cli import DataError, Parser, UsageError, boolean, note, number_in, progress, run_command
from misc.dataset.karpathy import ImageRecord, read_images
from misc.dataset.recipe import DEFAULTS, RANGES
from misc.disk.files import path_under, replacing, write_json
from misc.pictures.images import read_size, read_upright, shrunk
from misc.prepare.broken import Broken
from misc.prepare.captions.pictures import Caption, Picture
from misc.prepare.captions.split_file import split_file
from misc.prepare.workers import add_workers_flag, convert_images

COPIES = 'copies'   # the folder of the copies, in the folder of pictures
TRAINING = ('train', 'restval')
SIDES = {'left': 'right', 'leftmost': 'rightmost', 'lefthand': 'righthand'}
WORD = re.compile(r'\w+')

Size = tuple[int, int]   # width and height in pixels


class Copy(NamedTuple):
    """A copy of a picture: a part of it in pixels, mirrored or not."""

    left: int
    top: int
    right: int
    bottom: int
    mirrored: bool

    def file_name(self, image_id: int) -> str:
        """The file name, which says all about the copy, so that a file of this name need not be made again."""
        return (f'{image_id}_{self.left}_{self.top}_{self.right}_{self.bottom}'
                f'{"_mirrored" * self.mirrored}.jpg')


def draw_copies(image_id: int, size: Size, count: int, smallest: float, mirror: bool, seed: int) -> list[Copy]:
    """The `count` copies of a picture of `size`: each a part with its proportions and a random share of its area, at
    least `smallest`, at a random place; with `mirror` the first, third, ... are mirrored.

    They depend on the seed, the id and the size alone, and the first are the same for a larger `count`.
    """
    rng = np.random.default_rng([seed, image_id])
    copies = []
    for number in range(count):
        side = np.sqrt(rng.uniform(smallest, 1))
        width, height = (max(1, round(side * whole)) for whole in size)
        left, top = (int(rng.integers(whole - part + 1)) for whole, part in zip(size, (width, height)))
        copies.append(Copy(left, top, left + width, top + height, mirror and number % 2 == 0))
    return copies


def mirrored_words(text: str, sides: Mapping[str, str]) -> str:
    """`text` with the words of `sides` exchanged for one another, capitals kept."""
    both = {**sides, **{value: key for key, value in sides.items()}}

    def other(match: re.Match[str]) -> str:
        word = match[0]
        found = both.get(word.lower(), word)
        return found.capitalize() if word[0].isupper() else found
    return WORD.sub(other, text)


def write_copy(copy: Copy, source: str, target: str, longest: int) -> None:
    """Write a copy of the picture `source` as a JPEG.  Raises `DataError` where it cannot be read."""
    pixels, _ = read_upright(source, longest)
    part = pixels[copy.top:copy.bottom, copy.left:copy.right]
    with replacing(target, durable=False) as file:
        Image.fromarray(part[:, ::-1] if copy.mirrored else part).save(file, 'JPEG', quality=95, subsampling=0)


def make_copies(image_id: str, sources: Mapping[str, str], copies: Mapping[str, Sequence[Copy]], folder: str,
                longest: int) -> str | None:
    """Write the copies of one picture that are not there yet; returns None, or what is broken."""
    try:
        for copy in copies[image_id]:
            target = os.path.join(folder, copy.file_name(int(image_id)))
            if not is_made(sources[image_id], target):
                write_copy(copy, sources[image_id], target, longest)
    except DataError as error:
        return str(error)
    return None


def is_made(source: str, target: str) -> bool:
    """Whether `target` was written after `source`."""
    return os.path.exists(target) and os.stat(target).st_mtime_ns >= os.stat(source).st_mtime_ns


def link(source: str, target: str) -> None:
    """Make `target` a link to the picture `source`, unless it is one."""
    source = os.path.abspath(source)
    if os.path.islink(target) and os.readlink(target) == source:
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.lexists(target):
        if not os.path.islink(target):
            raise UsageError(f'--output_dir: {target} is there, and no link that this command made; name another '
                             'folder')
        os.unlink(target)
    os.symlink(source, target)


def original(image: ImageRecord, size: Size) -> Picture:
    """An image of the split file as it is."""
    captions = [Caption(sentence['raw'], sentence['tokens']) for sentence in image['sentences']]
    return Picture(image['file_path'], captions, image['split'], image['id'], *size)


def picture_of(copy: Copy, image: ImageRecord, sides: Mapping[str, str]) -> Picture:
    """A copy of an image, with the image's captions: those of a mirrored one with left and right exchanged."""
    captions = [Caption(mirrored_words(sentence['raw'], sides),
                        [mirrored_words(token, sides) for token in sentence['tokens']])
                if copy.mirrored else Caption(sentence['raw'], sentence['tokens']) for sentence in image['sentences']]
    return Picture(f'{COPIES}/{copy.file_name(image["id"])}', captions, image['split'], None,
                   copy.right - copy.left, copy.bottom - copy.top, copy_of=image['id'])


# ---- the command ----

def arguments() -> Parser:
    """The parser of this command."""
    parser = Parser(description=(
        'Copies the pictures of the train and restval splits, each copy a part of the picture at random and every\n'
        'second one mirrored, so that a small data set is overfitted later.  Writes OUTPUT_DIR, a folder of\n'
        'links to all pictures and of the copies, and OUTPUT_JSON, a split file of both, for prepro_labels.py,\n'
        'prepro_ngrams.py and extract_regions.py --images_root OUTPUT_DIR.  An epoch then shows each picture and\n'
        'each of its copies once.\n\n'
        'python scripts/augment_pictures.py --input_json data/dataset_mine.json --images_root PICTURES \\\n'
        '    --output_json data/dataset_more.json --output_dir data/more_pictures'))
    parser.add_argument('--input_json', required=True, help="Karpathy's split file")
    parser.add_argument('--images_root', required=True, help='folder of its pictures')
    parser.add_argument('--output_json', required=True, help='split file to write')
    parser.add_argument('--output_dir', required=True, help='folder of pictures to write')
    parser.add_argument('--copies', type=number_in(int, low=1), default=2, help='of each picture')
    parser.add_argument('--smallest_crop', type=number_in(float, above=0, high=1), default=0.6, help=(
        'the least share of the area that a copy shows; 1 shows all'))
    parser.add_argument('--mirror', type=boolean, nargs='?', const=True, default=True, metavar='0/1', help=(
        'whether the first, third, ... copy of a picture is mirrored (default: 1)'))
    parser.add_argument('--swap_words', type=pair, nargs='*', metavar='WORD=WORD', help=(
        'words that change places in the captions of mirrored copies, whatever they mean there (default: '
        f'{" ".join(map("=".join, SIDES.items()))})'))
    parser.add_argument('--longest_side', type=number_in(int, *RANGES['longest_side']),
                        default=DEFAULTS['longest_side'], help=(
                            'pixels; larger pictures are scaled down to it before they are cropped'))
    parser.add_argument('--seed', type=number_in(int, low=0), default=0, help='another seed draws other copies')
    add_workers_flag(parser)
    return parser


def pair(text: str) -> tuple[str, str]:
    """An argparse type: two words joined by '='."""
    one, _, other = text.partition('=')
    if not (WORD.fullmatch(one) and WORD.fullmatch(other)):
        raise argparse.ArgumentTypeError(f'{text!r} is not allowed; give two words, such as left=right')
    return one.lower(), other.lower()


def sizes_of(images: Sequence[ImageRecord], root: str, broken: Broken) -> dict[int, Size]:
    """{id: (width, height) in pixels} of the images whose pictures can be read; the others are added to `broken`."""
    sizes = {}
    for image in progress(images, 'sizes'):
        try:
            if not image['file_path']:
                raise DataError(f'image {image["id"]} has no filename')
            sizes[image['id']] = read_size(path_under(root, image['file_path']), upright=True)
        except DataError as error:
            broken.add(error)
    return sizes


def main() -> int:
    """Link the pictures, write the copies that are missing, then the split file; returns the exit status."""
    options = arguments().parse_args()
    if not os.path.isdir(options.images_root):
        raise UsageError(f'--images_root: there is no folder {options.images_root}')
    if os.path.realpath(options.images_root) == os.path.realpath(options.output_dir):
        raise UsageError('--output_dir is the folder of the pictures; name another, new one')
    broken, sides = Broken(), SIDES if options.swap_words is None else dict(options.swap_words)
    images = read_images(options.input_json, broken.add)
    if any('copy_of' in image for image in images):
        raise UsageError(f'{options.input_json} has copies already; give the split file without them')
    sizes = sizes_of(images, options.images_root, broken)
    images = [image for image in images if image['id'] in sizes]
    sources = {str(image['id']): path_under(options.images_root, image['file_path']) for image in images}
    copies = {str(image['id']): draw_copies(image['id'], shrunk(sizes[image['id']], options.longest_side),
                                            options.copies, options.smallest_crop, options.mirror, options.seed)
              for image in images if image['split'] in TRAINING}
    if not copies:
        raise DataError(f'{options.input_json}: no picture of train or restval that can be read, so there is nothing '
                        'to copy')
    folder = os.path.join(options.output_dir, COPIES)
    os.makedirs(folder, exist_ok=True)
    for image in images:
        link(sources[str(image['id'])], path_under(options.output_dir, image['file_path']))
    todo = [image_id for image_id, drawn in copies.items() if not all(
        is_made(sources[image_id], os.path.join(folder, copy.file_name(int(image_id)))) for copy in drawn)]
    failed = len(broken)
    convert_images(partial(make_copies, sources=sources, copies=copies, folder=folder, longest=options.longest_side),
                   todo, options.num_workers, broken, 'pictures with copies', len(copies))
    if len(broken) > failed:
        images = [image for image in images if str(image['id']) not in copies or all(os.path.exists(
            os.path.join(folder, copy.file_name(image['id']))) for copy in copies[str(image['id'])])]
    pictures = [original(image, sizes[image['id']]) for image in images]
    made = [picture_of(copy, image, sides) for image in images for copy in copies.get(str(image['id']), ())]
    first = max(image['id'] for image in images) + 1
    ids = [image['id'] for image in images] + list(range(first, first + len(made)))
    name = os.path.splitext(os.path.basename(options.output_json))[0].removeprefix('dataset_')
    write_json(options.output_json, split_file([*pictures, *made], name, ids))
    note(f'{len(images)} images, {len(made)} copies -> {options.output_json}, {options.output_dir}\n'
         f'from here on: --input_json {shlex.quote(options.output_json)} '
         f'--images_root {shlex.quote(options.output_dir)}')
    return broken.finish('replace these pictures and run the command again; it makes only what is missing')


if __name__ == '__main__':
    run_command(main)
