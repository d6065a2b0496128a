"""The names of splits: train, restval, val and test, and what others call them."""

import re
from collections.abc import Mapping

SPLITS = ('train', 'restval', 'val', 'test')
NAMES = {'train': 'train', 'training': 'train', 'restval': 'restval',
         'val': 'val', 'valid': 'val', 'validation': 'val', 'dev': 'val', 'development': 'val',
         'test': 'test', 'testing': 'test'}
YEAR = re.compile(r'[ _-]?20\d\d$')


def split_named(name: str, renamed: Mapping[str, str] | None = None) -> str | None:
    """The split that `name` stands for ('Validation', 'dev' and 'val2014' are val), or None for an unknown name.

    renamed: {name: split}, for names that the user explains.
    """
    if renamed and name in renamed:
        return renamed[name]
    return NAMES.get(YEAR.sub('', name.strip().lower()))
