"""Folders of features, boxes and grid vectors -> one file, much faster to read."""

import os
import sys
from collections.abc import Mapping
from functools import partial

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from misc.cli import DataError, Parser, UsageError, boolean, note, run_command
from misc.dataset.features import open_reader
from misc.dataset.grids import image_sizes, sizes_location
from misc.dataset.origin import pictures_path, read_pictures
from misc.dataset.packed import PackedReader, packed_sizes
from misc.dataset.recipe import read_recipe, recipe_path
from misc.dataset.sources import FLAGS
from misc.disk.files import write_json
from misc.prepare.broken import Broken
from misc.prepare.packing import DiskReader, Sizes, common_ids, compare, pack, report
from misc.prepare.workers import add_workers_flag, convert_images


def verify(sources: Mapping[str, DiskReader], output: str, sizes: Sizes, dtype: str, workers: int) -> int:
    """Compare a finished file with its sources; returns the exit status."""
    if not os.path.isfile(output):
        raise DataError(f'--output_file: there is no file {output}; run the command without --verify')
    broken = Broken()
    packed = {kind: PackedReader(output, kind, 'output_file') for kind in sources}
    for kind in {'att', 'fc'} & set(packed):
        if packed[kind].dtype != dtype:
            raise UsageError(f'--dtype {dtype}: {output} holds {packed[kind].dtype}; give --dtype '
                             f'{packed[kind].dtype}, or pack it again into another file')
    ids = common_ids(sources, broken)
    there = next(iter(packed.values())).ids()
    report(set(ids) - there, f'are not in {output}', broken)
    report(there - set(ids), f'are in {output} alone', broken)
    todo = [image_id for image_id in ids if image_id in there]
    work = partial(compare, sources=sources, packed=packed, sizes=(sizes, packed_sizes(output)))
    convert_images(work, todo, workers, broken, 'comparing', len(todo))
    note(f'{output}: {len(todo)} of {len(ids)} images compared, {len(broken)} differences')
    return 1 if broken else 0


def summary(output: str, sources: Mapping[str, DiskReader], ids: set[str], input_box_dir: str | None) -> None:
    """Print what the file holds: the images `ids`."""
    note(f'{len(ids)} images ({", ".join(sources)}), {os.path.getsize(output) / 1e6:,.0f} MB -> {output}')
    if input_box_dir:
        unknown = len(ids - set(packed_sizes(output)))
        if unknown:
            note(f'warning: the size of {unknown} of {len(ids)} images is not known (not in '
                 f'{sizes_location(input_box_dir)} nor in --input_json)')


def arguments() -> Parser:
    """The parser of this command."""
    parser = Parser(description=(
        'Packs folders with a file per image into one HDF5 file, which train.py, eval.py and the scripts\n'
        'take wherever they take the folder.  Rows lie uncompressed, an image is one read: many times\n'
        'faster than compressed .npz files, and one file to copy.  Every image is read back and compared.\n\n'
        'python scripts/pack_features.py --input_img_feat_dir data/cocobu_att \\\n'
        '    --input_box_dir data/cocobu_box --output_file data/cocobu.h5'))
    for kind, what in {'att': 'features, ID.npz', 'fc': 'mean features, ID.npy',
                       'box': 'boxes in pixels, ID.npy; image sizes (DIR_sizes.json) are packed with them',
                       'rel': 'boxes relative to the image, ID.npy; not needed beside boxes with sizes',
                       'grid': 'grid vectors, ID.npy; not needed beside boxes with sizes'}.items():
        parser.add_argument(f'--{FLAGS[kind]}', metavar='DIR', help=f'folder (or packed file) of {what}')
    parser.add_argument('--input_json', metavar='FILE', help=(
        'labels file with width and height (prepro_labels.py --images_root); for boxes without a sizes file'))
    parser.add_argument('--output_file', required=True, metavar='FILE', help=(
        'the file to write; until it is complete it lies in FILE.partial/'))
    parser.add_argument('--dtype', default='float32', choices=['float32', 'float16'], help=(
        'how features are stored; float16 takes half the disk and rounds them to 3 digits. Boxes and grid '
        'vectors are always float32'))
    parser.add_argument('--verify', type=boolean, nargs='?', const=True, default=False, metavar='0|1', help=(
        'only compare the finished file with the folders; after copying it to another disk, say'))
    add_workers_flag(parser)
    return parser


def main() -> int:
    """Pack the images that are missing, or verify; returns the exit status."""
    options = arguments().parse_args()
    sources = {kind: open_reader(getattr(options, flag), kind, flag)
               for kind, flag in FLAGS.items() if getattr(options, flag)}
    output = os.path.normpath(options.output_file)
    if not sources:
        raise UsageError('nothing to pack; give one or more of '
                         + ', '.join(f'--{flag}' for flag in FLAGS.values()))
    if os.path.isdir(output):
        raise UsageError(f'--output_file: {output} is a folder; name a file, say {output}.h5')
    boxes = options.input_box_dir
    if options.verify:
        return verify(sources, output, image_sizes(boxes, options.input_json) if boxes else {}, options.dtype,
                      options.num_workers)
    if options.input_json and not boxes:
        raise UsageError('--input_json says the sizes of images that boxes need; give --input_box_dir too, or '
                         'leave it out')
    broken = Broken()
    ids = pack(output, sources, image_sizes(boxes, options.input_json) if boxes else {}, {'dtype': options.dtype},
               options.num_workers, broken, 'pack_features.py',
               {FLAGS[kind]: source for kind, source in sources.items()})
    pictures = read_pictures(next(iter(sources.values())).path)
    if pictures:   # else features of other pictures would not be noticed
        write_json(pictures_path(output), {number: {'file': name} for number, name in pictures.items()}, indent=1)
    recipe = read_recipe(options.input_img_feat_dir or options.input_fc_feat_dir or output)
    if recipe is not None:
        write_json(recipe_path(output), recipe, indent=1)
    summary(output, sources, ids, boxes)
    return broken.finish('correct them and run the command again; it packs only what is missing',
                         f'{output}_broken.txt')


if __name__ == '__main__':
    run_command(main)
