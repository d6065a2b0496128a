"""Step 4: the bottom-up-attention archive -> features, boxes and image sizes, a file per image."""

import base64
import binascii
import contextlib
import os
import sys
from functools import partial

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np

from misc.cli import DataError, Parser, Progress, note, run_command
from misc.dataset.archive import find_archive
from misc.dataset.array_files import SUFFIX, write_array
from misc.dataset.grids import checked_boxes, image_sizes
from misc.disk.files import write_json
from misc.prepare.broken import Broken
from misc.prepare.made import MEGABYTE, Files, claimed, finished
from misc.prepare.workers import Workers, add_workers_flag

FEATURES = 2048   # numbers a region, in the archive
BATCH = 512       # records read ahead; their sizes are on disk before the first of them is converted
KINDS = ('att', 'fc', 'box')


def decode_record(line):
    """One line of a TSV file (bytes) -> (id, (width, height), boxes (n, 4), features (n, 2048)), float32.

    Raises `DataError` saying what is wrong with it.
    """
    image_id, size, columns = decode_head(line)
    if len(columns) != 6:
        raise DataError(f'image {image_id}: the line has {len(columns)} columns, not 6 (is it cut off?)')
    count = columns[3].decode('ascii', 'replace')
    if not count.isdigit() or len(count) > 9 or int(count) == 0:
        raise DataError(f'image {image_id}: num_boxes is {count[:20]!r}')
    arrays = []
    for name, text, width in (('boxes', columns[4], 4), ('features', columns[5], FEATURES)):
        try:
            content = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise DataError(f'image {image_id}: {name} are not base64 ({error})') from None
        if len(content) != int(count) * width * 4:
            raise DataError(f'image {image_id}: {name} take {len(content)} bytes, not {count} x {width} x 4')
        arrays.append(np.frombuffer(content, dtype='<f4').reshape(-1, width).astype(np.float32))
    boxes, features = arrays
    checked_boxes(boxes, f'image {image_id}')
    if not np.isfinite(features).all():
        raise DataError(f'image {image_id}: features are not finite')
    return image_id, size, boxes, features


def decode_head(line):
    """The (id as a string, (width, height), columns) of a line.  Raises `DataError`."""
    columns = line.rstrip(b'\r\n').split(b'\t')
    try:
        image_id, width, height = (column.decode('ascii') for column in columns[:3])
        width, height = float(width), float(height)
        good = image_id.isdigit() and len(image_id) < 19 and 0 < width < float('inf') and 0 < height < float('inf')
    except ValueError:
        good = False
    if not good:
        raise DataError('does not begin with an image id, a width and a height')
    whole = width.is_integer() and height.is_integer()
    return str(int(image_id)), (int(width), int(height)) if whole else (width, height), columns


def convert(place, folders):
    """Convert the record at `place`, (path, offset); returns None, or a message about what is broken."""
    path, offset = place
    try:
        image_id, _, boxes, features = decode_record(read_line(path, offset))
    except DataError as error:
        return f'{path}: {error}'
    # The box file comes last: where it is, the others are.
    write_array(folders['att'], image_id, 'att', features)
    write_array(folders['fc'], image_id, 'fc', features.mean(axis=0))
    write_array(folders['box'], image_id, 'box', boxes)
    return None


def read_line(path, offset):
    """The line of `path` that begins at `offset`."""
    with open(path, 'rb') as file:
        file.seek(offset)
        return file.readline()


class Converter:
    """One pass over the archive: converts what is not there yet, and gathers all image sizes."""

    def __init__(self, folders, sizes_file, broken, workers, display):
        """folders: {kind: path}; `workers` apply `convert`; `display` counts megabytes."""
        self.folders, self.sizes_file, self.broken = folders, sizes_file, broken
        self.workers, self.display = workers, display
        self.done = set.intersection(*(finished(folders[kind], SUFFIX[kind]) for kind in KINDS))
        self.sizes = {}      # id: (width, height), as the archive says
        self.first = {}      # id: (path, offset) of the record that counts
        self.repeated = []   # (id, (path, offset)) of others with an id that came before
        self.failed = set()  # ids whose record turned out broken
        self.bytes = 0

    def run(self, paths):
        """Convert the records of the TSV files `paths`, then look at the repeated ones."""
        for path in paths:
            batch = []
            for number, (offset, line) in enumerate(read_lines(path), 1):
                self.take(path, offset, number, line, batch)
                if len(batch) == BATCH:
                    self.convert_all(batch)
                    batch = []
            self.convert_all(batch)
        for image_id, place in self.repeated:
            self.settle(image_id, place)

    def take(self, path, offset, number, line, batch):
        """Look at one line: append (id, place, bytes) to `batch` if it is to be converted."""
        try:
            image_id, size, _ = decode_head(line)
        except DataError as error:
            self.broken.add(f'{path}: record {number} {error}')
            self.count(len(line))
            return
        if image_id in self.first:
            self.repeated.append((image_id, (path, offset)))
            self.count(len(line))
            return
        self.first[image_id] = (path, offset)
        self.sizes[image_id] = size
        if image_id in self.done:
            self.count(len(line))
        else:
            batch.append((image_id, (path, offset), len(line)))

    def convert_all(self, batch):
        """Convert the records of `batch`."""
        if not batch:
            return
        # Sizes first: boxes without a size beside them would be measured wrongly by the next step.
        self.save_sizes()
        messages = self.workers.map([place for _, place, _ in batch])
        for (image_id, _, size), message in zip(batch, messages):
            self.note_result(image_id, message)
            self.count(size)

    def settle(self, image_id, place):
        """A record whose id came before: it must say the same, or stand in for a broken one."""
        if image_id in self.failed:
            self.sizes[image_id] = decode_head(read_line(*place))[1]
            self.save_sizes()
            self.note_result(image_id, convert(place, self.folders))
        elif read_line(*place).rstrip(b'\r\n') != read_line(*self.first[image_id]).rstrip(b'\r\n'):
            self.broken.add(f'{place[0]}: image {image_id} comes a second time with other content; the first '
                            f'(in {self.first[image_id][0]}) counts')

    def note_result(self, image_id, message):
        """Take note of what came of converting an image."""
        if message:
            self.failed.add(image_id)
            self.broken.add(message)
        else:
            self.failed.discard(image_id)
            self.done.add(image_id)

    def count(self, size):
        """`size` more bytes are dealt with."""
        before, self.bytes = self.bytes, self.bytes + size
        if self.bytes // MEGABYTE > before // MEGABYTE:
            self.display.update(self.bytes // MEGABYTE - before // MEGABYTE)

    def save_sizes(self):
        """Write the sizes file."""
        write_json(self.sizes_file, self.sizes)


def read_lines(path):
    """Yield (offset, line) for the lines of `path` that are not empty."""
    with open(path, 'rb') as file:
        offset = 0
        for line in file:
            if line.strip():
                yield offset, line
            offset += len(line)


def arguments():
    """The parser of this command."""
    parser = Parser(description=(
        'Converts the bottom-up-attention archive (TSV files) to one file per image:\n'
        'OUTPUT_DIR_att/ID.npz, OUTPUT_DIR_fc/ID.npy, OUTPUT_DIR_box/ID.npy, and the image sizes,\n'
        'OUTPUT_DIR_box_sizes.json.\n\n'
        'python scripts/make_bu_data.py --output_dir data/cocobu'))
    parser.add_argument('--downloaded_feats', default='data/bu_data', help=(
        'folder of the unpacked archive: it holds trainval/, trainval_36/ or the TSV files themselves'))
    parser.add_argument('--output_dir', required=True, help='beginning of the names of the folders')
    add_workers_flag(parser)
    return parser


def main():
    """Convert what is not there yet."""
    opt = arguments().parse_args()
    broken = Broken()
    paths = find_archive(opt.downloaded_feats)
    base = os.path.normpath(opt.output_dir)
    folders = {kind: f'{base}_{kind}' for kind in KINDS}
    total = sum(os.path.getsize(path) for path in paths)
    with claimed(base, 'make_bu_data.py', {}, {'downloaded_feats': Files(paths)}, list(folders.values())), \
            Workers(partial(convert, folders=folders), opt.num_workers) as workers, \
            Progress(total // MEGABYTE, 'archive', unit='megabyte') as display:
        converter = Converter(folders, f'{folders["box"]}_sizes.json', broken, workers, display)
        with contextlib.suppress(DataError):    # a broken sizes file is made anew from the archive
            converter.sizes.update(image_sizes(folders['box']))
        converter.run(paths)
        converter.sizes = {image_id: size for image_id, size in converter.sizes.items()
                           if image_id in converter.done}
        converter.save_sizes()
    note(f'{len(converter.done)} images -> {", ".join(folders.values())}')
    return broken.finish(f'fetch those files of {opt.downloaded_feats} again and run the command again; '
                         'it converts only what is missing')


if __name__ == '__main__':
    run_command(main)
