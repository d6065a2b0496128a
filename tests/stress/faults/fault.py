"""What a fault is."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """A small fault.

    file      the file that it is in, from the project's folder
    old, new  the text, which occurs once, and what stands in its place
    tests     the tests that should notice it, the quickest first: files, or FILE::FUNCTION
    survives  why none of them does, where that is known
    """

    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    survives: str = ''


def faults_in(file: str, tests: Sequence[str], *changes: tuple[str, str] | tuple[str, str, str]) -> list[Fault]:
    """Faults in one file with the same tests; `changes`: (old, new), or (old, new, why it survives)."""
    return [Fault(file, old, new, tuple(tests), *more) for old, new, *more in changes]
