"""Whole numbers in files: ids of images, which programs write as 391895, 391895.0 or '391895'.

Nothing passes through a float, which would change numbers above 2^53.
"""

import re
from decimal import Decimal, InvalidOperation
from typing import Any

DIGITS = 40    # of a whole number at most, so that '1e999999999' is not written out
WHOLE = re.compile(rf'(-?[0-9]{{1,{DIGITS}}})(?:\.0*)?')


def whole_number(value: Any) -> int | None:
    """The whole number that `value` stands for, or None.

    391895, '391895', '000000391895', '391895.0', 391895.0 and Decimal('391895.0') are all 391895; '1e3' and True are
    no numbers.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):   # of a reader that was not exact
        return int(value) if value.is_integer() and abs(value) < 2 ** 53 else None
    match = WHOLE.fullmatch(str(value).strip()) if isinstance(value, (str, Decimal)) else None
    return int(match[1]) if match else None


def exact_number(text: str) -> int | float:
    """A number with a point or an exponent as it stands in a JSON file: an int where it is whole, exactly.

    A `parse_float` for `json.load`.
    """
    try:
        number = Decimal(text)
    except InvalidOperation:   # an exponent of twenty digits
        return float(text)
    if number == number.to_integral_value() and number.adjusted() < DIGITS:
        return int(number)
    return float(text)
