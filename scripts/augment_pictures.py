"""A split file and its pictures -> the same with copies of the training pictures: random crops, every second one
flipped."""

import argparse
import os
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np
from PIL import Image

from misc.cli import DataError, Parser, UsageError, boolean, note, number_in, progress, run_command
from misc.dataset.karpathy import ImageRecord, read_images
from misc.dataset.recipe import DEFAULTS, RANGES
from misc.dataset.splits import TRAINING
from misc.disk.files import check_writable, path_under, remove_leftovers, replacing, write_json
from misc.pictures.images import read_size, read_upright, shrunk
from misc.pictures.listing import digest_of
from misc.prepare.broken import Broken
from misc.prepare.captions.pictures import Caption, Picture
from misc.prepare.captions.split_file import label_flags, next_steps, split_file
from misc.prepare.made import digest
from misc.prepare.workers import add_workers_flag, convert_images

COPIES = 'copies'   # the folder of the copies, in the folder of pictures
SIDES = {'left': 'right', 'leftmost': 'rightmost', 'lefthand': 'righthand'}
WORD = re.compile(r'\w+')
NAME = r'[0-9]+_[0-9a-f]{12}(?:_[0-9]+){4}(?:_flipped)?\.jpg'   # of the files that this command makes

Size = tuple[int, int]   # width and height in pixels


class Crop(NamedTuple):
    """A part of a picture, in pixels, flipped horizontally or not."""

    left: int
    top: int
    right: int
    bottom: int
    flipped: bool

    def file_name(self, image_id: int, content: str) -> str:
        """The file name of the crop; `content`, a digest of the picture, makes it that of no other picture, so a
        file of this name need not be made again."""
        return (f'{image_id}_{content}_{self.left}_{self.top}_{self.right}_{self.bottom}'
                f'{"_flipped" * self.flipped}.jpg')


class Source(NamedTuple):
    """A picture: its file, its size, the size to crop from, and a digest of what is cropped."""

    path: str
    size: Size
    scaled: Size
    content: str


def draw_crops(image_id: int, size: Size, count: int, smallest: float, flip: bool, seed: int) -> list[Crop]:
    """The `count` random crops of a picture of `size`: each keeps its proportions and a random share of its area, at
    least `smallest`; with `flip` the first, third, ... are flipped.

    They depend on the seed, the id and the size alone, and the first are the same for a larger `count`.
    """
    rng = np.random.default_rng([seed, image_id])
    crops = []
    for number in range(count):
        side = np.sqrt(rng.uniform(smallest, 1))
        width, height = (max(1, round(side * whole)) for whole in size)
        left, top = (int(rng.integers(whole - part + 1)) for whole, part in zip(size, (width, height)))
        crops.append(Crop(left, top, left + width, top + height, flip and number % 2 == 0))
    return crops


def swapped(text: str, sides: Mapping[str, str]) -> str:
    """`text` with the words of `sides` exchanged for one another; Left becomes Right, and LEFT becomes RIGHT."""
    both = {**sides, **{value: key for key, value in sides.items()}}

    def other(match: re.Match[str]) -> str:
        word = match[0]
        found = both.get(word.lower())
        if not found:
            return word
        return found.upper() if word.isupper() else found.capitalize() if word[0].isupper() else found
    return WORD.sub(other, text)


def swapped_caption(caption: Caption, sides: Mapping[str, str]) -> Caption:
    """A caption of a flipped picture.  Where words of the tokens cannot be found in the text, as in Chinese, the text
    is made of the tokens."""
    tokens = [swapped(token, sides) for token in caption.tokens or ()]
    raw = swapped(caption.raw, sides)
    return Caption(' '.join(tokens) if raw == caption.raw and tokens != caption.tokens else raw, tokens)


def write_crops(image_id: str, sources: Mapping[str, Source], targets: Mapping[str, Mapping[Crop, str]],
                longest: int) -> str | None:
    """Write the crops of one picture that are not there yet as JPEGs; returns None, or what is broken."""
    try:
        pixels, _ = read_upright(sources[image_id].path, longest)
    except DataError as error:
        return str(error)
    for crop, target in targets[image_id].items():
        if not os.path.exists(target):
            part = pixels[crop.top:crop.bottom, crop.left:crop.right]
            with replacing(target, durable=False) as file:
                Image.fromarray(part[:, ::-1] if crop.flipped else part).save(file, 'JPEG', quality=95, subsampling=0)
    return None


def link(source: str, target: str) -> None:
    """Make `target` a link to the picture `source`, unless it is one.  Raises `UsageError` where it is another file.
    """
    source = os.path.abspath(source)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.lexists(target):
        if os.path.exists(target) and not os.path.samefile(source, target):
            raise UsageError(f'--output_dir: {target} is there, and is another file than {source}; name another '
                             'folder')
        if os.path.islink(target) and os.readlink(target) == source:
            return
        if not os.path.islink(target):
            raise UsageError(f'--output_dir: {target} is the picture itself; name another folder')
        os.unlink(target)
    os.symlink(source, target)


def original(image: ImageRecord, size: Size) -> Picture:
    """An image of the split file as it is."""
    captions = [Caption(sentence['raw'], sentence['tokens']) for sentence in image['sentences']]
    return Picture(image['file_path'], captions, image['split'], image['id'], *size)


def copy_of(picture: Picture, crop: Crop, name: str, sides: Mapping[str, str]) -> Picture:
    """A copy of an image, with its captions: those of a flipped one with words exchanged."""
    captions = [swapped_caption(caption, sides) for caption in picture.captions] if crop.flipped else picture.captions
    return Picture(f'{COPIES}/{name}', captions, picture.split, None, crop.right - crop.left, crop.bottom - crop.top,
                   copy_of=picture.id)


# ---- the command ----

def arguments() -> Parser:
    """The parser of this command."""
    parser = Parser(description=(
        'Augments a small data set: copies the pictures of the train and restval splits, each copy a random crop,\n'
        'every second one flipped horizontally, with left and right exchanged in its captions.  Writes OUTPUT_DIR,\n'
        'a folder of links to all pictures and of the copies, and OUTPUT_JSON, a split file of both, for the other\n'
        'commands: prepro_labels.py, prepro_ngrams.py, extract_regions.py --images_root OUTPUT_DIR.  An epoch then\n'
        'shows each picture and each of its copies once.\n\n'
        'python scripts/augment_pictures.py --input_json data/dataset_mine.json --images_root PICTURES \\\n'
        '    --output_json data/dataset_more.json --output_dir data/more_pictures'))
    parser.add_argument('--input_json', required=True, help="Karpathy's split file, without copies")
    parser.add_argument('--images_root', required=True, help='folder of its pictures')
    parser.add_argument('--output_json', required=True, help='split file to write')
    parser.add_argument('--output_dir', required=True, help=(
        'folder of pictures to write; its links hold absolute paths, so it is made anew where the pictures move'))
    parser.add_argument('--copies', type=number_in(int, low=1), default=2, help=(
        'of each picture; more for fewer pictures: features and epochs take as many times longer'))
    parser.add_argument('--smallest_crop', type=number_in(float, above=0, high=1), default=0.6, help=(
        'the least share of the area that a crop keeps; raise it where captions name things at the borders, 1 keeps '
        'everything'))
    parser.add_argument('--flip', type=boolean, nargs='?', const=True, default=True, metavar='0/1', help=(
        'whether the first, third, ... copy is flipped (default: 1); 0 for pictures of writing, or where sides '
        'matter'))
    parser.add_argument('--swap_words', type=pair, nargs='*', metavar='WORD=WORD', help=(
        'words to exchange in captions of flipped copies, in place of the English ones that are the default: '
        f'{" ".join(map("=".join, SIDES.items()))}.  They are exchanged whatever they mean: "has left" becomes '
        '"has right"'))
    parser.add_argument('--longest_side', type=number_in(int, *RANGES['longest_side']),
                        default=DEFAULTS['longest_side'], help=(
                            'pixels; larger pictures are scaled down to it before they are cropped'))
    parser.add_argument('--seed', type=number_in(int, low=0), default=0, help='another seed draws other crops')
    add_workers_flag(parser)
    return parser


def pair(text: str) -> tuple[str, str]:
    """An argparse type: two words joined by '='."""
    one, _, other = text.partition('=')
    if not (WORD.fullmatch(one) and WORD.fullmatch(other)):
        raise argparse.ArgumentTypeError(f'{text!r} is not allowed; give two words, such as left=right')
    return one.lower(), other.lower()


def check(options: argparse.Namespace) -> None:
    """Raise `UsageError` or `DataError` for places and words that cannot be, before any work."""
    if not os.path.isdir(options.images_root):
        raise UsageError(f'--images_root: there is no folder {options.images_root}')
    for one, other in (('images_root', 'output_dir'), ('input_json', 'output_json')):
        if os.path.realpath(getattr(options, one)) == os.path.realpath(getattr(options, other)):
            raise UsageError(f'--{other} is the same as --{one}; name another')
    words = Counter(word for pair in options.swap_words or () for word in pair)
    for word, count in words.items():
        if count > 1:
            raise UsageError(f'--swap_words: {word} is there {count} times; a word changes places with one other')
    check_writable(options.output_json)


def read_sources(images: Sequence[ImageRecord], root: str, longest: int, broken: Broken) -> dict[str, Source]:
    """{id: source} of the images whose pictures can be read; the others are added to `broken`."""
    sources = {}
    for image in progress(images, 'reading'):
        try:
            if not image['file_path']:
                raise DataError(f'image {image["id"]} has no filename')
            path = path_under(root, image['file_path'])
            size = read_size(path, upright=True)
            scaled = shrunk(size, longest)
            content = digest_of(path) if image['split'] in TRAINING else ''
            sources[str(image['id'])] = Source(path, size, scaled, digest(f'{content} {scaled}'.encode())[:12])
        except DataError as error:
            broken.add(error)
    return sources


def main() -> int:
    """Link the pictures, write the copies that are missing, then the split file; returns the exit status."""
    options = arguments().parse_args()
    check(options)
    broken = Broken()
    images = read_images(options.input_json, broken.add)
    if any('copy_of' in image for image in images):
        raise UsageError(f'{options.input_json} has copies already; give the split file without them')
    sources = read_sources(images, options.images_root, options.longest_side, broken)
    folder = os.path.join(options.output_dir, COPIES)
    targets: dict[str, dict[Crop, str]] = {}
    for image in images:
        if image['split'] in TRAINING and (source := sources.get(str(image['id']))):
            crops = draw_crops(image['id'], source.scaled, options.copies, options.smallest_crop, options.flip,
                               options.seed)
            targets[str(image['id'])] = {crop: os.path.join(folder, crop.file_name(image['id'], source.content))
                                         for crop in crops}
    if not targets:
        raise DataError(f'{options.input_json}: no picture of train or restval that can be read, so there is nothing '
                        'to copy')
    for image in images:
        if source := sources.get(str(image['id'])):
            link(source.path, path_under(options.output_dir, image['file_path']))
    os.makedirs(folder, exist_ok=True)
    remove_leftovers(folder, NAME)
    todo = [image_id for image_id, own in targets.items() if not all(map(os.path.exists, own.values()))]
    convert_images(partial(write_crops, sources=sources, targets=targets, longest=options.longest_side),
                   todo, options.num_workers, broken, 'pictures with copies', len(targets))
    write_split(images, sources, targets, SIDES if options.swap_words is None else dict(options.swap_words), options)
    return broken.finish('replace these pictures and run the command again; it makes only what is missing')


def write_split(images: Sequence[ImageRecord], sources: Mapping[str, Source],
                targets: Mapping[str, Mapping[Crop, str]], sides: Mapping[str, str],
                options: argparse.Namespace) -> None:
    """Write the split file of the pictures that could be read and of their copies, and say what comes next."""
    pictures, copies = [], []
    for image in images:
        own = targets.get(str(image['id']), {})
        if str(image['id']) in sources and all(map(os.path.exists, own.values())):
            picture = original(image, sources[str(image['id'])].size)
            pictures.append(picture)
            copies += [copy_of(picture, crop, os.path.basename(path), sides) for crop, path in own.items()]
    first = 1 + max(picture.id for picture in pictures)
    ids = [*(picture.id for picture in pictures), *range(first, first + len(copies))]
    name = os.path.splitext(os.path.basename(options.output_json))[0].removeprefix('dataset_')
    os.makedirs(os.path.dirname(os.path.abspath(options.output_json)), exist_ok=True)
    write_json(options.output_json, split_file([*pictures, *copies], name, ids))
    flipped = [swapped(caption.raw, sides) != caption.raw for copy in copies if copy.name.endswith('_flipped.jpg')
               for caption in copy.captions]
    note(f'{len(pictures)} images, {len(copies)} copies -> {options.output_json}, {options.output_dir}')
    if flipped:
        note(f'{sum(flipped)} of {len(flipped)} captions of flipped copies have words exchanged'
             + ('' if any(flipped) else '; for captions that are not English give --swap_words, or --flip 0'))
    note(next_steps(options.output_json, options.output_dir, label_flags(pictures)))


if __name__ == '__main__':
    run_command(main)
