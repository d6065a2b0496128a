"""Writing packed files; `misc/dataset/packed.py` describes and reads them.

The file is laid out in full before the first array is written.  From then on HDF5's own records do not change, and
arrays are written to their places without the HDF5 library, in any order, from any process.  So however the writer
ends, the file is valid but for some images, and `state` says which.
"""

import io
import os
import shutil
from collections.abc import Iterable, Mapping
from typing import Any

import h5py
import numpy as np

from misc.cli import DataError
from misc.dataset.packed import PackedReader, kinds_in, reading_packed
from misc.disk.files import replacing

UNWRITTEN, WRITTEN, COMPARED = 0, 1, 2  # values of `state`
Shape = tuple[int, ...]


def lay_out(path: str, shapes: Mapping[str, Mapping[str, Shape]], types: Mapping[str, str]) -> None:
    """Make a packed file with room for all images, none of them written yet.

    shapes: {kind: {image id: shape}}, every kind with the same ids (whole numbers as strings), of shapes that
    `rows_and_map` takes, with one width per kind; types: {kind: 'float16'} of the kinds that are not float32.
    Raises `DataError` where the disk has too little room.
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


def _reserve(packed: Any, name: str, shape: Shape, dtype: str) -> Any:
    """A data set whose place in the file is fixed now, and whose bytes are not written yet."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    return packed.create_dataset(name, shape, np.dtype(dtype).newbyteorder('<'), dcpl=properties)


def rows_and_map(kind: str, shape: Shape) -> tuple[int, tuple[int, ...]]:
    """(rows, (height, width) of a map, else (0, 0)) of an array of `shape`.

    Raises `DataError` for a shape that arrays of the kind do not have.
    """
    axes = {'att': (2, 3), 'fc': (1,)}.get(kind, (2,))
    if len(shape) not in axes or 0 in shape:
        raise DataError(f'an array of shape {shape} holds no {kind} of regions')
    rows = int(np.prod(shape[:-1], dtype=np.int64))
    return rows, tuple(shape[:2]) if len(shape) == 3 else (0, 0)


class PackedWriter:
    """Writes arrays into a packed file that is laid out.  Can be sent to other processes.

    ids     the image ids in the order of the file
    state   uint8 (N,), as in the file
    """

    def __init__(self, path: str):
        self.path = path
        self.readers = {kind: PackedReader(path, kind, 'output_file', unwritten=True) for kind in kinds_in(path)}
        with reading_packed(path, path) as file:
            self.ids = [str(image_id) for image_id in file['ids'][:].tolist()]
            self.state = file['state'][:]
            self.bytes = {name: file[name].id.get_offset() for name in ('sizes', 'state')}
        self.index = {image_id: index for index, image_id in enumerate(self.ids)}

    def with_state(self, *states: int) -> list[str]:
        """The ids of the images whose state is one of `states`, in order."""
        return [image_id for image_id, state in zip(self.ids, self.state) if state in states]

    def write(self, image_id: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Write the arrays {kind: float32 array} of an image to their places.

        Raises `DataError` for an array that has not the shape it was laid out with, or numbers beyond the range of
        the type it is stored in.
        """
        with io.FileIO(self.path, 'r+') as file:
            for kind, array in arrays.items():
                reader = self.readers[kind]
                if array.shape != reader.shape(image_id):
                    raise DataError(f'the {kind} of image {image_id} has the shape {array.shape} and had '
                                    f'{reader.shape(image_id)} before')
                with np.errstate(over='ignore'):
                    stored = np.ascontiguousarray(array, dtype=reader.dtype)
                if not np.isfinite(stored).all():
                    raise DataError(f'the {kind} of image {image_id} goes up to {np.abs(array).max():g}, too '
                                    f'far for {reader.dtype}; take --dtype float32')
                file.seek(reader.byte(image_id))
                _write_all(file, stored)

    def write_sizes(self, sizes: Mapping[str, tuple[float, float]]) -> None:
        """Write the image sizes {image id: (width, height)} that are known."""
        self._write('sizes', np.array([sizes.get(image_id, (0, 0)) for image_id in self.ids], np.float64))

    def mark(self, states: Mapping[str, int]) -> None:
        """Set the states of images, {image id: state}.

        Where the machine loses power, the disk has all that was written before, or else not this mark either.
        """
        for image_id, state in states.items():
            self.state[self.index[image_id]] = state
        self._write('state', self.state)

    def _write(self, name: str, array: np.ndarray) -> None:
        """Write a whole data set, once what was written before is on disk."""
        with io.FileIO(self.path, 'r+') as file:
            os.fsync(file.fileno())
            file.seek(self.bytes[name])
            _write_all(file, array)


def _write_all(file: io.FileIO, array: np.ndarray) -> None:
    """Write the bytes of `array`; a full disk may take some of them before it refuses."""
    left = array.data.cast('B')
    while left:
        left = left[file.write(left):]


def write_packed(path: str | os.PathLike, arrays: Mapping[str, Mapping[str, np.ndarray]],
                 sizes: Mapping[str, tuple[float, float]] | Iterable[tuple[str, tuple[float, float]]] = (),
                 dtype: str = 'float32') -> None:
    """Write a packed file of `arrays` in memory, {kind: {id: array}}, every kind with the same ids.

    sizes: {id: (width, height)} of the images; dtype: 'float32' or 'float16', of the features.
    """
    path = os.fspath(path)
    lay_out(path, {kind: {image_id: array.shape for image_id, array in by_id.items()}
                   for kind, by_id in arrays.items()}, {'att': dtype, 'fc': dtype})
    writer = PackedWriter(path)
    writer.write_sizes(dict(sizes))
    for image_id in writer.ids:
        writer.write(image_id, {kind: by_id[image_id] for kind, by_id in arrays.items()})
    writer.mark(dict.fromkeys(writer.ids, WRITTEN))
