"""In which form of other programs a file or a folder of features is; see misc/dataset/foreign.py."""

import itertools
import os
import re
import zipfile

import numpy as np

from misc.cli import DataError
from misc.dataset.array_files import SUFFIX
from misc.dataset.foreign import BESIDE, hdf5_form, npz_form
from misc.dataset.tsv import TsvFile
from misc.disk import hdf5
from misc.disk.files import open_regular

ENDINGS = ('.npz', '.npy', '.tsv', '.hdf5', '.h5')
LOOKED_AT = 1000   # entries of a folder
SAMPLE = 3         # of its files are opened


def form_of(path: str | os.PathLike, kind: str = 'att') -> str:
    """What a file or a folder holds that is in the form of another program, in a few words; '' where it is in no
    known form, or in the project's own.  `kind`, of the arrays that are wanted, decides about `.npy` files."""
    path = os.fspath(path)
    try:
        if os.path.isdir(path):
            return _form_in_folder(path, kind)
        return _form_of_file(path, kind) if os.path.isfile(path) else ''
    except (OSError, DataError, ValueError, KeyError, zipfile.BadZipFile):   # whoever reads it says what is wrong
        return ''


def ending_of(name: str) -> str:
    """The ending of the name of a file that may hold features, one of `ENDINGS`, else ''; the parts of the archive
    end in .tsv.0 and so on."""
    stem, ending = os.path.splitext(re.sub(r'(\.tsv)\.\d+$', r'\1', name))
    return ending if ending in ENDINGS and not stem.endswith(BESIDE) else ''


def _form_in_folder(path: str, kind: str) -> str:
    if os.path.exists(f'{path.rstrip("/")}_made.json'):   # made by a script of this project
        return ''
    found: dict[str, list[str]] = {}
    entries = list(itertools.islice(os.scandir(path), LOOKED_AT))
    if not any(ending_of(entry.name) for entry in entries):
        entries = [inner for entry in entries if entry.is_dir()
                   for inner in itertools.islice(os.scandir(entry), LOOKED_AT)]
    for entry in entries:
        if ending_of(entry.name) and entry.is_file():
            found.setdefault(ending_of(entry.name), []).append(entry.path)
    for ending in ENDINGS:
        forms = [_form_of_file(path, kind) for path in found.get(ending, ())[:SAMPLE]]
        if forms and all(forms):   # a single odd file does not make the folder another program's
            return forms[0]
    return ''


def _form_of_file(path: str, kind: str) -> str:
    with open_regular(path) as file:
        start = file.read(8)
        if start.startswith(b'PK'):
            with zipfile.ZipFile(file) as archive:
                return npz_form([name.removesuffix('.npy') for name in archive.namelist()])
        if start.startswith(np.lib.format.MAGIC_PREFIX):
            file.seek(0)
            shape: tuple[int, ...] = np.load(file, allow_pickle=False).shape if kind == 'att' else ()
            return 'region features in .npy files' if len(shape) in (2, 3) and shape[-1] > 4 else ''
    if start == b'\x89HDF\r\n\x1a\n':
        with hdf5.reading(path, path, '') as packed:
            is_packed = 'ids' in packed and any(f'{one}/rows' in packed for one in SUFFIX)
            return '' if is_packed else hdf5_form(packed)
    layout = TsvFile(path).layout
    return f'{layout.name}' if layout else ''
