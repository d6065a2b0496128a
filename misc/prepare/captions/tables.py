"""Text of CSV, TSV, JSON lines and JSON -> rows: {column: value}, with their places for messages."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from misc.cli import DataError
from misc.dataset.splits import joined
from misc.prepare.captions.columns import is_header, is_picture, one_caption_last
from misc.prepare.captions.pictures import LeftOut
from misc.prepare.captions.reading import lines_of, load_json

DELIMITERS = ',\t;|'
LOOKED_AT = 50   # rows that decide about the delimiter


@dataclass(frozen=True)
class Row:
    """A row of a table: its place ('line 12'), and its values by the names of their columns."""

    place: str
    values: dict[str, Any]


@dataclass(frozen=True)
class Table:
    """The rows of a table, the names of its columns in their order, and whether a header named them.

    Without a header the columns are '1', '2', ...
    """

    rows: list[Row]
    columns: list[str]
    named: bool = True


def parse_table(text: str, header: bool | None, left_out: LeftOut) -> Table:
    """The rows of a text in any of the forms.

    header: whether the first row of a CSV or TSV file names its columns; None finds out.  Rows that are damaged go
    to `left_out`.  Raises `DataError` where there are no rows.
    """
    if text.lstrip()[:1] in ('{', '['):
        rows = _json_rows(text, left_out)
        columns = list(dict.fromkeys(name for row in rows for name in row.values))
        table = Table(rows, columns)
    else:
        table = _delimited(text, header, left_out)
    if not table.rows:
        raise DataError('it has no rows')
    return table


# ---- JSON ----

def _json_rows(text: str, left_out: LeftOut) -> list[Row]:
    """Rows of JSON lines, of a list of objects (in `images`, in a split file of Karpathy's), of {split: such a list},
    or of one object {file name: caption or captions}."""
    try:
        content = load_json(text)
    except ValueError:
        return _json_lines(text, left_out)
    content = joined(content)
    if isinstance(content, dict) and isinstance(content.get('images'), list):
        if 'annotations' in content:
            raise DataError("it is an annotation file of COCO's form: give it with --coco_json")
        content = [_whole_path(image) for image in content['images']]
    if isinstance(content, dict) and not (len(content) > 1 and is_header(list(content))):
        return [Row(name, {'image': name, 'caption': captions}) for name, captions in content.items()]
    rows = []
    for number, record in enumerate(content if isinstance(content, list) else [content]):
        if isinstance(record, dict):
            rows.append(Row(f'record {number}', record))
        else:
            left_out.add('records that are not objects', f'record {number}', broken=True)
    return rows


def _whole_path(image: Any) -> Any:
    """An image of a split file of Karpathy's, with `filepath/filename` as its `filename`."""
    if not isinstance(image, dict) or not isinstance(image.get('filename'), str):
        return image
    folder = image.get('filepath')
    path = f'{folder}/{image["filename"]}' if isinstance(folder, str) and folder else image['filename']
    return {key: value for key, value in image.items() if key != 'filepath'} | {'filename': path}


def _json_lines(text: str, left_out: LeftOut) -> list[Row]:
    rows = []
    for number, line in enumerate(lines_of(text), 1):
        if not line.strip():
            continue
        try:
            record = load_json(line)
        except ValueError:
            record = None
        if isinstance(record, dict):
            rows.append(Row(f'line {number}', record))
        else:
            left_out.add('lines that are not JSON objects', f'line {number}: {line[:40]!r}', broken=True)
    return rows


# ---- CSV and TSV ----

Cells = tuple[int, list[str]]   # the line on which a row ends, and its cells


def _delimited(text: str, header: bool | None, left_out: LeftOut) -> Table:
    """The rows of a CSV or TSV text, whose delimiter is found out."""
    delimiter = max(DELIMITERS, key=lambda one: _fitness(text, one))
    lines = _cells(text, delimiter, left_out)
    if not lines:
        return Table([], [])
    first = lines[0][1]
    if header is None:
        header = is_header(first) or not any(map(is_picture, first))
    if header:
        columns = [cell.strip() or str(number) for number, cell in enumerate(first, 1)]
        if len(set(columns)) < len(columns):
            raise DataError(f'two columns have the same name: {", ".join(columns)}; rename one')
        lines, joined = lines[1:], one_caption_last(columns)
    else:
        width, joined = _width(lines)
        columns = [str(number) for number in range(1, width + 1)]
    rows = []
    for line, cells in lines:
        values = _fitted(cells, len(columns), delimiter if joined else None)
        if values is None:
            left_out.add(f'rows of more than {len(columns)} cells', f'line {line}', broken=True)
        else:
            rows.append(Row(f'line {line}', dict(zip(columns, values))))
    return Table(rows, columns, header)


def _fitness(text: str, delimiter: str) -> tuple[bool, int, int]:
    """How well a delimiter divides the first rows: whether they begin with a header; how many have a picture in a
    cell of its own; into how many cells it divides the first."""
    lines = [next(csv.reader([line], delimiter=delimiter), []) for line in lines_of(text[:100_000])[:LOOKED_AT]]
    lines = [cells for cells in lines if any(cells)]
    return (bool(lines) and is_header(lines[0]),
            sum(any(map(is_picture, cells)) for cells in lines if len(cells) > 1), len(lines[0]) if lines else 0)


def _cells(text: str, delimiter: str, left_out: LeftOut) -> list[Cells]:
    """The rows of the text that are not empty.

    Where quotes do not follow the rules of CSV, as in a caption that begins with a quoted word, each line is read by
    itself, lest a lone quote swallow the lines after it.
    """
    csv.field_size_limit(2 ** 31 - 1)
    try:
        reader = csv.reader(io.StringIO(text, newline=''), delimiter=delimiter, strict=True)
        return [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error:
        pass
    rows = []
    for number, line in enumerate(lines_of(text), 1):
        cells = line.split('\t') if delimiter == '\t' else next(csv.reader([line], delimiter=delimiter), [])
        if any(cell.strip() for cell in cells):
            rows.append((number, cells))
    return rows


def _width(lines: Sequence[Cells]) -> tuple[int, bool]:
    """(the number of columns without a header, whether further cells are parts of the last).

    Rows of different lengths are either captions with unquoted commas, after which there is a space, or pictures
    with different numbers of captions.
    """
    shortest, longest = (choose(len(cells) for _, cells in lines) for choose in (min, max))
    surplus = [cell for _, cells in lines for cell in cells[max(2, shortest):]]
    joined = bool(surplus) and all(cell.startswith(' ') for cell in surplus)
    return (max(2, shortest) if joined else longest), joined


def _fitted(cells: list[str], width: int, glue: str | None) -> list[str] | None:
    """At most `width` cells: with `glue`, those from the last on are joined by it, as it stands in an unquoted
    caption.  None where that cannot be."""
    while len(cells) > width and not cells[-1].strip():
        cells = cells[:-1]
    if len(cells) > width:
        return None if glue is None else [*cells[:width - 1], glue.join(cells[width - 1:])]
    return cells
