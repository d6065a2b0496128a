"""Findings about a set-up: what is there, what is missing, and what provides it."""

from collections.abc import Iterable
from dataclasses import dataclass

# The states of a thing: present; incomplete, broken or of another version; missing.
THERE, PARTLY, MISSING = 'ok', 'partly', 'missing'


@dataclass
class Finding:
    """The state of one thing, a line of the report.

    what    its name
    detail  counts and places
    remedy  what provides it, a command or advice; '' where nothing needs to be done
    needed  whether training is impossible without it
    """

    state: str
    what: str
    detail: str = ''
    remedy: str = ''
    needed: bool = False

    def line(self) -> str:
        """The line to print; a dash marks what is missing but not needed."""
        mark = '-' if self.state == MISSING and not self.needed else self.state
        return f'  {mark:8}{self.what:22}  {self.detail}'.rstrip()


def lacking(findings: Iterable[Finding]) -> bool:
    """Whether anything that training needs is not complete."""
    return any(finding.needed and finding.state != THERE for finding in findings)


def remedies(findings: Iterable[Finding]) -> list[str]:
    """Lines of text with every remedy once, in the order of the findings: those of needed things first."""
    by_remedy: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.remedy:
            by_remedy.setdefault(finding.remedy, []).append(finding)
    lines = []
    for title, needed in (('Training needs', True), ('Optional', False)):
        chosen = {remedy: group for remedy, group in by_remedy.items() if lacking(group) == needed}
        lines += ['', f'{title}, and how to get it:'] if chosen else []
        for remedy, group in chosen.items():
            lines.append(f'  {", ".join(finding.what for finding in group)}')
            lines += [f'      {line}' for line in remedy.splitlines()]
    return lines
