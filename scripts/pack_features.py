"""Step 6, if you like: folders of features, boxes and grid vectors -> one file, much faster to read."""

import contextlib
import os
import sys
from functools import partial
from statistics import mode

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np

from misc.cli import DataError, Parser, Progress, UsageError, boolean, note, progress, run_command
from misc.dataset.features import open_reader
from misc.dataset.grids import image_sizes, sizes_location
from misc.dataset.packed import PackedReader, kinds_in, packed_sizes
from misc.dataset.packing import COMPARED, UNWRITTEN, WRITTEN, PackedWriter, lay_out, rows_and_map
from misc.dataset.recipe import read_recipe, recipe_path
from misc.disk.files import write_json
from misc.prepare.broken import Broken
from misc.prepare.made import Sample, claimed, digest, save
from misc.prepare.workers import Workers, add_workers_flag, convert_images

# Kind: the flag (as in train.py) that names its folder.
FLAGS = {'att': 'input_img_feat_dir', 'fc': 'input_fc_feat_dir', 'box': 'input_box_dir',
         'rel': 'input_rel_box_dir', 'grid': 'input_grid_vec_dir'}
BATCH = 256   # images after which what is written is put on record; no more than these are ever redone


class Grown:
    """What is packed already and, for the images that came since, the folder: read like a folder."""

    def __init__(self, packed, source):
        self.packed, self.source = packed, source

    def _holder(self, image_id):
        return self.packed if image_id in self.packed.index else self.source

    def where(self, image_id):
        return self._holder(image_id).where(image_id)

    def shape(self, image_id):
        return self._holder(image_id).shape(image_id)

    def read(self, image_id):
        return self._holder(image_id).read(image_id)


def shapes_of(image_id, sources, whole):
    """{kind: shape} of an image's arrays, by their headers (or, if `whole`, by reading all of them), or a
    message about what is broken."""
    try:
        shapes = {kind: source.read(image_id).shape if whole else source.shape(image_id)
                  for kind, source in sources.items()}
        for kind, shape in shapes.items():
            try:
                rows_and_map(kind, shape)
            except DataError as error:
                raise DataError(f'{sources[kind].where(image_id)}: {error}') from None
    except DataError as error:
        return str(error)
    return shapes


def store(image_id, sources, writer):
    """Put an image's arrays into the file; returns None, or a message about what is broken."""
    try:
        writer.write(image_id, {kind: source.read(image_id) for kind, source in sources.items()})
    except DataError as error:
        return str(error)
    return None


def compare(image_id, sources, packed, sizes):
    """Hold an image's arrays in the file, and its size, against where they came from; returns None, or a
    message about what differs.

    sources, packed: {kind: source}; sizes: (those known, those in the file).
    """
    try:
        for kind, source in sources.items():
            expected = source.read(image_id)
            found = packed[kind].read(image_id)
            if not np.array_equal(expected.astype(packed[kind].dtype).astype(np.float32), found):
                return f'{packed[kind].where(image_id)} is not what {source.where(image_id)} holds'
    except DataError as error:
        return str(error)
    known, stored = (by_id.get(image_id) for by_id in sizes)
    if known and known != stored:
        return f'{packed["box"].path}: the size of image {image_id} is {stored}, and should be {known}'
    return None


def common_ids(sources, broken):
    """The ids that every source has, in order; others are `broken`."""
    found = {kind: source.ids() for kind, source in sources.items()}
    named = set().union(*found.values())
    numbers = {image_id for image_id in named if image_id.isdecimal() and str(int(image_id)) == image_id}
    report(named - numbers, 'have names that are no image ids (whole numbers)', broken)
    for kind, ids in found.items():
        report(numbers - ids, f'are not in --{FLAGS[kind]} {sources[kind].path}, but in another folder',
               broken)
    common = numbers.intersection(*found.values())
    if not common:
        raise DataError(f'no image is in all of {", ".join(source.path for source in sources.values())}')
    return sorted(common, key=int)


def report(ids, what, broken):
    """Name images with the same fault in one line, if there are any."""
    if ids:
        first = sorted(ids)[:5]
        broken.add(f'{len(ids)} images {what}: {", ".join(first)}{", ..." if len(ids) > 5 else ""}')


def plan(todo, done, sources, workers, broken):
    """{kind: {id: shape}} of the images `todo` that can be packed, and of those that are already `done`."""
    # A new file beside a finished one is worth its copying only for images that can be read to the end.
    look = partial(shapes_of, sources=sources, whole=bool(done))
    with Workers(look, workers, len(todo)) as pool:
        found = dict(progress(zip(todo, pool.map(todo)), 'looking', total=len(todo)))
    for image_id, message in found.items():
        if isinstance(message, str):
            broken.add(message)
    good = {image_id: shapes for image_id, shapes in found.items() if not isinstance(shapes, str)}
    known = {image_id: shapes_of(image_id, sources, False) for image_id in done}
    for kind, source in sources.items():
        width = mode([shapes[kind][-1] for shapes in (known or good).values()] or [0])
        for image_id in [one for one, shapes in good.items() if shapes[kind][-1] != width]:
            broken.add(f'{source.where(image_id)}: its shape is {good.pop(image_id)[kind]}, others have '
                       f'{width} numbers a row')
    return {kind: {image_id: shapes[kind] for image_id, shapes in {**known, **good}.items()}
            for kind in sources}


def advance(writer, work, before, after, label, workers, broken):
    """Apply `work` to the images of state `before`, which then have the state `after`; those that it has
    a message about are `broken`, and not in the file."""
    todo = writer.with_state(before)
    with Workers(work, workers, len(todo)) as pool, \
            Progress(len(writer.ids), label, done=len(writer.ids) - len(todo)) as display:
        for start in range(0, len(todo), BATCH):
            batch, failed = todo[start:start + BATCH], set()
            for image_id, message in zip(batch, pool.map(batch)):
                if message:
                    failed.add(image_id)
                    broken.add(message)
                display.update()
            writer.mark({image_id: UNWRITTEN if image_id in failed else after for image_id in batch})


def pack(opt, sources, output, partial_path, broken):
    """Pack what `output` lacks: go on with the file at `partial_path`, or begin it, and put it in place
    of `output` when it has been written and compared."""
    ids, sizes = common_ids(sources, broken), known_sizes(opt)
    done = {}   # what is in `output`: {id: size or None}
    if os.path.exists(output):
        packed = {kind: PackedReader(output, kind, 'output_file') for kind in sources}
        sources = {kind: Grown(packed[kind], source) for kind, source in sources.items()}
        stored = packed_sizes(output)
        done = {image_id: stored.get(image_id) for image_id in next(iter(packed.values())).ids()}
        sizes = {**stored, **sizes}
    if not os.path.exists(partial_path) and not begin(opt, ids, sizes, done, sources, partial_path, broken):
        return
    fill(partial_path, sources, sizes, opt.num_workers, broken)
    os.replace(partial_path, output)
    report(set(ids) - PackedReader(output, next(iter(sources)), 'output_file', unwritten=True).ids(),
           'came after packing had begun', broken)


def begin(opt, ids, sizes, done, sources, partial_path, broken):
    """Lay out a file for the images of `ids` and `done`; returns False where it would hold nothing new."""
    shapes = plan([image_id for image_id in ids if image_id not in done], done, sources, opt.num_workers,
                  broken)
    images = next(iter(shapes.values()))
    if done and len(images) == len(done) and all(sizes.get(i) == size for i, size in done.items()):
        return False
    check_any(images, broken)
    lay_out(partial_path, shapes, dict.fromkeys(('att', 'fc'), opt.dtype))
    return True


def fill(path, sources, sizes, workers, broken):
    """Write and compare all that is not yet in the laid out file `path`."""
    writer = PackedWriter(path)
    writer.write_sizes(sizes)
    advance(writer, partial(store, sources=sources, writer=writer), UNWRITTEN, WRITTEN, 'packing',
            workers, broken)
    packed = {kind: PackedReader(path, kind, 'output_file') for kind in sources}
    work = partial(compare, sources=sources, packed=packed, sizes=(sizes, packed_sizes(path)))
    advance(writer, work, WRITTEN, COMPARED, 'comparing', workers, broken)
    check_any(writer.with_state(COMPARED), broken)


def check_any(images, broken):
    """Raise `DataError` where no image is left."""
    if not images:
        raise DataError(f'no image can be packed; the first of {len(broken)} broken:\n{broken.messages[0]}')


def known_sizes(opt):
    """{id: (width, height)} for the boxes in pixels, as far as they are known; else none."""
    return image_sizes(opt.input_box_dir, opt.input_json) if opt.input_box_dir else {}


def check_kinds(paths, sources):
    """Raise `UsageError` unless the packed files at `paths` hold the kinds of `sources`."""
    for path in filter(os.path.exists, paths):
        kinds = kinds_in(path)
        if kinds != sorted(sources):
            raise UsageError(f'{path} holds {", ".join(kinds)}, the command names '
                             f'{", ".join(sorted(sources))};\n'
                             'name the same folders, or give another --output_file')


def verify(opt, sources, output):
    """Compare a finished file with its sources; returns the exit status."""
    if not os.path.isfile(output):
        raise DataError(f'--output_file: there is no file {output}; run the command without --verify')
    broken = Broken()
    packed = {kind: PackedReader(output, kind, 'output_file') for kind in sources}
    for kind in {'att', 'fc'} & set(packed):
        if packed[kind].dtype != opt.dtype:
            raise UsageError(f'--dtype {opt.dtype}: {output} holds {packed[kind].dtype}; give --dtype '
                             f'{packed[kind].dtype}, or pack it again into another file')
    ids = common_ids(sources, broken)
    there = next(iter(packed.values())).index
    report(set(ids) - set(there), f'are not in {output}', broken)
    report(set(there) - set(ids), f'are in {output} alone', broken)
    todo = [image_id for image_id in ids if image_id in there]
    work = partial(compare, sources=sources, packed=packed, sizes=(known_sizes(opt), packed_sizes(output)))
    convert_images(work, todo, opt.num_workers, broken, 'comparing', len(todo))
    note(f'{output}: {len(todo)} of {len(ids)} images compared, {len(broken)} differences')
    return 1 if broken else 0


def arguments():
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
        'the file to write; while it is not whole it lies in FILE.partial/'))
    parser.add_argument('--dtype', default='float32', choices=['float32', 'float16'], help=(
        'how features are stored; float16 takes half the disk and rounds them to 3 digits. Boxes and grid '
        'vectors are always float32'))
    parser.add_argument('--verify', type=boolean, nargs='?', const=True, default=False, metavar='0|1', help=(
        'only compare the finished file with the folders; after copying it to another disk, say'))
    add_workers_flag(parser)
    return parser


def main():
    """Pack what is not there yet."""
    opt = arguments().parse_args()
    sources = {kind: open_reader(getattr(opt, flag), kind, flag)
               for kind, flag in FLAGS.items() if getattr(opt, flag)}
    output = os.path.normpath(opt.output_file)
    if not sources:
        raise UsageError('nothing to pack; give one or more of '
                         + ', '.join(f'--{flag}' for flag in FLAGS.values()))
    if os.path.isdir(output):
        raise UsageError(f'--output_file: {output} is a folder; name a file, say {output}.h5')
    if opt.verify:
        return verify(opt, sources, output)
    if opt.input_json and not opt.input_box_dir:
        raise UsageError('--input_json says the sizes of images that boxes need; give --input_box_dir too, or '
                         'leave it out')
    broken, folder = Broken(), f'{output}.partial'
    inputs = {FLAGS[kind]: Sample(source.ids(), partial(describe, source=source))
              for kind, source in sources.items()}
    partial_path = os.path.join(folder, os.path.basename(output))
    check_kinds([output, partial_path], sources)
    own = False
    try:
        with claimed(output, 'pack_features.py', {'dtype': opt.dtype}, inputs, [folder], [output]) as record:
            own = True
            pack(opt, sources, output, partial_path, broken)
            forget_others(record, PackedReader(output, next(iter(sources)), 'output_file').ids())
            save(output, record)
    finally:
        # Unless there is something in it to go on with, or it is another process's.
        with contextlib.suppress(OSError):
            if own:
                os.rmdir(folder)
    way = read_recipe(opt.input_img_feat_dir or opt.input_fc_feat_dir or output)
    if way is not None:
        write_json(recipe_path(output), way, indent=1)
    summary(output, sources, opt)
    return broken.finish('mend them and run the command again; it packs only what is missing')


def forget_others(record, ids):
    """Take out of the record of inputs what is not in the file; it may be mended, and is then another."""
    for flag, items in record['inputs'].items():
        record['inputs'][flag] = {image_id: item for image_id, item in items.items() if image_id in ids}


def describe(image_id, source):
    """What the record of this command says about one image; None for a broken one."""
    try:
        return {'array': digest(source.read(image_id).tobytes())}
    except DataError:
        return None


def summary(output, sources, opt):
    """Say what the file holds."""
    ids = PackedReader(output, next(iter(sources)), 'output_file').ids()
    note(f'{len(ids)} images ({", ".join(sources)}), {os.path.getsize(output) / 1e6:,.0f} MB -> {output}')
    if opt.input_box_dir:
        unknown = len(ids - set(packed_sizes(output)))
        if unknown:
            note(f'warning: the size of {unknown} of {len(ids)} images is not known (not in '
                 f'{sizes_location(opt.input_box_dir)} nor in --input_json)')


if __name__ == '__main__':
    run_command(main)
