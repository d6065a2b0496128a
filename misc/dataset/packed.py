"""Packed files: the arrays of all images in one HDF5 file, as `scripts/pack_features.py` writes them.

A packed file holds any of the kinds of `misc/dataset/array_files.py`, for the same images:

===============  =====================  ==============================================================
data set         type, shape            content
===============  =====================  ==============================================================
`ids`            int64 (N,)             image ids
`KIND/rows`      float32 or float16     all images' rows, one image after the other: those of the i-th
                 (rows, D)              of `ids` are `rows[offsets[i]:offsets[i + 1]]`; fc has one each
`KIND/offsets`   int64 (N + 1,)         where they begin and end
`KIND/maps`      int64 (N, 2)           height and width of a map, whose array is (h, w, D); 0 0 for an
                                        array that is (regions, D).  May be absent: there are no maps
`sizes`          float64 (N, 2)         width and height of the images in pixels, 0 0 where they are
                                        not known.  May be absent: none is known
`state`          uint8 (N,)             0: the image's rows are not written (readers skip the image);
                                        1: written; 2: written and compared.  May be absent: all are
===============  =====================  ==============================================================

Reading an image is one read of consecutive bytes, without the HDF5 library, where `rows` is contiguous in the file,
as written here; chunked or compressed rows are read through HDF5, slowly.
"""

import contextlib
import io
import math
import os
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from misc import commands
from misc.cli import DataError
from misc.dataset.array_files import LARGEST, SUFFIX, checked
from misc.disk import hdf5
from misc.disk.files import open_descriptor
from misc.disk.known import KnownFile


class PackedReader:
    """Reads the arrays of one kind from a packed file.

    Opens the file anew in each process: neither HDF5's handles nor a position in a file survive a fork.  By then
    it has to be the same file, or the rows would be those of other images.
    """

    def __init__(self, path: str | os.PathLike, kind: str, flag: str, unwritten: bool = False):
        """flag: the command-line flag that names the file, for messages; unwritten: the file is being written, so
        it changes, and images whose rows are not written yet are included.

        Raises `DataError` where the file is damaged or does not hold the kind.
        """
        self.path, self.kind = os.fspath(path), kind
        self.known = None if unwritten else KnownFile(self.path)
        with reading_packed(self.path, f'--{flag}: {self.path}') as file:
            kinds = sorted(set(SUFFIX) & set(file))
            if 'ids' not in file or kind not in kinds:
                raise DataError(f'--{flag}: {self.path} holds no packed arrays of kind {kind} (it holds '
                                f'{", ".join(kinds) or "none"}); pack it again, or give the folder of arrays')
            ids, self.offsets = (hdf5.array(file, name, 'iu', 1).tolist() for name in ('ids', f'{kind}/offsets'))
            rows = hdf5.dataset(file, f'{kind}/rows')
            maps = hdf5.array(file, f'{kind}/maps', 'iu', 2).tolist() if f'{kind}/maps' in file else []
            self.maps = {index: (height, width) for index, (height, width) in enumerate(maps) if height}
            self.width, self.dtype = rows.shape[1], rows.dtype
            # Where the rows begin; None for chunked rows.  (HDF5 counts from the end of a user block.)
            self.base = rows.id.get_offset() if self.dtype.kind in 'fiu' and not file.userblock_size else None
            if self._contradicts(ids, len(rows)):
                raise DataError(f'--{flag}: {self.path} lacks rows of its {len(ids)} images; pack it again, or '
                                'give the folder of arrays')
            is_there = np.ones(len(ids), bool)
            if 'state' in file and not unwritten:
                is_there = hdf5.array(file, 'state', axes=1) > 0
            self.index = {str(image_id): index for index, image_id in enumerate(ids) if is_there[index]}
        self.file: Any = None   # the open file, or the data set where rows are read through HDF5
        self.descriptor = -1              # of the open file
        self.process: int | None = None   # that opened it

    def _contradicts(self, ids: list[int], rows: int) -> bool:
        """Whether offsets and maps of the images `ids` do not fit each other and the `rows` of the file."""
        images, counts = len(ids), np.diff(self.offsets)
        return (len(counts) != images or len(set(ids)) != images
                or self.offsets[0] != 0 or self.offsets[-1] != rows
                or (counts != 1 if self.kind == 'fc' else counts < 0).any()
                or any(counts[index] != height * width for index, (height, width) in self.maps.items()))

    def __getstate__(self) -> dict[str, Any]:
        """Without the open file, which cannot be sent to another process."""
        return {**self.__dict__, 'file': None, 'process': None}

    def ids(self) -> set[str]:
        """The ids of the images in the file."""
        return set(self.index)

    def states(self) -> dict[str, str]:
        """{image id: what changes with its array}: a checksum; of features, which are large, size and time of the
        file."""
        if self.kind in ('att', 'fc'):
            status = os.stat(self.path)
            return dict.fromkeys(self.index, f'{status.st_size} {status.st_mtime_ns}')
        found = {}
        for image_id in self.index:
            with contextlib.suppress(DataError):
                array = self.read(image_id)
                found[image_id] = f'{zlib.crc32(array.tobytes()):08x} 0'
        return found

    def where(self, image_id: str | int) -> str:
        """Where an image's array is, for messages."""
        return f'{self.path} ({self.kind} of {image_id})'

    def made_by(self, command: str) -> str:
        """The commands, for messages, that add missing images; `command` makes the files of the folder."""
        return f'{command}\nand pack them: {commands.PACK}'

    def shape(self, image_id: str | int) -> tuple[int, ...]:
        """The shape of an image's array."""
        return self._shape(self.index[str(image_id)])

    def _shape(self, index: int) -> tuple[int, ...]:
        if self.kind == 'fc':
            return (self.width,)
        if index in self.maps:
            return (*self.maps[index], self.width)
        return (self.offsets[index + 1] - self.offsets[index], self.width)

    def byte(self, image_id: str | int) -> int:
        """Where in the file an image's rows begin.  Not for chunked rows."""
        return self.base + self.offsets[self.index[str(image_id)]] * self.width * self.dtype.itemsize

    def read(self, image_id: str | int) -> np.ndarray:
        """The float32 array of an image.  Raises `DataError` where it is missing or damaged, `ChangedError` where
        the file is not the one that was opened first."""
        image_id = str(image_id)
        try:
            if self.process != os.getpid():
                self._open()
            if self.known is not None:
                self.known.check(self.descriptor)
            index = self.index[image_id]
            if math.prod(self._shape(index)) * self.dtype.itemsize > LARGEST:
                raise ValueError('it has too many rows for an image')
            if self.base is None:
                array = self.file[self.offsets[index]:self.offsets[index + 1]].reshape(self._shape(index))
            else:
                array = np.empty(self._shape(index), self.dtype)
                # By position: another thread may be reading from the same open file.
                if os.preadv(self.descriptor, [array.data], self.byte(image_id)) != array.nbytes:
                    raise OSError('the file ends before it')
        except (LookupError, OSError, RuntimeError, TypeError, ValueError, MemoryError) as error:
            raise DataError(f'{self.where(image_id)} cannot be read ({error}); pack it again') from None
        return checked(array, self.where(image_id))

    def _open(self) -> None:
        """Open the file for this process."""
        if self.base is None:
            file = hdf5.open_file(self.path)
            self.file, self.descriptor = hdf5.dataset(file, f'{self.kind}/rows'), file.id.get_vfd_handle()
        else:
            self.file = io.FileIO(self.path, opener=open_descriptor)
            self.descriptor = self.file.fileno()
        self.process = os.getpid()


def packed_sizes(path: str | os.PathLike) -> dict[str, tuple[float, float]]:
    """{image id: (width, height) in pixels} of the images of a packed file whose size it holds."""
    with reading_packed(path, os.fspath(path)) as file:
        if 'sizes' not in file:
            return {}
        pairs = zip(hdf5.array(file, 'ids', 'iu', 1).tolist(), hdf5.array(file, 'sizes', axes=2).tolist(),
                    strict=True)
        return {str(image_id): tuple(size) for image_id, size in pairs if all(size)}


def kinds_in(path: str | os.PathLike) -> list[str]:
    """The kinds that a packed file holds, sorted."""
    with reading_packed(path, os.fspath(path), 'name another file, or take another copy of it') as file:
        return sorted(set(SUFFIX) & set(file))


@contextlib.contextmanager
def reading_packed(path: str | os.PathLike, name: str,
                   way_out: str = 'pack it again, or give the folder of arrays') -> Iterator[Any]:
    """The packed file `path`, open in HDF5; whatever reading it raises becomes a `DataError` that begins with
    `name` and ends with `way_out`."""
    with hdf5.reading(os.fspath(path), f'{name} is not a whole packed HDF5 file', way_out) as file:
        yield file
