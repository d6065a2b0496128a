"""Per-image arrays on disk: a folder with one file per image, or one packed HDF5 file.

Kinds, by the data chain's names:

====  ============  ==========  ============================================================
kind  folder        file        content
====  ============  ==========  ============================================================
att   `*_att`       `ID.npz`    key `feat`, float32 (regions, D) or (h, w, D)
fc    `*_fc`        `ID.npy`    float32 (D,)
box   `*_box`       `ID.npy`    float32 (regions, 4), x1 y1 x2 y2 in pixels
rel   `*_relative`  `ID.npy`    float32 (regions, 4), the same relative to the image
grid  `*_vec`       `ID.npy`    float32 (regions, g*g)
====  ============  ==========  ============================================================

A packed file, as `scripts/pack_features.py` writes it, holds any of the kinds for the same images:

===============  =====================  ==============================================================
data set         type, shape            content
===============  =====================  ==============================================================
`ids`            int64 (N,)             image ids
`KIND/rows`      float32 or float16     all images' rows, one image after the other: those of the i-th
                 (rows, D)              of `ids` are `rows[offsets[i]:offsets[i + 1]]`; fc has one each
`KIND/offsets`   int64 (N + 1,)         where they begin and end
`KIND/maps`      int64 (N, 2)           height and width of a map whose array is (h, w, D), row by row;
                                        0 0 for an array that is (regions, D).  May be absent: no maps
`sizes`          float64 (N, 2)         width and height of the images in pixels, 0 0 where they are
                                        not known.  May be absent: none is
`state`          uint8 (N,)             0: the image's rows are not written (readers pass it over);
                                        1: they are; 2: and were compared.  May be absent: all are
===============  =====================  ==============================================================

Reading an image is one read of consecutive bytes, past the HDF5 library, where `rows` lies in the
file as it is (contiguous, as written here); chunked or compressed rows are read through HDF5, slowly.
Whatever the type on disk, arrays are float32 once they are read.
"""

import contextlib
import io
import os
import zipfile
from collections.abc import Mapping

import numpy as np

from misc import commands
from misc.cli import DataError
from misc.disk import hdf5
from misc.disk.files import replacing

SUFFIX = {'att': '.npz', 'fc': '.npy', 'box': '.npy', 'rel': '.npy', 'grid': '.npy'}
LARGEST = 1 << 30  # bytes of an image's array
AGAIN = 'remove it and run the command that made its folder again'


def write_array(folder, image_id, kind, array):
    """Write one image's array of `kind` into `folder`, whole or not at all."""
    path = os.path.join(folder, f'{image_id}{SUFFIX[kind]}')
    with replacing(path, durable=False) as file:
        if kind == 'att':
            np.savez_compressed(file, feat=array)
        else:
            np.save(file, array)


def read_array(path):
    """The array in an `.npy` file, or under the key `feat` of an `.npz` file.

    Never unpickles.  Raises `DataError`, naming the file, when it is missing, truncated, holds
    objects, or holds something that is not finite numbers.
    """
    with _naming(path):
        array = _read_npz(path) if path.endswith('.npz') else np.load(path, allow_pickle=False)
    if array is None:
        raise DataError(f'{path} has no array named feat; {AGAIN}')
    return checked(array, path)


def _read_npz(path):
    """The array under the key `feat` of an `.npz` file, or None."""
    with zipfile.ZipFile(path) as archive:
        if 'feat.npy' not in archive.namelist():
            return None
        member = archive.getinfo('feat.npy')
        if member.file_size > LARGEST:  # a few megabytes unpack to gigabytes of zeros
            raise ValueError(f'{member.file_size} bytes are said to be packed in it')
        return np.lib.format.read_array(io.BytesIO(archive.read(member)), allow_pickle=False)


def read_shape(path):
    """The shape of the array that `read_array` reads, from the beginning of the file alone.

    Raises `DataError` where there is no such beginning; what follows it may still be damaged.
    """
    with _naming(path):
        if not path.endswith('.npz'):
            with open(path, 'rb') as file:
                return _shape_in_header(file)
        with zipfile.ZipFile(path) as archive:
            if 'feat.npy' in archive.namelist():
                with archive.open('feat.npy') as file:
                    return _shape_in_header(file)
    raise DataError(f'{path} has no array named feat; {AGAIN}')


def _shape_in_header(file):
    """The shape that the header of an `.npy` file says."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    return readers[np.lib.format.read_magic(file)](file)[0]


@contextlib.contextmanager
def _naming(path):
    """Turn whatever reading a damaged `path` raises into a `DataError` that names it."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f'there is no file {path}; put it back, or run the command that made its folder '
                        'again') from None
    except Exception as error:  # a damaged file makes NumPy, zip and zlib raise a dozen kinds of it
        raise DataError(f'{path} cannot be read ({str(error)[:120]}); {AGAIN}') from None


def checked(array, path):
    """`array` as float32, if it holds finite numbers; else a `DataError` naming `path`."""
    if not isinstance(array, np.ndarray) or array.dtype.kind not in 'fiu':
        raise DataError(f'{path} does not hold numbers; remove it and make it again')
    if array.dtype != np.float32:
        with np.errstate(over='ignore'):  # what is too large for float32 is named below
            array = np.asarray(array, dtype=np.float32)
    if not np.isfinite(array).all():
        raise DataError(f'{path} holds values that are not finite; remove it and make it again')
    return array


def open_source(path, kind, flag, made_by=''):
    """The per-image arrays of `kind` at `path`: a `Folder`, or a `Packed` file.

    `flag` is the command-line flag that named `path` and `made_by` the command that makes it, for
    messages.  Raises `DataError`.
    """
    if os.path.isdir(path):
        return Folder(path, kind)
    if os.path.isfile(path):
        return Packed(path, kind, flag)
    if os.path.splitext(path)[1] in ('.h5', '.hdf5') and made_by:
        made_by += f'\n{commands.PACK}'
    raise DataError(f'--{flag}: there is no folder or packed file {path}'
                    + (f'; make it with:\n{made_by}' if made_by else ''))


def open_boxes(path, flag):
    """The boxes at `path`, as `open_source` opens them.  Raises `DataError` where there are none."""
    made_by = commands.FEATURES
    boxes = open_source(path, 'box', flag, made_by)
    if not boxes.ids():
        raise DataError(f'--{flag}: {path} holds no boxes; make them with: {made_by}')
    return boxes


class Folder:
    """One file per image."""

    def __init__(self, path, kind):
        self.path, self.suffix = path, SUFFIX[kind]

    def ids(self):
        """The ids (as strings) that are there, by listing the folder."""
        return {entry.name[:-4] for entry in os.scandir(self.path)
                if entry.name.endswith(self.suffix)}

    def where(self, image_id):
        """The file of an image, for messages."""
        return os.path.join(self.path, f'{image_id}{self.suffix}')

    def made_by(self, command):
        """The commands, for messages, that put into it what is missing; `command` makes its files."""
        return command

    def shape(self, image_id):
        """The shape of an image's array, without reading all of it."""
        return read_shape(self.where(image_id))

    def read(self, image_id):
        """float32 array of one image."""
        return read_array(self.where(image_id))


class Arrays:
    """Arrays in memory, {image id: array}, read like those of a `Folder`; `name` is theirs in messages."""

    def __init__(self, arrays: Mapping[int, np.ndarray], name: str) -> None:
        self.arrays, self.name = arrays, name

    def where(self, image_id: int) -> str:
        """The array of an image, for messages."""
        return f'{self.name} {image_id}'

    def read(self, image_id: int) -> np.ndarray:
        """float32 array of one image.  Raises `DataError` unless it holds finite numbers."""
        return checked(np.asarray(self.arrays[image_id]), self.where(image_id))


class Packed:
    """One HDF5 file for all images.  Opened anew in each process: neither HDF5's handles nor the place
    in a file survive a fork."""

    def __init__(self, path, kind, flag, unwritten=False):
        """`unwritten` takes in the images whose rows are not written yet (to write them)."""
        self.path, self.kind = path, kind
        with reading_packed(path, f'--{flag}: {path}') as file:
            kinds = sorted(set(SUFFIX) & set(file))
            if 'ids' not in file or kind not in kinds:
                raise DataError(f'--{flag}: {path} holds no packed arrays of kind {kind} (it holds '
                                f'{", ".join(kinds) or "none"}); pack it again, or give the folder of arrays')
            ids, self.offsets = (hdf5.array(file, name, 'iu', 1).tolist() for name in ('ids', f'{kind}/offsets'))
            rows = hdf5.dataset(file, f'{kind}/rows')
            maps = hdf5.array(file, f'{kind}/maps', 'iu', 2).tolist() if f'{kind}/maps' in file else []
            self.maps = {i: (height, width) for i, (height, width) in enumerate(maps) if height}
            self.width, self.dtype = rows.shape[1], rows.dtype
            # None for chunked rows; counted from the end of a user block, which nobody has.
            self.base = rows.id.get_offset() if self.dtype.kind in 'fiu' and not file.userblock_size else None
            if self._contradicts(ids, len(rows)):
                raise DataError(f'--{flag}: {path} lacks rows of its {len(ids)} images; pack it again, or '
                                'give the folder of arrays')
            there = np.ones(len(ids), bool)
            if 'state' in file and not unwritten:
                there = hdf5.array(file, 'state', axes=1) > 0
            self.places = {str(image_id): i for i, image_id in enumerate(ids) if there[i]}
        self.file, self.process = None, None

    def _contradicts(self, ids, rows):
        """Whether the rows that the images `ids` say they have are not the `rows` of the file."""
        images, counts = len(ids), np.diff(self.offsets)
        return (len(counts) != images or len(set(ids)) != images
                or self.offsets[0] != 0 or self.offsets[-1] != rows
                or (counts != 1 if self.kind == 'fc' else counts < 0).any()
                or any(counts[i] != height * width for i, (height, width) in self.maps.items()))

    def __getstate__(self):
        """Without the open file, which cannot go to another process."""
        return {**self.__dict__, 'file': None, 'process': None}

    def ids(self):
        """The ids (as strings) in the file."""
        return set(self.places)

    def where(self, image_id):
        """Where an image's array lies, for messages."""
        return f'{self.path} ({self.kind} of {image_id})'

    def made_by(self, command):
        """The commands, for messages, that put into it what is missing; `command` makes the folder."""
        return f'{command}\nand pack them: {commands.PACK}'

    def shape(self, image_id):
        """The shape of an image's array."""
        return self._shape(self.places[image_id])

    def _shape(self, place):
        if self.kind == 'fc':
            return (self.width,)
        if place in self.maps:
            return (*self.maps[place], self.width)
        return (self.offsets[place + 1] - self.offsets[place], self.width)

    def byte(self, image_id):
        """Where in the file an image's rows begin; not for a file whose rows HDF5 has to be asked for."""
        return self.base + self.offsets[self.places[image_id]] * self.width * self.dtype.itemsize

    def read(self, image_id):
        """float32 array of one image."""
        image_id = str(image_id)
        try:
            if self.process != os.getpid():
                self._open()
            place = self.places[image_id]
            if self.base is None:
                array = self.file[self.offsets[place]:self.offsets[place + 1]].reshape(self._shape(place))
            else:
                array = np.empty(self._shape(place), self.dtype)
                # By position: another thread may be reading from the same open file.
                if os.preadv(self.file.fileno(), [array], self.byte(image_id)) != array.nbytes:
                    raise OSError('the file ends before it')
        except (LookupError, OSError, RuntimeError, TypeError, ValueError, MemoryError) as error:
            raise DataError(f'{self.where(image_id)} cannot be read ({error}); pack it again') from None
        return checked(array, self.where(image_id))

    def _open(self):
        """Open the file for this process: its bytes, or the data set where HDF5 has to be asked."""
        self.file = (hdf5.open_file(self.path)[f'{self.kind}/rows'] if self.base is None
                     else open(self.path, 'rb', buffering=0))
        self.process = os.getpid()


def packed_sizes(path):
    """{image id as a string: (width, height)} of the images of a packed file whose size it holds."""
    with reading_packed(path, path) as file:
        if 'sizes' not in file:
            return {}
        pairs = zip(hdf5.array(file, 'ids', 'iu', 1).tolist(), hdf5.array(file, 'sizes', axes=2).tolist(),
                    strict=True)
        return {str(image_id): tuple(size) for image_id, size in pairs if all(size)}


@contextlib.contextmanager
def reading_packed(path, place, way_out='pack it again, or give the folder of arrays'):
    """The packed file `path`, open in HDF5; what it raises is a `DataError` that begins with `place` and
    ends with `way_out`."""
    with hdf5.reading(path, f'{place} is not a whole packed HDF5 file', way_out) as file:
        yield file
