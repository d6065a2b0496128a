"""Boxes in pixels -> boxes relative to their image."""

import os
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from misc.cli import DataError, Parser, UsageError, note, run_command
from misc.dataset.array_files import SUFFIX, write_array
from misc.dataset.features import ArrayReader, open_boxes
from misc.dataset.grids import checked_boxes, image_sizes, relative_boxes, sizes_location
from misc.dataset.karpathy import SOURCE, read_images
from misc.disk.files import path_under, read_json
from misc.pictures.images import read_size
from misc.prepare.broken import Broken
from misc.prepare.made import Parts, Sample, claimed, digest, finished, save
from misc.prepare.outdated import file_states, made_at, outdated, remove_outputs
from misc.prepare.workers import add_workers_flag, convert_images

Size = tuple[float, float]   # width and height in pixels


def size_of(image_id: str, sizes: Mapping[str, Size], image_paths: Mapping[str, str]) -> Size:
    """The size of an image, from `sizes` or from the header of its file.  Raises `DataError` without either."""
    if image_id in sizes:
        return sizes[image_id]
    if image_id not in image_paths:
        raise DataError(f'image {image_id}: no size is known, and --input_json names no file of it')
    return read_size(image_paths[image_id])


def convert(image_id: str, boxes: ArrayReader, output_dir: str, sizes: Mapping[str, Size],
            image_paths: Mapping[str, str]) -> str | None:
    """Write the relative boxes of one image; returns None, or a message about what is broken."""
    try:
        size = size_of(image_id, sizes, image_paths)
        pixels = checked_boxes(boxes.read(image_id), boxes.where(image_id))
    except DataError as error:
        return str(error)
    write_array(output_dir, image_id, 'rel', relative_boxes(pixels, *size))
    return None


def describe(image_id: str, boxes: ArrayReader, sizes: Mapping[str, Size],
             image_paths: Mapping[str, str]) -> Parts | None:
    """What is recorded of one image as an input; None for a broken one."""
    try:
        return {'boxes': digest(boxes.read(image_id).tobytes()),
                'size': [float(side) for side in size_of(image_id, sizes, image_paths)]}
    except DataError:
        return None


def find_images(input_json: str | None, image_root: str | None, unknown: set[str], input_box_dir: str,
                broken: Broken) -> dict[str, str]:
    """{id: path} of the images of `unknown` size, which have to be opened.

    Raises `UsageError` where the flags that name their files are missing.
    """
    if not unknown:
        return {}
    if not input_json or not image_root:
        raise UsageError(f'{len(unknown)} images have no known size (none in {sizes_location(input_box_dir)});\n'
                         'give --input_json and --image_root, so that they can be opened')
    if not os.path.isdir(image_root):
        raise UsageError(f'--image_root: there is no folder {image_root}')
    return {str(image['id']): path_under(image_root, image['file_path'])
            for image in read_images(input_json, broken.add, captions=False)
            if str(image['id']) in unknown and image['file_path']}


def states_of(boxes: ArrayReader, sizes: Mapping[str, Any], image_paths: Mapping[str, str]) -> dict[str, str]:
    """{image id: what changes with its boxes, its size, or the file that the size comes from}."""
    files = file_states(image_paths)
    return {image_id: ' '.join([state, *map(str, sizes.get(image_id, [files.get(image_id, '')]))])
            for image_id, state in boxes.states().items()}


def arguments() -> Parser:
    """The parser of this command."""
    parser = Parser(description=(
        'Divides boxes by the width and height of their image, clipped to [0, 1]: OUTPUT_DIR/ID.npy.\n'
        'Sizes come from INPUT_BOX_DIR_sizes.json; images without one there are opened.\n\n'
        'python scripts/prepro_bbox_relative_coords.py --input_json data/dataset_coco.json \\\n'
        '    --image_root IMAGE_ROOT --input_box_dir data/cocobu_box --output_dir data/cocobu_box_relative'))
    parser.add_argument('--input_json', help="Karpathy's split file; names the image files")
    parser.add_argument('--image_root', help=(
        'folder of the images (it holds train2014/ and val2014/); needed only where sizes are not known'))
    parser.add_argument('--input_box_dir', required=True, help='folder (or packed file) of boxes in pixels')
    parser.add_argument('--output_dir', required=True, help='folder to write')
    add_workers_flag(parser)
    return parser


def main() -> int:
    """Convert the images that are missing; returns the exit status."""
    options = arguments().parse_args()
    broken = Broken()
    boxes = open_boxes(options.input_box_dir, 'input_box_dir')
    ids = boxes.ids()
    records = read_json(options.input_json, SOURCE) if options.input_json else None
    sizes = image_sizes(options.input_box_dir, records)
    paths = find_images(options.input_json, options.image_root, ids - set(sizes), options.input_box_dir, broken)
    inputs = {'input_box_dir': Sample(ids, partial(describe, boxes=boxes, sizes=sizes, image_paths=paths),
                                      states_of(boxes, sizes, paths))}
    work = partial(convert, boxes=boxes, output_dir=options.output_dir, sizes=sizes, image_paths=paths)
    with claimed(options.output_dir, 'prepro_bbox_relative_coords.py', {}, inputs, [options.output_dir]) as record:
        done = ids & finished(options.output_dir, SUFFIX['rel'])
        again = outdated(record, inputs, done, made_at(options.output_dir, SUFFIX['rel']))
        remove_outputs({options.output_dir: SUFFIX['rel']}, again)
        save(options.output_dir, record)
        todo = sorted(ids - finished(options.output_dir, SUFFIX['rel']))
        convert_images(work, todo, options.num_workers, broken, 'relative boxes', len(ids))
    done = ids & finished(options.output_dir, SUFFIX['rel'])
    note(f'{len(done)} of {len(ids)} images -> {options.output_dir}')
    return broken.finish('correct them and run the command again; it makes only what is missing',
                         f'{os.path.normpath(options.output_dir)}_broken.txt')


if __name__ == '__main__':
    run_command(main)
