"""Per-image arrays on disk: a folder with one file per image, or one packed HDF5 file.

Kinds, by the data chain's names:

====  =======  ==========  =================================================================
kind  folder   file        content
====  =======  ==========  =================================================================
att   `*_att`  `ID.npz`    key `feat`, float32 (regions, D) or (h, w, D)
fc    `*_fc`   `ID.npy`    float32 (D,)
box   `*_box`  `ID.npy`    float32 (regions, 4), x1 y1 x2 y2 in pixels, or relative to the image
grid  `*_vec`  `ID.npy`    float32 (regions, g*g)
====  =======  ==========  =================================================================

A packed file holds any of the kinds for many images: the data set `ids` (int64, N), and for each
kind a group of that name with `offsets` (int64, N + 1) and `rows` (all images' rows, one after the
other): image i of `ids` owns `rows[offsets[i]:offsets[i + 1]]`.
"""

import os

import h5py
import numpy as np

from misc.cli import DataError
from misc.files import replacing

SUFFIX = {'att': '.npz', 'fc': '.npy', 'box': '.npy', 'grid': '.npy'}


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
    again = 'remove it and run the command that made its folder again'
    try:
        array = np.load(path, allow_pickle=False)
        if not isinstance(array, np.ndarray):
            with array as archive:
                array = archive['feat'] if 'feat' in archive.files else None
    except FileNotFoundError:
        raise DataError(f'there is no file {path}') from None
    except Exception as error:  # a damaged file makes NumPy, zip and zlib raise a dozen kinds of it
        raise DataError(f'{path} cannot be read ({str(error)[:120]}); {again}') from None
    if array is None:
        raise DataError(f'{path} has no array named feat; {again}')
    return checked(array, path)


def checked(array, path):
    """`array` as float32, if it holds finite numbers; else a `DataError` naming `path`."""
    if not isinstance(array, np.ndarray) or array.dtype.kind not in 'fiu':
        raise DataError(f'{path} does not hold numbers; remove it and make it again')
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
    raise DataError(f'--{flag}: there is no folder or packed file {path}'
                    + (f'; make it with:\n{made_by}' if made_by else ''))


def open_boxes(path, flag):
    """The boxes at `path`, as `open_source` opens them.  Raises `DataError` where there are none."""
    made_by = 'python scripts/make_bu_data.py --output_dir data/cocobu'
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

    def read(self, image_id):
        """float32 array of one image."""
        return read_array(self.where(image_id))


class Packed:
    """One HDF5 file for all images.  Opened anew in each process: HDF5 handles do not survive a fork."""

    def __init__(self, path, kind, flag):
        self.path, self.kind = path, kind
        again = 'pack it again, or give the folder of arrays'
        try:
            with h5py.File(path, 'r') as file:
                if 'ids' not in file or kind not in file:
                    raise DataError(f'--{flag}: {path} holds no packed arrays of kind {kind}; {again}')
                ids, offsets = file['ids'][:].tolist(), file[f'{kind}/offsets'][:].tolist()
                if len(offsets) != len(ids) + 1 or offsets[-1] != len(file[f'{kind}/rows']):
                    raise DataError(f'--{flag}: {path} lacks rows of its {len(ids)} images; {again}')
            self.spans = {str(image_id): span for image_id, span in zip(ids, zip(offsets, offsets[1:]))}
        except (OSError, LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise DataError(f'--{flag}: {path} is not a packed HDF5 file ({error}); {again}') from None
        self.rows, self.process = None, None

    def __getstate__(self):
        """Without the open file, which cannot go to another process."""
        return {**self.__dict__, 'rows': None, 'process': None}

    def ids(self):
        """The ids (as strings) in the file."""
        return set(self.spans)

    def where(self, image_id):
        """Where an image's array lies, for messages."""
        return f'{self.path} ({self.kind} of {image_id})'

    def read(self, image_id):
        """float32 array of one image."""
        try:
            if self.process != os.getpid():
                self.rows, self.process = h5py.File(self.path, 'r')[f'{self.kind}/rows'], os.getpid()
            start, end = self.spans[str(image_id)]
            rows = self.rows[start:end]
        except (LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
            raise DataError(f'{self.where(image_id)} cannot be read ({error}); pack it again') from None
        return checked(rows[0] if self.kind == 'fc' else rows, self.where(image_id))


def write_packed(path, arrays):
    """Write a packed file: `arrays` is {kind: {id: array}}, every kind with the same ids."""
    ids = sorted(next(iter(arrays.values())), key=int)
    with replacing(path) as file, h5py.File(file, 'w') as packed:
        packed['ids'] = np.array([int(image_id) for image_id in ids], dtype=np.int64)
        for kind, by_id in arrays.items():
            rows = [by_id[image_id].reshape(-1, by_id[image_id].shape[-1]) for image_id in ids]
            packed[f'{kind}/offsets'] = np.cumsum([0] + [len(block) for block in rows], dtype=np.int64)
            packed[f'{kind}/rows'] = np.concatenate(rows)
