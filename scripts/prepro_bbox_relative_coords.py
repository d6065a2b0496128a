"""Step 4b: boxes in pixels -> boxes relative to their image."""

import os
import sys
from functools import partial

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from misc.cli import DataError, Parser, UsageError, note, run_command
from misc.dataset.array_files import SUFFIX, write_array
from misc.dataset.features import open_boxes
from misc.dataset.grids import checked_boxes, image_sizes, relative_boxes, sizes_location
from misc.dataset.karpathy import SOURCE, read_images
from misc.disk.files import read_json
from misc.pictures.images import read_size
from misc.prepare.broken import Broken
from misc.prepare.made import Sample, claimed, digest, finished
from misc.prepare.workers import add_workers_flag, convert_images


def size_of(image_id, sizes, image_paths):
    """(width, height) of an image: known, or from the header of its file.  Raises `DataError`."""
    if image_id in sizes:
        return sizes[image_id]
    if image_id not in image_paths:
        raise DataError(f'image {image_id}: no size is known, and --input_json names no file of it')
    return read_size(image_paths[image_id])


def convert(image_id, boxes, output_dir, sizes, image_paths):
    """Write the relative boxes of one image; returns None, or a message about what is broken."""
    try:
        size = size_of(image_id, sizes, image_paths)
        pixels = checked_boxes(boxes.read(image_id), boxes.where(image_id))
    except DataError as error:
        return str(error)
    write_array(output_dir, image_id, 'box', relative_boxes(pixels, *size))
    return None


def describe(image_id, boxes, sizes, image_paths):
    """What the record of this command says about one image; None for a broken one."""
    try:
        return {'boxes': digest(boxes.read(image_id).tobytes()),
                'size': [float(side) for side in size_of(image_id, sizes, image_paths)]}
    except DataError:
        return None


def find_images(opt, ids, sizes, broken):
    """{id: path} of the images of `ids` that have to be opened for their size."""
    unknown = ids - set(sizes)
    if not unknown:
        return {}
    if not opt.input_json or not opt.image_root:
        raise UsageError(f'{len(unknown)} images have no known size (none in '
                         f'{sizes_location(opt.input_box_dir)});\n'
                         'give --input_json and --image_root, so that they can be opened')
    if not os.path.isdir(opt.image_root):
        raise UsageError(f'--image_root: there is no folder {opt.image_root}')
    paths = {}
    for image in read_images(opt.input_json, broken.add, captions=False):
        if str(image['id']) in unknown and image['file_path']:
            paths[str(image['id'])] = os.path.join(opt.image_root, image['file_path'])
    return paths


def arguments():
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


def main():
    """Convert what is not there yet."""
    opt = arguments().parse_args()
    broken = Broken()
    boxes = open_boxes(opt.input_box_dir, 'input_box_dir')
    ids = boxes.ids()
    known = read_json(opt.input_json, SOURCE) if opt.input_json else None
    sizes = image_sizes(opt.input_box_dir, known)
    image_paths = find_images(opt, ids, sizes, broken)
    inputs = {'input_box_dir': Sample(ids, partial(describe, boxes=boxes, sizes=sizes,
                                                   image_paths=image_paths))}
    work = partial(convert, boxes=boxes, output_dir=opt.output_dir, sizes=sizes, image_paths=image_paths)
    with claimed(opt.output_dir, 'prepro_bbox_relative_coords.py', {}, inputs, [opt.output_dir]):
        todo = sorted(ids - finished(opt.output_dir, SUFFIX['box']))
        convert_images(work, todo, opt.num_workers, broken, 'relative boxes', len(ids))
    done = ids & finished(opt.output_dir, SUFFIX['box'])
    note(f'{len(done)} of {len(ids)} images -> {opt.output_dir}')
    return broken.finish('mend them and run the command again; it makes only what is missing')


if __name__ == '__main__':
    run_command(main)
