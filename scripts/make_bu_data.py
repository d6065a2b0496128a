"""The bottom-up-attention archive -> features, boxes and image sizes, a file per image."""

import contextlib
import os
import sys
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from misc.cli import DataError, Parser, Progress, note, run_command
from misc.dataset.archive import archive_files, find_archive
from misc.dataset.array_files import SUFFIX, write_array
from misc.dataset.grids import image_sizes
from misc.dataset.tsv import ARCHIVE, Size, TsvFile, decode_head, decode_record, read_line, read_lines, usual_width
from misc.disk.files import write_json
from misc.prepare.broken import Broken
from misc.prepare.made import MEGABYTE, Files, claimed, finished, save
from misc.prepare.outdated import remove_outputs
from misc.prepare.workers import Workers, add_workers_flag

BATCH = 512       # records read ahead; their sizes are on disk before the first of them is converted
KINDS = ('att', 'fc', 'box')

Place = tuple[TsvFile, int]   # of a record: its file, and its offset there


def head_of(line: bytes, file: TsvFile) -> tuple[str, Size]:
    """The image id and the size of a line.  Raises `DataError`."""
    name, size = decode_head(line, file.layout or ARCHIVE)
    if not name.isascii() or not name.isdigit() or len(name) > 18 or size is None:
        raise DataError('does not begin with an image id, a width and a height')
    return str(int(name)), size


def convert(place: Place, folders: Mapping[str, str], width: int | None) -> str | None:
    """Write the arrays of the record at `place`, whose features have `width` numbers; returns None, or a message
    about what is broken."""
    file, offset = place
    try:
        line = read_line(file, offset)
        image_id, record = head_of(line, file)[0], decode_record(line, file.layout or ARCHIVE, width)
    except DataError as error:
        return f'{file.path}: {error}'
    assert record.boxes is not None, 'a layout with boxes'
    write_array(folders['att'], image_id, 'att', record.features)
    write_array(folders['fc'], image_id, 'fc', record.features.mean(axis=0))
    # The box file comes last: where it exists, the others do.
    write_array(folders['box'], image_id, 'box', record.boxes)
    return None


@dataclass
class Found:
    """What the pass over the archive has seen so far, by image id."""

    done: set[str]                                                       # images whose arrays are written
    sizes: dict[str, Size] = field(default_factory=dict)
    first: dict[str, Place] = field(default_factory=dict)                # the record that counts
    repeated: list[tuple[str, Place]] = field(default_factory=list)      # later records of the same image
    failed: set[str] = field(default_factory=set)                        # images whose record is broken


class Converter:
    """One pass over the archive: converts the images that are missing, and gathers all image sizes."""

    def __init__(self, folders: Mapping[str, str], sizes_file: str, broken: Broken, workers: Workers,
                 display: Progress, lines: dict[str, str]):
        """folders: {kind: path}; `workers` apply `convert`; `display` counts megabytes; lines: {image id: checksum of
        the line of the archive that it was converted from}, kept up to date."""
        self.folders, self.sizes_file, self.broken = folders, sizes_file, broken
        self.workers, self.display = workers, display
        self.found = Found(set.intersection(*(finished(folders[kind], SUFFIX[kind]) for kind in KINDS)))
        self.bytes, self.lines = 0, lines
        self.again: list[str] = []    # images whose line changed since they were converted
        with contextlib.suppress(DataError):    # a broken sizes file is made again from the archive
            self.found.sizes.update(image_sizes(folders['box']))

    def run(self, files: Iterable[TsvFile], width: int | None) -> set[str]:
        """Convert the records of TSV files, whose features have `width` numbers; returns the ids of all images that
        are there."""
        for file in files:
            batch: list[tuple[str, Place, int]] = []
            for number, (offset, line) in enumerate(read_lines(file), 1):
                self._take(file, offset, number, line, batch)
                if len(batch) == BATCH:
                    self._convert(batch)
                    batch = []
            self._convert(batch)
        for image_id, place in self.found.repeated:
            self._compare_repeated(image_id, place, width)
        self.found.sizes = {image_id: size for image_id, size in self.found.sizes.items()
                            if image_id in self.found.done}
        self._save_sizes()
        if self.again:
            more = ', ...' if len(self.again) > 3 else ''
            note(f'the archive has other content than before for {len(self.again)} images '
                 f'({", ".join(self.again[:3])}{more}); they were converted again')
        return self.found.done

    def _take(self, file: TsvFile, offset: int, number: int, line: bytes,
              batch: list[tuple[str, Place, int]]) -> None:
        """Register a line; append (id, place, bytes) to `batch` if it is to be converted."""
        found = self.found
        try:
            image_id, size = head_of(line, file)
        except DataError as error:
            self.broken.add(f'{file.path}: record {number} {error}')
            self._count(len(line))
            return
        if image_id in found.first:
            found.repeated.append((image_id, (file, offset)))
            self._count(len(line))
            return
        found.first[image_id] = (file, offset)
        found.sizes[image_id] = size
        checksum = format(zlib.crc32(line.rstrip(b'\r\n')), '08x')
        if image_id in found.done and self.lines.get(image_id, checksum) != checksum:
            remove_outputs({self.folders[kind]: SUFFIX[kind] for kind in reversed(KINDS)}, [image_id])
            found.done.discard(image_id)
            self.again.append(image_id)
        self.lines[image_id] = checksum
        if image_id in found.done:
            self._count(len(line))
        else:
            batch.append((image_id, (file, offset), len(line)))

    def _convert(self, batch: list[tuple[str, Place, int]]) -> None:
        """Convert the records of `batch`."""
        if not batch:
            return
        # Sizes first: for boxes without a size beside them the next step would guess it.
        self._save_sizes()
        messages = self.workers.map([place for _, place, _ in batch])
        for (image_id, _, size), message in zip(batch, messages):
            self._register(image_id, message)
            self._count(size)

    def _compare_repeated(self, image_id: str, place: Place, width: int | None) -> None:
        """A record of an image that came before must be equal to the first, or replaces it if that is broken."""
        found = self.found
        if image_id in found.failed:
            found.sizes[image_id] = head_of(read_line(*place), place[0])[1]
            self._save_sizes()
            self._register(image_id, convert(place, self.folders, width))
        elif read_line(*place).rstrip(b'\r\n') != read_line(*found.first[image_id]).rstrip(b'\r\n'):
            self.broken.add(f'{place[0].path}: image {image_id} comes a second time with other content; the first '
                            f'(in {found.first[image_id][0].path}) counts')

    def _register(self, image_id: str, message: str | None) -> None:
        """Register the result of converting an image."""
        if message:
            self.found.failed.add(image_id)
            self.broken.add(message)
        else:
            self.found.failed.discard(image_id)
            self.found.done.add(image_id)

    def _count(self, size: int) -> None:
        """Count `size` more bytes as processed."""
        before, self.bytes = self.bytes, self.bytes + size
        if self.bytes // MEGABYTE > before // MEGABYTE:
            self.display.update(self.bytes // MEGABYTE - before // MEGABYTE)

    def _save_sizes(self) -> None:
        write_json(self.sizes_file, self.found.sizes)


def arguments() -> Parser:
    """The parser of this command."""
    parser = Parser(description=(
        'Converts the bottom-up-attention archive (TSV files) to one file per image:\n'
        'OUTPUT_DIR_att/ID.npz, OUTPUT_DIR_fc/ID.npy, OUTPUT_DIR_box/ID.npy, and the image sizes,\n'
        'OUTPUT_DIR_box_sizes.json.  TSV files of other detectors with the same columns, in any order\n'
        'under a header, with features of any width, serve too; for other forms see import_features.py.\n\n'
        'python scripts/make_bu_data.py --output_dir data/cocobu'))
    parser.add_argument('--downloaded_feats', default='data/bu_data', help=(
        'folder of the unpacked archive: it holds trainval/, trainval_36/ or the TSV files themselves; or one '
        'TSV file'))
    parser.add_argument('--output_dir', required=True, help='beginning of the names of the folders')
    add_workers_flag(parser)
    return parser


def main() -> int:
    """Convert the images that are missing; returns the exit status."""
    options = arguments().parse_args()
    broken = Broken()
    paths = find_archive(options.downloaded_feats)
    files = archive_files(paths)
    width = usual_width(files)
    base = os.path.normpath(options.output_dir)
    folders = {kind: f'{base}_{kind}' for kind in KINDS}
    total = sum(os.path.getsize(path) for path in paths)
    with claimed(base, 'make_bu_data.py', {}, {'downloaded_feats': Files(paths)}, list(folders.values())) as record, \
            contextlib.ExitStack() as at_end, \
            Workers(partial(convert, folders=folders, width=width), options.num_workers) as workers, \
            Progress(total // MEGABYTE, 'archive', unit='megabyte') as display:
        lines = record.setdefault('states', {}).setdefault('downloaded_feats', {})
        at_end.callback(lambda: save(base, record))
        done = Converter(folders, f'{folders["box"]}_sizes.json', broken, workers, display, lines).run(files, width)
    note(f'{len(done)} images -> {", ".join(folders.values())}')
    return broken.finish(f'download those files of {options.downloaded_feats} again and run the command again; '
                         'it converts only what is missing', f'{base}_broken.txt')


if __name__ == '__main__':
    run_command(main)
