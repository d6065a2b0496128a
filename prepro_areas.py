"""Boxes -> grid vectors, the fraction of each grid cell that each box covers."""

import math
import os
from collections.abc import Mapping
from functools import partial

import numpy as np

from misc.cli import DataError, Parser, note, perfect_square, run_command
from misc.dataset.array_files import SUFFIX, write_array
from misc.dataset.features import ArrayReader, open_boxes
from misc.dataset.grids import checked_boxes, extent, grid_vectors, image_sizes, sizes_location
from misc.prepare.broken import Broken
from misc.prepare.made import Parts, Record, Sample, claimed, digest, finished, save
from misc.prepare.outdated import made_at, outdated, remove_outputs
from misc.prepare.workers import add_workers_flag, convert_images

Sizes = Mapping[str, tuple[float, float]]   # {image id: (width, height) in pixels}


def areas(boxes: np.ndarray, size: tuple[float, float] | None, side: int) -> np.ndarray:
    """The grid vectors, float32 (regions, side * side), of boxes (regions, 4) in pixels on an image of `size`
    (width, height); the extent of the boxes stands in for an unknown size."""
    width, height = size or extent(boxes)
    return grid_vectors(boxes, width, height, side)


def convert(image_id: str, boxes: ArrayReader, output_dir: str, sizes: Sizes, side: int) -> str | None:
    """Write the grid vectors of one image; returns None, or a message about what is broken."""
    try:
        pixels = checked_boxes(boxes.read(image_id), boxes.where(image_id))
    except DataError as error:
        return str(error)
    write_array(output_dir, image_id, 'grid', areas(pixels, sizes.get(image_id), side))
    return None


def describe(image_id: str, boxes: ArrayReader, sizes: Sizes) -> Parts | None:
    """What is recorded of one image as an input; None for a broken one."""
    try:
        size = sizes.get(image_id)
        return {'boxes': digest(boxes.read(image_id).tobytes()), 'size': list(size) if size else None}
    except DataError:
        return None


def states_of(boxes: ArrayReader, sizes: Sizes) -> dict[str, str]:
    """{image id: what changes with its boxes or its size}."""
    return {image_id: ' '.join([state, *map(str, sizes.get(image_id, ()))])
            for image_id, state in boxes.states().items()}


def images_to_do(ids: set[str], sizes: Sizes, output_dir: str, record: Record, input_dir: str,
                 inputs: Mapping[str, Sample]) -> list[str]:
    """The ids whose grid vectors are to be made, in order: those that are missing, and those whose boxes changed.

    `record` lists under `by_extent` the images without a known size.  When their sizes become known (the step
    before was continued), what was made from the extent of their boxes is removed and made again.
    """
    done = ids & finished(output_dir, SUFFIX['grid'])
    by_extent = set(record.get('by_extent', []))
    measured = done & by_extent & set(sizes)
    if measured:
        note(f'{len(measured)} images have a known size now, and are made again')
    again = measured | outdated(record, inputs, done - measured, made_at(output_dir, SUFFIX['grid']))
    remove_outputs({output_dir: SUFFIX['grid']}, again)
    todo = ids - (done - again)
    unknown = todo - set(sizes)
    record['by_extent'] = sorted((by_extent | unknown) - set(sizes))
    save(output_dir, record)
    if unknown:
        note(f'warning: the size of {len(unknown)} of {len(ids)} images is not known (not in '
             f'{sizes_location(input_dir)} nor in --input_json); the extent of their boxes is taken instead')
    return sorted(todo)


def arguments() -> Parser:
    """The parser of this command."""
    parser = Parser(description=(
        'Computes grid vectors: for each box, the fraction of each cell of a grid over the image that it\n'
        'covers.  Writes OUTPUT_DIR/ID.npy, float32 (regions, num_grids).  Image sizes come from\n'
        'INPUT_DIR_sizes.json (make_bu_data.py writes it), else from --input_json.\n\n'
        'python prepro_areas.py --input_dir data/cocobu_box --output_dir data/cocobu_box_vec \\\n'
        '    --num_grids 144'))
    parser.add_argument('--input_dir', required=True, help='folder (or packed file) of boxes in pixels')
    parser.add_argument('--output_dir', required=True, help='folder to write')
    parser.add_argument('--num_grids', type=perfect_square, default=144, help=(
        'cells of the grid, a perfect square; more cells locate boxes more precisely. '
        'Train with the same number'))
    parser.add_argument('--input_json', help=(
        'labels file with width and height (prepro_labels.py --images_root); for boxes without a sizes file'))
    add_workers_flag(parser)
    return parser


def main() -> int:
    """Make the grid vectors that are missing; returns the exit status."""
    options = arguments().parse_args()
    side = math.isqrt(options.num_grids)
    broken = Broken()
    boxes = open_boxes(options.input_dir, 'input_dir')
    ids = boxes.ids()
    sizes = image_sizes(options.input_dir, options.input_json)
    inputs = {'input_dir': Sample(ids, partial(describe, boxes=boxes, sizes=sizes), states_of(boxes, sizes))}
    work = partial(convert, boxes=boxes, output_dir=options.output_dir, sizes=sizes, side=side)
    with claimed(options.output_dir, 'prepro_areas.py', {'num_grids': options.num_grids}, inputs,
                 [options.output_dir]) as record:
        todo = images_to_do(ids, sizes, options.output_dir, record, options.input_dir, inputs)
        convert_images(work, todo, options.num_workers, broken, 'grid vectors', len(ids))
    done = ids & finished(options.output_dir, SUFFIX['grid'])
    note(f'{len(done)} of {len(ids)} images, {options.num_grids} cells -> {options.output_dir}')
    return broken.finish('correct them and run the command again; it makes only what is missing',
                         f'{os.path.normpath(options.output_dir)}_broken.txt')


if __name__ == '__main__':
    run_command(main)
