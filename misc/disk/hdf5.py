"""Reading HDF5 files that may be damaged, or a stranger's."""

import contextlib
import os

import h5py
import numpy as np

from misc.cli import DataError

TIGHTEST = 1032  # times that the best packing makes zeros smaller


@contextlib.contextmanager
def reading(path, said, way_out):
    """The HDF5 file `path`, open.  Whatever reading it raises is a `DataError`: what is `said` of the file, the
    reason, and the `way_out`."""
    try:
        with open_file(path) as file:
            yield file
    except DataError:
        raise
    except Exception as error:  # a damaged file makes h5py raise a dozen kinds of it
        reason = (str(error).splitlines() or [''])[0][:150] or type(error).__name__
        raise DataError(f'{said} ({reason}); {way_out}') from None


def open_file(path):
    """The HDF5 file `path`, for a process that keeps it open."""
    return h5py.File(path, 'r')


def dataset(file, name):
    """The data set `name`, one of numbers that lie in `file` itself; raises `ValueError` for any other."""
    link = file.get(name, getlink=True) if name in file else None
    if link is None or not isinstance(file[name], h5py.Dataset):
        raise ValueError(f'it has no data set {name}')
    found = file[name]
    if not isinstance(link, h5py.HardLink) or found.external or found.is_virtual:
        raise ValueError(f'{name} is in another file')
    if found.dtype.kind not in 'fiub' or found.shape is None:
        raise ValueError(f'{name} does not hold numbers')
    if found.nbytes > TIGHTEST * os.path.getsize(file.filename):
        raise ValueError(f'{name} is said to have {found.nbytes} bytes, more than such a file can hold')
    return found


def array(file, name, kinds='fiub', axes=None):
    """The numbers of a data set: of NumPy's `kinds`, with so many axes where that is said."""
    found = dataset(file, name)
    if found.dtype.kind not in kinds or axes not in (None, found.ndim):
        raise ValueError(f'{name} is {found.dtype} of shape {found.shape}')
    return np.asarray(found[()])
