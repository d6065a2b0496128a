"""What the readers of every form return: pictures with captions, and what was left out."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from misc.cli import DataError

EXAMPLES = 3   # how many a message shows


@dataclass
class Caption:
    """A caption: its text, and its words where the source gives them."""

    raw: str
    tokens: list[str] | None = None


@dataclass
class Picture:
    """A picture as its source describes it.

    name    file name, perhaps with folders, separated by /
    split   as the source names it, until `splits.name_splits` makes it train, restval, val or test; None where the
            source does not say
    id      the id as the source has it, of any type; None where it has none
    copy_of the id of the image whose picture this one was made of; None for an original
    """

    name: str
    captions: list[Caption] = field(default_factory=list)
    split: str | None = None
    id: Any = None
    width: int | None = None
    height: int | None = None
    copy_of: int | None = None


class LeftOut:
    """Counts of what was left out and why, with a few examples of each reason.

    A reason is worded to follow a number: 'captions without words'.
    """

    def __init__(self) -> None:
        self.counts: dict[str, int] = defaultdict(int)
        self.examples: dict[str, list[str]] = defaultdict(list)
        self.broken: set[str] = set()   # reasons that mean damage, not a rule

    def add(self, reason: str, example: object, count: int = 1, broken: bool = False) -> None:
        """Count `count` more for `reason`; `broken`: the input is damaged there."""
        self.counts[reason] += count
        if len(self.examples[reason]) < EXAMPLES:
            self.examples[reason].append(str(example)[:100])
        if broken:
            self.broken.add(reason)

    def extend(self, other: 'LeftOut') -> None:
        """Take over the counts of another, which has other reasons."""
        self.counts |= other.counts
        self.examples |= other.examples
        self.broken |= other.broken

    def lines(self) -> list[str]:
        """One line for each reason: the count, the reason, examples."""
        return [f'{count} {reason}, such as {some(self.examples[reason], count)}'
                for reason, count in self.counts.items()]


def some(examples: Sequence[object], total: int | None = None) -> str:
    """The first few of `examples`, with ' ...' where they, or `total`, are more."""
    shown = ', '.join(str(example)[:100] for example in examples[:EXAMPLES])
    return shown + (' ...' if (total or len(examples)) > min(len(examples), EXAMPLES) else '')


def merge(pictures: Iterable[Picture], key: Callable[[Picture], Hashable]) -> tuple[list[Picture], dict[str, list]]:
    """One picture for all that share a `key`, with the captions of all, in the order of first appearance.

    Returns them and {name: its different ids} for pictures that came with several ids; the first of them is kept.
    Raises `DataError` for a picture in two splits.
    """
    merged: dict[Hashable, Picture] = {}
    torn: dict[str, list[str]] = {}
    ids: dict[str, list] = {}
    for picture in pictures:
        first = merged.setdefault(key(picture), picture)
        if first is picture:
            continue
        first.captions.extend(picture.captions)
        if picture.split != first.split:
            torn.setdefault(first.name, [str(first.split)]).append(str(picture.split))
        if picture.id != first.id:
            ids.setdefault(first.name, [first.id]).append(picture.id)
        first.width, first.height = first.width or picture.width, first.height or picture.height
    if torn:
        examples = [f'{name} ({" and ".join(dict.fromkeys(splits))})' for name, splits in torn.items()]
        raise DataError(f'{len(torn)} images are in more than one split: {some(examples)}; an image belongs to one '
                        'split, with all of its captions')
    return list(merged.values()), ids
