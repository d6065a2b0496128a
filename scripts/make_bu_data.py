"""The bottom-up-attention archive -> features, boxes and image sizes, a file per image."""

import contextlib
import os
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np

from misc.cli import DataError, Parser, Progress, note, run_command
from misc.dataset.archive import (
    ArchiveRecord,
    Size,
    decode_head,
    decode_record,
    find_archive,
    read_line,
    read_lines,
)
from misc.dataset.array_files import SUFFIX, write_array
from misc.dataset.grids import image_sizes
from misc.disk.files import write_json
from misc.disk.known import KnownFile
from misc.prepare.broken import Broken
from misc.prepare.made import MEGABYTE, Files, claimed, finished, save
from misc.prepare.outdated import remove_outputs
from misc.prepare.workers import Workers, add_workers_flag

BATCH = 512       # records read ahead; their sizes are on disk before the first of them is converted
KINDS = ('att', 'fc', 'box')

Place = tuple[KnownFile, int]   # of a record: its file, and its offset there


def arrays_of(record: ArchiveRecord) -> dict[str, np.ndarray]:
    """The arrays of an image by kind: features (P, 2048), their mean (2048,), boxes (P, 4) in pixels, float32."""
    return {'att': record.features, 'fc': record.features.mean(axis=0), 'box': record.boxes}


def convert(place: Place, folders: Mapping[str, str]) -> str | None:
    """Write the arrays of the record at `place`; returns None, or a message about what is broken."""
    try:
        record = decode_record(read_line(*place))
    except DataError as error:
        return f'{place[0].path}: {error}'
    # The box file comes last: where it exists, the others do.
    for kind, array in arrays_of(record).items():
        write_array(folders[kind], record.image_id, kind, array)
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

    def run(self, paths: list[str]) -> set[str]:
        """Convert the records of the TSV files `paths`; returns the ids of all images that are there."""
        for file in map(KnownFile, paths):
            batch: list[tuple[str, Place, int]] = []
            for number, (offset, line) in enumerate(read_lines(file), 1):
                self._take(file, offset, number, line, batch)
                if len(batch) == BATCH:
                    self._convert(batch)
                    batch = []
            self._convert(batch)
        for image_id, place in self.found.repeated:
            self._compare_repeated(image_id, place)
        self.found.sizes = {image_id: size for image_id, size in self.found.sizes.items()
                            if image_id in self.found.done}
        self._save_sizes()
        if self.again:
            more = ', ...' if len(self.again) > 3 else ''
            note(f'the archive has other content than before for {len(self.again)} images '
                 f'({", ".join(self.again[:3])}{more}); they were converted again')
        return self.found.done

    def _take(self, file: KnownFile, offset: int, number: int, line: bytes,
              batch: list[tuple[str, Place, int]]) -> None:
        """Register a line; append (id, place, bytes) to `batch` if it is to be converted."""
        found = self.found
        try:
            image_id, size = decode_head(line)
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

    def _compare_repeated(self, image_id: str, place: Place) -> None:
        """A record of an image that came before must be equal to the first, or replaces it if that is broken."""
        found = self.found
        if image_id in found.failed:
            found.sizes[image_id] = decode_head(read_line(*place))[1]
            self._save_sizes()
            self._register(image_id, convert(place, self.folders))
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
        'OUTPUT_DIR_box_sizes.json.\n\n'
        'python scripts/make_bu_data.py --output_dir data/cocobu'))
    parser.add_argument('--downloaded_feats', default='data/bu_data', help=(
        'folder of the unpacked archive: it holds trainval/, trainval_36/ or the TSV files themselves'))
    parser.add_argument('--output_dir', required=True, help='beginning of the names of the folders')
    add_workers_flag(parser)
    return parser


def main() -> int:
    """Convert the images that are missing; returns the exit status."""
    options = arguments().parse_args()
    broken = Broken()
    paths = find_archive(options.downloaded_feats)
    base = os.path.normpath(options.output_dir)
    folders = {kind: f'{base}_{kind}' for kind in KINDS}
    total = sum(os.path.getsize(path) for path in paths)
    with claimed(base, 'make_bu_data.py', {}, {'downloaded_feats': Files(paths)}, list(folders.values())) as record, \
            contextlib.ExitStack() as at_end, \
            Workers(partial(convert, folders=folders), options.num_workers) as workers, \
            Progress(total // MEGABYTE, 'archive', unit='megabyte') as display:
        lines = record.setdefault('states', {}).setdefault('downloaded_feats', {})
        at_end.callback(lambda: save(base, record))
        done = Converter(folders, f'{folders["box"]}_sizes.json', broken, workers, display, lines).run(paths)
    note(f'{len(done)} images -> {", ".join(folders.values())}')
    return broken.finish(f'download those files of {options.downloaded_feats} again and run the command again; '
                         'it converts only what is missing', f'{base}_broken.txt')


if __name__ == '__main__':
    run_command(main)
