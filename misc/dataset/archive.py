"""The bottom-up-attention archive: where its TSV files are.  misc/dataset/tsv.py reads them."""

import glob
import os
import re

from misc.cli import DataError
from misc.dataset.foreign import way_in
from misc.dataset.forms import form_of
from misc.dataset.tsv import TsvFile


def find_archive(folder: str) -> list[str]:
    """The paths of the TSV files in `folder`, its `trainval/` or its `trainval_36/`, the first that has any; `folder`
    may also be a TSV file itself.

    Raises `DataError` where there are none.
    """
    if os.path.isfile(folder) and TsvFile(folder).layout:
        return [folder]
    for place in (folder, os.path.join(folder, 'trainval'), os.path.join(folder, 'trainval_36')):
        paths = sorted(path for path in glob.glob(os.path.join(glob.escape(place), '*.tsv*'))
                       if re.search(r'\.tsv(\.\d+)?$', path) and os.path.isfile(path))
        if paths:
            return paths
    form = form_of(folder)
    if form:
        raise DataError(f'--downloaded_feats: {way_in(folder, form)}')
    raise DataError(f'--downloaded_feats: there is no .tsv file in {folder}, its trainval/ or trainval_36/;\n'
                    f'unpack the bottom-up-attention archive there, so that it holds trainval/')


def archive_files(paths: list[str]) -> list[TsvFile]:
    """The TSV files `paths`, whose records have all that the archive's have.  Raises `DataError` for others."""
    files = list(map(TsvFile, paths))
    for file in files:
        if file.layout and not file.layout.is_archive:
            raise DataError(f'--downloaded_feats: {way_in(file.path, file.layout.name)}')
    return files
