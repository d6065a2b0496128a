"""Which column of a table holds the picture, the captions, the split, the id."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from misc.cli import UsageError
from misc.dataset.splits import split_named
from misc.prepare.captions.ids import whole_number

PICTURE = re.compile(r'.*\.(jpe?g|jpe|jfif|png|gif|bmp|webp|tiff?|avif|jp2|ppm|pgm|pnm)(#\d+)?\s*', re.IGNORECASE)
# Recognised names, without case, spaces, _ and -; the first that is there counts, where more than one is allowed.
IMAGE = ('image', 'img', 'picture', 'photo', 'file', 'filename', 'filepath', 'path', 'imagename', 'imagefile',
         'imagefilename', 'imagepath', 'imgname', 'imgfile', 'imgpath', 'imgs', 'images')
SPLIT = ('split', 'subset', 'partition', 'set', 'datasplit')
ID = ('cocoid', 'imageid', 'imgid', 'pictureid', 'photoid', 'id')
# caption, caption_1 ... caption_5
CAPTION = re.compile(r'(caption|sentence|text|description|comment|raw|report)s?\d*')
NONE = 'none'   # the value of a flag that ignores a recognised column
FORMS = 'image, file, filename or path; caption, sentence or text (or caption_1, caption_2 ...); split; id'


@dataclass(frozen=True)
class Asked:
    """The columns that the user names; None, or empty, where they are to be recognised."""

    image: str | None = None
    captions: Sequence[str] = ()
    split: str | None = None
    id: str | None = None


@dataclass(frozen=True)
class Columns:
    """The columns to read; None for what a table has not."""

    image: str
    captions: list[str] = field(default_factory=list)
    split: str | None = None
    id: str | None = None

    def __str__(self) -> str:
        parts = [f'pictures from column {self.image!r}', f'captions from {", ".join(map(repr, self.captions))}']
        parts += [f'{what} from {name!r}' for what, name in (('splits', self.split), ('ids', self.id)) if name]
        return ', '.join(parts)


def is_picture(cell: str) -> bool:
    """Whether a cell looks like the file name of a picture, also with Flickr's number of the caption (a.jpg#0)."""
    return bool(PICTURE.fullmatch(cell))


def is_header(cells: Sequence[str]) -> bool:
    """Whether cells are names of columns: one of captions and one of pictures or ids."""
    names = [_plain(cell) for cell in cells]
    return any(name in IMAGE or name in ID for name in names) and any(map(CAPTION.fullmatch, names))


def choose_columns(columns: Sequence[str], named: bool, rows: Sequence[Mapping[str, Any]], asked: Asked) -> Columns:
    """The columns to read.

    columns: their names, numbers from '1' where no header names them (`named` False); rows: some of the table.
    Raises `UsageError` where a column cannot be told.
    """
    split = None if asked.split == NONE else _asked(asked.split, columns, 'split') or _first(SPLIT, columns, named)
    image_id = None if asked.id == NONE else _asked(asked.id, columns, 'id') or _first(ID, columns, named)
    image = _asked(asked.image, columns, 'image') or _image_column(columns, named, rows) or image_id
    if image is None:
        raise UsageError(f'no column is known to hold the picture; the columns are {_shown(columns)}.  Name it with '
                         f'--image_column, or give the columns names that are known: {FORMS}')
    if not named and split is None and asked.split != NONE:
        split = next((column for column in columns if column != image and _all(rows, column, split_named)), None)
    captions = [name for column in asked.captions if (name := _asked(column, columns, 'caption'))]
    captions = captions or _caption_columns(columns, named, rows, {image, split, image_id})
    if not captions:
        raise UsageError(f'no column is known to hold captions; the columns are {_shown(columns)}.  Name one or more '
                         f'with --caption_column, or give the columns names that are known: {FORMS}')
    return Columns(image, captions, split, image_id)


def one_caption_last(columns: Sequence[str]) -> bool:
    """Whether the last column holds captions, and no other does."""
    return [bool(CAPTION.fullmatch(_plain(column))) for column in columns] == [False] * (len(columns) - 1) + [True]


def _plain(name: str) -> str:
    return re.sub(r'[\s_-]+', '', name).lower()


def _asked(name: str | None, columns: Sequence[str], what: str) -> str | None:
    """The column that the user names: by name, in any case, or by its number from 1."""
    if name is None:
        return None
    if name in columns:
        return name
    alike = [column for column in columns if _plain(column) == _plain(name)]
    if len(alike) == 1:
        return alike[0]
    number = whole_number(name)
    if number is not None and 1 <= number <= len(columns):
        return columns[number - 1]
    raise UsageError(f'--{what}_column {name}: there is no such column; the columns are {_shown(columns)}')


def _first(known: Sequence[str], columns: Sequence[str], named: bool) -> str | None:
    by_name = {_plain(column): column for column in reversed(columns)} if named else {}
    return next((by_name[name] for name in known if name in by_name), None)


def _image_column(columns: Sequence[str], named: bool, rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The column known by its name, else the first whose values are file names of pictures."""
    known = [column for column in columns if _plain(column) in IMAGE] if named else []
    if len(known) > 1:
        whole = [column for column in known if _all(rows, column, is_picture)]
        if len(whole) != 1:
            raise UsageError(f'more than one column may hold the picture: {_shown(known)}; choose one with '
                             '--image_column')
        return whole[0]
    pictures = known or [column for column in columns if _all(rows, column, is_picture)]
    # The address that a picture was downloaded from seldom is the name of its file.
    return next((column for column in pictures if not _all(rows, column, lambda cell: '://' in cell)),
                next(iter(pictures), None))


def _caption_columns(columns: Sequence[str], named: bool, rows: Sequence[Mapping[str, Any]],
                     others: set[str | None]) -> list[str]:
    """The columns known by their names; without names all with text that are not the `others`."""
    if not named:
        return [column for column in columns if column not in others
                and not _all(rows, column, lambda cell: not cell or whole_number(cell) is not None)]
    stems: dict[str, list[str]] = {}
    for column in columns:
        match = CAPTION.fullmatch(_plain(column))
        if match and column not in others:
            stems.setdefault(match[1], []).append(column)
    if len(stems) > 1:
        raise UsageError(f'more than one column may hold captions: {_shown(sum(stems.values(), []))}; choose one or '
                         'more with --caption_column')
    return next(iter(stems.values()), [])


def _all(rows: Sequence[Mapping[str, Any]], column: str, holds: Callable[[str], Any]) -> bool:
    """Whether a function holds for the text of every row in a column."""
    return bool(rows) and all(isinstance(row.get(column), str) and holds(row[column]) for row in rows)


def _shown(columns: Sequence[str]) -> str:
    return ', '.join(repr(column[:40]) for column in columns[:20])
