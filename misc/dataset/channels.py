"""Maps that have their channels first, (C, H, W), as networks compute them, where (H, W, C) is expected."""

from collections.abc import Sequence

from misc.cli import DataError


def channels_first(shape: Sequence[int], width: int | None = None) -> bool:
    """Whether an array of `shape` is a map whose channels come first: the first number is that of the model's
    `width`, or at least twice each of the others."""
    if len(shape) != 3 or shape[-1] == width:
        return False
    return shape[0] == width or shape[0] >= 2 * max(shape[1:])


def refuse_channels_first(shape: Sequence[int], where: str, width: int | None = None) -> None:
    """Raise `DataError` for features at `where` whose channels come first."""
    if channels_first(shape, width):
        C, H, W = shape
        raise DataError(f'{where}: features of shape {tuple(shape)} look like a map with its channels first, '
                        f'(C, H, W); write them as ({H}, {W}, {C}), which features.transpose(1, 2, 0) makes, or as '
                        f'regions, ({H * W}, {C})')
