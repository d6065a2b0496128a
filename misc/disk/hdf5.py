"""Reading HDF5 files that may be damaged or malicious."""

import contextlib
import math
import os
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from misc.cli import DataError, UserError
from misc.disk.files import check_regular

MAX_COMPRESSION = 1032  # the ratio that deflate reaches on zeros
LARGEST = 1 << 30       # bytes that may be unpacked at once, where the file has fewer: an array, or a chunk of one
MAX_ATTRIBUTE = 1000    # bytes


@contextlib.contextmanager
def reading(path: str, description: str, way_out: str) -> Iterator[h5py.File]:
    """The open HDF5 file `path`.

    Whatever is raised while it is open becomes a `DataError`: '`description` (reason); `way_out`'.
    """
    try:
        with open_file(path) as file:
            yield file
    except UserError:
        raise
    except Exception as error:  # on a damaged file h5py raises a dozen kinds of exception
        reason = (str(error).splitlines() or [''])[0][:150] or type(error).__name__
        raise DataError(f'{description} ({reason}); {way_out}') from None


def open_file(path: str) -> h5py.File:
    """The HDF5 file `path`, for a process that keeps it open."""
    check_regular(os.stat(path), path)
    return h5py.File(path, 'r')


def dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """The data set `name` of numbers stored in `file` itself.

    Raises `ValueError` for anything else: links into other files at any step of the name, other types, and sizes that
    the file cannot hold.
    """
    found: Any = file
    for step in name.split('/'):
        link = found.get(step, getlink=True) if isinstance(found, h5py.Group) else None
        if link is None:
            raise ValueError(f'it has no data set {name}')
        if not isinstance(link, h5py.HardLink):
            raise ValueError(f'{name} is in another file')
        found = found[step]
    if not isinstance(found, h5py.Dataset):
        raise ValueError(f'it has no data set {name}')
    if found.external or found.is_virtual:
        raise ValueError(f'{name} is in another file')
    if found.dtype.kind not in 'fiub' or found.shape is None:
        raise ValueError(f'{name} does not hold numbers')
    if found.nbytes > MAX_COMPRESSION * os.path.getsize(file.filename):
        raise ValueError(f'{name} claims {found.nbytes} bytes, more than a file of this size can hold')
    if found.chunks and math.prod(found.chunks) * found.dtype.itemsize > LARGEST:
        raise ValueError(f'{name} has chunks of more than {LARGEST} bytes')
    return found


def member(file: h5py.File, name: str) -> h5py.Group | h5py.Dataset | None:
    """The group or data set `name` of the file itself; None for links into other files, and anything else."""
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        return None
    found = file[name]
    return found if isinstance(found, (h5py.Group, h5py.Dataset)) else None


def array(file: h5py.File, name: str, kinds: str = 'fiub', axes: int | None = None) -> np.ndarray:
    """The numbers of a data set.

    Raises `ValueError` where its type is not one of NumPy's `kinds`, or it does not have `axes` dimensions.
    """
    found = dataset(file, name)
    if found.dtype.kind not in kinds or axes not in (None, found.ndim):
        raise ValueError(f'{name} is {found.dtype} of shape {found.shape}')
    if found.nbytes > max(LARGEST, os.path.getsize(file.filename)):
        raise ValueError(f'{name} would unpack to {found.nbytes} bytes')
    return np.asarray(found[()])


def text_attribute(file: h5py.File, name: str) -> str | None:
    """The text of an attribute of the file, None where it has none of that name, or of another kind or length."""
    if name not in file.attrs:
        return None
    found = h5py.h5a.open(file.id, name.encode())
    is_text = h5py.check_string_dtype(found.dtype) is not None and found.shape == ()
    if not is_text or found.get_storage_size() > MAX_ATTRIBUTE:
        return None
    value = file.attrs[name]
    value = value.decode('utf-8', 'replace') if isinstance(value, bytes) else value
    return value if isinstance(value, str) and len(value) <= MAX_ATTRIBUTE else None
