"""Pictures -> features, boxes and sizes of their regions, without the bottom-up-attention archive."""

import argparse
import os
import shlex
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
os.environ.setdefault('GOMP_SPINCOUNT', '2000')  # before torch is loaded; why: see train.py

from misc import commands
from misc.cli import Parser, UsageError, note, number_in, run_command
from misc.dataset.networks import DEFAULT_NETWORK, LAYOUTS
from misc.dataset.recipe import DEFAULTS, DETECTORS, RANGES, describe
from misc.pictures.listing import FolderPictures, PictureSource, SplitPictures
from misc.pictures.recipes import extractor_recipe, new_recipe, repeated_cells
from misc.prepare.broken import Broken
from misc.prepare.workers import add_workers_flag
from opts import device_name, network_names


def arguments() -> Parser:
    """The parser of this command."""
    parser = Parser(description=(
        'Finds regions in pictures, and writes what make_bu_data.py writes: OUTPUT_DIR_att/ID.npz,\n'
        'OUTPUT_DIR_fc/ID.npy, OUTPUT_DIR_box/ID.npy, OUTPUT_DIR_box_sizes.json; and beside them how the\n'
        'regions were found, OUTPUT_DIR_att_regions.json, which training passes on to eval.py --image_folder, and\n'
        'which picture each id is, OUTPUT_DIR_images.json, which training compares with its labels.\n\n'
        'python scripts/extract_regions.py --images_root PICTURES --output_dir data/mine --detector grid\n'
        'python scripts/extract_regions.py --images_root IMAGE_ROOT --input_json data/dataset_coco.json \\\n'
        '    --output_dir data/mine --detector fasterrcnn\n\n'
        'With torchrun --nproc_per_node N in place of python, N processes share the pictures: on N GPUs, or on N\n'
        'cores with one thread each.'))
    add_picture_flags(parser)
    add_recipe_flags(parser)
    parser.add_argument('--batch_size', type=number_in(int, low=1), default=8, help=(
        'pictures of one size that the networks see at once; lower it to use less memory'))
    parser.add_argument('--device', type=device_name, default='auto', help=(
        'auto (CUDA where there is one), cpu, cuda or cuda:N'))
    add_workers_flag(parser)
    return parser


def add_picture_flags(parser: Parser) -> None:
    """What is read and written."""
    parser.add_argument('--images_root', required=True, help=(
        'folder of pictures (with its subfolders), or a single one; with --input_json the folder that holds '
        'train2014/ and val2014/'))
    parser.add_argument('--input_json', help=(
        "Karpathy's split file, whose images (and ids) are used, as training with its captions needs them; "
        "without it all pictures of the folder, with the numbers in COCO's file names as ids, or numbered from 1. "
        'OUTPUT_DIR_images.json records them'))
    parser.add_argument('--output_dir', required=True, help="prefix of the folders' names")


def add_recipe_flags(parser: Parser) -> None:
    """How regions are found."""
    parser.add_argument('--detector', choices=DETECTORS, help=(
        'grid: the cells of a grid over the picture; fasterrcnn: boxes proposed by a detector of COCO\'s 80 '
        'classes, with the features that the network computes there'))
    parser.add_argument('--extractor', metavar='FILE.py', help=(
        'in place of --detector: a Python file of your own, whose function regions(picture) returns features and '
        'boxes; it is run, and recorded by its name and a digest (docs/pictures.md)'))
    for name, kind, text in (
            ('grid_size', int, 'grid: cells per row and column'),
            ('min_regions', int, 'fasterrcnn: at least this many boxes, however low their scores'),
            ('max_regions', int, 'fasterrcnn: at most this many boxes, those with the highest scores'),
            ('min_confidence', float, 'fasterrcnn: boxes with a score above this'),
            ('longest_side', int, 'pixels; larger pictures are scaled down to it (none of COCO is larger). Boxes '
                                  'are in the pixels of the file')):
        parser.add_argument(f'--{name}', type=number_in(kind, *RANGES[name]), default=DEFAULTS[name], help=text)
    parser.add_argument('--cnn_model', type=network_names, default=DEFAULT_NETWORK, metavar='NAME[+NAME]', help=(
        "the network whose last feature map describes the regions: one of torchvision's of classification "
        '(resnet101, convnext_large, regnet_y_16gf, swin_b, vit_b_16, ...), or efficientnet_lite0, 1 or 2 of the '
        'packages in requirements-features.txt, which also bring weights of mobilenet_v2; several joined by + give '
        'their features side by side'))
    parser.add_argument('--input_size', type=input_sizes, default=[], metavar='N[+N]', help=(
        'side in pixels of the square that the network sees, one for all or one for each network (default: the one '
        'it was trained with; resnet101 and resnet152 see pictures as they are)'))
    parser.add_argument('--cnn_weight_dir', help=(
        'folder of the weights, NAME.pth or as torchvision names them (default: data, data/imagenet_weights, then '
        "torchvision's own downloads); where there are none, those of requirements-features.txt are taken"))
    parser.add_argument('--cnn_layout', choices=LAYOUTS, help=(
        'where resnet101 or resnet152 strides: caffe for weights converted from Caffe, torchvision for its own; '
        'required with NAME.pth, which may be either, and known from the name of files that torchvision named'))
    parser.add_argument('--random_weights', type=number_in(int, low=0, high=2 ** 32 - 1), metavar='SEED', help=(
        'RANDOM weights with this seed, for trying things out without weights: their features tell pictures '
        'apart but mean nothing'))


def input_sizes(text: str) -> list[int]:
    """An argparse type: numbers of pixels joined by '+'."""
    return [number_in(int, *RANGES['input_size'])(one) for one in text.split('+')]


def check(options: argparse.Namespace) -> None:
    """Raise `UsageError` for flags that contradict one another."""
    if bool(options.detector) == bool(options.extractor):
        raise UsageError('say how regions are found: give either --detector grid, --detector fasterrcnn, or '
                         '--extractor FILE.py')
    for name in ('cnn_model', 'input_size', 'cnn_weight_dir', 'cnn_layout', 'random_weights'):
        if options.extractor and getattr(options, name) not in (None, [], DEFAULT_NETWORK):
            raise UsageError(f'--{name} does not go with --extractor, which computes the features; leave it out')
    if options.min_regions > options.max_regions:
        raise UsageError(f'--min_regions {options.min_regions} is more than --max_regions {options.max_regions}')
    if options.random_weights is not None and options.cnn_weight_dir:
        raise UsageError(f'--random_weights {options.random_weights} contradicts --cnn_weight_dir '
                         f'{options.cnn_weight_dir}; leave one out')


def main() -> int:
    """Find the regions that are not on disk yet; returns the exit status."""
    if os.environ.get('WORLD_SIZE', '1') == '1':
        # Loading torch takes seconds, so it comes after everything that can be refused without it.
        options = parsed_options()
        return find(options, *listed_pictures(options))
    from misc import parallel
    with parallel.processes():
        options = parallel.together(parsed_options)
        status = find(options, *parallel.on_main(lambda: listed_pictures(options)))
        # torchrun kills the other processes as soon as one fails: only the main one reports it.
        return status if parallel.is_main() else 0


def parsed_options() -> argparse.Namespace:
    """The checked flags of the command line."""
    options = arguments().parse_args()
    check(options)
    return options


def listed_pictures(options: argparse.Namespace) -> tuple[PictureSource, Broken]:
    """The pictures, and the records of those that are broken."""
    broken, base = Broken(), os.path.normpath(options.output_dir)
    if options.input_json:
        return SplitPictures(options.input_json, options.images_root, broken, base), broken
    return FolderPictures(options.images_root, base, broken), broken


def find(options: argparse.Namespace, pictures: PictureSource, broken: Broken) -> int:
    """Find the regions of `pictures`; returns the exit status."""
    from misc import parallel
    from misc.machine import pick_device
    from misc.pictures.extraction import Extraction
    base = os.path.normpath(options.output_dir)
    device = parallel.together(lambda: pick_device(options.device))
    recipe = parallel.on_main(lambda: extractor_recipe(options.extractor, options.longest_side)
                              if options.extractor else new_recipe(
        options.detector, vars(options), options.cnn_model, options.cnn_layout, options.cnn_weight_dir,
        options.random_weights, options.input_size))
    note(f'regions: {describe(recipe)}')
    for warning in repeated_cells(recipe):
        note(warning)
    if options.random_weights is not None:
        note('WARNING: with random weights, features tell pictures apart but say nothing about their content')
    extraction = Extraction(base, recipe, broken, options.extractor)
    found = extraction.run(pictures, device, options.batch_size, options.num_workers, options.cnn_weight_dir)
    note(f'{len(found)} of {len(pictures.paths)} images -> {", ".join(extraction.folders.values())}')
    status = broken.finish('replace these files and run the command again; it finds only the missing regions',
                           f'{base}_broken.txt')
    if options.input_json and not status:
        note(f'next:\n  {training(options.input_json, base)}')
    return status


def training(input_json: str, base: str) -> str:
    """The command that trains on the regions at `base`, with the labels where other commands propose them."""
    return commands.TRAIN.format(name=shlex.quote(os.path.basename(base)), regions=shlex.quote(base),
                                 data=shlex.quote(commands.labels_base(input_json)))


if __name__ == '__main__':
    run_command(main)
