"""Features in the forms of other programs: the names of their arrays, and the command that imports them.

scripts/import_features.py reads these forms (misc/prepare/features); here, and in misc/dataset/forms.py, they are
only recognised, so that whoever meets one where the project's own form is due can name it.
"""

import itertools
import os
import re
import shlex
from collections.abc import Collection, Iterable
from typing import Any

from misc import commands
from misc.disk import hdf5

# Names of arrays in an `.npz` file, or of data sets in an HDF5 file, in the order of preference.
FEATURES = ('x', 'features', 'feature', 'feat', 'feats', 'image_features', 'grids')
BOXES = ('bbox', 'boxes', 'bboxes', 'box', 'image_bb')
COUNTS = ('num_bbox', 'num_boxes')
WIDTHS, HEIGHTS = (tuple(f'{start}{name}' for start in ('image_', 'img_', '') for name in names)
                   for names in (('w', 'width'), ('h', 'height')))
IDS = ('image_id', 'image_ids', 'img_id', 'ids')
FLAT = re.compile(r'(.+)_(' + '|'.join(FEATURES) + ')')   # M2's ID_features
BESIDE = ('_info', '_boxes', '_bbox')   # how files of an image end that hold no features
LOOKED_AT = 1000   # names in a file


def first_of(names: Iterable[str], there: Collection[str]) -> str | None:
    """The first of `names` that is in `there`."""
    return next((name for name in names if name in there), None)


def way_in(path: str | os.PathLike, form: str) -> str:
    """The message about a file or folder in the `form` of another program: the command that imports it."""
    return f'{os.fspath(path)} holds {form}; import them with:\n{import_command(path)}'


def import_command(path: str | os.PathLike) -> str:
    """The command that imports a file or folder."""
    return commands.IMPORT.format(path=shlex.quote(os.fspath(path)))


def npz_form(names: Collection[str]) -> str:
    """The form of an `.npz` file with arrays of these names, or ''."""
    found = first_of(FEATURES, names)
    if found is None or found == 'feat' and not first_of(BOXES, names):
        return ''
    if found == 'x':
        return ('features as bottom-up-attention.pytorch and py-bottom-up-attention write them '
                f'(.npz files with {", ".join(sorted(names)[:6])})')
    return f'features of another program (.npz files with {", ".join(sorted(names)[:6])})'


def hdf5_form(file: Any) -> str:
    """The form of an open HDF5 file that is not packed, or ''."""
    names = list(itertools.islice(file, LOOKED_AT))
    if first_of(IDS, names) and first_of(FEATURES, names):
        return f'features in one table for all images (HDF5 with {", ".join(sorted(names)[:6])})'
    flat = next(filter(FLAT.fullmatch, names), None)
    if flat:
        return f"features as M2's and DLCT's files have them (HDF5 with ID_features and ID_boxes, such as {flat})"
    first = next(iter(names), None)
    if first is not None and _inner(file, first):
        return f'features of another program (HDF5 with {_inner(file, first)})'
    return ''


def _inner(file: Any, name: str) -> str:
    """The data set of features of the image `name`, ID or ID/features; '' where there is none."""
    inner = [f'{name}/{one}' for one in FEATURES if f'{name}/{one}' in file]
    for place in (name, *inner):
        try:
            if hdf5.dataset(file, place).ndim in (2, 3) and (inner or name.rpartition('_')[2].isdigit()):
                return place
        except ValueError:
            continue
    return ''
