"""Features that other programs computed -> features, boxes and image sizes of this project."""

import os
import shlex
import sys
from collections.abc import Mapping
from functools import partial

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from misc.cli import DataError, Parser, UsageError, note, progress, run_command
from misc.dataset.array_files import SUFFIX, write_array
from misc.dataset.sources import FLAGS
from misc.dataset.tsv import Size
from misc.disk.files import path_under, write_json
from misc.pictures.images import read_size
from misc.prepare.broken import Broken
from misc.prepare.captions.pictures import some
from misc.prepare.features.arrange import POSITION, ForeignReader, LastKept, Understanding, understood
from misc.prepare.features.names import Names
from misc.prepare.features.sources import Source, open_sources
from misc.prepare.made import Sample, claimed, finished, save
from misc.prepare.outdated import made_at, outdated, remove_outputs
from misc.prepare.packing import describe, pack
from misc.prepare.workers import add_workers_flag, convert_images

COMMAND = 'import_features.py'
FOLDERS = {'att': 'att', 'fc': 'fc', 'box': 'box', 'rel': 'box_relative'}   # kind: how its folder's name ends
Readers = Mapping[str, ForeignReader]


def convert(image_id: str, readers: Readers, folders: Mapping[str, str]) -> str | None:
    """Write the arrays of one image; returns None, or a message about what is broken."""
    try:
        arrays = {kind: reader.read(image_id) for kind, reader in readers.items()}
    except DataError as error:
        return str(error)
    features = arrays['att']
    arrays = {'att': features, 'fc': features.reshape(-1, features.shape[-1]).mean(axis=0), **arrays}
    # Boxes come last: where they are, the others are.
    for kind, array in arrays.items():
        write_array(folders[kind], image_id, kind, array)
    return None


def images_of(source: Source, names: Names, broken: Broken) -> dict[str, str]:
    """{id: name in the source} of the images of the data set.  Raises `DataError` where there are none."""
    found, unknown, repeated = names.ids_of(source.names())
    if not found:
        raise DataError(
            f'--input: {source.path} has features of {len(unknown)} images ({some(unknown)}), none of which '
            + (f'is in {names.path}; give the file of their own data set' if names.path else
               'is named by a whole number; give --input_json, the split file or the labels file that says which '
               'file is which image'))
    for name in repeated:
        broken.add(f'{source.where(name)}: the same image as {found[names.id_of(name) or ""]}, which counts')
    if unknown and names.path:
        note(f'{len(unknown)} of {len(unknown) + len(found)} images are not in {names.path} and left out: '
             f'{some(unknown)}')
    elif unknown:
        broken.add(f'{len(unknown)} images have names that are no ids ({some(unknown)}); --input_json says which '
                   'they are')
    missing: list[str] = sorted(names.ids - set(found), key=int)
    if missing:
        note(f'{len(missing)} of {len(names.ids)} images of {names.path} have no features here: {some(missing)}')
    return found


def sizes_of(source: Source, images: Mapping[str, str], understanding: Understanding, names: Names,
             images_root: str | None, broken: Broken) -> dict[str, Size]:
    """{id: size} of the images whose size is known: from the source, else from --input_json, else from the images."""
    sizes: dict[str, Size] = {}
    for image_id, name in progress(list(images.items()), 'sizes'):
        try:
            size = understanding.size(source.shapes(name).size) or names.sizes.get(image_id)
            if size is None and images_root and image_id in names.files:
                size = read_size(path_under(images_root, names.files[image_id]))
        except DataError as error:   # of features, the conversion says it
            if images_root:
                broken.add(f'image {image_id} gets no size: {error}')
            continue
        if size is not None:
            sizes[image_id] = size
    return sizes


def readers_of(source: Source, images: Mapping[str, str], found: Understanding,
               sizes: Mapping[str, Size]) -> dict[str, ForeignReader]:
    """The readers of features and, where there are any, boxes: relative ones where the size of an image that they
    would be pixels of is not known."""
    kept = LastKept(source)
    kinds = ['att']
    if found.boxes:
        kinds.append('rel' if found.relative and not set(images) <= set(sizes) else 'box')
    return {kind: ForeignReader(kept, images, found, kind, sizes) for kind in kinds}


def import_to_folders(base: str, readers: Readers, sizes: Mapping[str, Size], options: Mapping[str, object],
                      workers: int, broken: Broken) -> tuple[set[str], dict[str, str]]:
    """Write the images that the folders of `base` lack; returns the ids of those that are there in the end, and
    {kind: folder}."""
    kinds = ['att', 'fc', *(kind for kind in readers if kind != 'att')]
    folders = {kind: f'{base}_{FOLDERS[kind]}' for kind in kinds}
    suffixes = {folders[kind]: SUFFIX[kind] for kind in reversed(kinds)}
    reader = readers['att']
    inputs = {'input': Sample(reader.ids(), partial(describe, source=reader), reader.states(), copied=True)}

    def done() -> set[str]:
        return set.intersection(reader.ids(), *(finished(folder, suffix) for folder, suffix in suffixes.items()))

    with claimed(base, COMMAND, options, inputs, list(folders.values())) as record:
        if 'box' in folders:   # first: for boxes without a size beside them the next step would guess it
            write_json(f'{folders["box"]}_sizes.json', dict(sizes))
        remove_outputs(suffixes, outdated(record, inputs, done(), made_at(folders['att'], SUFFIX['att'])))
        save(base, record)
        todo = sorted(reader.ids() - done(), key=int)
        convert_images(partial(convert, readers=readers, folders=folders), todo, workers, broken, 'features',
                       len(reader.ids()))
        there = done()
        if 'box' in folders:
            write_json(f'{folders["box"]}_sizes.json', {one: size for one, size in sizes.items() if one in there})
    return there, folders


def report(readers: Readers, sizes: Mapping[str, Size], there: set[str], places: Mapping[str, str]) -> None:
    """Print what was written, and the flags of train.py that read it."""
    found, total = readers['att'].found, len(readers['att'].ids())
    width = found.width - POSITION * found.positions
    without = f' (without the {POSITION} that say where they are)' if found.positions else ''
    note(f'{len(there)} of {total} images, regions of {width} numbers{without} -> '
         f'{", ".join(dict.fromkeys(places.values()))}')
    unknown = there - set(sizes)
    if 'box' in readers and unknown:
        note(f'warning: the size of {len(unknown)} of {len(there)} images is not known, which boxes need; run the '
             'command again with --input_json, a file with width and height, or also with --images_root')
    if 'rel' in readers:
        note(f'boxes are relative to the image: its size is not known for {len(unknown)} of {len(there)} images')
    flags = ' '.join(f'--{FLAGS[kind]} {shlex.quote(places[kind])}' for kind in readers)
    note(f'for train.py: {flags}' + ('' if found.boxes else ' --caption_model transformer (there are no boxes)'))


def arguments() -> Parser:
    """The parser of this command."""
    parser = Parser(description=(
        'Converts features that another program computed: OUTPUT_DIR_att/ID.npz, OUTPUT_DIR_fc/ID.npy (means),\n'
        'OUTPUT_DIR_box/ID.npy with image sizes, OUTPUT_DIR_box_sizes.json; or all in one packed file.  It reads\n'
        '  folders of .npz files with x, bbox, num_bbox, image_w, image_h (bottom-up-attention.pytorch,\n'
        '      py-bottom-up-attention), or features, boxes; or of .npy files of features\n'
        '  HDF5 files with ID_features, ID_boxes, ID_size (M2, DLCT), ID/features, ID, or features beside image_id\n'
        '  TSV files of VinVL, LXMERT, ViLBERT, of the bottom-up-attention archive, or with a header\n'
        'It can be interrupted and restarted.\n\n'
        'python scripts/import_features.py --input coco_detections.hdf5 --input_json data/cocotalk.json \\\n'
        '    --output_dir data/theirs'))
    parser.add_argument('--input', required=True, nargs='+', metavar='PATH', help=(
        'the folder or the file of the features; several are put together'))
    parser.add_argument('--output_dir', metavar='PREFIX', help='beginning of the names of the folders to write')
    parser.add_argument('--output_file', metavar='FILE', help=(
        'in place of --output_dir: a packed file to write, faster to read than folders (see pack_features.py)'))
    parser.add_argument('--input_json', metavar='FILE', help=(
        'split file, labels file or COCO annotations of the data set: which image a file name means, and image '
        'sizes, where the features do not say them; images that it lacks are left out'))
    parser.add_argument('--images_root', metavar='DIR', help=(
        'folder of the images, with --input_json: they are opened for sizes that are known from nowhere else'))
    parser.add_argument('--features', metavar='NAME', help=(
        'name of the array of features, where it is not recognised or there are several: x, features, feat; grids '
        "takes DLCT's grid features"))
    parser.add_argument('--boxes', choices=['xyxy', 'xywh'], default='xyxy', help=(
        'what the numbers of a box are: two corners, or a corner, width and height'))
    parser.add_argument('--dtype', default='float32', choices=['float32', 'float16'], help=(
        'with --output_file, how features are stored; float16 takes half the disk and rounds them to 3 digits'))
    add_workers_flag(parser)
    return parser


def main() -> int:
    """Import the images that are missing; returns the exit status."""
    options = arguments().parse_args()
    if bool(options.output_dir) == bool(options.output_file):
        raise UsageError('give --output_dir for folders, or --output_file for a packed file')
    if options.images_root and not options.input_json:
        raise UsageError('--images_root needs --input_json, which says which file is which image')
    broken, names = Broken(), Names(options.input_json)
    source = open_sources(options.input, options.features)
    for message in source.broken:
        broken.add(message)
    images = images_of(source, names, broken)
    found = understood(source, list(images.values()), options.boxes == 'xywh')
    sizes = sizes_of(source, images, found, names, options.images_root, broken) if found.boxes else {}
    readers = readers_of(source, images, found, sizes)
    decisive = {'features': options.features, 'boxes': options.boxes}
    if options.output_file:
        output = os.path.normpath(options.output_file)
        there = pack(output, readers, sizes, {**decisive, 'dtype': options.dtype}, options.num_workers, broken,
                     COMMAND, {'input': readers['att']})
        places, base = dict.fromkeys(readers, output), output
    else:
        base = os.path.normpath(options.output_dir)
        there, places = import_to_folders(base, readers, sizes, decisive, options.num_workers, broken)
    report(readers, sizes, there, places)
    return broken.finish(f'correct {source.path} and run the command again; it imports only what is missing',
                         f'{base}_broken.txt')


if __name__ == '__main__':
    run_command(main)
