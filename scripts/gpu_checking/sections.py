"""What the sections of the check share: their setting, how they report, how they measure time."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from misc.machine import pick_device
from scripts.benchmarking.made_up import QUICK, Sizes


class Skip(Exception):
    """A section, or a part of one, that cannot run here; says what is missing."""


@dataclass(frozen=True)
class Setting:
    """Where the check runs: `device` as in `--device`; `small` for sizes that a CPU gets through in seconds."""

    device: str
    small: bool

    @property
    def sizes(self) -> Sizes:
        """The sizes of inputs and model: those of the README's commands on COCO, or small ones."""
        return QUICK if self.small else Sizes()

    @property
    def repeats(self) -> int:
        """How often a work is timed; the median counts."""
        return 2 if self.small else 20

    def start(self) -> torch.device:
        """Prepare torch in the process of a section -> its device.  Products of float32 matrices are of float32,
        where `matmul` does not say otherwise."""
        if self.small:
            torch.set_num_threads(1)
        torch.manual_seed(0)
        return pick_device(self.device, 'highest')

    def sized(self, **changes: Any) -> Sizes:
        """The sizes, with these changes where they are not small."""
        return self.sizes if self.small else replace(self.sizes, **changes)


@dataclass(frozen=True)
class Finding:
    """A line of the table: what was looked at, what was found, what was wanted of it, and whether that is so (None:
    a number to look at).  `numbers` are for the file alone."""

    what: str
    found: str
    wanted: str
    ok: bool | None
    numbers: dict[str, Any]


class Report:
    """Takes the findings of a section as they come."""

    def __init__(self, send: Callable[[dict[str, Any]], None]) -> None:
        self.send = send

    def number(self, what: str, found: str, **numbers: Any) -> None:
        """A number to look at."""
        self.send(asdict(Finding(what, found, '', None, numbers)))

    def check(self, what: str, found: str, wanted: str, ok: bool, **numbers: Any) -> None:
        """Something that must be so."""
        self.send(asdict(Finding(what, found, wanted, bool(ok), numbers)))


@dataclass(frozen=True)
class Section:
    """A section of the check.

    title   one line
    limit   seconds that it may take
    run     reports its findings; raises `Skip`
    """

    title: str
    limit: float
    run: Callable[[Setting, Report], None]


def milliseconds(seconds: float) -> str:
    """Seconds as a text."""
    return f'{1000 * seconds:.3g} ms'
