"""Packing the arrays of images, from readers of any kind, into one file; misc/dataset/packed.py describes it.

Packing can be killed at any time and goes on where it stopped: the file in the making has the state of each image.
"""

import contextlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from statistics import mode
from typing import Any, Protocol

import numpy as np

from misc.cli import DataError, Progress, UsageError, progress
from misc.dataset.features import ArrayReader
from misc.dataset.packed import PackedReader, kinds_in, packed_sizes
from misc.dataset.packing import COMPARED, UNWRITTEN, WRITTEN, PackedWriter, Shape, lay_out, rows_and_map
from misc.dataset.sources import FLAGS
from misc.prepare.broken import Broken
from misc.prepare.made import Parts, Record, Sample, claimed, digest, save
from misc.prepare.outdated import outdated
from misc.prepare.workers import Workers

BATCH = 256   # images after which what is written is recorded; no more than these are ever written again

Sizes = Mapping[str, tuple[float, float]]   # {image id: (width, height) in pixels}


class DiskReader(ArrayReader, Protocol):
    """Reads the arrays of one kind from a folder or a file, `path`."""

    path: str

    def shape(self, image_id: str) -> Shape:
        """The shape of an image's array, without reading all of it."""


class MergedReader:
    """Reads the images that are packed already from the packed file, and newer ones from their source."""

    def __init__(self, packed: PackedReader, source: DiskReader):
        self.packed, self.source = packed, source

    def _reader_of(self, image_id: str) -> DiskReader | PackedReader:
        return self.packed if image_id in self.packed.index else self.source

    def where(self, image_id: str) -> str:
        """Where an image's array is, for messages."""
        return self._reader_of(image_id).where(image_id)

    def shape(self, image_id: str) -> Shape:
        """The shape of an image's array, without reading all of it."""
        return self._reader_of(image_id).shape(image_id)

    def read(self, image_id: str) -> np.ndarray:
        """The float32 array of an image."""
        return self._reader_of(image_id).read(image_id)


Readers = Mapping[str, DiskReader] | Mapping[str, MergedReader]   # by kind


def shapes_of(image_id: str, sources: Readers, whole: bool) -> dict[str, Shape] | str:
    """The shapes of an image's arrays by kind, from their headers (or, if `whole`, by reading them to the end), or a
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


def store(image_id: str, sources: Readers, writer: PackedWriter) -> str | None:
    """Write an image's arrays into the file; returns None, or a message about what is broken."""
    try:
        writer.write(image_id, {kind: source.read(image_id) for kind, source in sources.items()})
    except DataError as error:
        return str(error)
    return None


def compare(image_id: str, sources: Readers, packed: Mapping[str, PackedReader],
            sizes: tuple[Sizes, Sizes]) -> str | None:
    """Compare an image's arrays and size in the file with those they were made from; returns None, or a message
    about what differs.

    packed: the readers of the file by kind; sizes: (those known, those in the file).
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


def common_ids(sources: Mapping[str, DiskReader], broken: Broken) -> list[str]:
    """The ids that every source has, in numerical order; others are added to `broken`."""
    found = {kind: source.ids() for kind, source in sources.items()}
    names = set().union(*found.values())
    numbers = {image_id for image_id in names if image_id.isdecimal() and str(int(image_id)) == image_id}
    report(names - numbers, 'have names that are no image ids (whole numbers)', broken)
    for kind, ids in found.items():
        report(numbers - ids, f'are not in --{FLAGS[kind]} {sources[kind].path}, but in another folder',
               broken)
    common = numbers.intersection(*found.values())
    if not common:
        raise DataError(f'no image is in all of {", ".join(source.path for source in sources.values())}')
    return sorted(common, key=int)


def report(ids: Iterable[str], what: str, broken: Broken) -> None:
    """Add images with the same fault to `broken` in one line, if there are any."""
    ids = sorted(ids)
    if ids:
        broken.add(f'{len(ids)} images {what}: {", ".join(ids[:5])}{", ..." if len(ids) > 5 else ""}')


def check_any(images: object, broken: Broken) -> None:
    """Raise `DataError` where no image is left."""
    if not images:
        raise DataError(f'no image can be packed; the first of {len(broken)} broken:\n{broken.messages[0]}')


class Packer:
    """Packs the images that an output file lacks into a new file, which replaces it once it is complete."""

    def __init__(self, sources: Mapping[str, DiskReader], sizes: Sizes, dtype: str, workers: int, broken: Broken):
        """sources: the readers by kind; sizes: of the images, as far as they are known; dtype: of features."""
        self.folders = sources
        self.sources: Readers = sources   # of what is packed already, the packed file
        self.ids = common_ids(sources, broken)
        self.sizes, self.dtype, self.workers, self.broken = sizes, dtype, workers, broken

    def run(self, output: str, partial_path: str, again: Collection[str] = ()) -> None:
        """Continue the file at `partial_path`, or begin it, and replace `output` when it is written and
        compared.  The images `again` are in `output`, and have changed since."""
        done: dict[str, tuple[float, float] | None] = {}   # what is in `output`: {id: size}
        if os.path.exists(output):
            packed = {kind: PackedReader(output, kind, 'output_file') for kind in self.sources}
            for reader in packed.values():
                reader.index = {image: index for image, index in reader.index.items() if image not in again}
            self.sources = {kind: MergedReader(packed[kind], source) for kind, source in self.folders.items()}
            stored = packed_sizes(output)
            done = {image_id: stored.get(image_id) for image_id in next(iter(packed.values())).ids()}
            self.sizes = {**stored, **self.sizes}
        if not os.path.exists(partial_path) and not self._begin(done, partial_path, bool(again)):
            return
        self._fill(partial_path)
        os.replace(partial_path, output)
        report(set(self.ids) - PackedReader(output, next(iter(self.sources)), 'output_file', unwritten=True).ids(),
               'came after packing had begun', self.broken)

    def _begin(self, done: Mapping[str, tuple[float, float] | None], partial_path: str, has_changed: bool) -> bool:
        """Lay out a file for all images, those `done` included; returns False where it would hold nothing new, and
        none of the images in the file before `has_changed`."""
        shapes = self._plan(done)
        images = next(iter(shapes.values()))
        if done and not has_changed and len(images) == len(done) and all(
                self.sizes.get(i) == size for i, size in done.items()):
            return False
        check_any(images, self.broken)
        lay_out(partial_path, shapes, dict.fromkeys(('att', 'fc'), self.dtype))
        return True

    def _plan(self, done: Iterable[str]) -> dict[str, dict[str, Shape]]:
        """{kind: {id: shape}} of the images that can be packed, and of those that are already `done`."""
        done = set(done)
        todo = [image_id for image_id in self.ids if image_id not in done]
        # Copying a finished file is only worth it for images that can be read to the end.
        work = partial(shapes_of, sources=self.sources, whole=bool(done))
        with Workers(work, self.workers, len(todo)) as pool:
            good = self._valid(progress(zip(todo, pool.map(todo)), 'shapes', total=len(todo)))
        known = self._valid((image_id, shapes_of(image_id, self.sources, False)) for image_id in done)
        for kind, source in self.sources.items():
            width = mode([shapes[kind][-1] for shapes in (known or good).values()] or [0])
            for image_id in [one for one, shapes in good.items() if shapes[kind][-1] != width]:
                self.broken.add(f'{source.where(image_id)}: its shape is {good.pop(image_id)[kind]}, others have '
                                f'{width} numbers a row')
        return {kind: {image_id: shapes[kind] for image_id, shapes in {**known, **good}.items()}
                for kind in self.sources}

    def _valid(self, found: Iterable[tuple[str, dict[str, Shape] | str]]) -> dict[str, dict[str, Shape]]:
        """{id: shapes by kind} of the (id, shapes or message) pairs that are not broken."""
        valid = {}
        for image_id, shapes in found:
            if isinstance(shapes, str):
                self.broken.add(shapes)
            else:
                valid[image_id] = shapes
        return valid

    def _fill(self, path: str) -> None:
        """Write and compare what is still missing in the laid out file `path`."""
        writer = PackedWriter(path)
        writer.write_sizes(self.sizes)
        self._advance(writer, partial(store, sources=self.sources, writer=writer), UNWRITTEN, WRITTEN, 'packing')
        packed = {kind: PackedReader(path, kind, 'output_file', unwritten=True) for kind in self.sources}
        work = partial(compare, sources=self.sources, packed=packed, sizes=(self.sizes, packed_sizes(path)))
        self._advance(writer, work, WRITTEN, COMPARED, 'comparing')
        check_any(writer.with_state(COMPARED), self.broken)

    def _advance(self, writer: PackedWriter, work: Callable[[str], str | None], before: int, after: int,
                 label: str) -> None:
        """Apply `work` to the images in the state `before`, which sets their state to `after`; images it has a
        message about are broken, and left out of the file."""
        todo = writer.with_state(before)
        with Workers(work, self.workers, len(todo)) as pool, \
                Progress(len(writer.ids), label, done=len(writer.ids) - len(todo)) as display:
            for start in range(0, len(todo), BATCH):
                batch, failed = todo[start:start + BATCH], set()
                for image_id, message in zip(batch, pool.map(batch)):
                    if message:
                        failed.add(image_id)
                        self.broken.add(message)
                    display.update()
                writer.mark({image_id: UNWRITTEN if image_id in failed else after for image_id in batch})


def check_kinds(paths: Iterable[str], sources: Mapping[str, DiskReader]) -> None:
    """Raise `UsageError` unless the packed files at `paths` hold the kinds of `sources`."""
    for path in filter(os.path.exists, paths):
        kinds = kinds_in(path)
        if kinds != sorted(sources):
            raise UsageError(f'{path} holds {", ".join(kinds)}, the command names '
                             f'{", ".join(sorted(sources))};\n'
                             'name the same folders, or give another --output_file')


def describe(image_id: str, source: DiskReader) -> Parts | None:
    """What is recorded of one image as an input; None for a broken one."""
    try:
        return {'array': digest(source.read(image_id).tobytes())}
    except DataError:
        return None


def pack(output: str, sources: Mapping[str, DiskReader], sizes: Sizes, options: Mapping[str, Any], workers: int,
         broken: Broken, command: str, inputs: Mapping[str, DiskReader]) -> set[str]:
    """Pack the images that the file `output` lacks; returns the ids of those that it then has.

    sources, sizes: as for `Packer`; options: those of the `command` that decide the content, `dtype` among them;
    inputs: {flag that names it: reader} of what is recorded as input.  Raises as `misc.prepare.made.claimed` does.
    """
    kind = next(iter(sources))
    with claimed_output(output, sources, options, command, inputs) as (record, partial_path, again):
        Packer(sources, sizes, options['dtype'], workers, broken).run(output, partial_path, again)
        del record['pending']
        ids = PackedReader(output, kind, 'output_file').ids()
        # Images that are not in the file may be corrected, and then differ.
        for flag, items in record['inputs'].items():
            record['inputs'][flag] = {image_id: item for image_id, item in items.items() if image_id in ids}
        save(output, record)
    return ids


@contextlib.contextmanager
def claimed_output(output: str, sources: Mapping[str, DiskReader], options: Mapping[str, Any], command: str,
                   inputs: Mapping[str, DiskReader]) -> Iterator[tuple[Record, str, set[str]]]:
    """Claim the file `output` while the block runs; yields its record, the path of the file in the making, and the
    images in `output` whose arrays have changed since they were packed.

    The file in the making is begun again if it has such images.  It lies in a folder of its own, which is removed in
    the end where it is empty.
    """
    folder = f'{output}.partial'
    partial_path = os.path.join(folder, os.path.basename(output))
    check_kinds([output, partial_path], sources)
    samples = {flag: Sample(source.ids(), partial(describe, source=source), source.states())
               for flag, source in inputs.items()}
    is_claimed = False
    try:
        with claimed(output, command, options, samples, [folder], [output]) as record:
            is_claimed = True
            packed = {path: set(PackedReader(path, next(iter(sources)), 'output_file').ids())
                      for path in (output, partial_path) if os.path.exists(path)}
            again = outdated(record, samples, set().union(*packed.values()), lambda _: time_of(packed))
            if again & packed.get(partial_path, set()):
                os.unlink(partial_path)
            # What a killed command was to pack again is still in the file before.
            again = (again | set(record.get('pending', []))) & packed.get(output, set())
            record['pending'] = sorted(again)
            save(output, record)
            yield record, partial_path, again
    finally:
        if is_claimed:   # else it is another process's
            with contextlib.suppress(OSError):
                os.rmdir(folder)


def time_of(paths: Iterable[str]) -> int:
    """The time at which the oldest of some files was written, in nanoseconds."""
    return min(os.stat(path).st_mtime_ns for path in paths)
