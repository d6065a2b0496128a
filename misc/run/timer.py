"""Saving by the clock."""

from time import monotonic

from misc import parallel


class SaveTimer:
    """Says when `minutes` have passed since the last save; 0: never."""

    def __init__(self, minutes: float) -> None:
        self.minutes, self.saved = minutes, monotonic()

    def restart(self) -> None:
        """A checkpoint was saved."""
        self.saved = monotonic()

    def is_due(self) -> bool:
        """Whether to save; all processes ask at the same time, and get the answer of the first whose time is up."""
        return bool(self.minutes) and parallel.most(int(monotonic() - self.saved >= 60 * self.minutes)) > 0
