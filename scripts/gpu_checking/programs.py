"""Commands of the project, each in a fork of this process, which has loaded PyTorch and used no GPU."""

import contextlib
import multiprocessing
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Failed(Exception):
    """A command that ended with another exit status than was wanted; says what it printed last."""


class Program:
    """`python FILE ARGUMENTS...` in the current folder; what it prints goes to `output`, a file."""

    def __init__(self, file: str, arguments: Sequence[object], output: Path) -> None:
        self.file, self.output = file, output
        words = [file, *map(str, arguments)]
        context = multiprocessing.get_context('fork')
        self.process = context.Process(target=_run, args=(words, output))
        self.process.start()

    def wait(self, status: int = 0) -> str:
        """What it printed, at its end.  Raises `Failed` if its exit status is not `status`."""
        self.process.join()
        text = self.output.read_text(encoding='utf-8')
        if self.process.exitcode != status:
            raise Failed(f'{self.file} ended with {self.process.exitcode}, not {status}: {text.strip()[-400:]}')
        return text

    def wait_for(self, condition: Callable[[str], bool]) -> None:
        """Return once `condition` holds of what it printed, or it has ended."""
        while self.process.is_alive() and not condition(self.output.read_text(encoding='utf-8')):
            time.sleep(0.01)

    def terminate(self) -> None:
        """Send SIGTERM."""
        os.kill(self.process.pid or 0, signal.SIGTERM)


def _run(words: list[str], output: Path) -> None:
    """The main function of the fork."""
    sys.argv = words
    with open(output, 'w', buffering=1, encoding='utf-8') as file:
        sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = file  # type: ignore[misc]
        with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            # A program ends by SystemExit, of which multiprocessing makes the exit status.
            runpy.run_path(str(ROOT / words[0]), run_name='__main__')
