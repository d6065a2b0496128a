"""Image ids: whole numbers are kept, anything else gives way to numbers by order."""

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from misc.cli import DataError
from misc.prepare.captions.pictures import Picture, some

LIMIT = 2 ** 63
NUMBER = re.compile(r'([0-9]{1,40})(?:\.0*)?')
KEPT = 'whole numbers from 0 below 2^63'


def whole_number(value: Any) -> int | None:
    """The id that `value` stands for, or None where it stands for none.

    391895, '391895', '000000391895', '391895.0' and Decimal('391895.0') are all 391895.  Nothing passes through a
    float, which would change large numbers: JSON is to be read with `parse_float=Decimal`.
    """
    if isinstance(value, (str, Decimal)):
        match = NUMBER.fullmatch(str(value).strip())
        value = int(match[1]) if match else None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < LIMIT:
        return None
    return value


def given_ids(pictures: Sequence[Picture]) -> tuple[list[int] | None, str]:
    """(the ids of `pictures`, or None where they are to be numbered by order; why).

    They are kept where every picture has one that is a whole number.  Raises `DataError` where two pictures share
    one.
    """
    without = [picture.name for picture in pictures if picture.id in (None, '')]
    if without:
        why = 'the captions give no ids' if len(without) == len(pictures) else (
            f'{len(without)} images have no id, such as {some(without)}')
        return None, why
    numbers = [whole_number(picture.id) for picture in pictures]
    strange = [picture.id for picture, number in zip(pictures, numbers) if number is None]
    if strange:
        return None, f'{len(strange)} ids are not {KEPT}, such as {some(list(map(repr, strange)))}'
    ids = [number for number in numbers if number is not None]
    owners: dict[int, Picture] = {}
    shared = [f'{number} ({owners[number].name} and {picture.name})' for picture, number in zip(pictures, ids)
              if owners.setdefault(number, picture) is not picture]
    if shared:
        raise DataError(f'{len(shared)} ids belong to two images: {some(shared)}; correct them, or number the images '
                        'by their order with --new_ids 1')
    return ids, 'as given'
