"""Step 5: boxes -> grid vectors, the share of each grid cell that each box covers."""

import math
import os
from functools import partial

from misc.cli import DataError, Parser, note, perfect_square, run_command
from misc.dataset.features import SUFFIX, open_boxes, write_array
from misc.dataset.grids import checked_boxes, extent, grid_vectors, image_sizes, sizes_place
from misc.prepare.broken import Broken
from misc.prepare.made import Sample, claimed, digest, finished, save
from misc.prepare.workers import add_workers_flag, convert_images


def convert(image_id, boxes, output_dir, sizes, side):
    """Write the grid vectors of one image; returns None, or a message about what is broken."""
    try:
        pixels = checked_boxes(boxes.read(image_id), boxes.where(image_id))
    except DataError as error:
        return str(error)
    width, height = sizes.get(image_id) or extent(pixels)
    write_array(output_dir, image_id, 'grid', grid_vectors(pixels, width, height, side))
    return None


def describe(image_id, boxes, sizes):
    """What the record of this command says about one image; None for a broken one."""
    try:
        size = sizes.get(image_id)
        return {'boxes': digest(boxes.read(image_id).tobytes()), 'size': list(size) if size else None}
    except DataError:
        return None


def todo_list(ids, sizes, output_dir, record, input_dir):
    """The ids still to be made, in order.

    `record` keeps under `by_extent` the images without a known size.  Once their sizes come to be
    known (the step before went on), what was made from the extent of their boxes is made again.
    """
    done = ids & finished(output_dir, SUFFIX['grid'])
    by_extent = set(record.get('by_extent', []))
    outdated = done & by_extent & set(sizes)
    if outdated:
        note(f'{len(outdated)} images have a known size now, and are made again')
    for image_id in outdated:
        os.unlink(os.path.join(output_dir, f'{image_id}{SUFFIX["grid"]}'))
    todo = ids - (done - outdated)
    guessed = todo - set(sizes)
    record['by_extent'] = sorted((by_extent | guessed) - set(sizes))
    save(output_dir, record)
    if guessed:
        note(f'warning: the size of {len(guessed)} of {len(ids)} images is not known (not in '
             f'{sizes_place(input_dir)} nor in --input_json); the extent of their own boxes stands for it')
    return sorted(todo)


def arguments():
    """The parser of this command."""
    parser = Parser(description=(
        'Computes grid vectors: for each box, the share of each cell of a grid over the image that it\n'
        'covers.  Writes OUTPUT_DIR/ID.npy, float32 (regions, num_grids).  Image sizes come from\n'
        'INPUT_DIR_sizes.json (make_bu_data.py writes it), else from --input_json.\n\n'
        'python prepro_areas.py --input_dir data/cocobu_box --output_dir data/cocobu_box_vec \\\n'
        '    --num_grids 144'))
    parser.add_argument('--input_dir', required=True, help='folder (or packed file) of boxes in pixels')
    parser.add_argument('--output_dir', required=True, help='folder to write')
    parser.add_argument('--num_grids', type=perfect_square, default=144, help=(
        'cells of the grid, a perfect square; more of them say more exactly where a box is. '
        'Train with the same number'))
    parser.add_argument('--input_json', help=(
        'labels file with width and height (prepro_labels.py --images_root); for boxes without a sizes file'))
    add_workers_flag(parser)
    return parser


def main():
    """Make what is not there yet."""
    opt = arguments().parse_args()
    side = math.isqrt(opt.num_grids)
    broken = Broken()
    boxes = open_boxes(opt.input_dir, 'input_dir')
    ids = boxes.ids()
    sizes = image_sizes(opt.input_dir, opt.input_json)
    inputs = {'input_dir': Sample(ids, partial(describe, boxes=boxes, sizes=sizes))}
    work = partial(convert, boxes=boxes, output_dir=opt.output_dir, sizes=sizes, side=side)
    with claimed(opt.output_dir, 'prepro_areas.py', {'num_grids': opt.num_grids}, inputs,
                 [opt.output_dir]) as record:
        todo = todo_list(ids, sizes, opt.output_dir, record, opt.input_dir)
        convert_images(work, todo, opt.num_workers, broken, 'grid vectors', len(ids))
    done = ids & finished(opt.output_dir, SUFFIX['grid'])
    note(f'{len(done)} of {len(ids)} images, {opt.num_grids} cells -> {opt.output_dir}')
    return broken.finish('mend them and run the command again; it makes only what is missing')


if __name__ == '__main__':
    run_command(main)
