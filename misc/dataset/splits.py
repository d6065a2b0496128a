"""The names of splits: train, restval, val and test, and what others call them."""

import re
from collections.abc import Mapping
from typing import Any

SPLITS = ('train', 'restval', 'val', 'test')
TRAINING = ('train', 'restval')   # those that are trained on
NAMES = {'train': 'train', 'training': 'train', 'restval': 'restval',
         'val': 'val', 'valid': 'val', 'validation': 'val', 'dev': 'val', 'development': 'val',
         'test': 'test', 'testing': 'test'}
YEAR = re.compile(r'[ _-]?20\d\d$')


def joined(content: Any) -> Any:
    """One list of all records of a value {split: [records]}, each with its `split`; any other value as it is."""
    if not isinstance(content, dict) or not content or not all(
            split_named(name) and isinstance(records, list) for name, records in content.items()):
        return content
    return [{'split': name, **record} if isinstance(record, dict) else record
            for name, records in content.items() for record in records]


def split_named(name: str, renamed: Mapping[str, str] | None = None) -> str | None:
    """The split that `name` stands for ('Validation', 'dev' and 'val2014' are val), or None for an unknown name.

    renamed: {name: split}, for names that the user explains.
    """
    if renamed and name in renamed:
        return renamed[name]
    return NAMES.get(YEAR.sub('', name.strip().lower()))
