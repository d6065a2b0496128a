"""Work in a forked process, which a test may kill."""

import os
from collections.abc import Callable


def start_forked(work: Callable[[], object]) -> int:
    """Start a forked process that runs `work()`; returns its number.  It exits with 1 if `work` raises."""
    child = os.fork()
    if not child:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return child


def forked(work: Callable[[], object]) -> int:
    """Run `work()` in a forked process; returns its exit code, as `os.waitstatus_to_exitcode` gives it."""
    return os.waitstatus_to_exitcode(os.waitpid(start_forked(work), 0)[1])
