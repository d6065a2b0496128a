"""Writing a packed file; `misc/dataset/features.py` says what lies in it, and reads it.

The file is laid out in full before the first array is written.  From then on HDF5's own records stay
as they are, and arrays go to their places past the HDF5 library, in any order, from any process.  So
whatever kills the writer, the file is whole but for some images, and `state` says which.
"""

import os
import shutil

import h5py
import numpy as np

from misc.cli import DataError
from misc.dataset.features import SUFFIX, Packed, reading_packed
from misc.disk.files import replacing

UNWRITTEN, WRITTEN, COMPARED = 0, 1, 2  # values of `state`


def lay_out(path, shapes, types):
    """Make a packed file in which every image has its place, and none is written yet.

    shapes: {kind: {image id: shape}}, every kind with the same ids (whole numbers as strings), and
    shapes as `rows_and_map` takes them, of one width in a kind; types: {kind: 'float16'} of those that
    are not to be float32.  Raises `DataError` where the disk has too little room.
    """
    ids = sorted(next(iter(shapes.values())), key=int)
    with replacing(path) as file:
        with h5py.File(file, 'w') as packed:
            packed['ids'] = np.array([int(image_id) for image_id in ids], dtype=np.int64)
            _reserve(packed, 'sizes', (len(ids), 2), 'float64')[:] = 0
            for kind, by_id in shapes.items():
                counts, maps = zip(*(rows_and_map(kind, by_id[image_id]) for image_id in ids))
                offsets = packed[f'{kind}/offsets'] = np.cumsum([0, *counts], dtype=np.int64)
                packed[f'{kind}/maps'] = np.array(maps, dtype=np.int64)
                _reserve(packed, f'{kind}/rows', (offsets[-1], by_id[ids[0]][-1]), types.get(kind, 'float32'))
            _reserve(packed, 'state', (len(ids),), 'uint8')[:] = UNWRITTEN
        needed, room = os.path.getsize(file.name), shutil.disk_usage(os.path.dirname(file.name) or '.').free
        if needed > room:
            raise DataError(f'{path} takes {needed / 1e9:.1f} GB, and its disk has {room / 1e9:.1f} GB left; '
                            'make room, or name another place')


def _reserve(packed, name, shape, dtype):
    """A data set whose bytes have their place in the file now, and are not written yet."""
    places = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    places.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    places.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    return packed.create_dataset(name, shape, np.dtype(dtype).newbyteorder('<'), dcpl=places)


def rows_and_map(kind, shape):
    """(rows, (height, width) of a map or (0, 0)) of an array of `shape`.

    Raises `DataError` for a shape that arrays of the kind do not have.
    """
    axes = {'att': (2, 3), 'fc': (1,)}.get(kind, (2,))
    if len(shape) not in axes or 0 in shape:
        raise DataError(f'an array of shape {shape} holds no {kind} of regions')
    rows = int(np.prod(shape[:-1], dtype=np.int64))
    return rows, tuple(shape[:2]) if len(shape) == 3 else (0, 0)


def kinds_in(path):
    """The kinds that a packed file holds, sorted."""
    with reading_packed(path, path, 'remove it and pack again') as file:
        return sorted(set(SUFFIX) & set(file))


class Writer:
    """Puts arrays into a packed file that is laid out.  Can go to other processes."""

    def __init__(self, path):
        """`ids` (in its order) and `state` (uint8 of each) are those of the file `path`."""
        self.path = path
        self.kinds = {kind: Packed(path, kind, 'output_file', unwritten=True) for kind in kinds_in(path)}
        with reading_packed(path, path) as file:
            self.ids = [str(image_id) for image_id in file['ids'][:].tolist()]
            self.state = file['state'][:]
            self.bytes = {name: file[name].id.get_offset() for name in ('sizes', 'state')}
        self.rows = {image_id: row for row, image_id in enumerate(self.ids)}

    def with_state(self, *states):
        """The ids of the images whose state is one of `states`, in order."""
        return [image_id for image_id, state in zip(self.ids, self.state) if state in states]

    def write(self, image_id, arrays):
        """Write the arrays {kind: float32 array} of an image to their places.

        Raises `DataError` for one of another shape than its place, or beyond the range of its type.
        """
        with open(self.path, 'r+b', buffering=0) as file:
            for kind, array in arrays.items():
                place = self.kinds[kind]
                if array.shape != place.shape(image_id):
                    raise DataError(f'the {kind} of image {image_id} has the shape {array.shape} and had '
                                    f'{place.shape(image_id)} before')
                with np.errstate(over='ignore'):
                    stored = np.ascontiguousarray(array, dtype=place.dtype)
                if not np.isfinite(stored).all():
                    raise DataError(f'the {kind} of image {image_id} goes up to {np.abs(array).max():g}, too '
                                    f'far for {place.dtype}; take --dtype float32')
                file.seek(place.byte(image_id))
                _write_all(file, stored)

    def write_sizes(self, sizes):
        """Write the image sizes, {image id: (width, height)}, as far as they are known."""
        self._write('sizes', np.array([sizes.get(image_id, (0, 0)) for image_id in self.ids], np.float64))

    def mark(self, states):
        """Set the state of images, {image id: state}.

        Should the machine lose power, the disk has what was written before this, or not this either.
        """
        for image_id, state in states.items():
            self.state[self.rows[image_id]] = state
        self._write('state', self.state)

    def _write(self, name, array):
        """Write a whole data set, when what was written before is on disk."""
        with open(self.path, 'r+b', buffering=0) as file:
            os.fsync(file.fileno())
            file.seek(self.bytes[name])
            _write_all(file, array)


def _write_all(file, array):
    """Write the bytes of `array`; a full disk may take some of them before it refuses."""
    left = memoryview(array).cast('B')
    while left:
        left = left[file.write(left):]


def write_packed(path, arrays, sizes=(), dtype='float32'):
    """Write a packed file of `arrays` in memory, {kind: {id: array}}, every kind with the same ids; `sizes`
    {id: (width, height)} of the images, `dtype` that of features."""
    lay_out(path, {kind: {image_id: array.shape for image_id, array in by_id.items()}
                   for kind, by_id in arrays.items()}, {'att': dtype, 'fc': dtype})
    writer = Writer(path)
    writer.write_sizes(dict(sizes))
    for image_id in writer.ids:
        writer.write(image_id, {kind: by_id[image_id] for kind, by_id in arrays.items()})
    writer.mark(dict.fromkeys(writer.ids, WRITTEN))
