"""Folders with one array file per image.

====  ============  ==========  =====================================================================
kind  folder        file        content
====  ============  ==========  =====================================================================
att   `*_att`       `ID.npz`    features under the key `feat`, float32 (regions, D), or a map
                                (h, w, D), whose regions are its cells row by row, from the top left
fc    `*_fc`        `ID.npy`    mean feature, float32 (D,)
box   `*_box`       `ID.npy`    boxes, float32 (regions, 4): x1 y1 x2 y2 in pixels, origin top left
rel   `*_relative`  `ID.npy`    boxes, float32 (regions, 4), divided by the image's width and height
grid  `*_vec`       `ID.npy`    grid vectors, float32 (regions, g*g), row by row from the top left
====  ============  ==========  =====================================================================

Row i belongs to the same region in all of an image's arrays.
"""

import contextlib
import io
import os
import re
import zipfile
from collections.abc import Collection, Iterator
from typing import Any, BinaryIO

import numpy as np

from misc.cli import DataError
from misc.dataset import foreign
from misc.disk.files import open_regular, replacing
from misc.disk.known import KnownFolder

SUFFIX = {'att': '.npz', 'fc': '.npy', 'box': '.npy', 'rel': '.npy', 'grid': '.npy'}
LARGEST = 1 << 30  # bytes of an image's array


class FolderReader:
    """Reads the arrays of one kind from a folder with one file per image."""

    def __init__(self, path: str | os.PathLike, kind: str):
        self.path, self.suffix = os.fspath(path), SUFFIX[kind]
        self.folder = KnownFolder(self.path)

    def ids(self) -> set[str]:
        """The ids of the images in the folder, by listing it."""
        return {entry.name[:-4] for entry in os.scandir(self.path)
                if entry.name.endswith(self.suffix)}

    def states(self) -> dict[str, str]:
        """{image id: size and time of its file}, which change with its content."""
        found = {}
        for entry in os.scandir(self.path):
            if entry.name.endswith(self.suffix):
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat()
                    found[entry.name[:-4]] = f'{status.st_size} {status.st_mtime_ns}'
        return found

    def where(self, image_id: str | int) -> str:
        """The file of an image, for messages."""
        return os.path.join(self.path, f'{image_id}{self.suffix}')

    def made_by(self, command: str) -> str:
        """The commands, for messages, that add missing images; `command` makes the files of the folder."""
        return command

    def shape(self, image_id: str | int) -> tuple[int, ...]:
        """The shape of an image's array, from the header of its file."""
        return read_shape(self.where(image_id))

    def read(self, image_id: str | int) -> np.ndarray:
        """The float32 array of an image.  Raises `DataError` where it is missing or damaged, `ChangedError` where
        another folder is in the place of this one."""
        self.folder.check()
        return read_array(self.where(image_id))


def write_array(folder: str | os.PathLike, image_id: str | int, kind: str, array: np.ndarray) -> None:
    """Write an image's array of `kind` into `folder`, whole or not at all."""
    path = os.path.join(folder, f'{image_id}{SUFFIX[kind]}')
    with replacing(path, durable=False) as file:
        if kind == 'att':
            np.savez_compressed(file, feat=array)
        else:
            np.save(file, array)


def read_array(path: str) -> np.ndarray:
    """The array in an `.npy` file, or under the key `feat` of an `.npz` file, as float32.

    Never unpickles.  Raises `DataError`, naming the file, where it is missing, truncated, or holds something else
    than finite numbers.
    """
    if path.endswith('.npz'):
        array = read_npz(path, ('feat',)).get('feat')
        if array is None:
            raise without_features(path)
        return checked(array, path)
    with errors_naming(path), open_regular(path) as file:
        return checked(np.load(file, allow_pickle=False), path)


def without_features(path: str) -> DataError:
    """The error about an `.npz` file without `feat`: the form of another program, or damage."""
    with errors_naming(path), open_regular(path) as file, zipfile.ZipFile(file) as archive:
        names = [name.removesuffix('.npy') for name in archive.namelist()]
    form = foreign.npz_form(names)
    if form:
        return DataError(f'{path} has no array named feat: {foreign.way_in(os.path.dirname(path) or ".", form)}')
    return DataError(f'{path} has no array named feat (it has {", ".join(names[:6]) or "none"}); {again(path)}')


def again(path: str) -> str:
    """What to do about a damaged file, for messages.  Only files that this project wrote may be advised to be
    removed: those in folders with a record of what they were made from."""
    folder = os.path.dirname(path) or '.'
    bases = {folder, re.sub(r'_(att|fc|box|box_vec|box_relative)$', '', folder)}
    if any(os.path.exists(f'{base}_made.json') for base in bases):
        return 'remove it and run the command that made its folder again'
    return 'take another copy of it, or make it again'


def read_npz(path: str, names: Collection[str]) -> dict[str, np.ndarray]:
    """{name: array} of those of the arrays `names` that an `.npz` file has, as it has them; others are not looked at.
    Raises `DataError`, naming the file, where it is missing or damaged."""
    found = {}
    with errors_naming(path), open_regular(path) as file, zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix('.npy')
            if name in names:
                if member.file_size > LARGEST:  # a few megabytes may unpack to gigabytes of zeros
                    raise ValueError(f'{member.file_size} bytes are said to be packed in it')
                found[name] = np.lib.format.read_array(io.BytesIO(archive.read(member)), allow_pickle=False)
    return found


def npz_shapes(path: str) -> dict[str, tuple[int, ...]]:
    """{name: shape} of the arrays of an `.npz` file, from their headers.  Raises `DataError`."""
    shapes = {}
    with errors_naming(path), open_regular(path) as file, zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            with archive.open(name) as member:
                shapes[name.removesuffix('.npy')] = _shape_in_header(member)
    return shapes


def read_shape(path: str) -> tuple[int, ...]:
    """The shape of the array that `read_array` reads, from the header alone.

    Raises `DataError` where there is no valid header; what follows it may still be damaged.
    """
    if not path.endswith('.npz'):
        with errors_naming(path), open_regular(path) as file:
            return _shape_in_header(file)
    with errors_naming(path), open_regular(path) as file, zipfile.ZipFile(file) as archive:
        if 'feat.npy' in archive.namelist():
            with archive.open('feat.npy') as member:
                return _shape_in_header(member)
    raise without_features(path)


def _shape_in_header(file: BinaryIO | Any) -> tuple[int, ...]:
    """The shape in the header of an open `.npy` file."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    return readers[np.lib.format.read_magic(file)](file)[0]


@contextlib.contextmanager
def errors_naming(path: str) -> Iterator[None]:
    """Turn whatever reading a damaged `path` raises into a `DataError` that names it."""
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f'there is no file {path}; put it back, or run the command that made its folder '
                        'again') from None
    except Exception as error:  # a damaged file makes NumPy, zip and zlib raise a dozen kinds of it
        raise DataError(f'{path} cannot be read ({str(error)[:120]}); {again(path)}') from None


def checked(array: Any, where: str) -> np.ndarray:
    """`array` as float32, if it holds finite numbers; else a `DataError` that names `where` it comes from."""
    if not isinstance(array, np.ndarray) or array.dtype.kind not in 'fiu':
        raise DataError(f'{where} does not hold numbers; {again(where)}')
    if array.dtype != np.float32:
        with np.errstate(over='ignore'):  # numbers too large for float32 become infinite and are refused below
            array = np.asarray(array, dtype=np.float32)
    if not np.isfinite(array).all():
        raise DataError(f'{where} holds values that are not finite; {again(where)}')
    return array
