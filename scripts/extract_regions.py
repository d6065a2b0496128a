"""Pictures -> regions, where there is no bottom-up-attention archive: features, boxes and sizes of them."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from misc.cli import Parser, UsageError, note, number_in, run_command
from misc.dataset.recipe import DEFAULTS, DETECTORS, LAYOUTS, MODELS, RANGES, describe
from misc.pictures.own_images import ListedPictures, OwnPictures
from misc.pictures.recipes import new_recipe
from misc.prepare.broken import Broken
from misc.prepare.workers import add_workers_flag
from opts import device_name


def arguments():
    """The parser of this command."""
    parser = Parser(description=(
        'Finds regions in pictures, and writes what make_bu_data.py writes: OUTPUT_DIR_att/ID.npz,\n'
        'OUTPUT_DIR_fc/ID.npy, OUTPUT_DIR_box/ID.npy, OUTPUT_DIR_box_sizes.json; and beside them how it was\n'
        'done, OUTPUT_DIR_att_regions.json, which training hands on to eval.py --image_folder.\n\n'
        'python scripts/extract_regions.py --images_root PICTURES --output_dir data/mine --detector grid\n'
        'python scripts/extract_regions.py --images_root IMAGE_ROOT --input_json data/dataset_coco.json \\\n'
        '    --output_dir data/mine --detector fasterrcnn'))
    add_picture_flags(parser)
    add_way_flags(parser)
    parser.add_argument('--batch_size', type=number_in(int, low=1), default=8, help=(
        'pictures of one size looked at together; less takes less memory'))
    parser.add_argument('--device', type=device_name, default='auto', help=(
        'auto (CUDA where there is one), cpu, cuda or cuda:N'))
    add_workers_flag(parser)
    return parser


def add_picture_flags(parser):
    """What is read and written."""
    parser.add_argument('--images_root', required=True, help=(
        'folder of pictures (with the folders in it), or a single one; with --input_json the folder that '
        'holds train2014/ and val2014/'))
    parser.add_argument('--input_json', help=(
        "Karpathy's split file, whose images (and ids) are taken; without it all pictures of the folder, with "
        "the numbers in COCO's file names as ids, or counted from 1 (OUTPUT_DIR_images.json says which is which)"))
    parser.add_argument('--output_dir', required=True, help='beginning of the names of the folders')


def add_way_flags(parser):
    """How regions are found."""
    parser.add_argument('--detector', required=True, choices=DETECTORS, help=(
        'grid: the cells of a grid over the picture; fasterrcnn: boxes that a detector of COCO\'s 80 classes '
        'proposes, with features of the ResNet where they lie'))
    for name, kind, text in (
            ('grid_size', int, 'grid: cells each way'),
            ('min_regions', int, 'fasterrcnn: at least so many boxes, however unsure'),
            ('max_regions', int, 'fasterrcnn: at most so many boxes, the surest'),
            ('min_confidence', float, 'fasterrcnn: boxes of a confidence above this'),
            ('longest_side', int, 'pixels; larger pictures are shrunk to it (COCO has no larger ones). Boxes are '
                                  'in the pixels of the file')):
        parser.add_argument(f'--{name}', type=number_in(kind, *RANGES[name]), default=DEFAULTS[name], help=text)
    parser.add_argument('--cnn_model', default='resnet101', choices=MODELS, help=(
        'the network whose last map features come from'))
    parser.add_argument('--cnn_weight_dir', help=(
        'folder of the weights, CNN_MODEL.pth or as torchvision names them (default: data, '
        "data/imagenet_weights, then torchvision's own downloads)"))
    parser.add_argument('--cnn_layout', choices=LAYOUTS, help=(
        'where the network strides: caffe for weights converted from Caffe, torchvision for its own, and known '
        'of files as torchvision names them; to be given for CNN_MODEL.pth, which may be either'))
    parser.add_argument('--random_weights', type=number_in(int, low=0, high=2 ** 32 - 1), metavar='SEED', help=(
        'RANDOM weights by this seed, to try things out without any: features tell pictures apart, and know '
        'nothing'))


def main():
    """Find what is not there yet."""
    opt = arguments().parse_args()
    if opt.min_regions > opt.max_regions:
        raise UsageError(f'--min_regions {opt.min_regions} is more than --max_regions {opt.max_regions}')
    if opt.random_weights is not None and opt.cnn_weight_dir:
        raise UsageError(f'--random_weights {opt.random_weights} contradicts --cnn_weight_dir '
                         f'{opt.cnn_weight_dir}; leave one out')
    broken, base = Broken(), os.path.normpath(opt.output_dir)
    pictures = (ListedPictures(opt.input_json, opt.images_root, broken) if opt.input_json
                else OwnPictures(opt.images_root, base, broken))
    from misc.machine import pick_device
    from misc.pictures.extraction import Extraction  # takes seconds to load: first what can be refused without it
    recipe = new_recipe(opt.detector, vars(opt), opt.cnn_model, opt.cnn_layout, opt.cnn_weight_dir,
                          opt.random_weights)
    device = pick_device(opt.device)
    note(f'regions: {describe(recipe)}')
    if opt.random_weights is not None:
        note('WARNING: with random weights features tell pictures apart, but know nothing of what is in them')
    extraction = Extraction(base, recipe, broken)
    there = extraction.run(pictures, device, opt.batch_size, opt.num_workers, opt.cnn_weight_dir)
    note(f'{len(there)} of {len(pictures.paths)} images -> {", ".join(extraction.folders.values())}')
    return broken.finish('put whole pictures there and run the command again; it finds only what is missing')


if __name__ == '__main__':
    run_command(main)
