"""Readers of features in the forms of other programs: `.npz` and `.npy` files, HDF5 files, TSV files.

A reader returns arrays as they are stored; misc/prepare/features/arrange.py makes them the project's.
"""

import math
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from misc.cli import DataError, Progress, UsageError
from misc.dataset import foreign
from misc.dataset.array_files import errors_naming, npz_shapes, read_npz, read_shape
from misc.dataset.foreign import first_of
from misc.dataset.forms import ending_of
from misc.dataset.tsv import Layout, Size, TsvFile, checked_size, decode_record, read_line, read_lines
from misc.disk import hdf5
from misc.disk.files import open_regular
from misc.prepare.made import MEGABYTE
from misc.prepare.outdated import file_states

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Stored:
    """What is stored of an image: its arrays, or in their place their shapes.

    features, boxes  of the regions; boxes are None where the form has none
    count            how many rows are regions, where it says so
    size             (width, height) in pixels, None where it is not known
    """

    features: Any
    boxes: Any = None
    count: int | None = None
    size: Size | None = None


class Source(Protocol):
    """Features of images, by the names that their program gave the images; what is `broken` is to be reported."""

    path: str
    broken: list[str]

    def names(self) -> list[str]:
        """The names of the images."""

    def where(self, name: str) -> str:
        """Where an image is, for messages."""

    def states(self) -> dict[str, str]:
        """{name: what changes with its arrays}, see misc/prepare/outdated.py."""

    def shapes(self, name: str) -> Stored:
        """The shapes of an image's arrays.  Raises `DataError`."""

    def arrays(self, name: str) -> Stored:
        """The arrays of an image.  Raises `DataError`."""


def open_sources(paths: Sequence[str], features: str | None) -> 'Several':
    """The features at `paths`, files or folders; `features`: the name of their array, where it is not recognised.

    Raises `DataError` for a form that is not known, `UsageError` where there is nothing.
    """
    return Several([source for path in paths for source in _sources_at(path, features)])


def _sources_at(path: str, features: str | None) -> list[Source]:
    """The features in a file or a folder."""
    if os.path.isdir(path):
        return _sources_in_folder(path, features)
    if not os.path.isfile(path):
        raise UsageError(f'--input: there is no file or folder {path}')
    with open_regular(path) as file:
        start = file.read(8)
    if start == b'\x89HDF\r\n\x1a\n':
        return [Hdf5Source(path, features)]
    if start.startswith((b'PK', np.lib.format.MAGIC_PREFIX)):
        raise UsageError(f'--input: {path} is the file of one image; name its folder')
    return [TsvSource([path], path)]


def _sources_in_folder(path: str, features: str | None) -> list[Source]:
    found: dict[str, list[str]] = {}
    for file in sorted(_files_in(path)):
        found.setdefault(ending_of(file), []).append(file)
    arrays = found.get('.npz') or found.get('.npy')
    if arrays:
        return [FileSource(path, arrays, features)]
    tables: list[Source] = [Hdf5Source(file, features) for file in found.get('.hdf5', []) + found.get('.h5', [])]
    if not tables and '.tsv' not in found:
        raise DataError(f'--input: {path} holds no features that are known: no .npz, .npy, .hdf5 or .tsv files')
    return tables or [TsvSource(found['.tsv'], path)]


def _files_in(path: str) -> Iterator[str]:
    """The files of a folder and its subfolders."""
    for folder, subfolders, files in os.walk(path):
        subfolders[:] = [name for name in subfolders if not name.startswith('.')]
        yield from (os.path.join(folder, name) for name in files if ending_of(name) and not name.startswith('.'))


class Several:
    """The images of several sources; one that several have is that of the first.

    broken  what is to be reported of the sources
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self.path = ', '.join(source.path for source in sources)
        self.owners: dict[str, Source] = {}
        self.broken: list[str] = []
        for source in sources:
            self.broken += source.broken
            for name in source.names():
                first = self.owners.setdefault(name, source)
                if first is not source:
                    self.broken.append(f'{source.where(name)}: is in {first.where(name)} too, which counts')

    def names(self) -> list[str]:
        """The names of the images."""
        return list(self.owners)

    def where(self, name: str) -> str:
        """Where an image is."""
        return self.owners[name].where(name)

    def states(self) -> dict[str, str]:
        """Those of all sources."""
        every = {id(source): source.states() for source in dict.fromkeys(self.owners.values())}
        return {name: every[id(source)][name] for name, source in self.owners.items() if name in every[id(source)]}

    def shapes(self, name: str) -> Stored:
        """See `Source`."""
        return self.owners[name].shapes(name)

    def arrays(self, name: str) -> Stored:
        """See `Source`."""
        return self.owners[name].arrays(name)


# ---- a file for each image ----

class FileSource:
    """A folder of `.npz` or `.npy` files, one for each image."""

    def __init__(self, path: str, files: Sequence[str], features: str | None) -> None:
        self.path, self.features = path, (features,) if features else foreign.FEATURES
        self.broken: list[str] = []
        self.files = {os.path.relpath(file, path): file for file in files}
        self.wanted = {*self.features, *foreign.BOXES, *foreign.COUNTS, *foreign.WIDTHS, *foreign.HEIGHTS}

    def names(self) -> list[str]:
        """The names of the files."""
        return list(self.files)

    def where(self, name: str) -> str:
        """The file of an image."""
        return self.files[name]

    def states(self) -> dict[str, str]:
        """Sizes and times of the files."""
        return file_states(self.files)

    def shapes(self, name: str) -> Stored:
        """See `Source`; of an `.npz` file also the size of the image."""
        path = self.files[name]
        if path.endswith('.npy'):
            return Stored(read_shape(path))
        shapes = npz_shapes(path)
        small = read_npz(path, self.wanted - {*self.features, *foreign.BOXES})
        boxes = first_of(foreign.BOXES, shapes)
        return Stored(shapes[self._features_in(shapes, path)], boxes and shapes[boxes], *_numbers(small, path))

    def arrays(self, name: str) -> Stored:
        """See `Source`."""
        path = self.files[name]
        if path.endswith('.npy'):
            with errors_naming(path), open_regular(path) as file:
                return Stored(np.load(file, allow_pickle=False))
        found = read_npz(path, self.wanted)
        boxes = first_of(foreign.BOXES, found)
        return Stored(found[self._features_in(found, path)], boxes and found[boxes], *_numbers(found, path))

    def _features_in(self, there: dict[str, Any], path: str) -> str:
        """The name of the array of features."""
        name = first_of(self.features, there)
        if name is None:
            names = ', '.join(list(npz_shapes(path))[:6])
            raise DataError(f'{path} has no array of features (it has {names or "none"}); name it with --features')
        return name


def _numbers(arrays: dict[str, np.ndarray], path: str) -> tuple[int | None, Size | None]:
    """(the number of regions, the size of the image) among the arrays of an `.npz` file, None where they are not."""
    with errors_naming(path):
        count, width, height = (None if name is None else arrays[name].item() for name in (
            first_of(names, arrays) for names in (foreign.COUNTS, foreign.WIDTHS, foreign.HEIGHTS)))
        return None if count is None else int(count), checked_size(width, height)


# ---- HDF5 ----

# What an HDF5 file may have besides features, by the names of its data sets; `pair` is a size, height first.
FIELDS = {'boxes': foreign.BOXES, 'count': foreign.COUNTS, 'pair': ('size',), 'width': foreign.WIDTHS,
          'height': foreign.HEIGHTS}


class Hdf5Source:
    """An HDF5 file: with data sets ID_features and ID_boxes (M2, DLCT), ID/features, or ID; or with one table of all
    images, `features` beside `image_id`."""

    def __init__(self, path: str, features: str | None) -> None:
        """Raises `DataError` for a file in another form."""
        self.path, self.features = path, (features,) if features else foreign.FEATURES
        self.broken: list[str] = []
        self.file: Any = None
        self.process: int | None = None   # that opened it
        self.places: dict[str, dict[str, str]] = {}   # {image: {'features', 'boxes', ...: data set}}
        self.rows: dict[str, int] = {}                # {image: its row} of one table
        with hdf5.reading(path, f'--input: {path} is not a whole HDF5 file', 'take another copy of it') as file:
            there = set(file)
            ids, table = first_of(foreign.IDS, there), first_of(self.features, there)
            if ids and table:
                self._list_rows(file, ids, table, there)
            else:
                self._list_images(file, there)
        if not self.places:
            raise DataError(f'--input: {path} holds no features in a form that is known (it has '
                            f'{", ".join(sorted(there)[:6])}); known are ID_features, ID/features, ID, and features '
                            'beside image_id; another name is given with --features')

    def _list_rows(self, file: Any, ids: str, table: str, there: set[str]) -> None:
        """List the images of one table."""
        inside = {field: first_of(names, there) for field, names in FIELDS.items()}
        places = {'features': table, **{field: one for field, one in inside.items() if one}}
        for row, value in enumerate(hdf5.array(file, ids, 'iu', 1).tolist()):
            self.places[str(value)], self.rows[str(value)] = places, row

    def _list_images(self, file: Any, there: set[str]) -> None:
        """List the images that have data sets of their own."""
        flat = {feature: [name.removesuffix(f'_{feature}') for name in there if name.endswith(f'_{feature}')]
                for feature in self.features}
        feature = max(self.features, key=lambda one: (len(flat[one]), -self.features.index(one)))
        for name in flat[feature]:
            inside = {field: first_of((f'{name}_{one}' for one in names), there) for field, names in FIELDS.items()}
            self.places[name] = {'features': f'{name}_{feature}',
                                 **{field: one for field, one in inside.items() if one}}
        if self.places:
            return
        for name in there:
            found: Any = hdf5.member(file, name)
            if hasattr(found, 'keys'):
                wanted = {'features': self.features, **FIELDS}
                inside = {field: first_of(names, found) for field, names in wanted.items()}
                if inside['features']:
                    self.places[name] = {field: f'{name}/{one}' for field, one in inside.items() if one}
            elif found is not None and len(found.shape or ()) in (2, 3) and found.dtype.kind == 'f':
                self.places[name] = {'features': name}

    def names(self) -> list[str]:
        """The names of the images."""
        return list(self.places)

    def where(self, name: str) -> str:
        """The data set of an image."""
        row = f', row {self.rows[name]}' if self.rows else ''
        return f'{self.path} ({self.places[name]["features"]}{row})'

    def states(self) -> dict[str, str]:
        """Size and time of the file."""
        state = file_states({'': self.path}).get('', '')
        return dict.fromkeys(self.places, state)

    def shapes(self, name: str) -> Stored:
        """See `Source`."""
        with self._errors(name):
            shapes = {field: self._data(place).shape[bool(self.rows):] for field, place in self.places[name].items()
                      if field in ('features', 'boxes')}
            return Stored(shapes['features'], shapes.get('boxes'), *self._count_and_size(name))

    def arrays(self, name: str) -> Stored:
        """See `Source`."""
        with self._errors(name):
            found = {field: self._read(name, field) for field in self.places[name] if field in ('features', 'boxes')}
            return Stored(found['features'], found.get('boxes'), *self._count_and_size(name))

    def _count_and_size(self, name: str) -> tuple[int | None, Size | None]:
        """(the number of regions, the size) of an image, None where they are not known."""
        places = self.places[name]
        count = int(self._read(name, 'count').item()) if 'count' in places else None
        if 'pair' in places:   # height and width, as DLCT's and VinVL's files have them
            height, width = self._read(name, 'pair').reshape(-1).tolist()[:2]
            return count, checked_size(width, height)
        if {'width', 'height'} <= set(places):
            return count, checked_size(*(self._read(name, side).item() for side in ('width', 'height')))
        return count, None

    def _read(self, name: str, field: str) -> np.ndarray:
        """An array of an image."""
        data = self._data(self.places[name][field])
        row_size = math.prod(data.shape[bool(self.rows):]) * data.dtype.itemsize
        if row_size > hdf5.LARGEST:
            raise ValueError(f'{row_size} bytes for one image')
        return np.asarray(data[self.rows[name]] if self.rows else data[()])

    def _data(self, place: str) -> Any:
        """A data set of the file, which each process opens anew: HDF5's handles do not survive a fork."""
        if self.process != os.getpid():
            self.file, self.process = hdf5.open_file(self.path), os.getpid()
        return hdf5.dataset(self.file, place)

    def _errors(self, name: str) -> Any:
        return errors_naming(self.where(name))

    def __getstate__(self) -> dict[str, Any]:
        """Without the open file, which cannot be sent to another process."""
        return {**self.__dict__, 'file': None, 'process': None}


# ---- TSV ----

@dataclass(frozen=True)
class Line:
    """Where the record of an image is, and what is known of it."""

    file: TsvFile
    layout: Layout
    offset: int
    state: str
    stored: Stored   # its shapes


class TsvSource:
    """TSV files, a line for each image.  They are read once to find the lines."""

    def __init__(self, paths: Iterable[str], path: str) -> None:
        """Raises `DataError` where no file has a layout that is known."""
        self.path = path
        self.lines: dict[str, Line] = {}
        self.broken: list[str] = []     # lines that are no records, to be reported
        files = [file for file in map(TsvFile, paths) if file.layout]
        if not files:
            raise DataError(f'--input: {path} is no TSV file of features that is known: known are the columns of the '
                            "bottom-up-attention archive, of LXMERT, ViLBERT and VinVL, and files with a header that "
                            'names id, num_boxes, features (and boxes, image_w, image_h)')
        total = sum(os.path.getsize(file.path) for file in files)
        with Progress(total // MEGABYTE, 'looking for the images', unit='megabyte') as display:
            done = 0
            for file in files:
                for number, (offset, line) in enumerate(read_lines(file), 1):
                    self._list(file, offset, line, number)
                    before, done = done, done + len(line)
                    display.update(done // MEGABYTE - before // MEGABYTE)

    def _list(self, file: TsvFile, offset: int, line: bytes, number: int) -> None:
        """List the image of a line."""
        assert file.layout is not None
        try:
            record = decode_record(line, file.layout, checks_boxes=False)
        except DataError as error:
            self.broken.append(f'{file.path}: record {number}: {error}')
            return
        state = f'{zlib.crc32(line.rstrip()):08x} 0'
        first = self.lines.get(record.name)
        if first is not None:
            if first.state != state:
                self.broken.append(f'{file.path}: image {record.name} comes a second time with other content; the '
                                   f'first (in {first.file.path}) counts')
            return
        boxes = None if record.boxes is None else record.boxes.shape
        self.lines[record.name] = Line(file, file.layout, offset, state,
                                       Stored(record.features.shape, boxes, None, record.size))

    def names(self) -> list[str]:
        """The names of the images."""
        return list(self.lines)

    def where(self, name: str) -> str:
        """The line of an image."""
        return f'{self.lines[name].file.path}: image {name}'

    def states(self) -> dict[str, str]:
        """Checksums of the lines."""
        return {name: line.state for name, line in self.lines.items()}

    def shapes(self, name: str) -> Stored:
        """See `Source`."""
        return self.lines[name].stored

    def arrays(self, name: str) -> Stored:
        """See `Source`."""
        line = self.lines[name]
        record = decode_record(read_line(line.file, line.offset), line.layout, checks_boxes=False)
        return Stored(record.features, record.boxes, None, record.size)
