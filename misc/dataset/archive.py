"""Where the files of the bottom-up-attention archive are."""

import glob
import os
import re

from misc.cli import DataError


def find_archive(folder: str) -> list[str]:
    """The paths of the TSV files in `folder`, its `trainval/` or its `trainval_36/`, the first that has any.

    Raises `DataError`.
    """
    for place in (folder, os.path.join(folder, 'trainval'), os.path.join(folder, 'trainval_36')):
        paths = sorted(path for path in glob.glob(os.path.join(glob.escape(place), '*.tsv*'))
                       if re.search(r'\.tsv(\.\d+)?$', path) and os.path.isfile(path))
        if paths:
            return paths
    raise DataError(f'--downloaded_feats: there is no .tsv file in {folder}, its trainval/ or trainval_36/;\n'
                    f'unpack the bottom-up-attention archive there, so that it holds trainval/')
