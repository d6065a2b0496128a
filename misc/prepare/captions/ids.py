"""Image ids: whole numbers are kept, anything else gives way to numbers by order."""

from collections.abc import Sequence
from typing import Any

from misc.cli import DataError
from misc.disk import numbers
from misc.prepare.captions.pictures import Picture, some

LIMIT = 2 ** 63
KEPT = 'whole numbers from 0 below 2^63'


def whole_number(value: Any) -> int | None:
    """The id that `value` stands for (see `misc.disk.numbers`), or None where it stands for none that features can
    have.  JSON is to be read with `parse_float=Decimal`."""
    number = numbers.whole_number(value)
    return number if number is not None and 0 <= number < LIMIT else None


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
