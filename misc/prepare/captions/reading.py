"""Text and JSON files of any origin."""

import codecs
import json
import re
from decimal import Decimal, InvalidOperation
from typing import Any

from misc.cli import DataError, UsageError
from misc.disk.files import FOREIGN, open_regular

# UTF-32 first: its little-endian mark begins with that of UTF-16.
MARKS = {codecs.BOM_UTF8: 'utf-8-sig', codecs.BOM_UTF32_LE: 'utf-32', codecs.BOM_UTF32_BE: 'utf-32',
         codecs.BOM_UTF16_LE: 'utf-16', codecs.BOM_UTF16_BE: 'utf-16'}


def read_text(path: str, encoding: str = 'utf-8') -> str:
    """The text of a file.  A byte order mark decides the encoding and is left out.  Raises `DataError`."""
    try:
        with open_regular(path) as file:
            content = file.read()
    except FileNotFoundError:
        raise DataError(f'there is no file {path}') from None
    except IsADirectoryError:
        raise DataError(f'{path} is a folder, not a file') from None
    for start, meaning in FOREIGN.items():
        if content.startswith(start):
            raise DataError(f'{path} is {meaning}')
    encoding = next((marked for mark, marked in MARKS.items() if content.startswith(mark)), encoding)
    try:
        return content.decode(encoding)
    except LookupError:
        raise UsageError(f'--encoding: Python knows no encoding {encoding!r}; some are utf-8, cp1252, '
                         'gb18030') from None
    except UnicodeDecodeError as error:
        line = content[:error.start].count(b'\n') + 1
        raise DataError(f'{path}, line {line}: not text in {encoding}; name its encoding, such as --encoding cp1252 '
                        '(Windows, Western Europe) or gb18030 (Chinese)') from None


def lines_of(text: str) -> list[str]:
    """The lines of a text.  Unlike `str.splitlines`, only the ends of lines of files count, as captions may hold any
    other separator of Unicode."""
    return re.split('\r\n|\n|\r', text)


def load_json(text: str) -> Any:
    """The value of a JSON text; numbers with a point are `Decimal`, so that ids keep all digits.

    Raises `ValueError`, also for what Python cannot hold: too deep a nesting, a number of too many digits.
    """
    try:
        return json.loads(text, parse_float=Decimal)
    except RecursionError:
        raise ValueError('it is nested too deeply') from None
    except InvalidOperation:
        raise ValueError('it holds a number beyond all bounds') from None


def parse_json(text: str, path: str) -> Any:
    """`load_json`, with a `DataError` that names `path`."""
    try:
        return load_json(text)
    except ValueError as error:
        raise DataError(f'{path} is not valid JSON: {error}') from None
