"""Rows of a table -> pictures."""

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

from misc.prepare.captions.columns import Columns
from misc.prepare.captions.finding import clean
from misc.prepare.captions.pictures import Caption, LeftOut, Picture
from misc.prepare.captions.tables import Table

NUMBERED = re.compile(r'(.+\.\w+)#\d+')   # Flickr's NAME#0
TEXTS = ('raw', 'caption', 'sentence', 'text')   # what an object for a caption may call its text


def read_table(table: Table, columns: Columns, left_out: LeftOut) -> list[Picture]:
    """A picture for each row that names one and has a caption; rows of the same picture are not merged yet."""
    pictures = []
    for row in table.rows:
        name = _text(row.values.get(columns.image))
        if not name:
            left_out.add('rows without a picture', row.place)
            continue
        captions = [caption for column in columns.captions
                    for caption in _captions(row.values.get(column), row.place, left_out)]
        if not captions:
            left_out.add('rows without a caption', f'{row.place} ({name})')
            continue
        numbered = NUMBERED.fullmatch(name)
        pictures.append(Picture(
            clean(numbered[1] if numbered else name), captions,
            _text(row.values.get(columns.split)) or None if columns.split else None,
            row.values.get(columns.id) if columns.id else None))
    return pictures


def _text(value: Any) -> str:
    """A value, perhaps alone in a list, as text; '' for what is neither text nor a whole number."""
    value = value[0] if isinstance(value, list) and len(value) == 1 else value
    return value.strip() if isinstance(value, str) else str(value) if type(value) is int else ''


def _captions(value: Any, place: str, left_out: LeftOut) -> list[Caption]:
    """The captions in a cell: a text, or a list of texts, of objects with a text, or of lists of words."""
    if isinstance(value, str):
        value = _listed(value)
    captions = []
    for item in value if isinstance(value, list) else [value]:
        caption = _caption(item)
        if caption is None:
            left_out.add('captions that are not text', f'{place}: {item!r}', broken=True)
        elif caption.raw:
            captions.append(caption)
    return captions


def _listed(cell: str) -> Any:
    """The list that a cell holds as JSON or as Python prints it ('["a dog", "a cat"]'), else the text."""
    cell = cell.strip()
    if cell.startswith('[') and cell.endswith(']'):
        for parse in (json.loads, ast.literal_eval):
            try:
                items = parse(cell)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
            if isinstance(items, list) and all(isinstance(item, str) for item in items):
                return items
    return cell


def _caption(item: Any) -> Caption | None:
    """One caption; an empty one for None, and None for what is no caption."""
    if item is None:
        return Caption('')
    if isinstance(item, str):
        return Caption(item.strip())
    if _are_words(item):
        return Caption(' '.join(item), item)
    if isinstance(item, Mapping):
        words = item.get('tokens')
        tokens = words if _are_words(words) else None
        raw = next((item[key] for key in TEXTS if isinstance(item.get(key), str)), None)
        if raw is not None or tokens:
            return Caption((raw or ' '.join(tokens or ())).strip(), tokens)
    return None


def _are_words(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(word, str) for word in value)
